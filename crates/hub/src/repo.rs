//! The list of a repository's files, and which of them are used here.

use crate::name::RepoKind;
use serde::Deserialize;

/// The hub's answer to `/api/KIND/REPO/revision/REVISION?blobs=true`.
#[derive(Deserialize)]
pub(crate) struct Listing {
    /// The commit.
    pub(crate) sha: String,
    siblings: Vec<RemoteFile>,
}

/// A file of a repository.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct RemoteFile {
    #[serde(rename = "rfilename")]
    pub(crate) path: String,
    pub(crate) size: Option<u64>,
    #[serde(rename = "blobId")]
    blob: Option<String>,
    lfs: Option<Lfs>,
}

#[derive(Clone, Debug, Deserialize)]
struct Lfs {
    sha256: Option<String>,
}

impl RemoteFile {
    /// Of the content, where the hub says it.
    pub(crate) fn sha256(&self) -> Option<&str> {
        self.lfs.as_ref().and_then(|lfs| lfs.sha256.as_deref())
    }

    /// The name of its blob: that of the content, so that equal files are kept once.
    pub(crate) fn etag(&self, commit: &str) -> String {
        let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric());
        match self.sha256().or(self.blob.as_deref()).filter(|etag| plain(etag)) {
            Some(etag) => etag.to_owned(),
            None => bso_durable::fingerprint_bytes(format!("{commit} {}", self.path).as_bytes()),
        }
    }
}

impl Listing {
    /// Whether names from outside may become names in the cache.
    pub(crate) fn is_sound(&self) -> bool {
        let plain =
            |part: &str| !part.is_empty() && part != "." && part != ".." && !part.contains(['\\', ':', '\0']);
        let commit = !self.sha.is_empty() && self.sha.bytes().all(|b| b.is_ascii_alphanumeric());
        commit && self.siblings.iter().all(|file| file.path.split('/').all(plain))
    }

    /// The files that are used, or why the repository is of no use.
    pub(crate) fn used(&self, kind: RepoKind) -> Result<Vec<RemoteFile>, &'static str> {
        let wanted = |keep: &dyn Fn(&str) -> bool| -> Vec<RemoteFile> {
            self.siblings.iter().filter(|file| keep(&file.path)).cloned().collect()
        };
        match kind {
            RepoKind::Dataset => match wanted(&is_rows) {
                files if files.is_empty() => Err(
                    "the repository holds no JSON, CSV, Parquet or Arrow file; load it with the library datasets, save it \
                     (to_json or to_parquet), and give the file",
                ),
                files => Ok(files),
            },
            RepoKind::Model => match wanted(&is_of_model) {
                files if !files.iter().any(|file| file.path.ends_with(".safetensors")) => Err(
                    "the repository holds no safetensors; load it with transformers, save it (save_pretrained), and give \
                     the folder",
                ),
                files => Ok(files),
            },
        }
    }
}

/// Configuration, tokenizer, template and weights in the first folder; not the same weights in other formats.
fn is_of_model(path: &str) -> bool {
    let weights = path.ends_with(".safetensors") && !path.starts_with("consolidated");
    !path.contains('/')
        && (weights || path.ends_with(".json") || path == "chat_template.jinja" || path == "tokenizer.model")
}

fn is_rows(path: &str) -> bool {
    let name = path.rsplit('/').next().unwrap_or(path).to_lowercase();
    let plain = name.strip_suffix(".gz").unwrap_or(&name);
    let rows = [".jsonl", ".ndjson", ".json", ".csv", ".tsv"].iter().any(|end| plain.ends_with(end))
        || name.ends_with(".parquet")
        || name.ends_with(".arrow")
        || name == "state.json";
    let about = ["dataset_infos.json"].contains(&name.as_str());
    let hidden = path.split('/').any(|part| part.starts_with('.'));
    rows && !about && !hidden
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(names: &[&str]) -> Listing {
        let files: Vec<_> = names.iter().map(|n| serde_json::json!({"rfilename": n})).collect();
        serde_json::from_value(serde_json::json!({"sha": "c0ffee", "siblings": files})).unwrap()
    }

    fn used(names: &[&str], kind: RepoKind) -> Vec<String> {
        listing(names).used(kind).unwrap().into_iter().map(|file| file.path).collect()
    }

    #[test]
    fn only_what_is_used_is_fetched() {
        let model = [
            "config.json",
            "model.safetensors",
            "pytorch_model.bin",
            "original/x.safetensors",
            "consolidated.safetensors",
            "README.md",
            "tokenizer.json",
        ];
        assert_eq!(used(&model, RepoKind::Model), ["config.json", "model.safetensors", "tokenizer.json"]);
        let data = [
            "README.md",
            "data/train-00000-of-00001.parquet",
            "dataset_infos.json",
            ".cache/a.json",
            "t.jsonl.gz",
        ];
        assert_eq!(used(&data, RepoKind::Dataset), ["data/train-00000-of-00001.parquet", "t.jsonl.gz"]);
        assert!(listing(&["pytorch_model.bin", "config.json"]).used(RepoKind::Model).is_err());
        assert!(listing(&["load.py"]).used(RepoKind::Dataset).is_err());
    }

    #[test]
    fn names_that_leave_the_cache_are_not_sound() {
        assert!(listing(&["a/b.json"]).is_sound());
        for name in ["../a.json", "/a.json", "a//b", "a/../../b.json", "a\\b.json", "c:x.json"] {
            assert!(!listing(&[name]).is_sound(), "{name}");
        }
    }
}
