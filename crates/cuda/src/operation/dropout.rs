//! Dropout with the mask that the CPU draws.

use super::{arguments, blocks, fit, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// What decides the mask besides row and column.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// In (0, 1).
    pub rate: f64,
    /// The key.
    pub key: u64,
    /// Rows of the whole before the first one at hand.
    pub first_row: u64,
}

/// `to = kept from`, or `to += kept from` where `add`.
///
/// # Errors
/// Sizes that differ; precisions other than f32 and bf16.
pub fn dropout(
    on: &dyn Launcher,
    of: Dropout,
    from: View<'_>,
    to: View<'_>,
    add: bool,
) -> Result<(), CudaError> {
    const OP: &str = "dropout";
    to.expect(OP, "to", to.number(), from.len())?;
    use Number::{Bf16, F32};
    let kernel = match (from.number(), to.number()) {
        (F32, F32) => "dropout_f32_f32",
        (F32, Bf16) => "dropout_f32_bf16",
        (Bf16, F32) => "dropout_bf16_f32",
        (Bf16, Bf16) => "dropout_bf16_bf16",
        (from, to) => return Err(CudaError::shape(OP, format!("from {from:?} to {to:?} there is no way"))),
    };
    let threshold = (of.rate * 2f64.powi(32)) as u64;
    let factor = (1.0 / (1.0 - of.rate)) as f32;
    let (rows, pairs, cols) = (from.rows(), from.cols().div_ceil(2), fit(OP, "columns", from.cols())?);
    let list = arguments![from, to, of.key, of.first_row, threshold, factor, cols, rows as u64, add];
    start(on, kernel, [blocks(OP, rows * pairs)?, 1], list)
}
