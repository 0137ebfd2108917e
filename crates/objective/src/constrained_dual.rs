//! The dual of alignment under a safety constraint (CAN, arXiv 2405.19544): the multiplier for which the optimal policy is
//! as safe as demanded, from scored samples of the reference.

use crate::error::ObjectiveError;

/// A response sampled from the reference with its two scores, in reward units.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct ScoredSample {
    /// r: how helpful it is.
    pub reward: f64,
    /// g: how safe it is, more is safer.
    pub safety: f64,
}

/// The multiplier and what it gives.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DualMinimum {
    /// lambda >= 0; 0 where the constraint does not bind.
    pub lambda: f64,
    /// D(lambda), reward units.
    pub dual: f64,
    /// The mean safety of the samples under the tilted reference: at least the level demanded, within rounding.
    pub safety: f64,
}

/// The dual D(lambda) = beta E_x log E_ref exp((r + lambda (g - b)) / beta) at one lambda, and E_pi\[g\] under the reference
/// tilted by it, whose difference to b is D's derivative.
///
/// `prompts` holds the samples of each prompt, at least one; beta > 0.
#[must_use]
pub fn dual_at(prompts: &[Vec<ScoredSample>], beta: f64, level: f64, lambda: f64) -> (f64, f64) {
    let (mut dual, mut safety) = (0.0, 0.0);
    for samples in prompts {
        let exponent = |s: &ScoredSample| (s.reward + lambda * (s.safety - level)) / beta;
        let largest = samples.iter().map(exponent).fold(f64::NEG_INFINITY, f64::max);
        let weight = |s: &ScoredSample| (exponent(s) - largest).exp();
        let total: f64 = samples.iter().map(weight).sum();
        dual += beta * (largest + (total / samples.len() as f64).ln());
        safety += samples.iter().map(|s| weight(s) * s.safety).sum::<f64>() / total;
    }
    (dual / prompts.len() as f64, safety / prompts.len() as f64)
}

/// The lambda >= 0 that minimises [`dual_at`]: the smallest for which the tilted reference is as safe as `level` (b).
///
/// D is convex, so its derivative E_pi\[g\] - b rises with lambda; its zero is bracketed by doubling and then halved.
///
/// # Errors
/// No samples or a number that is not finite; a level that the samples do not reach under any lambda, so that D has no
/// minimum: it names the highest level that can be demanded.
pub fn multiplier(
    prompts: &[Vec<ScoredSample>],
    beta: f64,
    level: f64,
) -> Result<DualMinimum, ObjectiveError> {
    let refuse = |what: String| Err(ObjectiveError::Multiplier(what));
    let finite = |s: &ScoredSample| s.reward.is_finite() && s.safety.is_finite();
    if prompts.is_empty() || prompts.iter().any(Vec::is_empty) {
        return refuse("every prompt needs at least one sample".into());
    }
    if !(beta > 0.0 && beta.is_finite() && level.is_finite() && prompts.iter().flatten().all(finite)) {
        return refuse("beta must be above 0, and beta, level and all scores finite".into());
    }
    let at = |lambda: f64| {
        let (dual, safety) = dual_at(prompts, beta, level, lambda);
        DualMinimum { lambda, dual, safety }
    };
    let free = at(0.0);
    if free.safety >= level {
        return Ok(free);
    }
    let safest = |samples: &Vec<ScoredSample>| samples.iter().map(|s| s.safety).fold(f64::MIN, f64::max);
    let best = prompts.iter().map(safest).sum::<f64>() / prompts.len() as f64;
    // At the best level itself D only approaches its infimum.
    if best <= level {
        return refuse(format!(
            "the dual is unbounded: no response sampled from the reference is safe enough for a level of {level}; levels below \
             {best:.6} can be demanded, and more samples of each prompt may raise that"
        ));
    }
    let (mut low, mut high) = (0.0, beta);
    while at(high).safety < level {
        (low, high) = (high, 2.0 * high);
        if !high.is_finite() {
            return refuse(format!("no finite multiplier reaches the level {level}; demand less"));
        }
    }
    loop {
        let middle = low + 0.5 * (high - low);
        if middle <= low || middle >= high {
            return Ok(at(high));
        }
        if at(middle).safety < level { low = middle } else { high = middle }
    }
}

