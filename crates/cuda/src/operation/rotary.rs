//! Rotary position embedding.

use super::{arguments, blocks, fit, kernel_of, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// A table of angles.
#[derive(Debug, Clone, Copy)]
pub struct Angles<'a> {
    /// `[positions, half]`.
    pub cosines: View<'a>,
    /// `[positions, half]`.
    pub sines: View<'a>,
    /// Width of a head, at least twice `half`.
    pub head_dim: usize,
}

/// Turns every head of every row of `x` in place, or back where `inverse`; the host has checked the positions.
///
/// # Errors
/// Sizes that do not fit.
pub fn rotary(
    on: &dyn Launcher,
    x: View<'_>,
    positions: View<'_>,
    angles: Angles<'_>,
    inverse: bool,
) -> Result<(), CudaError> {
    const OP: &str = "rotary";
    let Angles { cosines, sines, head_dim } = angles;
    let half = cosines.cols();
    positions.expect(OP, "positions", Number::U32, x.rows())?;
    cosines.expect(OP, "cosines", Number::F32, cosines.len())?;
    sines.expect(OP, "sines", Number::F32, cosines.len())?;
    if half == 0 || head_dim < 2 * half || !x.cols().is_multiple_of(head_dim) {
        let reason = format!("{} columns in heads of {head_dim}, of which {} turn", x.cols(), 2 * half);
        return Err(CudaError::shape(OP, reason));
    }
    let kernel = kernel_of(OP, x.number(), ["rotary_f32", "rotary_bf16"])?;
    let heads = x.cols() / head_dim;
    let pairs = x.rows() * heads * half;
    let (half, width, heads) =
        (fit(OP, "half", half)?, fit(OP, "head_dim", head_dim)?, fit(OP, "heads", heads)?);
    let list = arguments![x, positions, cosines, sines, half, width, heads, inverse, pairs as u64];
    start(on, kernel, [blocks(OP, pairs)?, 1], list)
}
