//! What can keep a repository from being here, with the place looked at and the remedy.

use std::io;
use std::path::PathBuf;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HubError {
    /// The hub was not asked, and the cache has nothing.
    #[error(
        "{what}: no such local path, and it is not in the cache {}; HF_HUB_OFFLINE is set, so the hub was not asked. Unset it, or fetch it where there is a network (huggingface-cli download) and give the folder",
        cache.display()
    )]
    Offline {
        /// Kind and name.
        what: String,
        /// The repository's folder in the cache.
        cache: PathBuf,
    },
    /// The hub does not answer.
    #[error(
        "{what}: no such local path, not in the cache {}, and {url} cannot be reached ({problem}). Name a mirror in HF_ENDPOINT, or fetch it elsewhere (huggingface-cli download) and give the folder",
        cache.display()
    )]
    Unreachable {
        /// Kind and name.
        what: String,
        /// The repository's folder in the cache.
        cache: PathBuf,
        /// What was asked.
        url: String,
        /// What the system said.
        problem: String,
    },
    /// The hub refuses.
    #[error("{what}: no such local path, and {url} answers {status}: {remedy}")]
    Refused {
        /// Kind and name.
        what: String,
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// What to do.
        remedy: &'static str,
    },
    /// The hub's answer makes no sense.
    #[error("{what}: {url} gives no list of files ({problem}); is HF_ENDPOINT a hub?")]
    Answer {
        /// Kind and name.
        what: String,
        /// What was asked.
        url: String,
        /// What is wrong.
        problem: String,
    },
    /// The repository holds nothing that is used here.
    #[error("{what}: {problem}")]
    Unusable {
        /// Kind and name.
        what: String,
        /// What is missing, and the remedy.
        problem: String,
    },
    /// A transfer that did not come to its end.
    #[error(
        "{url}: the transfer broke off after {got} bytes{of} ({problem}); run the command again, it goes on from there"
    )]
    BrokenOff {
        /// What was asked.
        url: String,
        /// Bytes that are here.
        got: u64,
        /// " of N", possibly empty.
        of: String,
        /// What the system said.
        problem: String,
    },
    /// A file that is not what the hub's list promises.
    #[error(
        "{url}: {problem}; it was deleted. Run the command again; if it stays, the hub's copy is damaged"
    )]
    Damaged {
        /// What was asked.
        url: String,
        /// Size or checksum, wanted and found.
        problem: String,
    },
    /// A download that another process or an earlier run did not finish.
    #[error(
        "{what}: not all that is needed is in {} (an earlier download was interrupted, or fetched another split) and the hub is not asked or not reachable; fetch the rest with a network",
        cache.display()
    )]
    Incomplete {
        /// Kind and name.
        what: String,
        /// The repository's folder in the cache.
        cache: PathBuf,
    },
    /// The cache cannot be read or written.
    #[error("the cache of the hub: {}: {source}; choose another place with HF_HOME", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}
