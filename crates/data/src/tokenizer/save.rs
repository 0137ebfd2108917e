//! A tokenizer back into a folder, so that a trained model opens elsewhere with the tokens it was trained on.

use super::ChatTokenizer;
use crate::error::DataError;
use bso_durable::atomic_write;
use std::path::Path;

pub(super) fn save(tokenizer: &ChatTokenizer, dir: &Path) -> Result<(), DataError> {
    let write = |name: &str, content: &[u8]| {
        let path = dir.join(name);
        atomic_write(&path, |out| out.write_all(content)).map_err(|e| DataError::io(path, e))
    };
    write("tokenizer.json", &tokenizer.files.tokenizer_json)?;
    for (name, content) in &tokenizer.files.others {
        write(name, content)?;
    }
    // The template in use, under the name that takes precedence: another one may have been chosen for training.
    match &tokenizer.template {
        Some(template) => write("chat_template.jinja", template.source().as_bytes()),
        None => Ok(()),
    }
}
