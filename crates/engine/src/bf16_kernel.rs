//! The inner kernel of bfloat16 products: twelve lines by thirty-two, pairs multiplied and summed in f32 registers.
//! AVX512-BF16 where the processor has it; elsewhere the same sums by widening.

use crate::bf16_panels::{LEFT, RIGHT};
use crate::element::Element;
use half::bf16;

/// Where a tile goes.
#[derive(Clone, Copy)]
pub(crate) struct TileTarget<E> {
    pub(crate) values: *mut E,
    pub(crate) stride: usize,
    /// At most [`LEFT`].
    pub(crate) rows: usize,
    /// At most [`RIGHT`].
    pub(crate) cols: usize,
    /// Whether the product is added to what is there.
    pub(crate) add: bool,
}

/// A tile of the product: `target = left right` over `pairs` pairs.
#[derive(Clone, Copy)]
pub(crate) struct Tile<E> {
    pub(crate) pairs: usize,
    pub(crate) left: LeftStrip,
    /// [`RIGHT`] words for each pair, `right_stride` apart.
    pub(crate) right: *const u32,
    pub(crate) right_stride: usize,
    pub(crate) target: TileTarget<E>,
}

/// [`LEFT`] lines of pairs: word `(line, pair)` lies at `line * line_stride + pair * pair_stride`.
#[derive(Clone, Copy)]
pub(crate) struct LeftStrip {
    pub(crate) words: *const u32,
    pub(crate) line_stride: usize,
    pub(crate) pair_stride: usize,
}

/// Pairs that are fetched before they are needed: few rows read weights straight from memory.
#[cfg(target_arch = "x86_64")]
const AHEAD: usize = 16;

type Sums = [[f32; RIGHT]; LEFT];

/// What a product is written as. The kernels know how a whole register goes to memory.
pub(crate) trait Output: Element {
    /// # Safety
    /// `at` is readable and writable for sixteen values; the processor has AVX-512 and AVX512-BF16.
    #[cfg(target_arch = "x86_64")]
    unsafe fn store(at: *mut Self, sum: std::arch::x86_64::__m512, add: bool);
}

#[cfg(target_arch = "x86_64")]
use std::arch::x86_64::{
    __m256bh, __m256i, __m512, __m512bh, __m512i, _MM_HINT_T0, _mm_prefetch, _mm256_loadu_si256,
    _mm256_storeu_si256, _mm512_add_ps, _mm512_castsi512_ps, _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh,
    _mm512_dpbf16_ps, _mm512_loadu_ps, _mm512_loadu_si512, _mm512_set1_epi32, _mm512_setzero_ps,
    _mm512_slli_epi32, _mm512_storeu_ps,
};

impl Output for f32 {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn store(at: *mut Self, sum: __m512, add: bool) {
        // SAFETY: by the caller.
        unsafe {
            let sum = if add { _mm512_add_ps(_mm512_loadu_ps(at), sum) } else { sum };
            _mm512_storeu_ps(at, sum);
        }
    }
}

impl Output for bf16 {
    #[cfg(target_arch = "x86_64")]
    #[inline(always)]
    unsafe fn store(at: *mut Self, sum: __m512, add: bool) {
        // SAFETY: by the caller; a bf16 is two bytes, sixteen of them a half register.
        unsafe {
            let at = at.cast::<__m256i>();
            let mut sum = sum;
            if add {
                let before = _mm512_slli_epi32::<16>(_mm512_cvtepu16_epi32(_mm256_loadu_si256(at)));
                sum = _mm512_add_ps(sum, _mm512_castsi512_ps(before));
            }
            _mm256_storeu_si256(at, std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(sum)));
        }
    }
}

impl<E: Output> Tile<E> {
    /// # Safety
    /// `left` is readable for [`LEFT`] lines of `pairs` pairs, `right` for `pairs` rows, the target readable and writable for its rows and columns;
    /// with `bf16_instructions` the processor has AVX-512 (F, BW, VL) and AVX512-BF16.
    #[inline]
    pub(crate) unsafe fn compute(&self, bf16_instructions: bool) {
        // SAFETY: by the caller.
        unsafe {
            #[cfg(target_arch = "x86_64")]
            if bf16_instructions {
                // Few rows, as in decoding, would leave most of twelve lines to be thrown away.
                return match self.target.rows {
                    0..=4 => self.avx512::<4>(),
                    5..=8 => self.avx512::<8>(),
                    _ => self.avx512::<LEFT>(),
                };
            }
            let _ = bf16_instructions;
            self.store(&widened(self.pairs, self.left, (self.right, self.right_stride)));
        }
    }

