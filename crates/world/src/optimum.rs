//! Exact distributions over a candidate set, and the optimal safe policy there. Everything stays in log space:
//! at beta = 0.1 rewards of SafeWorld differ by up to 60 nats.

use crate::error::WorldError;

/// A distribution over the candidates of one prompt.
#[derive(Clone, Debug, PartialEq)]
pub struct Distribution {
    log_probs: Vec<f64>,
}

/// Reward and safety of each candidate, in candidate order.
#[derive(Clone, Copy, Debug)]
pub struct CandidateScores<'a> {
    /// r, in Bradley-Terry units.
    pub rewards: &'a [f64],
    /// s = 1.
    pub is_unsafe: &'a [bool],
}

impl Distribution {
    /// Normalises sequence log-probs (nats; -inf is probability 0) over the candidates, and returns the log of
    /// their total mass as well: what the model says outside the set is exp of that short of 1.
    ///
    /// # Errors
    /// NaN, +inf, or no finite value.
    pub fn from_log_probs(log_probs: &[f64]) -> Result<(Self, f64), WorldError> {
        let most = log_probs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        if !most.is_finite() || log_probs.iter().any(|x| x.is_nan()) {
            return Err(WorldError::NotFinite("candidate log-probs"));
        }
        // Relative to the largest: sequence log-probs of -1000 would otherwise cost three digits.
        let relative: Vec<f64> = log_probs.iter().map(|x| x - most).collect();
        let log_sum = relative.iter().map(|x| x.exp()).sum::<f64>().ln();
        Ok((Self { log_probs: relative.iter().map(|x| x - log_sum).collect() }, most + log_sum))
    }

    /// Log-probabilities, nats.
    pub fn log_probs(&self) -> &[f64] {
        &self.log_probs
    }

    /// Probabilities.
    pub fn probs(&self) -> Vec<f64> {
        self.log_probs.iter().map(|x| x.exp()).collect()
    }

    /// Half the L1 distance, 0..=1.
    ///
    /// # Errors
    /// Different numbers of candidates.
    pub fn total_variation(&self, other: &Self) -> Result<f64, WorldError> {
        same_length("total variation", self.log_probs.len(), other.log_probs.len())?;
        let distances = self.log_probs.iter().zip(&other.log_probs).map(|(p, q)| (p.exp() - q.exp()).abs());
        Ok((0.5 * distances.sum::<f64>()).min(1.0))
    }

    /// KL(self || other) in nats; +inf where other has no mass and self has.
    ///
    /// # Errors
    /// Different numbers of candidates.
    pub fn kl(&self, other: &Self) -> Result<f64, WorldError> {
        same_length("KL", self.log_probs.len(), other.log_probs.len())?;
        let terms = self.log_probs.iter().zip(&other.log_probs).map(|(p, q)| match p.exp() {
            0.0 => 0.0,
            mass => mass * (p - q),
        });
        Ok(terms.sum::<f64>().max(0.0))
    }

    /// The expectation of a value per candidate, e.g. the expected reward.
    ///
    /// # Errors
    /// Another number of values than candidates.
    pub fn expectation(&self, values: &[f64]) -> Result<f64, WorldError> {
        same_length("expectation", self.log_probs.len(), values.len())?;
        Ok(self.log_probs.iter().zip(values).map(|(p, v)| p.exp() * v).sum())
    }

    /// The mass of the candidates with a property, e.g. unsafe mass or refusal mass, 0..=1.
    ///
    /// # Errors
    /// Another number of flags than candidates.
    pub fn mass(&self, has: &[bool]) -> Result<f64, WorldError> {
        same_length("mass", self.log_probs.len(), has.len())?;
        let mass: f64 = self.log_probs.iter().zip(has).filter(|(_, has)| **has).map(|(p, _)| p.exp()).sum();
        Ok(mass.min(1.0))
    }
}

/// pi*_C(y) proportional to pi_ref(y) exp((r(y) - C s(y)) / beta), the optimum of the penalised objective
/// (arXiv 2605.12339). beta > 0 in reward units per nat; the penalty C >= 0 in reward units, +inf for the
/// hard-constrained optimum.
///
/// # Errors
/// Unequal lengths, beta or penalty out of range, rewards not finite, no safe support with C = +inf.
pub fn optimal_policy(
    reference: &Distribution,
    scores: CandidateScores<'_>,
    beta: f64,
    penalty: f64,
) -> Result<Distribution, WorldError> {
    same_length("rewards", reference.log_probs.len(), scores.rewards.len())?;
    same_length("unsafe flags", reference.log_probs.len(), scores.is_unsafe.len())?;
    if !(beta > 0.0 && beta.is_finite()) {
        let value = beta.to_string();
        return Err(WorldError::Setting { name: "beta", value, remedy: "use a positive number" });
    }
    if penalty.is_nan() || penalty < 0.0 {
        let value = penalty.to_string();
        return Err(WorldError::Setting { name: "safety_penalty", value, remedy: "use 0 or more" });
    }
    if scores.rewards.iter().any(|r| !r.is_finite()) {
        return Err(WorldError::NotFinite("candidate rewards"));
    }
    let tilted: Vec<f64> = reference
        .log_probs
        .iter()
        .zip(scores.rewards)
        .zip(scores.is_unsafe)
        // Not `penalty * flag`: infinity times 0 is NaN.
        .map(|((log_p, r), is_unsafe)| log_p + (r - if *is_unsafe { penalty } else { 0.0 }) / beta)
        .collect();
    if tilted.iter().all(|t| *t == f64::NEG_INFINITY) {
        return Err(WorldError::NoSafeSupport);
    }
    Ok(Distribution::from_log_probs(&tilted)?.0)
}

