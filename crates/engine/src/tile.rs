//! A small matrix product on tiles that already lie well in memory: the inner kernel of attention, and of matrix
//! products on a forced instruction path. Whole matrices go through `matmul`.

use crate::CpuPath;
use crate::element::Element;
use crate::tile_strips::{self, Strip};
use crate::tile_transpose::transpose_blocks;

/// Columns that the kernel computes at once; right-hand sides come in panels of this width, padded with zeros.
pub(crate) const PANEL: usize = 16;

/// The left factor `[m, k]`, by strides, so that it may be read transposed.
#[derive(Clone, Copy)]
pub(crate) struct Left<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) row_stride: usize,
    pub(crate) col_stride: usize,
}

/// The right factor `[k, n]` as panels of [`PANEL`] columns: value `(p, c)` at
/// `(c / PANEL) * panel_stride + p * row_stride + c % PANEL`.
#[derive(Clone, Copy)]
pub(crate) struct Panels<'a> {
    pub(crate) values: &'a [f32],
    pub(crate) panel_stride: usize,
    pub(crate) row_stride: usize,
}

/// The product `[m, n]`, rows `row_stride` apart.
pub(crate) struct Target<'a> {
    pub(crate) values: &'a mut [f32],
    pub(crate) row_stride: usize,
    /// Whether the product is added to what is there.
    pub(crate) add: bool,
}

/// Sizes of a product.
#[derive(Clone, Copy)]
pub(crate) struct Size {
    pub(crate) m: usize,
    pub(crate) n: usize,
    pub(crate) k: usize,
}

/// `target = left * right` (or `+=`); rows and columns beyond `size` are not written.
pub(crate) fn multiply(path: CpuPath, size: Size, left: Left<'_>, right: Panels<'_>, target: Target<'_>) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    let panels = n.div_ceil(PANEL);
    // The kernels read and write without checks: these are their conditions.
    assert!(k == 0 || left.values.len() > (m - 1) * left.row_stride + (k - 1) * left.col_stride);
    assert!(
        k == 0
            || right.values.len() >= (panels - 1) * right.panel_stride + (k - 1) * right.row_stride + PANEL
    );
    assert!(target.values.len() >= (m - 1) * target.row_stride + n);
    for panel in 0..panels {
        let mut row = 0;
        while row < m {
            let strip = Strip {
                k,
                width: PANEL.min(n - panel * PANEL),
                left: left.values.as_ptr().wrapping_add(row * left.row_stride),
                left_row_stride: left.row_stride,
                left_col_stride: left.col_stride,
                right: right.values.as_ptr().wrapping_add(panel * right.panel_stride),
                right_row_stride: right.row_stride,
                target: target.values.as_mut_ptr().wrapping_add(row * target.row_stride + panel * PANEL),
                target_row_stride: target.row_stride,
                add: target.add,
            };
            // SAFETY: the assertions above cover the last element of each operand; the engine checked its path.
            row += unsafe { next_strip(path, &strip, m - row) };
        }
    }
}

/// Computes as many of the `rows` rows that are left as fit the registers of the path; returns their number.
///
/// # Safety
/// As [`tile_strips::portable`], for `rows` rows; the processor has the path's instructions.
#[inline]
unsafe fn next_strip(path: CpuPath, strip: &Strip, rows: usize) -> usize {
    // SAFETY: by the caller; each arm takes at most `rows` rows.
    unsafe {
        match (path, rows) {
            // Twelve sums hide the latency of the multiplications, and leave registers to spare.
            #[cfg(target_arch = "x86_64")]
            (CpuPath::Avx512, 12..) => strip_of::<12>(strip, tile_strips::avx512::<12>),
            #[cfg(target_arch = "x86_64")]
            (CpuPath::Avx512, 4..) => strip_of::<4>(strip, tile_strips::avx512::<4>),
            #[cfg(target_arch = "x86_64")]
            (CpuPath::Avx512, _) => strip_of::<1>(strip, tile_strips::avx512::<1>),
            // Six rows of two registers fill fifteen of the sixteen there are.
            #[cfg(target_arch = "x86_64")]
            (CpuPath::Avx2, 6..) => strip_of::<6>(strip, tile_strips::avx2::<6>),
            #[cfg(target_arch = "x86_64")]
            (CpuPath::Avx2, 3..) => strip_of::<3>(strip, tile_strips::avx2::<3>),
            #[cfg(target_arch = "x86_64")]
            (CpuPath::Avx2, _) => strip_of::<1>(strip, tile_strips::avx2::<1>),
            (_, 2..) => strip_of::<2>(strip, tile_strips::portable::<2>),
            _ => strip_of::<1>(strip, tile_strips::portable::<1>),
        }
    }
}

