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

use super::population::Population;
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
/// Half-width of the secant that measures a pair's curvature.
const SECANT: f64 = 1e-4;

impl Population<'_> {
    /// The minimiser where every pair of responses is chosen either way at a positive rate (no transform).
    ///
    /// # Errors
    /// A slope at the start or on the way that f64 cannot hold.
    pub fn minimise(&self) -> Result<Minimum, ObjectiveError> {
        let mut w = self.start();
        for steps in 0..MAX_STEPS {
            let direction = self.direction(&w)?;
            if largest(&direction) < SETTLED * (1.0 + largest(&w)) {
                return Ok(Minimum { policy: self.policy(&w), settled: true, steps });
            }
            w = self.advance(&w, &direction)?;
        }
        Ok(Minimum { policy: self.policy(&w), settled: false, steps: MAX_STEPS })
    }

    fn direction(&self, w: &[f64]) -> Result<Vec<f64>, ObjectiveError> {
        let mut springs = Springs::new(w.len());
        for pair in self.pairs() {
            let pull = self.pull(pair, w[pair.i] - w[pair.j])?;
            let stiffness = pull.widening / 2.0 + pull.narrowing / 2.0;
            if stiffness > 0.0 {
                springs.join(pair.i, pair.j, stiffness, (pull.widening - pull.narrowing) / stiffness);
            }
        }
        Ok(springs.positions(&[]))
    }

    /// The longest of 1, 1/2, 1/4, ... of the direction after which the risk does not rise steeply again: its slope
    /// along the direction is negative or has shrunk. Slopes, unlike risks, are exact at every scale.
    fn advance(&self, w: &[f64], direction: &[f64]) -> Result<Vec<f64>, ObjectiveError> {
        // so close to the balance the steps converge quadratically and slopes are mostly rounding
        const CLOSE: f64 = 1e-3;
        let along = |length: f64| w.iter().zip(direction).map(|(w, d)| w + length * d).collect::<Vec<f64>>();
        if largest(direction) < CLOSE {
            return Ok(along(1.0));
        }
        let before = self.slope_along(w, direction)?;
        let mut length = 1.0;
        loop {
            let next = along(length);
            if length < 1e-6 || self.slope_along(&next, direction)? <= 0.9 * before.abs() {
                return Ok(next);
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
            let gradient = self.gradient(&w)?;
            let step = self.damped_step(&w, &gradient)?;
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
    fn damped_step(&self, w: &[f64], gradient: &[f64]) -> Result<Vec<f64>, ObjectiveError> {
        let (n, steepest) = (w.len(), largest(gradient));
        if steepest == 0.0 {
            return Ok(vec![0.0; n]);
        }
        let mut springs = Springs::new(n + 1);
        for pair in self.pairs() {
            let gap = w[pair.i] - w[pair.j];
            let by_gap = |gap| self.pull(pair, gap).map(|p| p.narrowing - p.widening);
            let curvature = (by_gap(gap + SECANT)? - by_gap(gap - SECANT)?) / (2.0 * SECANT);
            springs.join(pair.i, pair.j, curvature.max(0.0), 0.0);
        }
        let forces: Vec<f64> = gradient.iter().map(|g| -g).collect();
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