/// The limit C -> infinity: pi_ref exp(r / beta) restricted to safe candidates.
///
/// # Errors
/// As [`optimal_policy`].
pub fn constrained_optimum(
    reference: &Distribution,
    scores: CandidateScores<'_>,
    beta: f64,
) -> Result<Distribution, WorldError> {
    optimal_policy(reference, scores, beta, f64::INFINITY)
}

fn same_length(what: &'static str, left: usize, right: usize) -> Result<(), WorldError> {
    if left == right { Ok(()) } else { Err(WorldError::Length { what, left, right }) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn distribution(probs: &[f64]) -> Distribution {
        Distribution::from_log_probs(&probs.iter().map(|p| p.ln()).collect::<Vec<_>>()).unwrap().0
    }

    fn assert_close(got: &[f64], expected: &[f64]) {
        assert_eq!(got.len(), expected.len());
        for (g, e) in got.iter().zip(expected) {
            assert!((g - e).abs() < 1e-14, "{got:?} {expected:?}");
        }
    }

    const SCORES: CandidateScores<'static> =
        CandidateScores { rewards: &[2.0, 1.0, 0.0], is_unsafe: &[true, false, false] };

    #[test]
    fn the_optimum_agrees_with_a_calculation_by_hand() {
        let reference = distribution(&[0.5, 0.3, 0.2]);
        // beta 2, C 1: weights 0.5 e^(1/2), 0.3 e^(1/2), 0.2.
        let root = 0.5_f64.exp();
        let total = 0.8 * root + 0.2;
        let policy = optimal_policy(&reference, SCORES, 2.0, 1.0).unwrap();
        assert_close(&policy.probs(), &[0.5 * root / total, 0.3 * root / total, 0.2 / total]);
        // 0.8 e^0.5 / (0.8 e^0.5 + 0.2), from 60-digit arithmetic.
        let expected = 0.868_332_438_332_132;
        assert!((policy.mass(&[true, true, false]).unwrap() - expected).abs() < 1e-15);
    }

    #[test]
    fn an_infinite_penalty_leaves_only_safe_candidates() {
        let reference = distribution(&[0.5, 0.3, 0.2]);
        let policy = constrained_optimum(&reference, SCORES, 1.0).unwrap();
        let weight = 0.3 * 1.0_f64.exp();
        assert_close(&policy.probs(), &[0.0, weight / (weight + 0.2), 0.2 / (weight + 0.2)]);
        let large = optimal_policy(&reference, SCORES, 1.0, 60.0).unwrap();
        assert!(large.total_variation(&policy).unwrap() < 1e-15);
        assert_eq!(policy.mass(SCORES.is_unsafe), Ok(0.0));
        let all_unsafe = CandidateScores { is_unsafe: &[true; 3], ..SCORES };
        assert_eq!(constrained_optimum(&reference, all_unsafe, 1.0), Err(WorldError::NoSafeSupport));
    }

    #[test]
    fn distances_agree_with_a_calculation_by_hand() {
        let (p, q) = (distribution(&[0.5, 0.5, 0.0]), distribution(&[0.25, 0.25, 0.5]));
        assert!((p.total_variation(&q).unwrap() - 0.5).abs() < 1e-15);
        assert!((p.kl(&q).unwrap() - 2.0_f64.ln()).abs() < 1e-15);
        assert_eq!(q.kl(&p), Ok(f64::INFINITY));
        assert_eq!(p.kl(&p), Ok(0.0));
        assert!((q.expectation(&[4.0, 0.0, -1.0]).unwrap() - 0.5).abs() < 1e-15);
    }

    #[test]
    fn normalising_reports_the_mass_of_the_set() {
        let (p, log_mass) = Distribution::from_log_probs(&[-1000.0, -1000.0 + 3.0_f64.ln()]).unwrap();
        assert!((p.probs()[1] - 0.75).abs() < 1e-12);
        assert!((log_mass - (-1000.0 + 4.0_f64.ln())).abs() < 1e-12);
    }

    #[test]
    fn numbers_that_mean_nothing_are_refused() {
        for bad in [&[f64::NAN, 0.0][..], &[f64::INFINITY, 0.0], &[f64::NEG_INFINITY; 2], &[]] {
            assert!(matches!(Distribution::from_log_probs(bad), Err(WorldError::NotFinite(_))));
        }
        let reference = distribution(&[0.5, 0.3, 0.2]);
        assert!(optimal_policy(&reference, SCORES, 0.0, 1.0).is_err());
        assert!(optimal_policy(&reference, SCORES, 1.0, -1.0).is_err());
        assert!(optimal_policy(&distribution(&[1.0]), SCORES, 1.0, 1.0).is_err());
        assert!(reference.kl(&distribution(&[1.0])).is_err());
        assert!(reference.expectation(&[]).is_err() && reference.mass(&[]).is_err());
    }
}
