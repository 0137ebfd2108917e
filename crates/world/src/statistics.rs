//! Means with 95 % bootstrap intervals, plain and paired. Whole units are resampled (all prompts that share a
//! combination of verb and object make one), because prompts of one unit succeed and fail together.

use std::collections::BTreeMap;

use bso_durable::Seed;
use rand::Rng;
use serde::Serialize;

use crate::error::WorldError;

/// How intervals are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Number of resamples, at least 1. Default 2000.
    pub resamples: usize,
    /// The seed of the resampling.
    pub seed: Seed,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 2_000, seed: Seed::new(0) }
    }
}

/// A mean and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Estimate {
    /// The mean of the values.
    pub mean: f64,
    /// The 2.5 % point of the bootstrap means.
    pub low: f64,
    /// The 97.5 % point of the bootstrap means.
    pub high: f64,
    /// Number of values.
    pub values: usize,
    /// Number of independent units among them.
    pub units: usize,
}

/// The mean of `values` with a percentile interval from resampling units; `units[i]` names the unit of
/// `values[i]` (distinct numbers: the plain bootstrap). `None` without values. With one unit the interval is the
/// mean itself: one unit tells nothing about spread. An infinite or NaN value makes the mean so, too.
///
/// # Errors
/// Unequal lengths; no resamples.
pub fn bootstrap_mean(
    values: &[f64],
    units: &[usize],
    bootstrap: Bootstrap,
) -> Result<Option<Estimate>, WorldError> {
    if values.len() != units.len() {
        return Err(WorldError::Length { what: "bootstrap", left: values.len(), right: units.len() });
    }
    if bootstrap.resamples == 0 {
        return Err(WorldError::Setting {
            name: "resamples",
            value: "0".into(),
            remedy: "use 1 or more (2000 is usual)",
        });
    }
    if values.is_empty() {
        return Ok(None);
    }
    // Sum and count of each unit.
    let mut totals: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (value, unit) in values.iter().zip(units) {
        let total = totals.entry(*unit).or_default();
        *total = (total.0 + value, total.1 + 1.0);
    }
    let totals: Vec<(f64, f64)> = totals.into_values().collect();
    let mut rng = bootstrap.seed.derive("bootstrap", 0).rng();
    let mut means: Vec<f64> = (0..bootstrap.resamples)
        .map(|_| {
            let (sum, count) = (0..totals.len()).fold((0.0, 0.0), |(sum, count), _| {
                let drawn = totals[rng.random_range(0..totals.len())];
                (sum + drawn.0, count + drawn.1)
            });
            sum / count
        })
        .collect();
    means.sort_by(f64::total_cmp);
    Ok(Some(Estimate {
        mean: values.iter().sum::<f64>() / values.len() as f64,
        low: percentile(&means, 0.025),
        high: percentile(&means, 0.975),
        values: values.len(),
        units: totals.len(),
    }))
}

/// The mean difference `first[i] - second[i]` with its interval: both methods answered the same prompts, so their
/// common difficulty cancels. An interval without 0 is a difference at the 5 % level.
///
/// # Errors
/// As [`bootstrap_mean`].
pub fn paired_difference(
    first: &[f64],
    second: &[f64],
    units: &[usize],
    bootstrap: Bootstrap,
) -> Result<Option<Estimate>, WorldError> {
    if first.len() != second.len() {
        return Err(WorldError::Length { what: "paired difference", left: first.len(), right: second.len() });
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    bootstrap_mean(&differences, units, bootstrap)
}

/// The point of a sorted, non-empty list below which a share of it lies, linear between neighbours.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    if below == above { below } else { below + (above - below) * at.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn estimate(values: &[f64], units: &[usize]) -> Estimate {
        bootstrap_mean(values, units, Bootstrap::default()).unwrap().unwrap()
    }

    #[test]
    fn the_interval_has_the_width_of_theory() {
        // 400 values, half 0 and half 1: standard error 0.025, so mean +- 0.049.
        let values: Vec<f64> = (0..400).map(|i| f64::from(i % 2)).collect();
        let e = estimate(&values, &(0..400).collect::<Vec<_>>());
        assert_eq!(e.mean, 0.5);
        assert!((e.low - 0.451).abs() < 0.006 && (e.high - 0.549).abs() < 0.006, "{e:?}");
    }

    #[test]
    fn values_of_one_unit_are_not_taken_as_independent() {
        // Each unit's four values agree: the standard error is that of 100 units, 0.05.
        let values: Vec<f64> = (0..400).map(|i| f64::from((i / 4) % 2)).collect();
        let e = estimate(&values, &(0..400).map(|i| i / 4).collect::<Vec<_>>());
        assert_eq!((e.values, e.units), (400, 100));
        assert!((e.low - 0.402).abs() < 0.012 && (e.high - 0.598).abs() < 0.012, "{e:?}");
    }

    #[test]
    fn pairing_removes_common_difficulty() {
        let units: Vec<usize> = (0..200).collect();
        let hard: Vec<f64> = units.iter().map(|i| (i % 10) as f64).collect();
        let better: Vec<f64> = hard.iter().map(|x| x + 0.25).collect();
        let e = paired_difference(&better, &hard, &units, Bootstrap::default()).unwrap().unwrap();
        assert_eq!((e.low, e.mean, e.high), (0.25, 0.25, 0.25));
    }

    #[test]
    fn small_and_odd_inputs_have_answers() {
        assert_eq!(bootstrap_mean(&[], &[], Bootstrap::default()), Ok(None));
        let one = estimate(&[3.0], &[7]);
        assert_eq!((one.low, one.mean, one.high), (3.0, 3.0, 3.0));
        assert_eq!(estimate(&[f64::INFINITY, 1.0], &[0, 1]).mean, f64::INFINITY);
        assert!(bootstrap_mean(&[1.0], &[], Bootstrap::default()).is_err());
        let none = Bootstrap { resamples: 0, ..Bootstrap::default() };
        assert!(bootstrap_mean(&[1.0], &[1], none).is_err());
        let values: Vec<f64> = (0..50).map(f64::from).collect();
        let units: Vec<usize> = (0..50).collect();
        assert_eq!(estimate(&values, &units), estimate(&values, &units));
    }
}
