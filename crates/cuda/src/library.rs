//! Where NVIDIA's libraries are looked for. They are opened at run time, so that the program is built and runs
//! without them; what is missing is named together with every place that was tried.

use std::env;
use std::ffi::OsString;
use std::fs;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use libloading::Library;

use crate::CudaError;

/// Folders that are searched before all others, separated as in `PATH`.
pub const FOLDERS_VARIABLE: &str = "BSO_CUDA_LIBRARIES";

/// One of the libraries, by what is needed of it.
#[derive(Debug, Clone, Copy)]
pub struct Wanted {
    /// In words, for errors.
    pub title: &'static str,
    /// File names, best first.
    pub names: &'static [&'static str],
    /// Functions without which it is of no use.
    pub symbols: &'static [&'static str],
    /// What to do where it is missing or unusable.
    pub remedy: &'static str,
    /// Whether it is also looked for where the toolkit and Python wheels keep theirs; the driver is the system's.
    pub in_toolkits: bool,
}

/// A library that was found.
#[derive(Debug)]
pub struct Found {
    /// Open, with every wanted function.
    pub library: Library,
    /// The name or path that it was opened by.
    pub place: String,
}

impl Wanted {
    /// Opens the first place that holds the library.
    ///
    /// # Errors
    /// No place holds it, with all of them named; or the first that does lacks a function.
    pub fn open(&self) -> Result<Found, CudaError> {
        self.open_also_in(&[])
    }

    /// As [`Wanted::open`], with these folders after all others.
    ///
    /// # Errors
    /// As [`Wanted::open`].
    pub fn open_also_in(&self, more: &[PathBuf]) -> Result<Found, CudaError> {
        let mut folders = if self.in_toolkits { toolkit_folders() } else { named_folders() };
        folders.extend_from_slice(more);
        self.open_in(&folders)
    }

    fn open_in(&self, folders: &[PathBuf]) -> Result<Found, CudaError> {
        let mut broken = None;
        for place in self.places(folders) {
            // A file that is there and does not open is worth a word; a bare name that does not is simply not there.
            let is_file = place.components().count() > 1;
            if is_file && !place.is_file() {
                continue;
            }
            if is_file && is_cut_short(&place) {
                broken =
                    broken.or(Some((place, "the file is cut short; fetch or install it again".to_owned())));
                continue;
            }
            // SAFETY: running a library's initialisers is what opening NVIDIA's own libraries means.
            match unsafe { Library::new(&place) } {
                Ok(library) => return self.check(library, place.display().to_string()),
                Err(error) if is_file => broken = broken.or(Some((place, error.to_string()))),
                Err(_) => {}
            }
        }
        match broken {
            Some((place, reason)) => Err(self.unusable(place.display().to_string(), reason)),
            None => Err(CudaError::LibraryMissing {
                library: self.title,
                searched: self.searched(folders),
                remedy: self.remedy,
            }),
        }
    }

    fn check(&self, library: Library, place: String) -> Result<Found, CudaError> {
        for symbol in self.symbols {
            // SAFETY: the address is only compared with nothing, never called.
            if unsafe { library.get::<*const ()>(symbol.as_bytes()) }.is_err() {
                return Err(self.unusable(place, format!("it lacks {symbol}, so it is too old")));
            }
        }
        Ok(Found { library, place })
    }

    fn unusable(&self, place: String, reason: String) -> CudaError {
        CudaError::LibraryUnusable { library: self.title, place, reason, remedy: self.remedy }
    }

    /// Named folders first, then the loader's own search, then the usual homes.
    fn places(&self, folders: &[PathBuf]) -> Vec<PathBuf> {
        let named = named_folders();
        let (first, later): (Vec<_>, Vec<_>) = folders.iter().partition(|folder| named.contains(folder));
        let within = |folders: Vec<&PathBuf>| -> Vec<PathBuf> {
            folders.iter().flat_map(|folder| self.names.iter().map(|name| folder.join(name))).collect()
        };
        let bare = self.names.iter().map(PathBuf::from);
        within(first).into_iter().chain(bare).chain(within(later)).collect()
    }

    fn searched(&self, folders: &[PathBuf]) -> String {
        let folders: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
        let names = self.names.join(", ");
        let folders = if folders.is_empty() { String::new() } else { format!(", in {}", folders.join(", ")) };
        format!("{names} through the system's loader (LD_LIBRARY_PATH){folders}")
    }
}

/// Whether a 64-bit ELF file ends before what its header says is in it: the system's loader would read beyond its end, which
/// kills the process. Of any other file the loader says what is wrong with it.
fn is_cut_short(path: &Path) -> bool {
    let (Ok(mut file), Ok(size)) = (fs::File::open(path), fs::metadata(path).map(|entry| entry.len())) else {
        return false;
    };
    let mut header = [0_u8; 64];
    let read = file.read_exact(&mut header);
    // 64 bits, little-endian.
    if header[..6] != *b"\x7fELF\x02\x01" {
        return false;
    }
    if read.is_err() {
        return true;
    }
    let number = |bytes: &[u8], at: usize, width: usize| {
        bytes[at..at + width].iter().rev().fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte))
    };
    // The tables of sections and of segments: offset, size of an entry, number of entries.
    let [sections, segments] = [(40, 58, 60), (32, 54, 56)].map(|(offset, entry, count)| {
        (number(&header, offset, 8), number(&header, entry, 2), number(&header, count, 2))
    });
    let end = |(offset, entry, count): (u64, u64, u64)| offset.saturating_add(entry * count);
    if end(sections).max(end(segments)) > size {
        return true;
    }
    let (offset, entry, count) = segments;
    let mut table = vec![0; (entry * count) as usize];
    if entry < 56 || file.seek(SeekFrom::Start(offset)).is_err() || file.read_exact(&mut table).is_err() {
        return false;
    }
    // Where in the file a segment lies, and how long it is there.
    let mut segments = table.chunks_exact(entry as usize);
    segments.any(|segment| number(segment, 8, 8).saturating_add(number(segment, 32, 8)) > size)
}

