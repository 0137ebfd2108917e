//! How long texts are: counted by length, so that percentiles are exact and memory does not grow with the rows.

use serde::Serialize;
use std::collections::BTreeMap;

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

/// How many texts have each length.
type Histogram = BTreeMap<u32, usize>;

/// Lengths as they come: of prompts, chosen and rejected responses, and wholes.
#[derive(Default)]
pub(super) struct Measured {
    histograms: [Histogram; 4],
}

impl Measured {
    /// Prompt, chosen, rejected.
    pub(super) fn add(&mut self, lengths: [usize; 3]) {
        let [prompt, chosen, rejected] = lengths.map(|n| u32::try_from(n).unwrap_or(u32::MAX));
        let whole = prompt.saturating_add(chosen.max(rejected));
        for (histogram, length) in self.histograms.iter_mut().zip([prompt, chosen, rejected, whole]) {
            *histogram.entry(length).or_default() += 1;
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.histograms[0].is_empty()
    }

    /// Rows whose prompt and longer response exceed `limit`.
    pub(super) fn longer_than(&self, limit: usize) -> usize {
        self.histograms[3]
            .iter()
            .filter(|(length, _)| **length as usize > limit)
            .map(|(_, count)| count)
            .sum()
    }

    pub(super) fn finish(&self) -> Lengths {
        let [prompt, chosen, rejected, whole] = &self.histograms;
        Lengths {
            prompt: spread(prompt),
            chosen: spread(chosen),
            rejected: spread(rejected),
            whole: spread(whole),
        }
    }
}

/// Nearest-rank percentiles.
fn spread(histogram: &Histogram) -> Spread {
    let (Some((&min, _)), Some((&max, _))) = (histogram.first_key_value(), histogram.last_key_value()) else {
        return Spread::default();
    };
    let count: usize = histogram.values().sum();
    let rank = |percent: usize| {
        let wanted = (count * percent).div_ceil(100).clamp(1, count);
        let mut passed = 0;
        let found = histogram.iter().find(|(_, n)| {
            passed += **n;
            passed >= wanted
        });
        found.map_or(max, |(length, _)| *length)
    };
    let mean = histogram.iter().map(|(&length, &n)| f64::from(length) * n as f64).sum::<f64>() / count as f64;
    Spread { count, min, p50: rank(50), p90: rank(90), p99: rank(99), max, mean }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_nearest_rank() {
        let of = |lengths: &[u32]| {
            let mut histogram = Histogram::new();
            lengths.iter().for_each(|length| *histogram.entry(*length).or_default() += 1);
            spread(&histogram)
        };
        let s = of(&(1..=200).rev().collect::<Vec<_>>());
        assert_eq!((s.min, s.p50, s.p90, s.p99, s.max, s.mean), (1, 100, 180, 198, 200, 100.5));
        assert_eq!((of(&[7, 7, 7, 9]).p50, of(&[7, 7, 7, 9]).p99), (7, 9));
        assert_eq!(of(&[7]).p99, 7);
        assert_eq!(of(&[]), Spread::default());
    }
}