/// The probability with which response 1 becomes the chosen one: sigmoid(w_1 - w_0), w = r + lambda g.
#[must_use]
pub fn relabelled_probability(weights: [f64; 2]) -> f64 {
    let difference = weights[1] - weights[0];
    let small = (-difference.abs()).exp();
    if difference >= 0.0 { 1.0 / (1.0 + small) } else { small / (1.0 + small) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(reward: f64, safety: f64) -> ScoredSample {
        ScoredSample { reward, safety }
    }

    /// Prompts without any pattern, from a linear congruence.
    fn prompts() -> Vec<Vec<ScoredSample>> {
        let mut state = 7u64;
        let mut next = move || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 11) as f64 / (1u64 << 53) as f64 * 4.0 - 2.0
        };
        (0..20).map(|i| (0..3 + i % 4).map(|_| sample(next(), next())).collect()).collect()
    }

    #[test]
    fn two_responses_have_a_closed_form() {
        // One prompt, a helpful unsafe response and a safe one. p = share of the safe one = sigmoid((r1 + l g1 - r0 - l g0)/beta)
        // must be (b - g0) / (g1 - g0).
        let (beta, level) = (0.5, 0.25);
        let (help, safe) = (sample(2.0, -1.0), sample(0.5, 1.0));
        let share: f64 = (level - help.safety) / (safe.safety - help.safety);
        let expected =
            (beta * (share / (1.0 - share)).ln() + help.reward - safe.reward) / (safe.safety - help.safety);
        let found = multiplier(&[vec![help, safe]], beta, level).unwrap();
        assert!((found.lambda - expected).abs() < 1e-12, "{found:?} {expected}");
        assert!((found.safety - level).abs() < 1e-12);
    }

    #[test]
    fn the_minimum_is_that_of_a_search_by_brute_force() {
        let prompts = prompts();
        for (beta, level) in [(0.1, 0.4), (0.5, 0.7), (2.0, 0.3)] {
            let found = multiplier(&prompts, beta, level).unwrap();
            let grid = (0..40_000).map(|i| 1e-3 * f64::from(i));
            let best = grid.min_by(|a, b| {
                dual_at(&prompts, beta, level, *a).0.total_cmp(&dual_at(&prompts, beta, level, *b).0)
            });
            assert!((found.lambda - best.unwrap()).abs() <= 1.001e-3, "{found:?} {best:?}");
            let dual = |lambda| dual_at(&prompts, beta, level, lambda).0;
            assert!(dual(found.lambda) <= dual(best.unwrap()) + 1e-12);
        }
    }

    #[test]
    fn the_derivative_is_the_safety_above_the_level() {
        let (prompts, beta, level, lambda, step) = (prompts(), 0.7, 0.2, 0.9, 1e-5);
        let dual = |at| dual_at(&prompts, beta, level, at).0;
        let slope = (dual(lambda + step) - dual(lambda - step)) / (2.0 * step);
        assert!((slope - (dual_at(&prompts, beta, level, lambda).1 - level)).abs() < 1e-8);
    }

    #[test]
    fn a_constraint_that_holds_already_costs_nothing_and_one_out_of_reach_is_refused() {
        let prompts = vec![vec![sample(1.0, 0.0), sample(0.0, 1.0)], vec![sample(3.0, 0.5)]];
        assert_eq!(multiplier(&prompts, 1.0, -5.0).unwrap().lambda, 0.0);
        assert!(multiplier(&prompts, 1.0, 0.7499).unwrap().lambda > 5.0);
        for level in [0.75, 2.0] {
            let error = multiplier(&prompts, 1.0, level).unwrap_err().to_string();
            assert!(error.contains("unbounded") && error.contains("below 0.75"), "{error}");
        }
        assert!(multiplier(&[], 1.0, 0.0).is_err() && multiplier(&prompts, 0.0, 0.0).is_err());
        assert!(multiplier(&[vec![sample(f64::NAN, 0.0)]], 1.0, 0.0).is_err());
    }

    #[test]
    fn rewards_of_any_size_neither_overflow_nor_vanish() {
        let prompts = vec![vec![sample(1e6, -1.0), sample(-1e6, 1.0)]];
        let found = multiplier(&prompts, 0.1, 0.0).unwrap();
        assert!((found.lambda - 1e6).abs() < 1e-3 && found.dual.is_finite(), "{found:?}");
    }

    #[test]
    fn probabilities_of_relabelling_are_sigmoids() {
        assert_eq!(relabelled_probability([2.0, 2.0]), 0.5);
        assert_eq!(relabelled_probability([1e4, -1e4]), 0.0);
        assert!((relabelled_probability([0.0, 1.0]) - 0.731_058_578_630_004_9).abs() < 1e-15);
        assert!((relabelled_probability([1.0, 0.0]) - 0.268_941_421_369_995_1).abs() < 1e-15);
    }
}
