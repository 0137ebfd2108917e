//! What can be wrong with what SafeWorld is given.

/// Errors of this crate; each says what to change.
#[derive(Debug, thiserror::Error, PartialEq)]
pub enum WorldError {
    /// A setting outside its range.
    #[error("SafeWorld setting {name} is {value}: {remedy}")]
    Setting {
        /// The setting's name.
        name: &'static str,
        /// What was given.
        value: String,
        /// The accepted range.
        remedy: &'static str,
    },
    /// Pairs of a prompt kind are wanted, but none of the prompts given is of it.
    #[error("no {0} prompt to draw from: give such prompts or set the weight of this kind to 0")]
    NoPromptOfKind(&'static str),
    /// Two lists that describe the same items differ in length.
    #[error("{what}: {left} values meet {right}; both must describe the same items")]
    Length {
        /// Which lists.
        what: &'static str,
        /// Length of the first.
        left: usize,
        /// Length of the second.
        right: usize,
    },
    /// A number that must be finite (or a list that must hold one) is not.
    #[error("{0}: NaN, +inf or no finite value at all; check the model that gave these numbers")]
    NotFinite(&'static str),
    /// The hard-constrained optimum does not exist.
    #[error(
        "no safe candidate has positive reference probability: the hard-constrained optimum is not defined"
    )]
    NoSafeSupport,
}
