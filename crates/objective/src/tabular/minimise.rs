//! Two minimisers of a population risk over all policies, both started at the reference. Plain descent sticks: the
//! logistic loss is flat and LSIF steep by hundreds of orders of magnitude at the start under a large penalty.
//!
//! Without a transform, [`Population::minimise`]: a quasi-Newton descent in which each pair is a spring of stiffness
//! (widening + narrowing pull) / 2. With l'(u) = e^(u/2) k(u) this equals the Hessian
//! wherever the pulls balance, for every generator and without second derivatives, and a single pair moves by
//! 2 tanh(x/2) towards a balance at distance x: never past it, never stuck, quadratically at the end.
//!
//! On T(D), [`Population::follow`]: some pulls are never balanced, the risk may be unbounded below, and the
//! outcome depends on the path. So it follows steepest descent on the policy's logits, made implicit (Levenberg and
//! Marquardt) where the risk is convex, with steps of at most one nat, until the gaps are beyond any effect.

use super::population::{Population, Pull};
use super::springs::Springs;
use crate::error::ObjectiveError;

/// Where a minimisation ended.
#[derive(Debug, Clone, PartialEq)]
pub struct Minimum {
    /// The policy.
    pub policy: Vec<f64>,
    /// Whether the gradient vanished; `false` where the risk has no minimum or the steps ran out.
    pub settled: bool,
    /// Steps taken.
    pub steps: usize,
}

/// A step below this, in reward units, ends the search.
const SETTLED: f64 = 1e-12;
const MAX_STEPS: usize = 3000;
/// On T(D), a pair satisfied by this many nats ends the search: there is no minimum, or it is at infinity.
const FAR: f64 = 200.0;
/// A force smaller than this share of the pulls that it is the sum of is none.
const ROUNDING: f64 = 1e-13;
/// Width of the secant that measures a pair's curvature.
const SECANT: f64 = 1e-4;

impl Population<'_> {
    /// The minimiser where every pair of responses is chosen either way at a positive rate (no transform).
    ///
    /// # Errors
    /// A slope at the start or on the way that f64 cannot hold.
    pub fn minimise(&self) -> Result<Minimum, ObjectiveError> {
        let mut w = self.start();
        let mut pulls = self.pulls(&w)?;
        for steps in 0..MAX_STEPS {
            let direction = self.direction(&pulls, w.len());
            if largest(&direction) < SETTLED * (1.0 + largest(&w)) {
                return Ok(Minimum { policy: self.policy(&w), settled: true, steps });
            }
            (w, pulls) = self.advance(&w, &pulls, &direction)?;
        }
        Ok(Minimum { policy: self.policy(&w), settled: false, steps: MAX_STEPS })
    }

    fn direction(&self, pulls: &[Pull], responses: usize) -> Vec<f64> {
        let mut springs = Springs::new(responses);
        for (pair, pull) in self.pairs().iter().zip(pulls) {
            let stiffness = pull.widening / 2.0 + pull.narrowing / 2.0;
            if stiffness > 0.0 {
                springs.join(pair.i, pair.j, stiffness, -pull.by_gap() / stiffness);
            }
        }
        springs.positions(&[])
    }

    /// The longest of 1, 1/2, 1/4, ... of the direction after which the risk does not rise steeply again: its slope
    /// along the direction is negative or has shrunk. Slopes, unlike risks, are exact at every scale.
    fn advance(
        &self,
        w: &[f64],
        pulls: &[Pull],
        direction: &[f64],
    ) -> Result<(Vec<f64>, Vec<Pull>), ObjectiveError> {
        // so close to the balance the steps converge quadratically and slopes are mostly rounding
        let close = largest(direction) < 1e-3;
        let before = self.slope_along(pulls, direction).abs();
        let mut length = 1.0;
        loop {
            let next: Vec<f64> = w.iter().zip(direction).map(|(w, d)| w + length * d).collect();
            let pulls = self.pulls(&next)?;
            if close || length < 1e-6 || self.slope_along(&pulls, direction) <= 0.9 * before {
                return Ok((next, pulls));
            }
            length /= 2.0;
        }
    }

    /// Where steepest descent on the logits leads from the reference.
    ///
    /// # Errors
    /// A slope that f64 cannot hold.
    pub fn follow(&self) -> Result<Minimum, ObjectiveError> {
        let mut w = self.start();
        for steps in 0..MAX_STEPS {
            let step = self.damped_step(&w)?;
            let far = self.pairs().iter().any(|p| {
                let gap = w[p.i] - w[p.j];
                (p.j_chosen == 0.0 && p.i_chosen > 0.0 && gap > FAR)
                    || (p.i_chosen == 0.0 && p.j_chosen > 0.0 && gap < -FAR)
            });
            let settled = largest(&step) < SETTLED * (1.0 + largest(&w));
            if far || settled {
                return Ok(Minimum { policy: self.policy(&w), settled, steps });
            }
            w.iter_mut().zip(step).for_each(|(w, s)| *w += s);
        }
        Ok(Minimum { policy: self.policy(&w), settled: false, steps: MAX_STEPS })
    }

    /// -(damping + Hessian's convex part)^-1 gradient with the least damping that keeps every entry within 1.
    fn damped_step(&self, w: &[f64]) -> Result<Vec<f64>, ObjectiveError> {
        let n = w.len();
        let (mut forces, mut sizes) = (vec![0.0; n], vec![0.0; n]);
        let mut springs = Springs::new(n + 1);
        for (pair, pull) in self.pairs().iter().zip(self.pulls(w)?) {
            let by_gap = pull.by_gap();
            forces[pair.i] -= by_gap;
            forces[pair.j] += by_gap;
            sizes[pair.i] += pull.narrowing + pull.widening;
            sizes[pair.j] += pull.narrowing + pull.widening;
            let beyond = self.pull(pair, w[pair.i] - w[pair.j] + SECANT)?.by_gap();
            springs.join(pair.i, pair.j, ((beyond - by_gap) / SECANT).max(0.0), 0.0);
        }
        // what is left of balanced pulls is their rounding: without this it would be followed for ever
        forces
            .iter_mut()
            .zip(&sizes)
            .filter(|(force, size)| force.abs() <= ROUNDING * **size)
            .for_each(|(f, _)| *f = 0.0);
        let steepest = largest(&forces);
        if steepest == 0.0 {
            return Ok(forces);
        }
        let mut damping = steepest * 1e-14;
        loop {
            let mut held = springs.clone();
            (0..n).for_each(|i| held.join(i, n, damping, 0.0));
            let mut step = held.positions(&forces);
            step.truncate(n);
            // a damping equal to the steepest slope bounds every entry by 1
            if largest(&step) <= 1.0 || damping >= steepest * 4.0 {
                return Ok(step);
            }
            damping *= 2.0;
        }
    }
}

fn largest(x: &[f64]) -> f64 {
    x.iter().fold(0.0, |m, x| m.max(x.abs()))
}
