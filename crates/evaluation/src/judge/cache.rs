//! Judgments on disk, one file each, named by the hash of the request.

use bso_durable::{Fingerprint, ensure_dir, write_json};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};

pub(super) struct Cache {
    folder: PathBuf,
}

impl Cache {
    pub(super) fn open(folder: &Path) -> io::Result<Self> {
        ensure_dir(folder)?;
        Ok(Self { folder: folder.to_owned() })
    }

    /// The hash of everything in the request: model, messages, settings. Neither address nor key count.
    pub(super) fn key(request: &Value) -> String {
        Fingerprint::new().part("judgment-1").part(request.to_string()).finish()
    }

    /// The text kept under `key`. A damaged file counts as none: it is asked again and replaced.
    pub(super) fn get(&self, key: &str) -> io::Result<Option<String>> {
        let path = self.path(key);
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidData) => {
                return Ok(None);
            }
            Err(e) => return Err(io::Error::new(e.kind(), format!("{}: {e}", path.display()))),
        };
        let kept: Option<Value> = serde_json::from_str(&text).ok();
        Ok(kept.and_then(|kept| kept["response"].as_str().map(str::to_owned)))
    }

    pub(super) fn put(&self, key: &str, request: &Value, response: &str) -> io::Result<()> {
        write_json(&self.path(key), &json!({"request": request, "response": response}))
    }

    fn path(&self, key: &str) -> PathBuf {
        self.folder.join(format!("{key}.json"))
    }
}
