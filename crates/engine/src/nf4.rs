//! NormalFloat in four bits (QLoRA, Dettmers et al. 2023, arXiv 2305.14314, section 3 and appendix E): sixteen levels that
//! a normal variable meets about equally often, times the largest magnitude of a block of 64 numbers. Two numbers lie in a
//! byte, the first in its high half, as bitsandbytes lays them.

use crate::CpuPath;
use crate::cpu::vectorised;

/// Numbers that share a scale, one after another in the rows of a weight.
pub(crate) const BLOCK: usize = 64;

/// The levels, as the paper's appendix E prints them.
const LEVELS: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// Where the nearest level changes: a number on a border takes the lower one.
const BORDERS: [f32; 15] = {
    let mut borders = [0.0; 15];
    let mut i = 0;
    while i < 15 {
        borders[i] = (LEVELS[i] + LEVELS[i + 1]) / 2.0;
        i += 1;
    }
    borders
};

/// The largest magnitude of a block, and its codes into `pairs`.
pub(crate) fn encode(path: CpuPath, values: &[f32], pairs: &mut [u8]) -> f32 {
    let absmax = values.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
    let mut codes = [0_u8; BLOCK];
    // No number: the reciprocal must stay one.
    nearest(path, values, 1.0 / absmax.max(1e-38), &mut codes);
    for (pair, codes) in pairs.iter_mut().zip(codes.as_chunks::<2>().0) {
        *pair = codes[0] << 4 | codes[1];
    }
    absmax
}

vectorised! {
    fn nearest(values: &[f32], factor: f32, codes: &mut [u8; BLOCK]) = nearest_body
}

#[inline(always)]
fn nearest_body<const FMA: bool>(values: &[f32], factor: f32, codes: &mut [u8; BLOCK]) {
    for (code, value) in codes.iter_mut().zip(values) {
        let value = value * factor;
        *code = BORDERS.iter().map(|border| u8::from(value > *border)).sum();
    }
}

/// Numbers of one block from the one at `first` on, as many as `out` holds; `pairs` are all codes of the weight.
pub(crate) fn decode(path: CpuPath, (pairs, first): (&[u8], usize), absmax: f32, out: &mut [f32]) {
    let pairs = &pairs[first / 2..];
    // Whether it begins in the middle of a byte.
    let (begun, out) = out.split_at_mut((first % 2).min(out.len()));
    let pairs = match (begun, pairs.split_first()) {
        ([value], Some((pair, rest))) => {
            *value = LEVELS[usize::from(pair & 15)] * absmax;
            rest
        }
        _ => pairs,
    };
    let (whole, last) = out.as_chunks_mut::<2>();
    let (pairs, rest) = pairs.split_at(whole.len());
    match path {
        // SAFETY: an engine holds a path only after `CpuPath::is_available` said yes on this processor.
        #[cfg(target_arch = "x86_64")]
        CpuPath::Avx512 => unsafe { x86::decode_pairs(pairs, absmax, whole) },
        _ => decode_pairs(pairs, absmax, whole),
    }
    if let ([value], Some(pair)) = (last, rest.first()) {
        *value = LEVELS[usize::from(pair >> 4)] * absmax;
    }
}

fn decode_pairs(pairs: &[u8], absmax: f32, out: &mut [[f32; 2]]) {
    let scaled = LEVELS.map(|level| level * absmax);
    for ([high, low], pair) in out.iter_mut().zip(pairs) {
        (*high, *low) = (scaled[usize::from(pair >> 4)], scaled[usize::from(pair & 15)]);
    }
}

#[cfg(target_arch = "x86_64")]
mod x86 {
    use super::LEVELS;
    use std::arch::x86_64::{
        _mm_loadl_epi64, _mm512_cvtepu8_epi64, _mm512_loadu_ps, _mm512_mul_ps, _mm512_or_si512,
        _mm512_permutexvar_ps, _mm512_set1_epi64, _mm512_set1_ps, _mm512_slli_epi64, _mm512_srlv_epi32,
        _mm512_storeu_ps,
    };