/// # Safety
/// That of `kernel`.
#[inline]
unsafe fn strip_of<const ROWS: usize>(strip: &Strip, kernel: unsafe fn(&Strip)) -> usize {
    // SAFETY: by the caller.
    unsafe { kernel(strip) };
    ROWS
}

/// Writes rows `0..rows` as the columns of panels, `width` deep: panel `p` holds rows `p * PANEL ..`. Columns beyond
/// `rows` are zero. As many panels as `panels` has room for are written.
pub(crate) fn pack_transposed<'a, E: Element>(
    path: CpuPath,
    (rows, width): (usize, usize),
    row: impl Fn(usize) -> &'a [E],
    panels: &mut [f32],
) {
    for (panel, out) in panels.chunks_exact_mut((width * PANEL).max(1)).enumerate() {
        let first = panel * PANEL;
        let count = PANEL.min(rows.saturating_sub(first));
        let mut done = 0;
        if count < PANEL {
            out.fill(0.0);
        } else if !E::IS_BF16 {
            let rows = std::array::from_fn(|column| bytemuck::cast_slice(row(first + column)));
            done = transpose_blocks(path, &rows, out);
        }
        for column in 0..count {
            let rest = out[done * PANEL..].iter_mut().skip(column);
            for (out, value) in rest.step_by(PANEL).zip(&row(first + column)[done..]) {
                *out = value.to_f32();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, paths, random};

    #[test]
    fn odd_sizes_and_transposed_factors_agree_with_three_loops() {
        for path in paths() {
            for (m, n, k) in [(1, 1, 1), (7, 17, 5), (13, 16, 64), (6, 48, 0), (48, 33, 31)] {
                for transposed in [false, true] {
                    let a = random(1, m, k);
                    let b = random(2, k, n);
                    let bt: Vec<f32> = (0..n * k).map(|i| b.as_slice()[(i % k) * n + i / k]).collect();
                    let mut panels = vec![f32::NAN; n.div_ceil(PANEL) * PANEL * k];
                    pack_transposed(path, (n, k), |row| &bt[row * k..][..k], &mut panels);
                    let at: Vec<f32> = (0..m * k).map(|i| a.as_slice()[(i % m) * k + i / m]).collect();
                    let left = if transposed {
                        Left { values: &at, row_stride: 1, col_stride: m }
                    } else {
                        Left { values: a.as_slice(), row_stride: k, col_stride: 1 }
                    };
                    let right = Panels { values: &panels, panel_stride: k * PANEL, row_stride: PANEL };
                    let mut got = vec![1.0; m * n];
                    let target = Target { values: &mut got, row_stride: n, add: true };
                    multiply(path, Size { m, n, k }, left, right, target);
                    let want: Vec<f64> = (0..m * n)
                        .map(|i| {
                            let product = |p: usize| {
                                f64::from(a.as_slice()[i / n * k + p])
                                    * f64::from(b.as_slice()[p * n + i % n])
                            };
                            1.0 + (0..k).map(product).sum::<f64>()
                        })
                        .collect();
                    assert_close("tile", &got, &want, 1e-6);
                }
            }
        }
    }
}
