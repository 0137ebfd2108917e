//! Norms of gradients: sums in f64 whose order never changes.

use super::{arguments, fit, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// Values that a block sums, as in `reduce.cu`.
const STRETCH: usize = 16_384;

/// Number of f64 values of room that the sums of `len` values need.
pub fn partial_totals(len: usize) -> usize {
    len.div_ceil(STRETCH)
}

/// `total += the sum of x's squares`, which is finite if and only if every value is; `room` holds [`partial_totals`] values.
///
/// # Errors
/// Sizes that do not fit.
pub fn add_squared_norm(
    on: &dyn Launcher,
    x: View<'_>,
    room: View<'_>,
    total: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "sum_of_squares";
    let parts = partial_totals(x.len());
    x.expect(OP, "x", Number::F32, x.len())?;
    room.expect(OP, "room", Number::F64, parts)?;
    total.expect(OP, "total", Number::F64, 1)?;
    start(on, OP, [fit(OP, "blocks", parts)?, 1], arguments![x, room, x.len() as u64])?;
    start(on, "add_sums", [1, 1], arguments![room, total, parts as u64])
}
