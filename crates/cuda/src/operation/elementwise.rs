//! Sums, copies and scalings of whole arrays.

use super::{arguments, blocks, expect_alike, fit, kernel_of, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// `y = x` in another precision, rounded to nearest.
///
/// # Errors
/// Sizes that differ; precisions other than f32 and bf16, or the same.
pub fn convert(on: &dyn Launcher, x: View<'_>, y: View<'_>) -> Result<(), CudaError> {
    const OP: &str = "convert";
    let kernel = match (x.number(), y.number()) {
        (Number::F32, Number::Bf16) => "round_to_bf16",
        (Number::Bf16, Number::F32) => "widen_to_f32",
        (from, to) => return Err(CudaError::shape(OP, format!("from {from:?} to {to:?} there is no way"))),
    };
    y.expect(OP, "y", y.number(), x.len())?;
    start(on, kernel, [blocks(OP, x.len())?, 1], arguments![x, y, x.len() as u64])
}

/// `y += x`, in f32.
///
/// # Errors
/// Sizes that differ.
pub fn add_assign(on: &dyn Launcher, y: View<'_>, x: View<'_>) -> Result<(), CudaError> {
    const OP: &str = "add_assign";
    y.expect(OP, "y", Number::F32, x.len())?;
    expect_alike(OP, y, &[("x", x)])?;
    start(on, "add_assign", [blocks(OP, y.len())?, 1], arguments![y, x, y.len() as u64])
}

/// `x *= factor`, in f32.
///
/// # Errors
/// Another precision.
pub fn scale(on: &dyn Launcher, x: View<'_>, factor: f32) -> Result<(), CudaError> {
    const OP: &str = "scale";
    x.expect(OP, "x", Number::F32, x.len())?;
    start(on, "scale", [blocks(OP, x.len())?, 1], arguments![x, factor, x.len() as u64])
}

/// `x = cap * tanh(x / cap)`, in f32.
///
/// # Errors
/// Another precision.
pub fn soft_cap(on: &dyn Launcher, x: View<'_>, cap: f32) -> Result<(), CudaError> {
    const OP: &str = "soft_cap";
    x.expect(OP, "x", Number::F32, x.len())?;
    start(on, "soft_cap", [blocks(OP, x.len())?, 1], arguments![x, cap, x.len() as u64])
}

/// Every row of `y` becomes `row`: a bias, before a product is added to it.
///
/// # Errors
/// Columns that differ.
pub fn repeat_row(on: &dyn Launcher, row: View<'_>, y: View<'_>) -> Result<(), CudaError> {
    const OP: &str = "repeat_row";
    row.expect(OP, "row", Number::F32, y.cols())?;
    let kernel = kernel_of(OP, y.number(), ["repeat_row_f32", "repeat_row_bf16"])?;
    let cols = fit(OP, "columns", y.cols())?;
    start(on, kernel, [blocks(OP, y.len())?, 1], arguments![row, y, cols, y.len() as u64])
}