    /// All levels lie in one register, from which codes choose.
    #[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,fma")]
    pub(super) fn decode_pairs(pairs: &[u8], absmax: f32, out: &mut [[f32; 2]]) {
        let (bytes, pairs_rest) = pairs.as_chunks::<8>();
        let (whole, rest) = out.as_chunks_mut::<8>();
        // SAFETY: sixteen levels.
        let levels = unsafe { _mm512_loadu_ps(LEVELS.as_ptr()) };
        let levels = _mm512_mul_ps(levels, _mm512_set1_ps(absmax));
        // The high half of a byte comes first; choosing looks at four bits only.
        let shifts = _mm512_set1_epi64(4);
        for (bytes, out) in bytes.iter().zip(whole) {
            // SAFETY: eight bytes are read, sixteen values written, all inside their chunks.
            unsafe {
                let wide = _mm512_cvtepu8_epi64(_mm_loadl_epi64(bytes.as_ptr().cast()));
                let twice = _mm512_or_si512(wide, _mm512_slli_epi64::<32>(wide));
                let values = _mm512_permutexvar_ps(_mm512_srlv_epi32(twice, shifts), levels);
                _mm512_storeu_ps(out.as_mut_ptr().cast(), values);
            }
        }
        super::decode_pairs(pairs_rest, absmax, rest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{paths, random};

    /// The normal distribution's quantile, by bisection on its integral.
    fn quantile(probability: f64) -> f64 {
        let density = |x: f64| (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt();
        let steps = 2000;
        let below = |x: f64| {
            // Simpson's rule from 0.
            let h = x / f64::from(steps);
            let inner: f64 =
                (1..steps).map(|i| (if i % 2 == 0 { 2.0 } else { 4.0 }) * density(h * f64::from(i))).sum();
            0.5 + h / 3.0 * (density(0.0) + inner + density(x))
        };
        let (mut low, mut high) = (-4.0, 4.0);
        for _ in 0..60 {
            let middle = (low + high) / 2.0;
            if below(middle) < probability { low = middle } else { high = middle }
        }
        low
    }

    #[test]
    fn the_levels_are_the_normal_distributions_quantiles() {
        // The paper's offset: the mean of 1 - 1/30 and 1 - 1/32.
        let offset = 0.5 * ((1.0 - 1.0 / 30.0) + (1.0 - 1.0 / 32.0));
        let half = |parts: u32, sign: f64| {
            (0..parts)
                .map(move |i| sign * quantile(offset + (0.5 - offset) * f64::from(i) / f64::from(parts)))
        };
        let mut levels: Vec<f64> = half(8, 1.0).chain([0.0]).chain(half(7, -1.0)).collect();
        levels.sort_by(f64::total_cmp);
        let largest = levels[15];
        for (level, expected) in LEVELS.iter().zip(&levels) {
            assert!((f64::from(*level) - expected / largest).abs() < 3e-7, "{level} {}", expected / largest);
        }
    }

    #[test]
    fn every_number_takes_its_nearest_level_and_comes_back_from_any_place() {
        let values = random(1, 1, BLOCK);
        let (values, nearest) = (values.as_slice(), |x: f32, absmax: f32| {
            let distance = |level: &f32| (f64::from(x) / f64::from(absmax) - f64::from(*level)).abs();
            *LEVELS.iter().min_by(|a, b| distance(a).total_cmp(&distance(b))).unwrap() * absmax
        });
        for path in paths() {
            let mut pairs = [0; BLOCK / 2];
            let absmax = encode(path, values, &mut pairs);
            assert_eq!(absmax, values.iter().fold(0.0, |most, x| x.abs().max(most)));
            for (first, count) in [(0, 64), (1, 63), (3, 1), (7, 40), (10, 17), (63, 1), (5, 0)] {
                let mut out = vec![f32::NAN; count];
                decode(path, (&pairs, first), absmax, &mut out);
                let expected: Vec<f32> =
                    values[first..][..count].iter().map(|x| nearest(*x, absmax)).collect();
                assert_eq!(out, expected, "{} from {first}", path.name());
            }
            let mut pairs = [1; BLOCK / 2];
            assert_eq!(encode(path, &[0.0; BLOCK], &mut pairs), 0.0);
            let mut out = [1.0; BLOCK];
            decode(path, (&pairs, 0), 0.0, &mut out);
            assert_eq!(out, [0.0; BLOCK]);
        }
    }
}
