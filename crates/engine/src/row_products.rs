//! Scalar products of rows with rows: `left right^T` for matrices that both lie by rows, as weights and cached keys
//! do. Nothing is packed and the right factor is read once, which is what few left rows want; for many, `matmul`.
//!
//! A product is summed in the same order however many rows are computed beside it, so that a sequence gets the same
//! numbers alone as in a batch.

use crate::CpuPath;
use crate::vector::dot;

/// Right rows that the kernels take at once.
pub(crate) const GROUP: usize = 8;

/// Rows of `width` values, `stride` apart.
#[derive(Clone, Copy)]
pub(crate) struct Rows<'a> {
    values: &'a [f32],
    stride: usize,
    count: usize,
    width: usize,
}

impl<'a> Rows<'a> {
    /// Consecutive rows.
    pub(crate) fn of(values: &'a [f32], width: usize) -> Self {
        let count = values.len().checked_div(width).unwrap_or(0);
        Self { values, stride: width, count, width }
    }

    /// Address of a row that is there.
    fn row(&self, index: usize) -> *const f32 {
        self.values.as_ptr().wrapping_add(index * self.stride)
    }

    fn assert_inside(&self) {
        let last = self.count.checked_sub(1).map_or(0, |last| last * self.stride + self.width);
        assert!(last <= self.values.len(), "rows lie inside their values");
    }
}

/// Hands `write` each left row's number, the first right row's number, and their products with up to [`GROUP`]
/// right rows.
pub(crate) fn multiply(
    path: CpuPath,
    left: Rows<'_>,
    right: Rows<'_>,
    mut write: impl FnMut(usize, usize, &[f32]),
) {
    assert!(left.width == right.width, "row products are called with widths that fit");
    left.assert_inside();
    right.assert_inside();
    for first in (0..right.count).step_by(GROUP) {
        let count = GROUP.min(right.count - first);
        // Beyond the last row the group repeats it; those products are not handed on.
        let group: [*const f32; GROUP] = std::array::from_fn(|i| right.row(first + i.min(count - 1)));
        let mut row = 0;
        while row < left.count {
            let mut sums = [[0.0; GROUP]; 3];
            let strip = Strip { k: left.width, left: left.row(row), left_stride: left.stride, right: group };
            // SAFETY: the strip's rows lie inside their values (asserted above); the engine checked its path.
            let rows = unsafe { strip.compute(path, left.count - row, &mut sums) };
            for sums in &sums[..rows] {
                write(row, first, &sums[..count]);
                row += 1;
            }
        }
    }
}

/// Some left rows and a group of right rows, by address.
struct Strip {
    k: usize,
    left: *const f32,
    left_stride: usize,
    right: [*const f32; GROUP],
}

impl Strip {
    /// Computes as many of the `rows` left rows as suit the path's registers; returns their number.
    ///
    /// # Safety
    /// `rows` left rows and all right ones are readable for `k` values; the processor has the path's instructions.
    #[inline]
    unsafe fn compute(&self, path: CpuPath, rows: usize, sums: &mut [[f32; GROUP]; 3]) -> usize {
        // SAFETY: by the caller; each arm reads at most `rows` left rows.
        unsafe {
            match (path, rows) {
                // 24 sums in registers, 11 loads for 24 multiplications.
                #[cfg(target_arch = "x86_64")]
                (CpuPath::Avx512, 3..) => self.avx512::<3>(sums),
                #[cfg(target_arch = "x86_64")]
                (CpuPath::Avx512, 2) => self.avx512::<2>(sums),
                #[cfg(target_arch = "x86_64")]
                (CpuPath::Avx512, _) => self.avx512::<1>(sums),
                // Eight sums hide the latency and leave half of the registers to the operands.
                #[cfg(target_arch = "x86_64")]
                (CpuPath::Avx2, _) => self.avx2(sums),
                _ => self.portable(sums),
            }
        }
    }

    /// # Safety
    /// As [`Strip::compute`], for one left row.
    unsafe fn portable(&self, sums: &mut [[f32; GROUP]; 3]) -> usize {
        // SAFETY: by the caller.
        let slice = |start| unsafe { std::slice::from_raw_parts(start, self.k) };
        sums[0] = self.right.map(|right| dot::<false>(slice(self.left), slice(right)));
        1
    }

    /// # Safety
    /// As [`Strip::compute`], for one left row; the processor has AVX2 and FMA.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx2,fma")]
    unsafe fn avx2(&self, sums: &mut [[f32; GROUP]; 3]) -> usize {
        use std::arch::x86_64::{_mm256_fmadd_ps, _mm256_loadu_ps, _mm256_setzero_ps};
        const WIDTH: usize = 8;
        let mut lanes = [_mm256_setzero_ps(); GROUP];
        let whole = self.k / WIDTH * WIDTH;
        for p in (0..whole).step_by(WIDTH) {
            // SAFETY: by the caller, for p + WIDTH <= k.
            unsafe {
                let left = _mm256_loadu_ps(self.left.add(p));
                for (lanes, right) in lanes.iter_mut().zip(self.right) {
                    *lanes = _mm256_fmadd_ps(left, _mm256_loadu_ps(right.add(p)), *lanes);
                }
            }
        }
        sums[0] = sums_of_lanes(lanes);
        for p in whole..self.k {
            for (sum, right) in sums[0].iter_mut().zip(self.right) {
                // SAFETY: by the caller, for p < k.
                *sum = unsafe { (*self.left.add(p)).mul_add(*right.add(p), *sum) };
            }
        }
        1
    }

