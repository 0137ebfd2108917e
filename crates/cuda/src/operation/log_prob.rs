//! The log-probability of one chosen token per row, over the vocabulary in chunks of logits.

use super::{arguments, blocks, fit, kernel_of, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// What rows keep between chunks, a value each.
#[derive(Debug, Clone, Copy)]
pub struct RowSums<'a> {
    /// The largest logit, f32.
    pub largest: View<'a>,
    /// The sum of `e^(logit - largest)`, f64.
    pub sums: View<'a>,
    /// The target's logit, f32.
    pub target_logits: View<'a>,
}

impl RowSums<'_> {
    fn check(&self, operation: &'static str, rows: usize) -> Result<(), CudaError> {
        self.largest.expect(operation, "largest", Number::F32, rows)?;
        self.sums.expect(operation, "sums", Number::F64, rows)?;
        self.target_logits.expect(operation, "target_logits", Number::F32, rows)
    }
}

/// A chunk of logits.
#[derive(Debug, Clone, Copy)]
pub struct Logits<'a> {
    /// `[rows, width]` in f32, before the cap.
    pub values: View<'a>,
    /// The first column's token.
    pub first: usize,
    /// Soft cap.
    pub cap: Option<f32>,
}

impl Logits<'_> {
    /// Rows, first token and width.
    fn check(&self, operation: &'static str, targets: View<'_>) -> Result<[u32; 3], CudaError> {
        let (rows, width) = (self.values.rows(), self.values.cols());
        self.values.expect(operation, "logits", Number::F32, rows * width)?;
        targets.expect(operation, "targets", Number::U32, rows)?;
        if self.cap.is_some_and(|cap| !(cap.is_finite() && cap > 0.0)) {
            return Err(CudaError::shape(operation, format!("a cap of {:?}", self.cap)));
        }
        Ok([
            fit(operation, "rows", rows)?,
            fit(operation, "first token", self.first)?,
            fit(operation, "columns", width)?,
        ])
    }
}

/// Before the first chunk.
///
/// # Errors
/// Sizes that do not fit.
pub fn log_prob_begin(on: &dyn Launcher, rows: RowSums<'_>) -> Result<(), CudaError> {
    const OP: &str = "log_prob_begin";
    let n = rows.largest.len();
    rows.check(OP, n)?;
    let list = arguments![rows.largest, rows.sums, rows.target_logits, n as u64];
    start(on, OP, [blocks(OP, n)?, 1], list)
}

/// Takes in a chunk.
///
/// # Errors
/// Sizes that do not fit.
pub fn log_prob_chunk(
    on: &dyn Launcher,
    logits: Logits<'_>,
    targets: View<'_>,
    rows: RowSums<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "log_prob_chunk";
    let [count, first, width] = logits.check(OP, targets)?;
    rows.check(OP, targets.len())?;
    let cap = logits.cap.unwrap_or(0.0);
    let list =
        arguments![logits.values, targets, rows.largest, rows.sums, rows.target_logits, first, width, cap];
    start(on, OP, [count, 1], list)
}

/// After the last chunk: log-probs in f64 (nats) and log-sum-exps in f32.
///
/// # Errors
/// Sizes that do not fit.
pub fn log_prob_end(
    on: &dyn Launcher,
    rows: RowSums<'_>,
    log_probs: View<'_>,
    lse: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "log_prob_end";
    let n = rows.largest.len();
    rows.check(OP, n)?;
    log_probs.expect(OP, "log_probs", Number::F64, n)?;
    lse.expect(OP, "lse", Number::F32, n)?;
    let list = arguments![rows.largest, rows.sums, rows.target_logits, log_probs, lse, n as u64];
    start(on, OP, [blocks(OP, n)?, 1], list)
}

/// A chunk's gradient by its logits, of `sum of weights * log_probs`; `lse` and `weights` hold a value a row. In f32
/// `dlogits` may lie where the logits do; in bf16 it is what a product in bf16 reads.
///
/// # Errors
/// Sizes that do not fit.
pub fn log_prob_gradient(
    on: &dyn Launcher,
    logits: Logits<'_>,
    targets: View<'_>,
    [lse, weights]: [View<'_>; 2],
    dlogits: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "log_prob_gradient";
    let [_, first, width] = logits.check(OP, targets)?;
    lse.expect(OP, "lse", Number::F32, targets.len())?;
    weights.expect(OP, "weights", Number::F32, targets.len())?;
    let n = logits.values.len();
    dlogits.expect(OP, "dlogits", dlogits.number(), n)?;
    let kernel = kernel_of(OP, dlogits.number(), ["log_prob_gradient_f32", "log_prob_gradient_bf16"])?;
    let cap = logits.cap.unwrap_or(0.0);
    let list = arguments![logits.values, targets, lse, weights, dlogits, first, width, cap, n as u64];
    start(on, kernel, [blocks(OP, n)?, 1], list)
}
