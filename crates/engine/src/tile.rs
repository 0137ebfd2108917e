//! A small matrix product on tiles that already lie well in memory: the inner kernel of attention, and of matrix
//! products on a forced instruction path. Whole matrices go through `matmul`.

use crate::cpu::{mul_add, vectorised};

/// Columns that the kernel computes at once; right-hand sides come in panels of this width, padded with zeros.
pub(crate) const PANEL: usize = 16;
/// Rows that the kernel computes at once: 6 x 16 accumulators fill the registers of AVX2 and hide the latency of
/// AVX-512.
const STRIP: usize = 6;

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

vectorised! {
    /// `target = left * right` (or `+=`); rows and columns beyond `size` are not written.
    pub(crate) fn multiply(size: Size, left: Left<'_>, right: Panels<'_>, target: Target<'_>) = multiply_body
}

#[inline(always)]
fn multiply_body<const FMA: bool>(size: Size, left: Left<'_>, right: Panels<'_>, target: Target<'_>) {
    let Size { m, n, k } = size;
    if m == 0 || n == 0 {
        return;
    }
    let panels = n.div_ceil(PANEL);
    // The kernel reads without bounds checks: these are its conditions.
    assert!(k == 0 || left.values.len() > (m - 1) * left.row_stride + (k - 1) * left.col_stride);
    assert!(
        k == 0
            || right.values.len() >= (panels - 1) * right.panel_stride + (k - 1) * right.row_stride + PANEL
    );
    assert!(target.values.len() >= (m - 1) * target.row_stride + n);
    for panel in 0..panels {
        let width = PANEL.min(n - panel * PANEL);
        let mut row = 0;
        while row < m {
            let call = Strip {
                k,
                width,
                left: left.values.as_ptr().wrapping_add(row * left.row_stride),
                left_row_stride: left.row_stride,
                left_col_stride: left.col_stride,
                right: right.values.as_ptr().wrapping_add(panel * right.panel_stride),
                right_row_stride: right.row_stride,
                target: target.values.as_mut_ptr().wrapping_add(row * target.row_stride + panel * PANEL),
                target_row_stride: target.row_stride,
                add: target.add,
            };
            // SAFETY: the assertions above cover the last element of each operand, and strides are not negative.
            row += unsafe {
                match m - row {
                    1 => strip::<FMA, 1>(&call),
                    2 => strip::<FMA, 2>(&call),
                    3 => strip::<FMA, 3>(&call),
                    4 => strip::<FMA, 4>(&call),
                    5 => strip::<FMA, 5>(&call),
                    _ => strip::<FMA, STRIP>(&call),
                }
            };
        }
    }
}

struct Strip {
    k: usize,
    width: usize,
    left: *const f32,
    left_row_stride: usize,
    left_col_stride: usize,
    right: *const f32,
    right_row_stride: usize,
    target: *mut f32,
    target_row_stride: usize,
    add: bool,
}

/// `ROWS` rows of one panel; returns `ROWS`.
///
/// # Safety
/// `left` is readable at `(ROWS - 1, k - 1)` and before, `right` for `PANEL` values in `k` rows, `target` readable
/// and writable for `width` values in `ROWS` rows.
#[inline(always)]
unsafe fn strip<const FMA: bool, const ROWS: usize>(call: &Strip) -> usize {
    let mut sums = [[0.0_f32; PANEL]; ROWS];
    for p in 0..call.k {
        // SAFETY: the caller's conditions, for p < k.
        unsafe {
            let right = &*call.right.add(p * call.right_row_stride).cast::<[f32; PANEL]>();
            for (row, sums) in sums.iter_mut().enumerate() {
                let left = *call.left.add(row * call.left_row_stride + p * call.left_col_stride);
                for lane in 0..PANEL {
                    sums[lane] = mul_add::<FMA>(left, right[lane], sums[lane]);
                }
            }
        }
    }
    for (row, sums) in sums.iter().enumerate() {
        // SAFETY: the caller's conditions, for `width` values of each row.
        let target = unsafe {
            std::slice::from_raw_parts_mut(call.target.add(row * call.target_row_stride), call.width)
        };
        match (call.add, <&mut [f32; PANEL]>::try_from(&mut *target)) {
            (false, Ok(target)) => *target = *sums,
            (true, Ok(target)) => (0..PANEL).for_each(|lane| target[lane] += sums[lane]),
            (false, Err(_)) => target.copy_from_slice(&sums[..call.width]),
            (true, Err(_)) => target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum),
        }
    }
    ROWS
}

/// Writes rows `0..rows` as the columns of panels, `width` deep: panel `p` holds rows `p * PANEL ..`. Columns beyond
/// `rows` are zero. As many panels as `panels` has room for are written.
pub(crate) fn pack_transposed<'a>(
    rows: usize,
    width: usize,
    row: impl Fn(usize) -> &'a [f32],
    panels: &mut [f32],
) {
    for (panel, out) in panels.chunks_exact_mut((width * PANEL).max(1)).enumerate() {
        let first = panel * PANEL;
        let count = PANEL.min(rows.saturating_sub(first));
        if count < PANEL {
            out.fill(0.0);
        }
        for column in 0..count {
            for (out, value) in out[column..].iter_mut().step_by(PANEL).zip(row(first + column)) {
                *out = *value;
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
                    pack_transposed(n, k, |row| &bt[row * k..][..k], &mut panels);
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
