//! The percentile bootstrap over prompts (Efron and Tibshirani, 1993, chapter 13).

use bso_durable::Seed;
use rand::Rng;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// How intervals are computed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bootstrap {
    /// Resamples, at least 1.
    pub resamples: usize,
    /// The seed; the same seed gives the same prompts in every call on as many prompts.
    pub seed: Seed,
}

impl Default for Bootstrap {
    fn default() -> Self {
        Self { resamples: 2_000, seed: Seed::new(0) }
    }
}

/// A mean and its 95 % interval.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The mean.
    pub mean: f64,
    /// The 2.5 % point of the bootstrap means.
    pub low: f64,
    /// The 97.5 % point of the bootstrap means.
    pub high: f64,
    /// Values.
    pub n: usize,
}

/// A mean difference, its interval, and how surprising it would be without one.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Difference {
    /// First minus second.
    #[serde(flatten)]
    pub estimate: Estimate,
    /// Two-sided: twice the smaller share of bootstrap differences on one side of 0, at least 2 / (resamples + 1).
    pub p_value: f64,
}

/// The mean of `values` with its interval; `None` without values. One value has the interval of length 0: nothing is known
/// of its spread. An infinite or NaN value makes the mean so, too.
pub fn mean(values: &[f64], bootstrap: Bootstrap) -> Option<Estimate> {
    estimate(values, values.iter().map(|value| (*value, 1.0)).collect(), bootstrap)
}

/// As [`mean`], where values of one unit are not independent of one another: whole units are resampled. `units[i]` names
/// the unit of `values[i]`; `None` also with unequal lengths.
pub fn clustered_mean(values: &[f64], units: &[usize], bootstrap: Bootstrap) -> Option<Estimate> {
    if values.len() != units.len() {
        return None;
    }
    let mut totals: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for (value, unit) in values.iter().zip(units) {
        let total = totals.entry(*unit).or_default();
        *total = (total.0 + value, total.1 + 1.0);
    }
    estimate(values, totals.into_values().collect(), bootstrap)
}

/// `totals`: sum and count of each unit.
fn estimate(values: &[f64], totals: Vec<(f64, f64)>, bootstrap: Bootstrap) -> Option<Estimate> {
    let means = resampled_means(&totals, bootstrap)?;
    Some(Estimate {
        mean: values.iter().sum::<f64>() / values.len() as f64,
        low: percentile(&means, 0.025),
        high: percentile(&means, 0.975),
        n: values.len(),
    })
}

/// The mean of `first[i] - second[i]`; `None` without values or with unequal lengths.
pub fn paired_difference(first: &[f64], second: &[f64], bootstrap: Bootstrap) -> Option<Difference> {
    if first.len() != second.len() {
        return None;
    }
    let differences: Vec<f64> = first.iter().zip(second).map(|(a, b)| a - b).collect();
    let means = resampled_means(&differences.iter().map(|x| (*x, 1.0)).collect::<Vec<_>>(), bootstrap)?;
    let share = |count: usize| (count + 1) as f64 / (means.len() + 1) as f64;
    let below = share(means.iter().filter(|x| **x <= 0.0).count());
    let above = share(means.iter().filter(|x| **x >= 0.0).count());
    Some(Difference { estimate: mean(&differences, bootstrap)?, p_value: (2.0 * below.min(above)).min(1.0) })
}

/// Means of resamples of units, ascending; `totals` are their sums and counts.
fn resampled_means(totals: &[(f64, f64)], bootstrap: Bootstrap) -> Option<Vec<f64>> {
    if totals.is_empty() {
        return None;
    }
    let mut rng = bootstrap.seed.derive("bootstrap", 0).rng();
    let mut means: Vec<f64> = (0..bootstrap.resamples.max(1))
        .map(|_| {
            let (sum, count) = (0..totals.len()).fold((0.0, 0.0), |(sum, count), _| {
                let drawn = totals[rng.random_range(0..totals.len())];
                (sum + drawn.0, count + drawn.1)
            });
            sum / count
        })
        .collect();
    means.sort_by(f64::total_cmp);
    Some(means)
}

