//! A world: reference policy, rewards and unsafe flags over a few responses, with the optima in closed form.
//! pi*_C is proportional to pi_ref exp((r - C s) / beta); its limit for large C is restricted to safe responses.

use rand::{Rng, SeedableRng};
use serde::Deserialize;
use thiserror::Error;

use crate::error::ObjectiveError;

/// A world as written in a file.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct WorldSpec {
    /// pi_ref(y), all > 0; sums to 1 within 1e-3 (and is normalised).
    pub reference: Vec<f64>,
    /// r(y), reward units.
    pub reward: Vec<f64>,
    /// s(y): `true` = unsafe.
    #[serde(rename = "unsafe")]
    pub is_unsafe: Vec<bool>,
    /// KL strength, > 0.
    pub beta: f64,
    /// C >= 0, reward units.
    pub safety_penalty: f64,
}

/// A checked world.
#[derive(Debug, Clone, PartialEq)]
pub struct World {
    name: String,
    log_reference: Vec<f64>,
    spec: WorldSpec,
}

/// What is wrong with a world.
#[derive(Debug, Clone, PartialEq, Error)]
#[error("world {name}: {problem}")]
pub struct WorldError {
    name: String,
    problem: String,
}

/// Populations are over all pairs; more responses than this are no tabular world.
const MAX_RESPONSES: usize = 200;

impl World {
    /// Checks a world.
    ///
    /// # Errors
    /// Arrays of unequal length, fewer than 2 or more than 200 responses, or a number out of range.
    pub fn new(name: &str, spec: WorldSpec) -> Result<Self, WorldError> {
        let fail = |problem: String| Err(WorldError { name: name.to_owned(), problem });
        let n = spec.reference.len();
        if !(2..=MAX_RESPONSES).contains(&n) || spec.reward.len() != n || spec.is_unsafe.len() != n {
            return fail(format!(
                "needs 2 to {MAX_RESPONSES} responses and as many in each array, found reference {n}, reward {}, unsafe {}",
                spec.reward.len(),
                spec.is_unsafe.len()
            ));
        }
        let sum: f64 = spec.reference.iter().sum();
        if !(spec.reference.iter().all(|p| *p > 0.0) && (sum - 1.0).abs() <= 1e-3) {
            return fail(format!("reference must be positive and sum to 1, sums to {sum}"));
        }
        if !spec.reward.iter().all(|r| r.is_finite() && r.abs() <= 100.0) {
            return fail("rewards must be finite and within 100 of 0".to_owned());
        }
        if !(spec.beta > 0.0 && spec.beta.is_finite() && (0.0..=100.0).contains(&spec.safety_penalty)) {
            return fail("needs beta > 0 and 0 <= safety_penalty <= 100".to_owned());
        }
        let log_reference = spec.reference.iter().map(|p| (p / sum).ln()).collect();
        Ok(Self { name: name.to_owned(), log_reference, spec })
    }

    /// Reads `{"worlds": [{reference, reward, unsafe, beta, safety_penalty}, ...]}`; other keys are ignored.
    ///
    /// # Errors
    /// Text that is not of that form, or a world that [`World::new`] refuses.
    pub fn read_all(label: &str, text: &str) -> Result<Vec<Self>, WorldError> {
        #[derive(Deserialize)]
        struct File {
            worlds: Vec<WorldSpec>,
        }
        let file: File = serde_json::from_str(text)
            .map_err(|e| WorldError { name: label.to_owned(), problem: e.to_string() })?;
        file.worlds
            .into_iter()
            .enumerate()
            .map(|(i, spec)| Self::new(&format!("{label}-{}", i + 1), spec))
            .collect()
    }

    /// The sixteen embedded worlds: 3 to 12 responses, beta 0.1 to 1, C 0 to 10.
    ///
    /// # Errors
    /// None in practice: the embedded file is tested.
    pub fn embedded() -> Result<Vec<Self>, WorldError> {
        Self::read_all("embedded", include_str!("worlds.json"))
    }

