//! Scales of blocks in eight bits themselves (QLoRA's double quantisation, arXiv 2305.14314, section 3): less their
//! mean, in blocks of 256, each number at the nearest of 255 levels that lie the denser the nearer they are to zero (the
//! dynamic map of Dettmers 2015, arXiv 1511.04561, as bitsandbytes makes it).

use std::sync::LazyLock;

/// Scales that share a scale of their own.
pub(crate) const BLOCK: usize = 256;

/// Seven ranges, each ten times as wide as the one before and cut into twice as many parts, whose middles are levels;
/// with both signs, and 0 and 1.
static LEVELS: LazyLock<[f32; 256]> = LazyLock::new(|| {
    let mut levels = vec![0.0, 1.0];
    for range in 0..7 {
        let (parts, factor) = (1 << range, 10f64.powi(range - 6));
        for part in 0..parts {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(parts);
            levels.extend([(factor * middle) as f32, (-factor * middle) as f32]);
        }
    }
    levels.sort_by(f32::total_cmp);
    std::array::from_fn(|i| levels[i])
});

/// Positive numbers in eight bits each.
#[derive(Debug, Clone)]
pub(crate) struct NestedScales {
    codes: Vec<u8>,
    absmax: Vec<f32>,
    mean: f32,
}

impl NestedScales {
    pub(crate) fn of(scales: &[f32]) -> Self {
        let sum: f64 = scales.iter().map(|x| f64::from(*x)).sum();
        let mean = (sum / scales.len().max(1) as f64) as f32;
        let mut codes = Vec::with_capacity(scales.len());
        let absmax = scales.chunks(BLOCK).map(|block| {
            let absmax = block.iter().fold(0.0_f32, |most, x| most.max((x - mean).abs()));
            codes.extend(block.iter().map(|x| nearest((x - mean) / absmax.max(1e-38))));
            absmax
        });
        let absmax = absmax.collect();
        Self { codes, absmax, mean }
    }

    pub(crate) fn get(&self, index: usize) -> f32 {
        LEVELS[usize::from(self.codes[index])] * self.absmax[index / BLOCK] + self.mean
    }

    /// Bytes of so many scales.
    pub(crate) fn bytes_of(count: usize) -> usize {
        count + 4 * count.div_ceil(BLOCK)
    }

    /// Codes, scales of them, their mean, and the levels.
    pub(crate) fn parts(&self) -> (&[u8], &[f32], f32, &'static [f32; 256]) {
        (&self.codes, &self.absmax, self.mean, &LEVELS)
    }

    #[cfg(test)]
    pub(crate) fn bytes(&self) -> usize {
        self.codes.len() + 4 * self.absmax.len()
    }
}

fn nearest(x: f32) -> u8 {
    let above = LEVELS.partition_point(|level| *level < x).min(255);
    let below = above.saturating_sub(1);
    (if x - LEVELS[below] <= LEVELS[above] - x { below } else { above }) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_256_levels_and_each_is_its_own_nearest() {
        assert!(LEVELS.windows(2).all(|pair| pair[0] < pair[1]));
        assert_eq!((LEVELS[0], LEVELS[127], LEVELS[255]), (-0.992_968_74, 0.0, 1.0));
        for (code, level) in LEVELS.iter().enumerate() {
            assert_eq!(usize::from(nearest(*level)), code);
        }
        assert_eq!((nearest(-2.0), nearest(2.0), nearest(0.99)), (0, 255, 254));
    }

    #[test]
    fn scales_come_back_within_a_hundredth_of_the_widest_distance_from_the_mean() {
        let scales: Vec<f32> = (0..700_u32).map(|i| 0.1 + ((i * 7919) % 1000) as f32 / 2000.0).collect();
        let nested = NestedScales::of(&scales);
        for (i, scale) in scales.iter().enumerate() {
            assert!((nested.get(i) - scale).abs() < 0.0075 * 0.26, "{scale} {}", nested.get(i));
        }
        assert_eq!(NestedScales::of(&[0.25; 3]).get(1), 0.25);
    }
}