    /// # Safety
    /// As [`Tile::compute`], for `LINES` (at most [`LEFT`]) lines, of which the target has rows at most.
    #[cfg(target_arch = "x86_64")]
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    unsafe fn avx512<const LINES: usize>(&self) {
        let mut sums = [[_mm512_setzero_ps(); 2]; LINES];
        const GROUPS: usize = LEFT.div_ceil(3);
        let LeftStrip { words, line_stride, pair_stride } = self.left;
        // Four addresses and two strides reach all twelve lines within what one instruction can address.
        let mut left = [words; GROUPS];
        for (i, left) in left.iter_mut().enumerate() {
            *left = words.wrapping_add(3 * i * line_stride);
        }
        let mut right = self.right;
        for _ in 0..self.pairs {
            // SAFETY: by the caller, within the panels' rows; the casts are between registers of the same size.
            unsafe {
                _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(AHEAD * self.right_stride).cast());
                _mm_prefetch::<_MM_HINT_T0>(right.wrapping_add(AHEAD * self.right_stride + 16).cast());
                let right_words = [
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(right.cast())),
                    std::mem::transmute::<__m512i, __m512bh>(_mm512_loadu_si512(right.add(16).cast())),
                ];
                for (line, sums) in sums.iter_mut().enumerate() {
                    let word = left[line / 3].add(line % 3 * line_stride).cast::<i32>().read_unaligned();
                    let word = std::mem::transmute::<__m512i, __m512bh>(_mm512_set1_epi32(word));
                    sums[0] = _mm512_dpbf16_ps(sums[0], word, right_words[0]);
                    sums[1] = _mm512_dpbf16_ps(sums[1], word, right_words[1]);
                }
                left = left.map(|left| left.wrapping_add(pair_stride));
                right = right.wrapping_add(self.right_stride);
            }
        }
        let target = &self.target;
        if target.cols == RIGHT {
            for (line, sums) in sums.iter().enumerate().take(target.rows) {
                // SAFETY: by the caller: a row of the target is whole.
                unsafe {
                    let at = target.values.add(line * target.stride);
                    E::store(at, sums[0], target.add);
                    E::store(at.add(16), sums[1], target.add);
                }
            }
        } else {
            let mut spilled = [[0.0; RIGHT]; LEFT];
            for (spilled, sums) in spilled.iter_mut().zip(sums) {
                // SAFETY: a row of `spilled` holds two registers.
                unsafe {
                    _mm512_storeu_ps(spilled.as_mut_ptr(), sums[0]);
                    _mm512_storeu_ps(spilled.as_mut_ptr().add(16), sums[1]);
                }
            }
            // SAFETY: by the caller.
            unsafe { self.store(&spilled) };
        }
    }

    /// # Safety
    /// The target is readable and writable for its rows and columns.
    unsafe fn store(&self, sums: &Sums) {
        let target = &self.target;
        for (line, sums) in sums.iter().enumerate().take(target.rows) {
            // SAFETY: by the caller.
            let row = unsafe {
                std::slice::from_raw_parts_mut(target.values.add(line * target.stride), target.cols)
            };
            for (value, sum) in row.iter_mut().zip(sums) {
                *value = E::from_f32(if target.add { value.to_f32() + sum } else { *sum });
            }
        }
    }
}

/// The sums by plain arithmetic: the fallback, and the oracle of the fast kernel's tests.
///
/// # Safety
/// As [`Tile::compute`], of `left` and `right`.
unsafe fn widened(pairs: usize, left: LeftStrip, (right, right_stride): (*const u32, usize)) -> Sums {
    let mut sums = [[0.0; RIGHT]; LEFT];
    for p in 0..pairs {
        // SAFETY: by the caller, for p < pairs.
        let right = unsafe { &*right.add(p * right_stride).cast::<[u32; RIGHT]>() };
        for (line, sums) in sums.iter_mut().enumerate() {
            // SAFETY: by the caller, for line < LEFT and p < pairs.
            let left =
                unsafe { left.words.add(line * left.line_stride + p * left.pair_stride).read_unaligned() };
            let (low, high) = (f32::from_bits(left << 16), f32::from_bits(left & 0xffff_0000));
            for (sum, &right) in sums.iter_mut().zip(right) {
                *sum += low * f32::from_bits(right << 16) + high * f32::from_bits(right & 0xffff_0000);
            }
        }
    }
    sums
}