/// What [`FOLDERS_VARIABLE`] names.
fn named_folders() -> Vec<PathBuf> {
    env::var_os(FOLDERS_VARIABLE).map(|list| env::split_paths(&list).collect()).unwrap_or_default()
}

/// Named folders, the toolkit's, and those of wheels in an active Python environment.
fn toolkit_folders() -> Vec<PathBuf> {
    let variable =
        |name: &str| env::var_os(name).filter(|value: &OsString| !value.is_empty()).map(PathBuf::from);
    let toolkits = ["CUDA_HOME", "CUDA_PATH"].into_iter().filter_map(variable);
    let toolkits = toolkits.chain(["/usr/local/cuda", "/opt/cuda"].map(PathBuf::from));
    let python = ["VIRTUAL_ENV", "CONDA_PREFIX"].into_iter().filter_map(variable);
    let mut folders = named_folders();
    folders.extend(toolkits.map(|home| home.join("lib64")));
    folders.extend(python.flat_map(|home| wheel_folders(&home)));
    folders
}

/// Where NVIDIA's Python wheels lie in the environment at `home`: `lib/python3.X/site-packages/nvidia/*/lib`.
pub fn wheel_folders(home: &Path) -> Vec<PathBuf> {
    let children = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten().flatten();
        let mut children: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
        children.sort();
        children
    };
    let pythons = children(&home.join("lib"));
    let wheels = pythons.iter().flat_map(|python| children(&python.join("site-packages/nvidia")));
    wheels.map(|wheel| wheel.join("lib")).filter(|folder| folder.is_dir()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOWHERE: Wanted = Wanted {
        title: "a library of no name",
        names: &["libbso-no-such-library.so.1"],
        symbols: &["nothing"],
        remedy: "Install it.",
        in_toolkits: true,
    };

    #[test]
    fn a_missing_library_is_named_with_every_place() {
        let error = NOWHERE.open_in(&["/no/such/folder".into()]).unwrap_err().to_string();
        for part in ["a library of no name", "libbso-no-such-library.so.1", "/no/such/folder", "Install it."]
        {
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_no_library_and_one_without_the_functions_are_told_apart_from_a_missing_one() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(NOWHERE.names[0]);
        fs::write(&file, "no library at all").unwrap();
        let error = NOWHERE.open_in(&[folder.path().into()]).unwrap_err();
        let CudaError::LibraryUnusable { place, .. } = &error else { panic!("{error}") };
        assert_eq!(place, &file.display().to_string());
        #[cfg(target_os = "linux")]
        {
            let libc = Wanted { names: &["libc.so.6"], symbols: &["malloc", "cuNothing"], ..NOWHERE };
            let error = libc.open_in(&[]).unwrap_err().to_string();
            assert!(error.contains("libc.so.6") && error.contains("it lacks cuNothing"), "{error}");
            assert!(Wanted { symbols: &["malloc"], ..libc }.open_in(&[]).is_ok());
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_library_that_is_cut_short_anywhere_is_told_and_the_process_lives() {
        let libc = Wanted { names: &["libc.so.6"], symbols: &["malloc"], ..NOWHERE };
        let whole = fs::read_to_string("/proc/self/maps").unwrap();
        let path =
            whole.lines().find_map(|line| line.split_whitespace().find(|word| word.ends_with("/libc.so.6")));
        let Some(path) = path else { return println!("skipped: this process has no libc.so.6") };
        assert!(!is_cut_short(Path::new(path)));
        let (bytes, folder) = (fs::read(path).unwrap(), tempfile::tempdir().unwrap());
        let file = folder.path().join("libc.so.6");
        for kept in [0, 5, 63, 64, 4096, bytes.len() / 3, bytes.len() - 1] {
            fs::write(&file, &bytes[..kept]).unwrap();
            // Fewer bytes than the mark of an ELF file are left to the loader, which reads no further.
            assert_eq!(is_cut_short(&file), kept >= 6, "{kept} bytes");
        }
        let wanted = Wanted { names: &["libbso-cut.so.1"], ..libc };
        fs::write(folder.path().join("libbso-cut.so.1"), &bytes[..bytes.len() / 2]).unwrap();
        let error = wanted.open_in(&[folder.path().into()]).unwrap_err().to_string();
        assert!(error.contains("libbso-cut.so.1") && error.contains("cut short"), "{error}");
    }

    #[test]
    fn wheels_are_found_in_an_environment() {
        let home = tempfile::tempdir().unwrap();
        let wheel = home.path().join("lib/python3.11/site-packages/nvidia/cu13/lib");
        fs::create_dir_all(&wheel).unwrap();
        assert_eq!(wheel_folders(home.path()), [wheel]);
        assert!(wheel_folders(Path::new("/no/such/home")).is_empty());
    }
}
