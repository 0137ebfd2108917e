//! Rows of f32 rounded to bf16 in registers, for kernels that run only where AVX512-BF16 is there. Rounding is to
//! nearest even, as everywhere; numbers too small for a normal f32 become zero, which the products make of them anyway.

use crate::CpuPath;
use crate::element::Element;

/// The values as f32 where they are, and the processor rounds them by itself: else the plain loops do.
pub(crate) fn natively<E: Element>(path: CpuPath, values: &[E]) -> Option<&[f32]> {
    (!E::IS_BF16 && path.has_bf16_instructions()).then(|| bytemuck::cast_slice(values))
}

/// A row as words of two neighbours; an odd end is filled up with zero.
pub(crate) fn round_row(row: &[f32], words: &mut [u32]) {
    let halves: &mut [u16] = bytemuck::cast_slice_mut(words);
    let (halves, rest) = halves.split_at_mut(row.len());
    rest.fill(0);
    round_values(row, halves);
}

/// As many values as there are.
pub(crate) fn round_values(row: &[f32], halves: &mut [u16]) {
    // SAFETY: callers run only where the instructions are (see the banner).
    #[cfg(target_arch = "x86_64")]
    unsafe {
        x86::round(row, halves);
    }
    #[cfg(not(target_arch = "x86_64"))]
    halves.iter_mut().zip(row).for_each(|(half, value)| *half = value.to_bf16_bits());
}

/// Two rows as one of words: `low` in the low halves, `high` (or zeros) in the high ones.
pub(crate) fn round_pairs(low: &[f32], high: Option<&[f32]>, words: &mut [u32]) {
    // SAFETY: callers run only where the instructions are (see the banner).
    #[cfg(target_arch = "x86_64")]
    unsafe {
        x86::pair(low, high, words);
    }
    #[cfg(not(target_arch = "x86_64"))]
    for (index, (word, low)) in words.iter_mut().zip(low).enumerate() {
        let bits = |value: f32| u32::from(value.to_bf16_bits());
        *word = bits(*low) | high.map_or(0, |high| bits(high[index])) << 16;
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use std::arch::x86_64::{
        __m256bh, __m256i, __m512, __m512i, __mmask16, _mm256_mask_storeu_epi16, _mm256_storeu_si256,
        _mm512_cvtepu16_epi32, _mm512_cvtneps_pbh, _mm512_loadu_ps, _mm512_mask_storeu_epi32,
        _mm512_maskz_loadu_ps, _mm512_or_si512, _mm512_setzero_ps, _mm512_slli_epi32, _mm512_storeu_si512,
    };

    const WIDTH: usize = 16;

    /// The first `rest` lanes, all of them from [`WIDTH`] on.
    fn mask(rest: usize) -> __mmask16 {
        if rest >= WIDTH { u16::MAX } else { (1 << rest) - 1 }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn rounded(values: __m512) -> __m256i {
        // SAFETY: registers of the same size.
        unsafe { std::mem::transmute::<__m256bh, __m256i>(_mm512_cvtneps_pbh(values)) }
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) fn round(row: &[f32], halves: &mut [u16]) {
        let (rows, row_rest) = row.as_chunks::<WIDTH>();
        let (whole, rest) = halves.as_chunks_mut::<WIDTH>();
        for (row, halves) in rows.iter().zip(whole) {
            // SAFETY: sixteen values on either side.
            unsafe {
                _mm256_storeu_si256(halves.as_mut_ptr().cast(), rounded(_mm512_loadu_ps(row.as_ptr())))
            };
        }
        let mask = mask(row_rest.len().min(rest.len()));
        // SAFETY: the mask keeps to what is left of both.
        unsafe {
            let values = _mm512_maskz_loadu_ps(mask, row_rest.as_ptr());
            _mm256_mask_storeu_epi16(rest.as_mut_ptr().cast(), mask, rounded(values));
        }
    }

    /// `low` in the low halves, `high` in the high ones.
    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    fn word(low: __m512, high: __m512) -> __m512i {
        let [low, high] = [low, high].map(|half| _mm512_cvtepu16_epi32(rounded(half)));
        _mm512_or_si512(low, _mm512_slli_epi32::<16>(high))
    }

    #[target_feature(enable = "avx512f,avx512bw,avx512vl,avx512bf16")]
    pub(super) fn pair(low: &[f32], high: Option<&[f32]>, words: &mut [u32]) {
        let count = low.len().min(words.len()).min(high.map_or(usize::MAX, <[f32]>::len));
        let whole = count / WIDTH * WIDTH;
        for start in (0..whole).step_by(WIDTH) {
            // SAFETY: sixteen values from `start` on are inside each row.
            unsafe {
                let load = |row: &[f32]| _mm512_loadu_ps(row.as_ptr().add(start));
                let word = word(load(low), high.map_or(_mm512_setzero_ps(), load));
                _mm512_storeu_si512(words.as_mut_ptr().add(start).cast(), word);
            }
        }
        if whole == count {
            return;
        }
        let mask = mask(count - whole);
        // SAFETY: the mask keeps to `count` values of each row.
        unsafe {
            let load = |row: &[f32]| _mm512_maskz_loadu_ps(mask, row.as_ptr().add(whole));
            let word = word(load(low), high.map_or(_mm512_setzero_ps(), load));
            _mm512_mask_storeu_epi32(words.as_mut_ptr().add(whole).cast(), mask, word);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engines, random};

    #[test]
    fn rows_and_pairs_round_as_single_numbers_do() {
        if !engines().iter().any(|engine| engine.bf16_instructions) {
            println!("skipped: this processor has no AVX512-BF16");
            return;
        }
        for len in [0, 1, 15, 16, 17, 40] {
            let (low, high) = (random(1, 1, len).into_vec(), random(2, 1, len).into_vec());
            let bits = |value: &f32| u32::from(value.to_bf16_bits());
            let mut words = vec![u32::MAX; len.div_ceil(2)];
            round_row(&low, &mut words);
            let want: Vec<u32> =
                low.chunks(2).map(|pair| bits(&pair[0]) | pair.get(1).map_or(0, bits) << 16).collect();
            assert_eq!(words, want);
            for high in [Some(high.as_slice()), None] {
                let mut words = vec![u32::MAX; len];
                round_pairs(&low, high, &mut words);
                let want = |(i, low)| bits(low) | high.map_or(0, |high| bits(&high[i])) << 16;
                assert_eq!(words, low.iter().enumerate().map(want).collect::<Vec<u32>>());
            }
        }
    }
}