    /// Random worlds, the same for the same seed: 2 to 12 responses, at least one safe, C / beta up to 100.
    ///
    /// # Errors
    /// None in practice: every drawn number is in range.
    pub fn generate(count: usize, seed: u64) -> Result<Vec<Self>, WorldError> {
        const STRENGTHS: [(f64, f64); 6] =
            [(0.1, 10.0), (1.0, 100.0), (0.05, 5.0), (0.5, 10.0), (0.1, 0.0), (0.5, 50.0)];
        let mut rng = rand_chacha::ChaCha8Rng::seed_from_u64(seed);
        (0..count)
            .map(|i| {
                let n = 12 - i % 11;
                let (beta, safety_penalty) = STRENGTHS[i % STRENGTHS.len()];
                let masses: Vec<f64> = (0..n).map(|_| rng.random_range(-4.0..0.0f64).exp()).collect();
                let total: f64 = masses.iter().sum();
                let safe = rng.random_range(0..n);
                let spec = WorldSpec {
                    reference: masses.iter().map(|m| m / total).collect(),
                    reward: (0..n).map(|_| rng.random_range(-3.0..3.0)).collect(),
                    is_unsafe: (0..n).map(|y| rng.random_bool(0.4) && y != safe).collect(),
                    beta,
                    safety_penalty,
                };
                Self::new(&format!("generated-{}", i + 1), spec)
            })
            .collect()
    }

    /// The world's name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its numbers.
    #[must_use]
    pub fn spec(&self) -> &WorldSpec {
        &self.spec
    }

    /// pi*_C.
    #[must_use]
    pub fn optimum(&self) -> Vec<f64> {
        let s = &self.spec;
        self.tilted(|y| (s.reward[y] - if s.is_unsafe[y] { s.safety_penalty } else { 0.0 }) / s.beta)
    }

    /// The hard-constrained optimum; `None` where no response is safe.
    #[must_use]
    pub fn hard_optimum(&self) -> Option<Vec<f64>> {
        let s = &self.spec;
        s.is_unsafe
            .contains(&false)
            .then(|| self.tilted(|y| if s.is_unsafe[y] { f64::NEG_INFINITY } else { s.reward[y] / s.beta }))
    }

    /// pi_ref exp(tilt), normalised.
    pub(crate) fn tilted(&self, tilt: impl Fn(usize) -> f64) -> Vec<f64> {
        let logits: Vec<f64> = self.log_reference.iter().enumerate().map(|(y, l)| l + tilt(y)).collect();
        let top = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = logits.iter().map(|l| (l - top).exp()).collect();
        let total: f64 = weights.iter().sum();
        weights.iter().map(|w| w / total).collect()
    }

    /// pi_ref(y).
    pub(crate) fn reference(&self, y: usize) -> f64 {
        self.log_reference[y].exp()
    }
}

impl From<WorldError> for ObjectiveError {
    fn from(error: WorldError) -> Self {
        Self::World(error.to_string())
    }
}

/// Half the L1 distance of two distributions, in [0, 1].
#[must_use]
pub fn total_variation(p: &[f64], q: &[f64]) -> f64 {
    0.5 * p.iter().zip(q).map(|(a, b)| (a - b).abs()).sum::<f64>()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn embedded_optima_are_those_of_the_file() {
        let file: serde_json::Value = serde_json::from_str(include_str!("worlds.json")).unwrap();
        let worlds = World::embedded().unwrap();
        assert_eq!(worlds.len(), 16);
        for (world, row) in worlds.iter().zip(file["worlds"].as_array().unwrap()) {
            for (ours, key) in [(world.optimum(), "optimum"), (world.hard_optimum().unwrap(), "hard_optimum")]
            {
                for (p, expected) in ours.iter().zip(row[key].as_array().unwrap()) {
                    let expected: f64 = expected.as_str().unwrap().parse().unwrap();
                    assert!(
                        (p - expected).abs() <= 1e-12 * expected,
                        "{key} of {}: {p} {expected}",
                        world.name()
                    );
                }
            }
        }
    }

    #[test]
    fn bad_worlds_are_refused_and_generated_ones_repeat() {
        for text in [
            r#"{"worlds": [{"reference": [1.0], "reward": [0], "unsafe": [false], "beta": 1, "safety_penalty": 1}]}"#,
            r#"{"worlds": [{"reference": [0.5, 0.5], "reward": [0], "unsafe": [false, true], "beta": 1, "safety_penalty": 1}]}"#,
            r#"{"worlds": [{"reference": [1.0, 0.0], "reward": [0, 1], "unsafe": [false, true], "beta": 1, "safety_penalty": 1}]}"#,
            r#"{"worlds": [{"reference": [0.5, 0.5], "reward": [0, 1], "unsafe": [false, true], "beta": 0, "safety_penalty": 1}]}"#,
            r#"{"worlds": 3}"#,
        ] {
            assert!(World::read_all("bad", text).is_err(), "{text}");
        }
        assert_eq!(World::generate(5, 1).unwrap(), World::generate(5, 1).unwrap());
    }
}
