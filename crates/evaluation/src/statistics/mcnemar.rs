//! McNemar's exact test: do two models differ in a rate on the same prompts?

use serde::{Deserialize, Serialize};

/// The discordant prompts and the test's answer.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct McNemar {
    /// Prompts where it holds of the first only.
    pub only_first: usize,
    /// Prompts where it holds of the second only.
    pub only_second: usize,
    /// Two-sided: twice the binomial tail at one half, at most 1.
    pub p_value: f64,
}

/// The exact (binomial) test on the prompts where the two differ (McNemar, 1947). `None` with unequal lengths.
pub fn mcnemar(first: &[bool], second: &[bool]) -> Option<McNemar> {
    if first.len() != second.len() {
        return None;
    }
    let count = |a: bool, b: bool| first.iter().zip(second).filter(|(x, y)| **x == a && **y == b).count();
    let (only_first, only_second) = (count(true, false), count(false, true));
    let p_value = two_sided(only_first.min(only_second), only_first + only_second);
    Some(McNemar { only_first, only_second, p_value })
}

/// `min(1, 2 P(X <= k))` for X binomial of `n` and one half, summed from the logarithms of its terms.
fn two_sided(k: usize, n: usize) -> f64 {
    let mut log_term = -(n as f64) * std::f64::consts::LN_2;
    let mut tail = log_term.exp();
    for i in 1..=k {
        log_term += ((n - i + 1) as f64 / i as f64).ln();
        tail += log_term.exp();
    }
    (2.0 * tail).min(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tails_of_the_binomial() {
        assert_eq!(two_sided(0, 0), 1.0);
        assert!((two_sided(0, 5) - 2.0 / 32.0).abs() < 1e-15);
        assert!((two_sided(1, 10) - 2.0 * 11.0 / 1024.0).abs() < 1e-15);
        assert_eq!(two_sided(5, 10), 1.0);
        // 2^-2000 is no f64: the sum is of logarithms. z = 100 / sqrt(500), with the correction for continuity.
        let p = two_sided(900, 2000);
        assert!((p - 8.5e-6).abs() < 2e-6, "{p}");
    }

    #[test]
    fn only_prompts_that_differ_count() {
        let first = [true, true, true, true, true, true, false];
        let second = [false, false, false, false, false, true, false];
        let found = mcnemar(&first, &second).unwrap();
        assert_eq!((found.only_first, found.only_second), (5, 0));
        assert!((found.p_value - 0.0625).abs() < 1e-15);
        assert!(mcnemar(&first, &second[1..]).is_none());
    }
}
