//! Compiled kernels on disk. An entry is named by everything that it depends on and holds its own checksum, so that a
//! stale one is never found and a broken one is compiled again.

use std::env;
use std::fs;
use std::path::{Path, PathBuf};

use bso_durable::{Fingerprint, atomic_write, ensure_dir, fingerprint_bytes};

use crate::CudaError;

/// The folder, instead of the user's cache; `none` keeps nothing.
pub const CACHE_VARIABLE: &str = "BSO_KERNEL_CACHE";

/// First line of an entry; a change of the layout changes it.
const MARK: &str = "bso-kernel-1";

/// What an entry depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Key<'a> {
    /// All of the CUDA C.
    pub source: &'a str,
    /// The compiler's options.
    pub options: &'a [&'a str],
    /// As `sm_90`.
    pub architecture: &'a str,
    /// What the driver says of itself.
    pub driver: u32,
    /// NVRTC's major and minor.
    pub nvrtc: (u32, u32),
}

impl Key<'_> {
    fn file_name(&self) -> String {
        let mut fingerprint = Fingerprint::new();
        fingerprint.part(MARK).part(self.source).part(self.architecture);
        fingerprint.part(self.options.join("\n")).part(self.driver.to_le_bytes());
        fingerprint.part(self.nvrtc.0.to_le_bytes()).part(self.nvrtc.1.to_le_bytes());
        format!("{}-{}.cubin", self.architecture, fingerprint.finish())
    }
}

/// A folder of entries, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KernelCache(Option<PathBuf>);

impl KernelCache {
    /// `BSO_KERNEL_CACHE`, else `bso/kernels` in the user's cache (`XDG_CACHE_HOME`, `~/.cache`); none without a home.
    pub fn of_user() -> Self {
        let folder = |name: &str| env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        match folder(CACHE_VARIABLE) {
            Some(path) if path == Path::new("none") => Self(None),
            Some(path) => Self(Some(path)),
            None => {
                let caches = folder("XDG_CACHE_HOME").or_else(|| Some(folder("HOME")?.join(".cache")));
                Self(caches.map(|caches| caches.join("bso/kernels")))
            }
        }
    }

    /// Entries in `folder`.
    pub fn at(folder: &Path) -> Self {
        Self(Some(folder.to_owned()))
    }

    /// Keeps nothing.
    pub fn none() -> Self {
        Self(None)
    }

    /// The entry of `key`, or what `compile` gives, which is then kept. A folder that cannot be read or written costs
    /// the time to compile and is logged; it stops nothing.
    ///
    /// # Errors
    /// What `compile` returns.
    pub fn get(
        &self,
        key: Key<'_>,
        compile: impl FnOnce() -> Result<Vec<u8>, CudaError>,
    ) -> Result<Vec<u8>, CudaError> {
        let Some(folder) = &self.0 else { return compile() };
        let path = folder.join(key.file_name());
        if let Ok(entry) = fs::read(&path) {
            match unseal(&entry) {
                Some(code) => return Ok(code.to_vec()),
                None => log::warn!("{} is broken; its kernels are compiled again", path.display()),
            }
        }
        let code = compile()?;
        let kept = ensure_dir(folder).and_then(|()| {
            atomic_write(&path, |file| {
                file.write_all(seal(&code).as_bytes())?;
                file.write_all(&code)
            })
        });
        if let Err(error) = kept {
            log::warn!("compiled kernels are not kept: {error}; name a folder in {CACHE_VARIABLE}");
        }
        Ok(code)
    }

    /// Drops the entry of `key`: the driver did not take it.
    pub fn forget(&self, key: Key<'_>) {
        if let Some(folder) = &self.0
            && let Err(error) = fs::remove_file(folder.join(key.file_name()))
        {
            log::debug!("nothing to forget: {error}");
        }
    }
}

/// What stands before the code: the mark and the code's checksum.
fn seal(code: &[u8]) -> String {
    format!("{MARK}\n{}\n", fingerprint_bytes(code))
}

/// The code of an entry that is whole.
fn unseal(entry: &[u8]) -> Option<&[u8]> {
    // The mark, a line end, 64 digits, a line end.
    let (head, code) = entry.split_at_checked(MARK.len() + 66)?;
    (head == seal(code).as_bytes()).then_some(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    const KEY: Key<'_> = Key {
        source: "source",
        options: &["--a", "--b"],
        architecture: "sm_90",
        driver: 12_080,
        nvrtc: (12, 8),
    };

    /// The entry of `key`, and whether it was compiled.
    fn get(cache: &KernelCache, key: Key<'_>) -> (Vec<u8>, bool) {
        let compiled = Cell::new(false);
        let code = cache.get(key, || {
            compiled.set(true);
            Ok(key.architecture.as_bytes().to_vec())
        });
        (code.unwrap(), compiled.get())
    }

    #[test]
    fn an_entry_is_found_again_and_anything_it_depends_on_makes_another() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::at(&folder.path().join("made/on/demand"));
        assert_eq!(get(&cache, KEY), (b"sm_90".to_vec(), true));
        assert_eq!(get(&cache, KEY), (b"sm_90".to_vec(), false));
        let others = [
            Key { source: "source ", ..KEY },
            Key { options: &["--a"], ..KEY },
            Key { architecture: "sm_80", ..KEY },
            Key { driver: 13_000, ..KEY },
            Key { nvrtc: (13, 0), ..KEY },
        ];
        for other in others {
            assert!(get(&cache, other).1, "{other:?}");
            assert!(!get(&cache, other).1, "{other:?}");
        }
        assert!(!get(&cache, KEY).1);
        cache.forget(KEY);
        assert!(get(&cache, KEY).1);
    }

    #[test]
    fn a_broken_entry_is_compiled_again_and_mended() {
        let folder = tempfile::tempdir().unwrap();
        let cache = KernelCache::at(folder.path());
        let path = folder.path().join(KEY.file_name());
        get(&cache, KEY);
        let whole = fs::read(&path).unwrap();
        let mut turned = whole.clone();
        *turned.last_mut().unwrap() ^= 1;
        let breaks: [&[u8]; 4] = [&[], &whole[..20], &whole[..whole.len() - 1], &turned];
        for broken in breaks {
            fs::write(&path, broken).unwrap();
            assert_eq!(get(&cache, KEY), (b"sm_90".to_vec(), true));
            assert_eq!(fs::read(&path).unwrap(), whole, "mended");
        }
    }

    #[test]
    fn a_folder_that_cannot_be_written_costs_only_time_and_a_failure_is_passed_on() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("file");
        fs::write(&file, "").unwrap();
        for cache in [KernelCache::at(&file.join("below")), KernelCache::none()] {
            assert!(get(&cache, KEY).1 && get(&cache, KEY).1);
        }
        let refused = CudaError::shape("compile", "no");
        assert_eq!(KernelCache::at(folder.path()).get(KEY, || Err(refused.clone())), Err(refused));
        assert!(!folder.path().join(KEY.file_name()).exists());
    }
}
