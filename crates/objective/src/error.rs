//! What can be wrong with a loss or its input. Every message names the value and says what would be accepted.

use thiserror::Error;

/// Why a loss could not be built or evaluated.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum ObjectiveError {
    /// A setting is outside its range.
    #[error("{name} = {value} is out of range: {accepted}")]
    Setting {
        /// The setting's canonical name.
        name: &'static str,
        /// What was given.
        value: f64,
        /// The accepted range, in words.
        accepted: &'static str,
    },
    /// The clamp interval is empty or not finite.
    #[error(
        "log_ratio_clamp = [{low}, {high}] is no interval: give two finite numbers, the lower first, or none"
    )]
    Clamp {
        /// Lower bound given.
        low: f64,
        /// Upper bound given.
        high: f64,
    },
    /// No generator, loss, transform, tail or preset of that name.
    #[error("unknown {kind} {name:?}: use one of {accepted}")]
    UnknownName {
        /// What kind of thing was looked up.
        kind: &'static str,
        /// The name given.
        name: String,
        /// The known names, comma separated.
        accepted: String,
    },
    /// A generator got too few or too many parameters.
    #[error("generator {generator} takes parameters {expected}, but {given} were given")]
    ParameterCount {
        /// The generator's name.
        generator: &'static str,
        /// Its parameters in order.
        expected: &'static str,
        /// How many were given.
        given: usize,
    },
    /// The kernel expression could not be read.
    #[error("kernel expression {expression:?}, character {position}: {problem}")]
    KernelSyntax {
        /// The expression as written (shortened where very long).
        expression: String,
        /// 1-based character position.
        position: usize,
        /// What is wrong there.
        problem: String,
    },
    /// The kernel expression is no even positive function.
    #[error(
        "kernel {expression:?} is not {property} at u = {u}: k({u}) = {at_u}, k({minus_u}) = {at_minus_u}; a generator is valid exactly when its kernel is even and positive",
        minus_u = -u
    )]
    KernelProperty {
        /// The expression.
        expression: String,
        /// "even", "positive" or "finite".
        property: &'static str,
        /// Where it fails, nats.
        u: f64,
        /// k(u).
        at_u: f64,
        /// k(-u).
        at_minus_u: f64,
    },
    /// The kernel's loss integral did not converge.
    #[error(
        "kernel {expression:?}: the loss integral from 0 to u = {u} did not settle; the kernel is too rough there"
    )]
    KernelIntegral {
        /// The expression.
        expression: String,
        /// Upper limit of the integral, nats.
        u: f64,
    },
    /// A log-prob or another input is NaN or infinite.
    #[error("{name} = {value} is not a finite number")]
    NotFinite {
        /// The input's name.
        name: &'static str,
        /// Its value.
        value: f64,
    },
    /// The loss needs something that the pair does not carry.
    #[error("{loss} needs {fields}, which this pair does not have")]
    MissingInput {
        /// The loss's name.
        loss: &'static str,
        /// The missing fields.
        fields: &'static str,
    },
    /// A mathematically finite result that f64 cannot hold.
    #[error(
        "{quantity} at log_ratio = {log_ratio} is too large for f64; set log_ratio_clamp, lower safety_penalty or beta, or take a generator with a smaller exponent"
    )]
    NotRepresentable {
        /// "loss" or the derivative's name.
        quantity: &'static str,
        /// u, nats.
        log_ratio: f64,
    },
    /// A response without scored tokens cannot be averaged over.
    #[error("{name} = 0: a mean per token needs at least one token")]
    NoTokens {
        /// `chosen_tokens` or `rejected_tokens`.
        name: &'static str,
    },
    /// Arrays of one batch differ in length, or the batch is empty.
    #[error(
        "{left} has {left_len} entries and {right} has {right_len}: a batch needs equally many, at least one"
    )]
    BatchLength {
        /// First array.
        left: &'static str,
        /// Its length.
        left_len: usize,
        /// Second array.
        right: &'static str,
        /// Its length.
        right_len: usize,
    },
    /// A tabular world that is none; the text says why.
    #[error("{0}")]
    World(String),
    /// A safety constraint that has no multiplier; the text says why.
    #[error("{0}")]
    Multiplier(String),
    /// A step's true gradient does not fit the network's numbers.
    #[error(
        "the gradient norm of this step is about 1e{decimal_exponent}, beyond f32: set max_grad_norm, log_ratio_clamp or a smaller safety_penalty"
    )]
    GradientRange {
        /// log10 of the norm, rounded down.
        decimal_exponent: i32,
    },
}

/// `value` if it is a finite number.
pub(crate) fn finite(name: &'static str, value: f64) -> Result<f64, ObjectiveError> {
    if value.is_finite() { Ok(value) } else { Err(ObjectiveError::NotFinite { name, value }) }
}

/// `value` if it is finite and `accepted` describes it truly (`holds`).
pub(crate) fn setting(
    name: &'static str,
    value: f64,
    holds: bool,
    accepted: &'static str,
) -> Result<f64, ObjectiveError> {
    if value.is_finite() && holds {
        Ok(value)
    } else {
        Err(ObjectiveError::Setting { name, value, accepted })
    }
}
