//! Products of matrices, in the three shapes that a linear layer's forward and backward need: by cuBLASLt where the
//! launcher has it, else by the kernels of `product.cu`.

use super::{arguments, fit, start};
use crate::CudaError;
use crate::view::{Launcher, Number, Product, View};

/// A tile's rows and columns, as in `product.cu`.
const SIDE: usize = 64;

/// A factor, as it lies or turned round.
#[derive(Debug, Clone, Copy)]
pub struct Factor<'a> {
    /// The matrix.
    pub matrix: View<'a>,
    /// Whether rows and columns change places.
    pub transposed: bool,
}

impl<'a> Factor<'a> {
    /// As it lies.
    pub fn plain(matrix: View<'a>) -> Self {
        Self { matrix, transposed: false }
    }

    /// Turned round.
    pub fn transposed(matrix: View<'a>) -> Self {
        Self { matrix, transposed: true }
    }

    fn shape(&self) -> (usize, usize) {
        let (rows, cols) = (self.matrix.rows(), self.matrix.cols());
        if self.transposed { (cols, rows) } else { (rows, cols) }
    }

    /// From one row to the next, and from one column to the next.
    fn strides(&self) -> [u64; 2] {
        let cols = self.matrix.cols() as u64;
        if self.transposed { [1, cols] } else { [cols, 1] }
    }
}

/// `c = a b`, or `c += a b` where `add`. All in f32; or `b` in bf16 and `a` in bf16 or rounded to it, sums in f32, and
/// `c` in either.
///
/// So `y = x w^T` is `plain(x), transposed(w)`; its `dx = dy w` is `plain(dy), plain(w)`; `dw += dy^T x` is
/// `transposed(dy), plain(x)`.
///
/// # Errors
/// Sizes that do not fit; other combinations of precisions.
pub fn product(
    on: &dyn Launcher,
    a: Factor<'_>,
    b: Factor<'_>,
    c: View<'_>,
    add: bool,
) -> Result<(), CudaError> {
    const OP: &str = "product";
    use Number::{Bf16, F32};
    let kernel = match (a.matrix.number(), b.matrix.number(), c.number()) {
        (F32, F32, F32) => "product_f32_f32_f32",
        (Bf16, Bf16, F32) => "product_bf16_bf16_f32",
        (Bf16, Bf16, Bf16) => "product_bf16_bf16_bf16",
        (F32, Bf16, F32) => "product_f32_bf16_f32",
        (F32, Bf16, Bf16) => "product_f32_bf16_bf16",
        (a, b, c) => return Err(CudaError::shape(OP, format!("no product of {a:?} and {b:?} into {c:?}"))),
    };
    let ((m, k), (b_rows, n)) = (a.shape(), b.shape());
    if b_rows != k || (c.rows(), c.cols()) != (m, n) {
        let reason = format!("[{m}, {k}] times [{b_rows}, {n}] into [{}, {}]", c.rows(), c.cols());
        return Err(CudaError::shape(OP, reason));
    }
    let whole = Product { a: a.matrix, a_turned: a.transposed, b: b.matrix, b_turned: b.transposed, c, add };
    // SAFETY: the sizes are checked above.
    if unsafe { on.multiply(&whole) }? {
        return Ok(());
    }
    let grid = [fit(OP, "columns", n.div_ceil(SIDE))?, fit(OP, "rows", m.div_ceil(SIDE))?];
    // The grid's second side ends at 65535.
    if grid[1] > 65_535 {
        return Err(CudaError::shape(OP, format!("{m} rows; {} at most", 65_535 * SIDE)));
    }
    let [a_row, a_col] = a.strides();
    let [b_row, b_col] = b.strides();
    let (m, n, k) = (fit(OP, "rows", m)?, fit(OP, "columns", n)?, fit(OP, "depth", k)?);
    start(on, kernel, grid, arguments![a.matrix, b.matrix, c, m, n, k, a_row, a_col, b_row, b_col, add])
}
