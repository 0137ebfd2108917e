//! How long texts are: a 4-byte number per row is kept, so that percentiles are exact.

use serde::Serialize;

/// Percentiles of one length.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Spread {
    /// How many were measured.
    pub count: usize,
    /// The shortest.
    pub min: u32,
    /// Half are at most this long.
    pub p50: u32,
    /// Nine in ten are at most this long.
    pub p90: u32,
    /// 99 in 100 are at most this long.
    pub p99: u32,
    /// The longest.
    pub max: u32,
    /// The arithmetic mean.
    pub mean: f64,
}

/// Lengths of prompts and responses in one unit.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Lengths {
    /// Of the prompts.
    pub prompt: Spread,
    /// Of the chosen responses.
    pub chosen: Spread,
    /// Of the rejected responses.
    pub rejected: Spread,
    /// Of prompt and the longer response together.
    pub whole: Spread,
}

/// Lengths as they come.
#[derive(Default)]
pub(super) struct Measured {
    rows: Vec<[u32; 3]>,
}

impl Measured {
    /// Prompt, chosen, rejected.
    pub(super) fn add(&mut self, lengths: [usize; 3]) {
        self.rows.push(lengths.map(|n| u32::try_from(n).unwrap_or(u32::MAX)));
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Rows whose prompt and longer response exceed `limit`.
    pub(super) fn longer_than(&self, limit: usize) -> usize {
        self.rows.iter().filter(|r| whole(r) as usize > limit).count()
    }

    pub(super) fn finish(&self) -> Lengths {
        let of = |take: &dyn Fn(&[u32; 3]) -> u32| spread(self.rows.iter().map(take).collect());
        Lengths { prompt: of(&|r| r[0]), chosen: of(&|r| r[1]), rejected: of(&|r| r[2]), whole: of(&whole) }
    }
}

fn whole(row: &[u32; 3]) -> u32 {
    row[0].saturating_add(row[1].max(row[2]))
}

/// Nearest-rank percentiles.
fn spread(mut values: Vec<u32>) -> Spread {
    values.sort_unstable();
    let (Some(&min), Some(&max)) = (values.first(), values.last()) else { return Spread::default() };
    let count = values.len();
    let rank = |percent: usize| values[(count * percent).div_ceil(100).clamp(1, count) - 1];
    let mean = values.iter().map(|&v| f64::from(v)).sum::<f64>() / count as f64;
    Spread { count, min, p50: rank(50), p90: rank(90), p99: rank(99), max, mean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let s = spread((1..=200).rev().collect());
        assert_eq!((s.min, s.p50, s.p90, s.p99, s.max, s.mean), (1, 100, 180, 198, 200, 100.5));
        assert_eq!(spread(vec![7]).p99, 7);
        assert_eq!(spread(vec![]), Spread::default());
    }
}
