//! Means with intervals, paired differences, rates and wins. Models answer the same prompts: prompts are what is resampled,
//! and a resample holds the same prompts for every model, so that what prompts have in common cancels in a difference.

mod bootstrap;
mod mcnemar;

pub use bootstrap::{Bootstrap, Difference, Estimate, clustered_mean, mean, paired_difference};
pub use mcnemar::{McNemar, mcnemar};

use serde::{Deserialize, Serialize};

/// How often one side did better.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WinRate {
    /// Prompts on which it did better.
    pub wins: usize,
    /// Prompts on which neither did.
    pub ties: usize,
    /// Prompts on which it did worse.
    pub losses: usize,
    /// (wins + ties / 2) / all, with its interval.
    pub rate: Estimate,
}

/// The rate at which `ours[i]` beats `theirs[i]`, ties counted half. `None` without prompts or with unequal lengths.
pub fn win_rate<T: PartialOrd>(ours: &[T], theirs: &[T], bootstrap: Bootstrap) -> Option<WinRate> {
    if ours.len() != theirs.len() {
        return None;
    }
    let outcomes = ours.iter().zip(theirs).map(|(a, b)| {
        if a > b {
            1.0
        } else if a < b {
            0.0
        } else {
            0.5
        }
    });
    win_rate_of(&outcomes.collect::<Vec<f64>>(), bootstrap)
}

/// As [`win_rate`], of outcomes: 1 a win, 0 a loss, anything else a tie, counted half.
pub fn win_rate_of(outcomes: &[f64], bootstrap: Bootstrap) -> Option<WinRate> {
    let halved: Vec<f64> = outcomes.iter().map(|x| if *x == 1.0 || *x == 0.0 { *x } else { 0.5 }).collect();
    let count = |of: f64| halved.iter().filter(|x| **x == of).count();
    Some(WinRate { wins: count(1.0), ties: count(0.5), losses: count(0.0), rate: mean(&halved, bootstrap)? })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ties_count_half() {
        let found = win_rate(&[1.0, 2.0, 3.0, 4.0], &[0.0, 2.0, 3.0, 5.0], Bootstrap::default()).unwrap();
        assert_eq!((found.wins, found.ties, found.losses, found.rate.mean), (1, 2, 1, 0.5));
        assert!(win_rate(&[1.0], &[], Bootstrap::default()).is_none());
        assert!(win_rate::<f64>(&[], &[], Bootstrap::default()).is_none());
    }
}
