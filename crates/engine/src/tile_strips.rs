//! The innermost loop of `tile`: a few rows of the left factor times one panel of the right one, sums in registers.
//! Written out per instruction set, because compilers keep loops over small arrays of sums scalar as often as not.

use crate::tile::PANEL;

/// Operands of one strip, by address.
#[derive(Clone, Copy)]
pub(crate) struct Strip {
    pub(crate) k: usize,
    /// Columns that are written, at most [`PANEL`].
    pub(crate) width: usize,
    pub(crate) left: *const f32,
    pub(crate) left_row_stride: usize,
    pub(crate) left_col_stride: usize,
    pub(crate) right: *const f32,
    pub(crate) right_row_stride: usize,
    pub(crate) target: *mut f32,
    pub(crate) target_row_stride: usize,
    pub(crate) add: bool,
}

impl Strip {
    /// Writes sums that have left the registers, `width` columns of each row.
    ///
    /// # Safety
    /// `target` is readable and writable for `width` values in `ROWS` rows.
    unsafe fn store<const ROWS: usize>(&self, sums: &[[f32; PANEL]; ROWS]) {
        for (row, sums) in sums.iter().enumerate() {
            // SAFETY: by the caller.
            let target = unsafe {
                std::slice::from_raw_parts_mut(self.target.add(row * self.target_row_stride), self.width)
            };
            if self.add {
                target.iter_mut().zip(sums).for_each(|(target, sum)| *target += sum);
            } else {
                target.copy_from_slice(&sums[..self.width]);
            }
        }
    }
}

/// # Safety
/// `left` is readable at `(ROWS - 1, k - 1)` and before, `right` for [`PANEL`] values in `k` rows, `target` readable
/// and writable for `width` values in `ROWS` rows.
pub(crate) unsafe fn portable<const ROWS: usize>(strip: &Strip) {
    let mut sums = [[0.0_f32; PANEL]; ROWS];
    for p in 0..strip.k {
        // SAFETY: by the caller, for p < k.
        let right = unsafe { &*strip.right.add(p * strip.right_row_stride).cast::<[f32; PANEL]>() };
        for (row, sums) in sums.iter_mut().enumerate() {
            // SAFETY: by the caller, for p < k and row < ROWS.
            let left = unsafe { *strip.left.add(row * strip.left_row_stride + p * strip.left_col_stride) };
            sums.iter_mut().zip(right).for_each(|(sum, right)| *sum += left * right);
        }
    }
    // SAFETY: by the caller.
    unsafe { strip.store(&sums) };
}

/// # Safety
/// As [`portable`]; the processor has AVX-512 F.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx512f")]
pub(crate) unsafe fn avx512<const ROWS: usize>(strip: &Strip) {
    use std::arch::x86_64::{
        _mm512_add_ps, _mm512_fmadd_ps, _mm512_loadu_ps, _mm512_set1_ps, _mm512_setzero_ps, _mm512_storeu_ps,
    };
    let mut sums = [_mm512_setzero_ps(); ROWS];
    for p in 0..strip.k {
        // SAFETY: by the caller, for p < k.
        let right = unsafe { _mm512_loadu_ps(strip.right.add(p * strip.right_row_stride)) };
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by the caller, for p < k and row < ROWS.
            let left = unsafe { *strip.left.add(row * strip.left_row_stride + p * strip.left_col_stride) };
            *sum = _mm512_fmadd_ps(_mm512_set1_ps(left), right, *sum);
        }
    }
    if strip.width < PANEL {
        let mut spilled = [[0.0; PANEL]; ROWS];
        for (spilled, sum) in spilled.iter_mut().zip(sums) {
            // SAFETY: a row of `spilled` holds PANEL = 16 values.
            unsafe { _mm512_storeu_ps(spilled.as_mut_ptr(), sum) };
        }
        // SAFETY: by the caller.
        return unsafe { strip.store(&spilled) };
    }
    for (row, &sum) in sums.iter().enumerate() {
        // SAFETY: by the caller, for row < ROWS and a full width of 16.
        unsafe {
            let target = strip.target.add(row * strip.target_row_stride);
            let sum = if strip.add { _mm512_add_ps(_mm512_loadu_ps(target), sum) } else { sum };
            _mm512_storeu_ps(target, sum);
        }
    }
}

/// # Safety
/// As [`portable`]; the processor has AVX2 and FMA.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2,fma")]
pub(crate) unsafe fn avx2<const ROWS: usize>(strip: &Strip) {
    use std::arch::x86_64::{
        _mm256_add_ps, _mm256_fmadd_ps, _mm256_loadu_ps, _mm256_set1_ps, _mm256_setzero_ps, _mm256_storeu_ps,
    };
    const HALF: usize = PANEL / 2;
    let mut sums = [[_mm256_setzero_ps(); 2]; ROWS];
    for p in 0..strip.k {
        // SAFETY: by the caller, for p < k.
        let right = unsafe {
            let right = strip.right.add(p * strip.right_row_stride);
            [_mm256_loadu_ps(right), _mm256_loadu_ps(right.add(HALF))]
        };
        for (row, sum) in sums.iter_mut().enumerate() {
            // SAFETY: by the caller, for p < k and row < ROWS.
            let left = unsafe { *strip.left.add(row * strip.left_row_stride + p * strip.left_col_stride) };
            let left = _mm256_set1_ps(left);
            *sum = [_mm256_fmadd_ps(left, right[0], sum[0]), _mm256_fmadd_ps(left, right[1], sum[1])];
        }
    }
    if strip.width < PANEL {
        let mut spilled = [[0.0; PANEL]; ROWS];
        for (spilled, sum) in spilled.iter_mut().zip(sums) {
            // SAFETY: a row of `spilled` holds PANEL = 16 values.
            unsafe {
                _mm256_storeu_ps(spilled.as_mut_ptr(), sum[0]);
                _mm256_storeu_ps(spilled.as_mut_ptr().add(HALF), sum[1]);
            }
        }
        // SAFETY: by the caller.
        return unsafe { strip.store(&spilled) };
    }
    for (row, sum) in sums.iter().enumerate() {
        for (half, &sum) in sum.iter().enumerate() {
            // SAFETY: by the caller, for row < ROWS and a full width of 16.
            unsafe {
                let target = strip.target.add(row * strip.target_row_stride + half * HALF);
                let sum = if strip.add { _mm256_add_ps(_mm256_loadu_ps(target), sum) } else { sum };
                _mm256_storeu_ps(target, sum);
            }
        }
    }
}
