//! A scalar head: one number a row.

use super::{arguments, blocks, fit, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// `scores[i] = hidden[i] . head + bias`, in f64; `hidden` is `[rows, d]`, `head` `[1, d]` and `bias` `[1, 1]`, in f32.
///
/// # Errors
/// Sizes that do not fit.
pub fn score(
    on: &dyn Launcher,
    hidden: View<'_>,
    head: View<'_>,
    bias: Option<View<'_>>,
    scores: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "score";
    hidden.expect(OP, "hidden", Number::F32, hidden.len())?;
    head.expect(OP, "head", Number::F32, hidden.cols())?;
    bias.map_or(Ok(()), |bias| bias.expect(OP, "bias", Number::F32, 1))?;
    scores.expect(OP, "scores", Number::F64, hidden.rows())?;
    let (d, rows) = (fit(OP, "columns", hidden.cols())?, fit(OP, "rows", hidden.rows())?);
    start(on, OP, [rows, 1], arguments![hidden, head, bias, scores, d])
}

/// What [`score_backward`] reads and writes, all in f32.
#[derive(Debug, Clone, Copy)]
pub struct ScoreGrads<'a> {
    /// The loss's derivative by each score, `[rows]`.
    pub weights: View<'a>,
    /// `[rows, d]`, as in the forward.
    pub hidden: View<'a>,
    /// `[1, d]`, as in the forward.
    pub head: View<'a>,
    /// `[rows, d]`, overwritten.
    pub dhidden: View<'a>,
    /// `[1, d]`, added to; none: the head is frozen.
    pub dhead: Option<View<'a>>,
    /// `[1, 1]`, added to; none: there is no bias, or it is frozen.
    pub dbias: Option<View<'a>>,
}

/// The gradients of [`score`].
///
/// # Errors
/// Sizes that do not fit.
pub fn score_backward(on: &dyn Launcher, grads: ScoreGrads<'_>) -> Result<(), CudaError> {
    const OP: &str = "score_backward";
    let ScoreGrads { weights, hidden, head, dhidden, dhead, dbias } = grads;
    let n = hidden.len();
    weights.expect(OP, "weights", Number::F32, hidden.rows())?;
    hidden.expect(OP, "hidden", Number::F32, n)?;
    head.expect(OP, "head", Number::F32, hidden.cols())?;
    dhidden.expect(OP, "dhidden", Number::F32, n)?;
    dhead.map_or(Ok(()), |dhead| dhead.expect(OP, "dhead", Number::F32, hidden.cols()))?;
    dbias.map_or(Ok(()), |dbias| dbias.expect(OP, "dbias", Number::F32, 1))?;
    let (d, rows) = (fit(OP, "columns", hidden.cols())?, fit(OP, "rows", hidden.rows())?);
    start(on, "score_rows", [blocks(OP, n)?, 1], arguments![weights, head, dhidden, d, n as u64])?;
    if dhead.is_none() && dbias.is_none() {
        return Ok(());
    }
    let grid = [blocks(OP, hidden.cols() + 1)?, 1];
    start(on, "score_head", grid, arguments![weights, hidden, dhead, dbias, d, rows])
}
