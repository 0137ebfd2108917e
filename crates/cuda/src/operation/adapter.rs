//! What low-rank updates with lengths of their own (DoRA) need beside products and dropout, in f32 where nothing else is
//! said. Where a weight's rows are taken some at a time, the lists of values a row are parts of the whole
//! ([`View::part`](crate::View::part)).

use super::norm::{Chunks, partial_sums};
use super::{arguments, blocks, expect_alike, fit, kernel_of, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// What each row of a weight is scaled by: `magnitude / norm`, 0 where the norm is 0.
///
/// # Errors
/// Sizes that differ.
pub fn length_factors(
    on: &dyn Launcher,
    magnitude: View<'_>,
    norm: View<'_>,
    factors: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "length_factors";
    factors.expect(OP, "factors", Number::F32, factors.len())?;
    expect_alike(OP, factors, &[("magnitude", magnitude), ("norm", norm)])?;
    let list = arguments![magnitude, norm, factors, factors.len() as u64];
    start(on, OP, [blocks(OP, factors.len())?, 1], list)
}

/// What [`scale_columns`] reads: `x` is `[n, cols]`.
#[derive(Debug, Clone, Copy)]
pub struct ScaledColumns<'a> {
    /// What is scaled.
    pub x: View<'a>,
    /// One a column.
    pub factors: View<'a>,
    /// One a column, added.
    pub bias: Option<View<'a>>,
    /// As `x`, added; may lie where the output does.
    pub rest: Option<View<'a>>,
}

/// `y = factors[column] x + bias[column] + rest`, in f32 or rounded to bf16: the end of DoRA's forward.
///
/// # Errors
/// Sizes that do not fit.
pub fn scale_columns(on: &dyn Launcher, columns: ScaledColumns<'_>, y: View<'_>) -> Result<(), CudaError> {
    const OP: &str = "scale_columns";
    let ScaledColumns { x, factors, bias, rest } = columns;
    x.expect(OP, "x", Number::F32, x.len())?;
    factors.expect(OP, "factors", Number::F32, x.cols())?;
    bias.map_or(Ok(()), |bias| bias.expect(OP, "bias", Number::F32, x.cols()))?;
    rest.map_or(Ok(()), |rest| rest.expect(OP, "rest", Number::F32, x.len()))?;
    y.expect(OP, "y", y.number(), x.len())?;
    let kernel = kernel_of(OP, y.number(), ["scale_columns_f32", "scale_columns_bf16"])?;
    let list = arguments![x, factors, bias, rest, y, fit(OP, "columns", x.cols())?, x.len() as u64];
    start(on, kernel, [blocks(OP, x.len())?, 1], list)
}

/// `y = (factors[column] - less) x`, or `y += ..` where `add`; `y` may be `x`.
///
/// # Errors
/// Sizes that do not fit.
pub fn add_scaled_columns(
    on: &dyn Launcher,
    x: View<'_>,
    (factors, less): (View<'_>, f32),
    y: View<'_>,
    add: bool,
) -> Result<(), CudaError> {
    const OP: &str = "add_scaled_columns";
    x.expect(OP, "x", Number::F32, x.len())?;
    factors.expect(OP, "factors", Number::F32, x.cols())?;
    y.expect(OP, "y", Number::F32, x.len())?;
    let list = arguments![x, factors, less, y, add, fit(OP, "columns", x.cols())?, x.len() as u64];
    start(on, OP, [blocks(OP, x.len())?, 1], list)
}

/// `dmagnitude += (the sum over the rows of (x + more) dy) / norm`, nothing where the norm is 0. `x`, `more` and `dy` are
/// `[n, cols]`: outputs before they were scaled (in parts, where there are two) and their gradient; `norm` and `dmagnitude`
/// hold a value a column. `partial` is room for [`partial_sums`] of n by cols numbers in f64.
///
/// # Errors
/// Sizes that do not fit.
pub fn add_length_gradient(
    on: &dyn Launcher,
    (x, more): (View<'_>, Option<View<'_>>),
    dy: View<'_>,
    [norm, dmagnitude]: [View<'_>; 2],
    partial: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "add_length_gradient";
    let (n, cols) = (x.rows(), x.cols());
    x.expect(OP, "x", Number::F32, x.len())?;
    more.map_or(Ok(()), |more| more.expect(OP, "more", Number::F32, x.len()))?;
    dy.expect(OP, "dy", Number::F32, x.len())?;
    norm.expect(OP, "norm", Number::F32, cols)?;
    dmagnitude.expect(OP, "dmagnitude", Number::F32, cols)?;
    partial.expect(OP, "partial sums", Number::F64, partial_sums(n, cols))?;
    let (chunks, grid) = (Chunks::of(OP, n)?, blocks(OP, cols)?);
    let (cols, rows) = (fit(OP, "columns", cols)?, fit(OP, "rows", n)?);
    let list = arguments![x, more, dy, partial, cols, rows, chunks.rows];
    start(on, "column_dots", [grid, chunks.count], list)?;
    start(on, OP, [grid, 1], arguments![partial, norm, dmagnitude, cols, chunks.count])
}

/// Rows that a block takes, as in `adapter.cu`.
const ROWS: usize = 4;

/// A low-rank update `scale b a` of rows of a weight.
#[derive(Debug, Clone, Copy)]
pub struct Update<'a> {
    /// `[r, i]`.
    pub a: View<'a>,
    /// `[n, r]`.
    pub b: View<'a>,
    /// Its factor.
    pub scale: f32,
}

/// The lengths of the rows of `w + scale b a`, into `norm`; `w` is `[n, i]` in f32 or bf16. The sum is nowhere stored.
///
/// # Errors
/// Sizes that do not fit.
pub fn row_norms(
    on: &dyn Launcher,
    w: View<'_>,
    Update { a, b, scale }: Update<'_>,
    norm: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "row_norms";
    let kernel = kernel_of(OP, w.number(), ["row_norms_f32", "row_norms_bf16"])?;
    norm.expect(OP, "norm", Number::F32, w.rows())?;
    a.expect(OP, "a", Number::F32, a.rows() * w.cols())?;
    b.expect(OP, "b", Number::F32, w.rows() * a.rows())?;
    let (cols, rows) = (fit(OP, "columns", w.cols())?, fit(OP, "rows", w.rows())?);
    let list = arguments![w, a, b, scale, norm, fit(OP, "rank", a.rows())?, cols, rows];
    start(on, kernel, [fit(OP, "rows", w.rows().div_ceil(ROWS))?, 1], list)
}
