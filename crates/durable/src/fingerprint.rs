//! Fingerprints: the SHA-256 of what a result depends on, so that a stale cache or checkpoint is recognised.

use sha2::{Digest, Sha256};
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

/// A hash under construction. Every part is framed by its length, so that ("ab", "c") and ("a", "bc") differ.
#[derive(Clone, Default)]
pub struct Fingerprint(Sha256);

impl Fingerprint {
    /// Starts an empty fingerprint.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds one part.
    pub fn part(&mut self, bytes: impl AsRef<[u8]>) -> &mut Self {
        let bytes = bytes.as_ref();
        self.0.update((bytes.len() as u64).to_le_bytes());
        self.0.update(bytes);
        self
    }

    /// The fingerprint as 64 hexadecimal digits.
    pub fn finish(&self) -> String {
        hex(&self.0.clone().finalize())
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.finish())
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("{b:02x}")).collect()
}

/// SHA-256 of `bytes` in hexadecimal.
pub fn fingerprint_bytes(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

/// SHA-256 of a file's content in hexadecimal, read in pieces.
///
/// # Errors
/// The I/O error with the path.
pub fn fingerprint_file(path: &Path) -> io::Result<String> {
    let named = |e: io::Error| io::Error::new(e.kind(), format!("cannot read {}: {e}", path.display()));
    let mut file = File::open(path).map_err(named)?;
    let (mut hasher, mut piece) = (Sha256::new(), vec![0u8; 1 << 20]);
    loop {
        let n = file.read(&mut piece).map_err(named)?;
        if n == 0 {
            return Ok(hex(&hasher.finalize()));
        }
        hasher.update(&piece[..n]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_are_framed() {
        let of = |parts: &[&str]| {
            let mut f = Fingerprint::new();
            parts.iter().for_each(|p| {
                f.part(p);
            });
            f.finish()
        };
        assert_ne!(of(&["ab", "c"]), of(&["a", "bc"]));
        assert_eq!(of(&["ab", "c"]), of(&["ab", "c"]));
    }

    #[test]
    fn a_known_digest() {
        assert!(fingerprint_bytes(b"abc").starts_with("ba7816bf8f01cfea414140de5dae2223"));
    }
}
