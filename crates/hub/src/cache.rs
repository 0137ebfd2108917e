//! The cache as `huggingface_hub` lays it out: `models--org--name/` with `refs/REVISION` (a commit), `blobs/ETAG` (the
//! bytes) and `snapshots/COMMIT/FILE` (links to blobs).

use crate::error::HubError;
use crate::name::{Name, RepoKind};
use std::fs::{self, File};
use std::io;
use std::path::{Component, Path, PathBuf};

/// One repository's folder in the cache.
pub(crate) struct RepoCache {
    pub(crate) root: PathBuf,
}

impl RepoCache {
    pub(crate) fn new(cache: &Path, kind: RepoKind, name: &Name) -> Self {
        Self { root: cache.join(format!("{}--{}", kind.plural(), name.repo.replace('/', "--"))) }
    }

    /// The commit that `revision` was when it was last looked up, if its files are here.
    pub(crate) fn commit(&self, revision: &str) -> Option<String> {
        let of_ref = fs::read_to_string(self.root.join("refs").join(revision)).ok();
        let commit = of_ref.map_or_else(|| revision.to_owned(), |text| text.trim().to_owned());
        let plain = !commit.is_empty() && commit.bytes().all(|b| b.is_ascii_alphanumeric());
        (plain && self.snapshot(&commit).is_dir()).then_some(commit)
    }

    pub(crate) fn snapshot(&self, commit: &str) -> PathBuf {
        self.root.join("snapshots").join(commit)
    }

    pub(crate) fn blob(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(etag)
    }

    /// The bytes that have come of a blob so far.
    pub(crate) fn partial(&self, etag: &str) -> PathBuf {
        self.root.join("blobs").join(format!("{etag}.incomplete"))
    }

    /// Stands while a snapshot lacks files.
    fn mark(&self, commit: &str) -> PathBuf {
        self.root.join(format!(".bso-downloading-{commit}"))
    }

    pub(crate) fn is_complete(&self, commit: &str) -> bool {
        !self.mark(commit).exists()
    }

    /// The list of the repository's usable files, whether they are here or not.
    fn files(&self, commit: &str) -> PathBuf {
        self.root.join(format!(".bso-files-{commit}.json"))
    }

    pub(crate) fn note_files(&self, commit: &str, files: &[&str]) -> Result<(), HubError> {
        let place = self.files(commit);
        if place.exists() {
            return Ok(());
        }
        fs::create_dir_all(&self.root).map_err(at(&self.root))?;
        bso_durable::write_json(&place, &files).map_err(at(&place))
    }

    /// What [`RepoCache::note_files`] wrote, as far as names from outside may be trusted.
    pub(crate) fn noted_files(&self, commit: &str) -> Option<Vec<PathBuf>> {
        let files: Vec<PathBuf> = serde_json::from_slice(&fs::read(self.files(commit)).ok()?).ok()?;
        files.iter().all(|file| file.components().all(|c| matches!(c, Component::Normal(_)))).then_some(files)
    }

    pub(crate) fn begin(&self, commit: &str) -> Result<(), HubError> {
        for folder in [self.root.join("blobs"), self.snapshot(commit)] {
            fs::create_dir_all(&folder).map_err(at(&folder))?;
        }
        let mark = self.mark(commit);
        fs::write(&mark, "").map_err(at(&mark))
    }

    /// All files are there: the mark goes, and the revision's name points to the commit.
    pub(crate) fn finish(&self, revision: &str, commit: &str) -> Result<(), HubError> {
        let mark = self.mark(commit);
        fs::remove_file(&mark).map_err(at(&mark))?;
        if revision == commit {
            return Ok(());
        }
        let place = self.root.join("refs").join(revision);
        let folder = place.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(at(folder))?;
        bso_durable::atomic_write(&place, |out| out.write_all(commit.as_bytes())).map_err(at(&place))
    }

    /// Gives the blob `etag` its name in the snapshot.
    pub(crate) fn link(&self, commit: &str, file: &str, etag: &str) -> Result<(), HubError> {
        let place = self.snapshot(commit).join(file);
        if place.exists() {
            return Ok(());
        }
        let folder = place.parent().unwrap_or(&self.root);
        fs::create_dir_all(folder).map_err(at(folder))?;
        // A link whose blob is gone.
        if place.symlink_metadata().is_ok() {
            fs::remove_file(&place).map_err(at(&place))?;
        }
        let depth = Path::new(file).components().count() + 1;
        let target = std::iter::repeat_n("..", depth).collect::<PathBuf>().join("blobs").join(etag);
        link(&target, &self.blob(etag), &place).map_err(at(&place))
    }

    /// Held by one process at a time.
    pub(crate) fn lock(&self) -> Result<File, HubError> {
        fs::create_dir_all(&self.root).map_err(at(&self.root))?;
        let path = self.root.join(".bso-lock");
        let file = File::create(&path).map_err(at(&path))?;
        file.lock().map_err(at(&path))?;
        Ok(file)
    }
}

#[cfg(unix)]
fn link(target: &Path, _: &Path, place: &Path) -> io::Result<()> {
    std::os::unix::fs::symlink(target, place)
}

#[cfg(not(unix))]
fn link(_: &Path, blob: &Path, place: &Path) -> io::Result<()> {
    fs::copy(blob, place).map(drop)
}

/// An I/O error with its place.
pub(crate) fn at(path: &Path) -> impl Fn(io::Error) -> HubError + '_ {
    move |source| HubError::Cache { path: path.to_owned(), source }
}
