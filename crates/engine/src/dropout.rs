//! Dropout whose mask is never stored: whether a value is dropped follows from a key, its row and its column, so that
//! the backward, a recomputed forward and a resumed run find the mask of the forward again.

use rayon::prelude::*;

use crate::Engine;
use crate::element::Element;

/// Inverted dropout (Srivastava et al. 2014): a value is zeroed with probability `rate`, the others grow by
/// `1 / (1 - rate)`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Dropout {
    /// In (0, 1).
    pub rate: f64,
    /// What decides the mask, besides row and column.
    pub key: u64,
    /// Rows of the whole before the ones at hand, where these are a part of it.
    pub first_row: usize,
}

/// What is done with the mask.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mask {
    /// `to = kept x`.
    Replace,
    /// `to += kept x`.
    Add,
}

impl Engine {
    /// `to = mask x / (1 - rate)` (or `+=`), both in consecutive rows of `cols` values.
    pub(crate) fn drop_out<F: Element, T: Element>(
        &self,
        dropout: Dropout,
        (from, cols): (&[F], usize),
        to: &mut [T],
        mask: Mask,
    ) {
        // One in 2^32 values more or less: far below what any rate is known to.
        let threshold = (dropout.rate * 2f64.powi(32)) as u64;
        let factor = (1.0 / (1.0 - dropout.rate)) as f32;
        let row = |(row, (from, to)): (usize, (&[F], &mut [T]))| {
            let row_key = mix(dropout.key ^ mix((dropout.first_row + row) as u64));
            for (pair, (from, to)) in from.chunks(2).zip(to.chunks_mut(2)).enumerate() {
                let bits = mix(row_key.wrapping_add(pair as u64));
                let draws = [bits >> 32, bits & 0xffff_ffff];
                for ((from, to), draw) in from.iter().zip(to).zip(draws) {
                    let kept = if draw < threshold { 0.0 } else { from.to_f32() * factor };
                    *to = T::from_f32(if mask == Mask::Add { to.to_f32() + kept } else { kept });
                }
            }
        };
        let cols = cols.max(1);
        if self.parallel(from.len()) {
            self.install(|| from.par_chunks(cols).zip(to.par_chunks_mut(cols)).enumerate().for_each(row));
        } else {
            from.chunks(cols).zip(to.chunks_mut(cols)).enumerate().for_each(row);
        }
    }
}

/// The finaliser of SplitMix64 (Steele, Lea and Flood 2014) after its increment: neighbouring inputs give unrelated bits.
fn mix(x: u64) -> u64 {
    let x = x.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::engines;

    fn masked(engine: &Engine, key: u64, rows: usize, cols: usize) -> Vec<f32> {
        let mut out = vec![9.0_f32; rows * cols];
        let x = vec![1.0_f32; rows * cols];
        engine.drop_out(Dropout { rate: 0.25, key, first_row: 0 }, (&x, cols), &mut out, Mask::Replace);
        out
    }

    #[test]
    fn values_are_dropped_at_the_rate_in_every_row_and_column_and_the_mean_is_kept() {
        for engine in engines() {
            let (rows, cols) = (400, 501);
            let out = masked(&engine, 7, rows, cols);
            let dropped = |values: &mut dyn Iterator<Item = &f32>, n: usize| {
                let zeros = values.filter(|x| **x == 0.0).count() as f64 / n as f64;
                // Six standard deviations.
                assert!((zeros - 0.25).abs() < 6.0 * (0.25 * 0.75 / n as f64).sqrt(), "{zeros} of {n}");
            };
            dropped(&mut out.iter(), rows * cols);
            (0..rows).for_each(|r| dropped(&mut out[r * cols..][..cols].iter(), cols));
            (0..cols).for_each(|c| dropped(&mut out.iter().skip(c).step_by(cols), rows));
            assert!(out.iter().all(|x| *x == 0.0 || *x == 4.0 / 3.0));
        }
    }

    #[test]
    fn the_mask_follows_from_key_row_and_column_alone() {
        let engines = engines();
        let first = masked(&engines[0], 7, 300, 64);
        for engine in &engines {
            assert_eq!(masked(engine, 7, 300, 64), first, "any path");
        }
        let single = Engine::cpu(Some(1)).unwrap();
        assert_eq!(masked(&single, 7, 300, 64), first, "any number of threads");
        assert_eq!(masked(&single, 7, 5, 64), first[..5 * 64], "however many rows follow");
        assert_ne!(masked(&single, 8, 300, 64), first);
        let (mut later, ones) = (vec![9.0_f32; 5 * 64], vec![1.0_f32; 5 * 64]);
        let from_seven = Dropout { rate: 0.25, key: 7, first_row: 7 };
        single.drop_out(from_seven, (&ones, 64), &mut later, Mask::Replace);
        assert_eq!(later, first[7 * 64..12 * 64], "a part by itself");
    }
}
