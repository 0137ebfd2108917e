//! RMSNorm, LayerNorm, and sums down the columns.

use super::{WARPS, arguments, blocks, fit, kernel_of, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// Rows of a chunk where a sum over `n` rows is split: at most 32 chunks, each of at least 16 rows.
fn rows_per_chunk(n: usize) -> usize {
    n.div_ceil(32).max(16)
}

/// Number of values of the partial sums that a backward over `rows` rows (or runs) needs for `cols` columns;
/// LayerNorm's needs `rows` more behind twice as many, for the means.
pub fn partial_sums(rows: usize, cols: usize) -> usize {
    rows.div_ceil(rows_per_chunk(rows)) * cols
}

/// `y = x * inv_rms * (offset + weight)`, each run of as many values as `weight` has; `inv_rms` has one value a run.
///
/// # Errors
/// Sizes that do not fit.
pub fn rms_norm(
    on: &dyn Launcher,
    x: View<'_>,
    (weight, offset): (View<'_>, f32),
    eps: f32,
    [y, inv_rms]: [View<'_>; 2],
) -> Result<(), CudaError> {
    const OP: &str = "rms_norm";
    let (d, runs) = runs(OP, x, weight)?;
    y.expect(OP, "y", y.number(), x.len())?;
    inv_rms.expect(OP, "inv_rms", Number::F32, runs)?;
    let kernel = kernel_of(OP, y.number(), ["rms_norm_f32", "rms_norm_bf16"])?;
    let (d, runs, grid) = (fit(OP, "values of weight", d)?, fit(OP, "runs", runs)?, warps(runs));
    start(on, kernel, [grid, 1], arguments![x, weight, offset, eps, y, inv_rms, d, runs])
}

/// What [`rms_norm_backward`] reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct RmsNormGrads<'a> {
    /// Gradient of the output.
    pub dy: View<'a>,
    /// The forward's input, weight and offset.
    pub x: View<'a>,
    /// As in the forward.
    pub weight: (View<'a>, f32),
    /// As the forward left it.
    pub inv_rms: View<'a>,
    /// Gradient of the input, and whether it is added to what is there.
    pub dx: (View<'a>, bool),
    /// Gradient of the weight, added to; and room for [`partial_sums`] of runs by the weight's values.
    pub dweight: Option<(View<'a>, View<'a>)>,
}

/// The gradients of [`rms_norm`].
///
/// # Errors
/// Sizes that do not fit.
pub fn rms_norm_backward(on: &dyn Launcher, grads: RmsNormGrads<'_>) -> Result<(), CudaError> {
    const OP: &str = "rms_norm_backward";
    let RmsNormGrads { dy, x, weight: (weight, offset), inv_rms, dx: (dx, add), dweight } = grads;
    let (d, runs) = runs(OP, x, weight)?;
    dy.expect(OP, "dy", Number::F32, x.len())?;
    dx.expect(OP, "dx", Number::F32, x.len())?;
    inv_rms.expect(OP, "inv_rms", Number::F32, runs)?;
    let (cols, count) = (fit(OP, "values of weight", d)?, fit(OP, "runs", runs)?);
    let list = arguments![dy, x, weight, offset, inv_rms, dx, add, cols, count];
    start(on, OP, [warps(runs), 1], list)?;
    let Some((dweight, partial)) = dweight else { return Ok(()) };
    dweight.expect(OP, "dweight", Number::F32, d)?;
    partial.expect(OP, "partial sums", Number::F32, partial_sums(runs, d))?;
    let chunks = Chunks::of(OP, runs)?;
    let grid = [blocks(OP, d)?, chunks.count];
    start(on, "rms_norm_weight", grid, arguments![dy, x, inv_rms, partial, cols, count, chunks.rows])?;
    add_partials(on, partial, dweight, [cols, 0], chunks)
}

/// `y = (x - mean) * inv_std * weight + bias` of each row; `inv_std` has one value a row.
///
/// # Errors
/// Sizes that do not fit.
pub fn layer_norm(
    on: &dyn Launcher,
    x: View<'_>,
    [weight, bias]: [View<'_>; 2],
    eps: f32,
    [y, inv_std]: [View<'_>; 2],
) -> Result<(), CudaError> {
    const OP: &str = "layer_norm";
    x.expect(OP, "x", Number::F32, x.len())?;
    weight.expect(OP, "weight", Number::F32, x.cols())?;
    bias.expect(OP, "bias", Number::F32, x.cols())?;
    y.expect(OP, "y", y.number(), x.len())?;
    inv_std.expect(OP, "inv_std", Number::F32, x.rows())?;
    let kernel = kernel_of(OP, y.number(), ["layer_norm_f32", "layer_norm_bf16"])?;
    let (d, rows) = (fit(OP, "columns", x.cols())?, fit(OP, "rows", x.rows())?);
    let list = arguments![x, weight, bias, eps, y, inv_std, d, rows];
    start(on, kernel, [warps(x.rows()), 1], list)
}

/// What [`layer_norm_backward`] reads and writes.
#[derive(Debug, Clone, Copy)]
pub struct LayerNormGrads<'a> {
    /// Gradient of the output.
    pub dy: View<'a>,
    /// The forward's input.
    pub x: View<'a>,
    /// The forward's weight.
    pub weight: View<'a>,
    /// As the forward left it.
    pub inv_std: View<'a>,
    /// Room for a value a row.
    pub means: View<'a>,
    /// Gradient of the input, and whether it is added to what is there.
    pub dx: (View<'a>, bool),
    /// Gradients of weight and bias, added to; and room for [`partial_sums`] of rows by twice the columns.
    pub dweight_dbias: Option<([View<'a>; 2], View<'a>)>,
}

/// The gradients of [`layer_norm`].
///
/// # Errors
/// Sizes that do not fit.
pub fn layer_norm_backward(on: &dyn Launcher, grads: LayerNormGrads<'_>) -> Result<(), CudaError> {
    const OP: &str = "layer_norm_backward";
    let LayerNormGrads { dy, x, weight, inv_std, means, dx: (dx, add), dweight_dbias } = grads;
    let (n, d) = (x.rows(), x.cols());
    x.expect(OP, "x", Number::F32, x.len())?;
    dy.expect(OP, "dy", Number::F32, x.len())?;
    dx.expect(OP, "dx", Number::F32, x.len())?;
    weight.expect(OP, "weight", Number::F32, d)?;
    inv_std.expect(OP, "inv_std", Number::F32, n)?;
    means.expect(OP, "means", Number::F32, n)?;
    let (cols, rows) = (fit(OP, "columns", d)?, fit(OP, "rows", n)?);
    let list = arguments![dy, x, weight, inv_std, means, dx, add, cols, rows];
    start(on, OP, [warps(n), 1], list)?;
    let Some(([dweight, dbias], partial)) = dweight_dbias else { return Ok(()) };
    dweight.expect(OP, "dweight", Number::F32, d)?;
    dbias.expect(OP, "dbias", Number::F32, d)?;
    partial.expect(OP, "partial sums", Number::F32, partial_sums(n, 2 * d))?;
    let chunks = Chunks::of(OP, n)?;
    let list = arguments![dy, x, inv_std, means, partial, cols, rows, chunks.rows];
    start(on, "layer_norm_weight", [blocks(OP, d)?, chunks.count], list)?;
    add_partials(on, partial, dweight, [2 * cols, 0], chunks)?;
    add_partials(on, partial, dbias, [2 * cols, cols], chunks)
}

/// `sum += the sum of x's rows`: a bias's gradient. `partial` is room for [`partial_sums`] of x's rows and columns.
///
/// # Errors
/// Sizes that do not fit.
pub fn add_column_sums(
    on: &dyn Launcher,
    x: View<'_>,
    sum: View<'_>,
    partial: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "add_column_sums";
    let kernel = kernel_of(OP, x.number(), ["column_sums_f32", "column_sums_bf16"])?;
    sum.expect(OP, "sum", Number::F32, x.cols())?;
    partial.expect(OP, "partial sums", Number::F32, partial_sums(x.rows(), x.cols()))?;
    let (cols, rows, chunks) =
        (fit(OP, "columns", x.cols())?, fit(OP, "rows", x.rows())?, Chunks::of(OP, x.rows())?);
    let grid = [blocks(OP, x.cols())?, chunks.count];
    start(on, kernel, grid, arguments![x, partial, cols, rows, chunks.rows])?;
    add_partials(on, partial, sum, [cols, 0], chunks)
}

/// How the rows of a sum are split.
#[derive(Clone, Copy)]
pub(super) struct Chunks {
    pub(super) rows: u32,
    pub(super) count: u32,
}

impl Chunks {
    pub(super) fn of(operation: &'static str, rows: usize) -> Result<Self, CudaError> {
        let each = rows_per_chunk(rows);
        Ok(Self {
            rows: fit(operation, "rows", each)?,
            count: fit(operation, "chunks", rows.div_ceil(each))?,
        })
    }
}

fn add_partials(
    on: &dyn Launcher,
    partial: View<'_>,
    sum: View<'_>,
    [stride, first]: [u32; 2],
    chunks: Chunks,
) -> Result<(), CudaError> {
    const OP: &str = "add_partials";
    let cols = fit(OP, "columns", sum.len())?;
    start(on, OP, [blocks(OP, sum.len())?, 1], arguments![partial, sum, cols, stride, first, chunks.count])
}

/// Blocks with a warp for each of `count` runs.
fn warps(count: usize) -> u32 {
    count.div_ceil(WARPS) as u32
}

/// Values of a run, and runs.
fn runs(operation: &'static str, x: View<'_>, weight: View<'_>) -> Result<(usize, usize), CudaError> {
    let d = weight.len();
    weight.expect(operation, "weight", Number::F32, d)?;
    x.expect(operation, "x", Number::F32, x.len())?;
    if d == 0 || !x.cols().is_multiple_of(d) {
        return Err(CudaError::shape(operation, format!("{} columns are not whole runs of {d}", x.cols())));
    }
    Ok((d, x.len() / d))
}
