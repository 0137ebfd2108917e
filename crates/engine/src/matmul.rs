//! Whole matrix products, on all threads. The `gemm` crate computes them with the best instructions it finds; on a
//! forced lower path, which it cannot be told, the tile kernel does.

use rayon::prelude::*;

use crate::shared::ColumnsMut;
use crate::tile::{self, Left, PANEL, Panels, Size, Target};
use crate::{Accumulate, Array, CpuPath, Engine};

/// A matrix by reference, possibly read transposed.
#[derive(Clone, Copy)]
pub(crate) struct Operand<'a> {
    values: &'a [f32],
    rows: usize,
    cols: usize,
    row_stride: usize,
    col_stride: usize,
}

impl<'a> Operand<'a> {
    /// Consecutive rows of `cols` values.
    pub(crate) fn rows_of(values: &'a [f32], cols: usize) -> Self {
        let rows = values.len().checked_div(cols).unwrap_or(0);
        Self { values, rows, cols, row_stride: cols, col_stride: 1 }
    }

    /// The same matrix with rows and columns exchanged.
    pub(crate) fn transposed(self) -> Self {
        Self {
            rows: self.cols,
            cols: self.rows,
            row_stride: self.col_stride,
            col_stride: self.row_stride,
            ..self
        }
    }
}

impl<'a> From<&'a Array> for Operand<'a> {
    fn from(array: &'a Array) -> Self {
        let (rows, cols) = (array.rows(), array.cols());
        Self { values: array.as_slice(), rows, cols, row_stride: cols, col_stride: 1 }
    }
}

impl Engine {
    /// `c[m, n] = a[m, k] b[k, n]` (or `+=`), `c` in consecutive rows. Shapes are the caller's to have checked.
    pub(crate) fn matmul(&self, a: Operand<'_>, b: Operand<'_>, c: &mut [f32], accumulate: Accumulate) {
        self.matmul_into(a, b, ColumnsMut::all(c, b.cols), accumulate);
    }

    /// As [`Engine::matmul`], into some of the columns of a wider matrix.
    pub(crate) fn matmul_into(
        &self,
        a: Operand<'_>,
        b: Operand<'_>,
        c: ColumnsMut<'_>,
        accumulate: Accumulate,
    ) {
        let fits = a.cols == b.rows && c.hold(a.rows, b.cols);
        assert!(fits, "matmul is called with shapes that fit");
        if a.rows == 0 || b.cols == 0 {
            return;
        }
        if a.cols == 0 {
            if accumulate == Accumulate::Overwrite {
                c.values.chunks_exact_mut(c.stride).for_each(|row| row[c.first..][..b.cols].fill(0.0));
            }
            return;
        }
        if self.gemm_follows_path() {
            self.matmul_gemm(a, b, c, accumulate);
        } else {
            self.matmul_tiles(a, b, c, accumulate);
        }
    }

    fn matmul_gemm(&self, a: Operand<'_>, b: Operand<'_>, c: ColumnsMut<'_>, accumulate: Accumulate) {
        let (m, n, k) = (a.rows, b.cols, a.cols);
        let parallel = self.parallel(m * n * k / 16);
        let threads =
            if parallel { gemm::Parallelism::Rayon(self.num_threads()) } else { gemm::Parallelism::None };
        let (add, [alpha, beta]) = (accumulate == Accumulate::Add, [1.0_f32, 1.0]);
        let strides = |operand: &Operand<'_>| (operand.col_stride as isize, operand.row_stride as isize);
        let ((a_cols, a_rows), (b_cols, b_rows)) = (strides(&a), strides(&b));
        // The pointers are taken inside: they may not cross to another thread, references may.
        let mut product = || {
            // SAFETY: `a` and `b` cover rows x cols of their slices by construction, `c` has m rows with n columns from
            // `first` on (asserted in `matmul_into`), and the exclusive borrow of `c` keeps it apart from both.
            unsafe {
                let (left, right) = (a.values.as_ptr(), b.values.as_ptr());
                gemm::gemm(
                    m,
                    n,
                    k,
                    c.values[c.first..].as_mut_ptr(),
                    1,
                    c.stride as isize,
                    add,
                    left,
                    a_cols,
                    a_rows,
                    right,
                    b_cols,
                    b_rows,
                    alpha,
                    beta,
                    false,
                    false,
                    false,
                    threads,
                );
            }
        };
        if parallel { self.install(product) } else { product() }
    }

    /// Row blocks in parallel; within one, the right factor is packed a chunk of columns at a time.
    fn matmul_tiles(&self, a: Operand<'_>, b: Operand<'_>, c: ColumnsMut<'_>, accumulate: Accumulate) {
        const COLUMNS: usize = 8 * PANEL;
        let (m, n, k) = (a.rows, b.cols, a.cols);
        let ColumnsMut { values, stride, first: first_column } = c;
        let block = |rows: &mut [f32], first: usize| {
            let mut panels = self.scratch.take(COLUMNS * k);
            for column in (0..n).step_by(COLUMNS) {
                let width = COLUMNS.min(n - column);
                pack(b, column, width, &mut panels);
                let size = Size { m: rows.len() / stride, n: width, k };
                let left = Left {
                    values: &a.values[first * a.row_stride..],
                    row_stride: a.row_stride,
                    col_stride: a.col_stride,
                };
                let right = Panels { values: &panels, panel_stride: k * PANEL, row_stride: PANEL };
                let add = accumulate == Accumulate::Add;
                let target = Target { values: &mut rows[first_column + column..], row_stride: stride, add };
                tile::multiply(self.path(), size, left, right, target);
            }
        };
        let rows = m.div_ceil(self.num_threads());
        if self.parallel(m * n * k / 16) {
            self.install(|| {
                values
                    .par_chunks_mut(rows * stride)
                    .enumerate()
                    .for_each(|(index, c)| block(c, index * rows));
            });
        } else {
            block(values, 0);
        }
    }

    /// Whether `gemm`'s own choice of instructions is this engine's.
    fn gemm_follows_path(&self) -> bool {
        self.path() == CpuPath::best()
    }
}

/// Columns `first..first + width` of `b` as panels, padded with zeros.
fn pack(b: Operand<'_>, first: usize, width: usize, panels: &mut [f32]) {
    let depth = b.rows;
    for (panel, out) in panels.chunks_exact_mut(depth * PANEL).take(width.div_ceil(PANEL)).enumerate() {
        let start = panel * PANEL;
        let count = PANEL.min(width - start);
        for (p, out) in out.chunks_exact_mut(PANEL).enumerate() {
            let source = p * b.row_stride + (first + start) * b.col_stride;
            for (column, out) in out.iter_mut().enumerate() {
                *out = if column < count { b.values[source + column * b.col_stride] } else { 0.0 };
            }
        }
    }
}