/// Linear between neighbours.
fn percentile(sorted: &[f64], share: f64) -> f64 {
    let at = share * (sorted.len() - 1) as f64;
    let (below, above) = (sorted[at.floor() as usize], sorted[at.ceil() as usize]);
    if below == above { below } else { below + (above - below) * at.fract() }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = 20_000;

    fn many() -> Bootstrap {
        Bootstrap { resamples: MANY, seed: Seed::new(1) }
    }

    #[test]
    fn the_interval_of_a_mean_is_the_normal_one_where_that_holds() {
        // The bootstrap's standard error is sqrt(sum (x - mean)^2) / n: here of 0..400.
        let values: Vec<f64> = (0..400).map(f64::from).collect();
        let found = mean(&values, many()).unwrap();
        let error = ((400.0f64 * 400.0 - 1.0) / 12.0 / 400.0).sqrt();
        assert_eq!((found.mean, found.n), (199.5, 400));
        assert!((found.low - (199.5 - 1.96 * error)).abs() < 0.05 * error * 1.96, "{found:?}, {error}");
        assert!((found.high - (199.5 + 1.96 * error)).abs() < 0.05 * error * 1.96, "{found:?}, {error}");
    }

    #[test]
    fn values_of_one_unit_are_not_taken_as_independent() {
        // Each unit's four values agree: the standard error is that of 100 units, 0.05; of 400 it were 0.025.
        let values: Vec<f64> = (0..400).map(|i| f64::from((i / 4) % 2)).collect();
        let units: Vec<usize> = (0..400).map(|i| i / 4).collect();
        let found = clustered_mean(&values, &units, Bootstrap::default()).unwrap();
        assert!((found.low - 0.402).abs() < 0.012 && (found.high - 0.598).abs() < 0.012, "{found:?}");
        let apart = clustered_mean(&values, &(0..400).collect::<Vec<_>>(), Bootstrap::default()).unwrap();
        assert!((apart.low - 0.451).abs() < 0.006 && (apart.high - 0.549).abs() < 0.006, "{apart:?}");
        assert_eq!(apart, mean(&values, Bootstrap::default()).unwrap());
        assert!(clustered_mean(&values, &[0], Bootstrap::default()).is_none());
    }

    #[test]
    fn what_is_paired_cancels() {
        let hard: Vec<f64> = (0..50).map(|i| f64::from(i * i)).collect();
        let better: Vec<f64> = hard.iter().map(|x| x + 1.0).collect();
        let found = paired_difference(&better, &hard, Bootstrap::default()).unwrap();
        assert_eq!((found.estimate.mean, found.estimate.low, found.estimate.high), (1.0, 1.0, 1.0));
        assert!(found.p_value < 0.001, "{found:?}");
        let none = paired_difference(&hard, &hard, Bootstrap::default()).unwrap();
        assert_eq!((none.estimate.mean, none.p_value), (0.0, 1.0));
    }

    #[test]
    fn the_p_value_of_few_signs_is_its_closed_form() {
        // Differences 1, 1, -1: a resample's mean is at most 0 with 2 or 3 draws of -1: 7/27.
        let found = paired_difference(&[1.0, 1.0, -1.0], &[0.0; 3], many()).unwrap();
        assert!((found.p_value - 2.0 * 7.0 / 27.0).abs() < 0.02, "{found:?}");
    }

    #[test]
    fn nothing_has_no_mean_and_seeds_repeat() {
        assert!(mean(&[], Bootstrap::default()).is_none());
        assert!(paired_difference(&[1.0], &[], Bootstrap::default()).is_none());
        let one = mean(&[3.0], Bootstrap::default()).unwrap();
        assert_eq!((one.low, one.high), (3.0, 3.0));
        assert_eq!(mean(&[f64::INFINITY, 1.0], Bootstrap::default()).unwrap().mean, f64::INFINITY);
        assert_eq!(mean(&[1.0, 2.0], many()), mean(&[1.0, 2.0], many()));
    }
}
