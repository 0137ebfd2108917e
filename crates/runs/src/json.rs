//! Reading the JSON files of a run, with a bound on their size: a run directory may come from anywhere.

use crate::RunsError;
use serde::de::DeserializeOwned;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// No JSON file of a run is longer; trainer_state.json of a million logged steps stays below.
const MAX_BYTES: u64 = 1 << 30;

/// Reads `path` as text.
pub(crate) fn read_text(path: &Path, max_bytes: u64) -> Result<String, RunsError> {
    let file = File::open(path).map_err(RunsError::io("open", path))?;
    let mut text = String::new();
    file.take(max_bytes + 1).read_to_string(&mut text).map_err(RunsError::io("read", path))?;
    if text.len() as u64 > max_bytes {
        return Err(RunsError::Json {
            path: path.to_owned(),
            reason: format!("longer than {max_bytes} bytes"),
        });
    }
    Ok(text)
}

/// Reads `path` as JSON.
pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, RunsError> {
    serde_json::from_str(&read_text(path, MAX_BYTES)?)
        .map_err(|e| RunsError::Json { path: path.to_owned(), reason: e.to_string() })
}
