//! What can go wrong in the engine: shapes that do not fit, a device that is not there, threads that do not start.

use thiserror::Error;

use crate::Array;

/// An operation that was refused. Nothing has been written to its outputs.
#[derive(Debug, Error, Clone, PartialEq)]
pub enum EngineError {
    /// Two shapes that must agree do not.
    #[error("{operation}: {what} must be {expected}, found {found}")]
    Shape {
        /// The operation that was called.
        operation: &'static str,
        /// The argument, and which side of it.
        what: &'static str,
        /// The size that the other arguments ask for.
        expected: usize,
        /// The size that it has.
        found: usize,
    },
    /// An index (token id, row, position, slot) outside its table.
    #[error("{operation}: {what} {index} at entry {entry} is outside the {limit} there are")]
    Index {
        /// The operation that was called.
        operation: &'static str,
        /// What the index counts.
        what: &'static str,
        /// Its place in the list of indices.
        entry: usize,
        /// The index itself.
        index: usize,
        /// How many there are.
        limit: usize,
    },
    /// A value that no call of the operation can accept.
    #[error("{operation}: {reason}")]
    Invalid {
        /// The operation that was called.
        operation: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
    /// A segment list that does not describe the rows.
    #[error("segment {segment} (rows {start}..{end} of {tokens}): {reason}")]
    Segment {
        /// Index in the list.
        segment: usize,
        /// First row.
        start: usize,
        /// One past the last row.
        end: usize,
        /// Number of rows there are.
        tokens: usize,
        /// What is wrong.
        reason: &'static str,
    },
    /// A precision that numbers may be stored in, but not computed in.
    #[error("{name} is a storage format only: compute in f32 or bf16", name = .0.name())]
    NoArithmetic(crate::DType),
    /// A device name that is not understood.
    #[error("device `{0}` is not known: use auto, cpu, cuda or cuda:N")]
    UnknownDevice(String),
    /// A device that this binary has no code for.
    #[error(
        "device `{0}` is not compiled in: this binary runs on the CPU; use `device: cpu` or `auto`, or build with \
         `--features cuda` (docs/gpu.md)"
    )]
    DeviceNotCompiledIn(String),
    /// A device that this binary has code for, and does not compute on.
    #[error("device `{name}`: {reason}")]
    DeviceRefused {
        /// As it was asked for.
        name: String,
        /// What was found, what is missing, and what to do.
        reason: String,
    },
    /// A device that failed in use.
    #[error("{0}")]
    Device(String),
    /// A data type name that is not understood.
    #[error("dtype `{0}` is not known: use f32, bf16 or f16")]
    UnknownDType(String),
    /// `BSO_CPU` (or the caller) asks for instructions that are not known or that this processor lacks.
    #[error(
        "CPU path `{0}` is not available here: use avx512, avx2 or portable, as far as the processor has it"
    )]
    CpuPath(String),
    /// The thread pool could not be started.
    #[error("cannot start {threads} threads: {reason}; set a smaller num_threads")]
    Threads {
        /// Number asked for.
        threads: usize,
        /// What the system said.
        reason: String,
    },
}

impl EngineError {
    /// Operands of two precisions where one is needed.
    pub(crate) fn mixed(operation: &'static str) -> Self {
        Self::Invalid { operation, reason: "operands of different precision; allocate them alike".to_owned() }
    }
}

/// Refuses a size that is not the expected one.
pub(crate) fn expect_size(
    operation: &'static str,
    what: &'static str,
    expected: usize,
    found: usize,
) -> Result<(), EngineError> {
    if expected == found { Ok(()) } else { Err(EngineError::Shape { operation, what, expected, found }) }
}

/// Refuses an array whose shape is not that of `like`; `what` names its rows and its columns.
pub(crate) fn expect_same_shape(
    operation: &'static str,
    what: (&'static str, &'static str),
    like: &Array,
    found: &Array,
) -> Result<(), EngineError> {
    expect_size(operation, what.0, like.rows(), found.rows())?;
    expect_size(operation, what.1, like.cols(), found.cols())
}

/// Refuses rows `x` and `y` that a weight `[outputs, inputs]` does not lead from one to the other.
pub(crate) fn expect_product(
    operation: &'static str,
    [outputs, inputs]: [usize; 2],
    x: &Array,
    y: &Array,
) -> Result<(), EngineError> {
    expect_size(operation, "columns of x (inputs of the weight)", inputs, x.cols())?;
    expect_size(operation, "rows of y", x.rows(), y.rows())?;
    expect_size(operation, "columns of y (rows of the weight)", outputs, y.cols())
}

/// Refuses indices at or beyond `limit`.
pub(crate) fn expect_indices(
    operation: &'static str,
    what: &'static str,
    indices: impl IntoIterator<Item = usize>,
    limit: usize,
) -> Result<(), EngineError> {
    match indices.into_iter().enumerate().find(|&(_, index)| index >= limit) {
        None => Ok(()),
        Some((entry, index)) => Err(EngineError::Index { operation, what, entry, index, limit }),
    }
}
