//! Files and folders that a reader finds whole or not at all: written beside their place under a temporary
//! name, synced, then renamed. A full disk or a killed process leaves the previous version untouched.

use std::fs::{self, File};
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};

/// Adds to an I/O error what was being done and where.
fn at(action: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{action} {}: {error}", path.display()))
}

fn parent(path: &Path) -> &Path {
    match path.parent() {
        Some(p) if !p.as_os_str().is_empty() => p,
        _ => Path::new("."),
    }
}

fn sync_dir(dir: &Path) -> io::Result<()> {
    // A rename is durable only when the folder that holds the name is synced as well.
    if cfg!(unix) { File::open(dir)?.sync_all() } else { Ok(()) }
}

/// Creates `dir` and its parents.
///
/// # Errors
/// The I/O error with the path and what was attempted.
pub fn ensure_dir(dir: &Path) -> io::Result<()> {
    fs::create_dir_all(dir).map_err(|e| at("cannot create folder", dir, e))
}

/// Writes `path` through `write`, so that it appears complete or not at all.
///
/// # Errors
/// What `write` returns, or the I/O error with the path; the temporary file is removed.
pub fn atomic_write(path: &Path, write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> io::Result<()> {
    let dir = parent(path);
    let mut temporary = tempfile::Builder::new()
        .prefix(".bso-")
        .suffix(".tmp")
        .tempfile_in(dir)
        .map_err(|e| at("cannot write in", dir, e))?;
    {
        let mut buffer = BufWriter::with_capacity(1 << 20, temporary.as_file_mut());
        write(&mut buffer).map_err(|e| at("cannot write", path, e))?;
        buffer.flush().map_err(|e| at("cannot write", path, e))?;
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // tempfile makes private files; what a run leaves is meant to be read by others, as `File::create` allows.
        fs::set_permissions(temporary.path(), fs::Permissions::from_mode(0o644))
            .map_err(|e| at("cannot set permissions of", path, e))?;
    }
    temporary.as_file().sync_all().map_err(|e| at("cannot sync", path, e))?;
    temporary.persist(path).map_err(|e| at("cannot write", path, e.error))?;
    sync_dir(dir).map_err(|e| at("cannot sync folder", dir, e))
}

/// Writes `value` as indented JSON with a closing newline, atomically.
///
/// # Errors
/// As [`atomic_write`].
pub fn write_json<T: serde::Serialize>(path: &Path, value: &T) -> io::Result<()> {
    atomic_write(path, |out| {
        serde_json::to_writer_pretty(&mut *out, value)?;
        out.write_all(b"\n")
    })
}

/// A folder built under a temporary name beside its place; [`AtomicDir::commit`] gives it its name.
/// Dropped without a commit, it is removed.
pub struct AtomicDir {
    building: tempfile::TempDir,
    place: PathBuf,
}

impl AtomicDir {
    /// Starts the folder that will become `place`.
    ///
    /// # Errors
    /// The I/O error with the path.
    pub fn begin(place: &Path) -> io::Result<Self> {
        let dir = parent(place);
        ensure_dir(dir)?;
        let building = tempfile::Builder::new()
            .prefix(".bso-")
            .suffix(".tmp")
            .tempdir_in(dir)
            .map_err(|e| at("cannot write in", dir, e))?;
        Ok(Self { building, place: place.to_owned() })
    }

    /// The folder to write into.
    pub fn path(&self) -> &Path {
        self.building.path()
    }

    /// Syncs every file and renames the folder to its place, replacing what stood there.
    ///
    /// # Errors
    /// The I/O error with the path; what stood there before is still there.
    pub fn commit(self) -> io::Result<()> {
        for entry in fs::read_dir(self.building.path())? {
            let path = entry?.path();
            if path.is_file() {
                File::open(&path).and_then(|f| f.sync_all()).map_err(|e| at("cannot sync", &path, e))?;
            }
        }
        sync_dir(self.building.path())?;
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            fs::set_permissions(self.building.path(), fs::Permissions::from_mode(0o755))?;
        }
        // A folder cannot be renamed over a non-empty one: the old one steps aside first.
        let dir = parent(&self.place).to_owned();
        let aside = if self.place.exists() {
            let aside = tempfile::Builder::new().prefix(".bso-old-").suffix(".tmp").tempdir_in(&dir)?;
            fs::rename(&self.place, aside.path().join("old"))
                .map_err(|e| at("cannot replace", &self.place, e))?;
            Some(aside)
        } else {
            None
        };
        let built = self.building.keep();
        fs::rename(&built, &self.place).map_err(|e| at("cannot create", &self.place, e))?;
        drop(aside);
        sync_dir(&dir)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_write_leaves_the_old_file_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.txt");
        atomic_write(&path, |w| w.write_all(b"old")).unwrap();
        let error = atomic_write(&path, |w| {
            w.write_all(b"half")?;
            Err(io::Error::other("disk full"))
        })
        .unwrap_err();
        assert!(error.to_string().contains("a.txt"), "{error}");
        assert_eq!(fs::read(&path).unwrap(), b"old");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_folder_appears_whole_and_replaces_the_old_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("checkpoint-1");
        for content in ["one", "two"] {
            let building = AtomicDir::begin(&place).unwrap();
            fs::write(building.path().join("x"), content).unwrap();
            building.commit().unwrap();
            assert_eq!(fs::read_to_string(place.join("x")).unwrap(), content);
        }
        drop(AtomicDir::begin(&place).unwrap());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
