//! What can end an evaluation early, with the remedy.

use std::io;

/// An error of this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EvaluationError {
    /// The judge's endpoint refuses in a way that asking again cannot mend.
    #[error("{url} answers {status}: {said}; {remedy}")]
    Refused {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: u16,
        /// The beginning of the answer.
        said: String,
        /// What to do.
        remedy: &'static str,
    },
    /// The judge's endpoint cannot be used at all.
    #[error("the judge at {url}: {problem}; check base_url, and that the server runs")]
    Unreachable {
        /// What was asked.
        url: String,
        /// What the system said, after how many tries.
        problem: String,
    },
    /// The cache of judgments.
    #[error("cannot use the cache of judgments: {0}")]
    Cache(#[from] io::Error),
    /// The user asked to stop; judgments that came are kept.
    #[error("interrupted")]
    Interrupted,
}