    /// # Safety
    /// As [`Strip::compute`], for `ROWS` (at most 3) left rows; the processor has AVX-512 F and DQ, AVX2.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512dq,avx2,fma")]
    unsafe fn avx512<const ROWS: usize>(&self, sums: &mut [[f32; GROUP]; 3]) -> usize {
        use std::arch::x86_64::{
            _mm256_add_ps, _mm512_castps512_ps256, _mm512_extractf32x8_ps, _mm512_fmadd_ps, _mm512_loadu_ps,
            _mm512_maskz_loadu_ps, _mm512_setzero_ps,
        };
        const WIDTH: usize = 16;
        let mut lanes = [[_mm512_setzero_ps(); GROUP]; ROWS];
        let whole = self.k / WIDTH * WIDTH;
        for p in (0..whole).step_by(WIDTH) {
            // SAFETY: by the caller, for p + WIDTH <= k and row < ROWS.
            unsafe {
                let left: [_; ROWS] =
                    std::array::from_fn(|row| _mm512_loadu_ps(self.left.add(row * self.left_stride + p)));
                for (column, right) in self.right.iter().enumerate() {
                    let right = _mm512_loadu_ps(right.add(p));
                    for row in 0..ROWS {
                        lanes[row][column] = _mm512_fmadd_ps(left[row], right, lanes[row][column]);
                    }
                }
            }
        }
        if whole < self.k {
            let rest = (1_u16 << (self.k - whole)) - 1;
            for (row, lanes) in lanes.iter_mut().enumerate() {
                for (lanes, right) in lanes.iter_mut().zip(self.right) {
                    // SAFETY: by the caller; the mask keeps to the values before k.
                    unsafe {
                        let left = self.left.add(row * self.left_stride + whole);
                        let left = _mm512_maskz_loadu_ps(rest, left);
                        let right = _mm512_maskz_loadu_ps(rest, right.add(whole));
                        *lanes = _mm512_fmadd_ps(left, right, *lanes);
                    }
                }
            }
        }
        for (sums, lanes) in sums.iter_mut().zip(lanes) {
            *sums = sums_of_lanes(lanes.map(|lanes| {
                _mm256_add_ps(_mm512_castps512_ps256(lanes), _mm512_extractf32x8_ps::<1>(lanes))
            }));
        }
        ROWS
    }
}

/// Eight sums of eight lanes each, by pairs.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
fn sums_of_lanes(lanes: [std::arch::x86_64::__m256; GROUP]) -> [f32; GROUP] {
    use std::arch::x86_64::{_mm256_add_ps, _mm256_hadd_ps, _mm256_permute2f128_ps, _mm256_storeu_ps};
    let [a, b, c, d, e, f, g, h] = lanes;
    let low = _mm256_hadd_ps(_mm256_hadd_ps(a, b), _mm256_hadd_ps(c, d));
    let high = _mm256_hadd_ps(_mm256_hadd_ps(e, f), _mm256_hadd_ps(g, h));
    let halves = [_mm256_permute2f128_ps::<0x20>(low, high), _mm256_permute2f128_ps::<0x31>(low, high)];
    let mut sums = [0.0; GROUP];
    // SAFETY: eight values fit into `sums`.
    unsafe { _mm256_storeu_ps(sums.as_mut_ptr(), _mm256_add_ps(halves[0], halves[1])) };
    sums
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, paths, random, wide};

    fn products(path: CpuPath, left: Rows<'_>, right: Rows<'_>) -> Vec<f32> {
        let mut out = vec![f32::NAN; left.count * right.count];
        multiply(path, left, right, |row, first, sums| {
            out[row * right.count + first..][..sums.len()].copy_from_slice(sums);
        });
        out
    }

    #[test]
    fn every_size_agrees_with_three_loops_on_every_path() {
        for path in paths() {
            for (m, n, k) in
                [(1, 1, 1), (2, 9, 15), (3, 8, 16), (4, 7, 33), (7, 24, 64), (5, 3, 0), (0, 4, 4)]
            {
                let (a, b) = (random(1, m, k), random(2, n, k));
                let (wa, wb) = (wide(&a), wide(&b));
                let want: Vec<f64> =
                    (0..m * n).map(|at| dot(&wa[at / n * k..][..k], &wb[at % n * k..][..k])).collect();
                let [left, right] =
                    [(&a, m), (&b, n)].map(|(x, count)| Rows { count, ..Rows::of(x.as_slice(), k) });
                assert_close("products", &products(path, left, right), &want, 2e-6);
            }
        }
    }

    #[test]
    fn a_row_has_the_same_products_alone_as_beside_others() {
        for path in paths() {
            let (a, b) = (random(1, 8, 50), random(2, 11, 50));
            let together = products(path, Rows::of(a.as_slice(), 50), Rows::of(b.as_slice(), 50));
            for (row, together) in together.chunks(11).enumerate() {
                assert_eq!(products(path, Rows::of(a.row(row), 50), Rows::of(b.as_slice(), 50)), together);
            }
        }
    }
}
