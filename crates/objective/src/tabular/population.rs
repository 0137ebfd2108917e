//! The exact population risk of a loss in a world: the mean over all pairs drawn from the reference, the winner drawn
//! from Bradley-Terry on the rewards, after a data transform. Policies enter through w = beta log(pi / pi_ref) + C s,
//! in which log R of (i chosen, j rejected) is w_j - w_i; a common shift of w changes no policy.

use super::world::World;
use crate::bso::BsoLoss;
use crate::error::ObjectiveError;
use crate::pair::SafetyLabels;
use crate::transform::{SafetyTransform, Transformed};

/// One unordered pair of responses with the rates at which either is the chosen one.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PairRates {
    pub(crate) i: usize,
    pub(crate) j: usize,
    /// How often (i chosen, j rejected) is in the transformed data.
    pub(crate) i_chosen: f64,
    /// How often (j chosen, i rejected) is.
    pub(crate) j_chosen: f64,
}

/// The pull of one pair on its gap w_i - w_j.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Pull {
    /// Towards a larger gap, >= 0.
    pub(crate) widening: f64,
    /// Towards a smaller gap, >= 0.
    pub(crate) narrowing: f64,
}

/// A loss's population risk in a world under a transform.
#[derive(Debug, Clone)]
pub struct Population<'a> {
    world: &'a World,
    loss: &'a BsoLoss,
    pairs: Vec<PairRates>,
}

impl<'a> Population<'a> {
    /// The risk of `loss`, whose beta and penalty should be the world's, on the world's pairs under `transform`.
    #[must_use]
    pub fn new(world: &'a World, loss: &'a BsoLoss, transform: SafetyTransform) -> Self {
        let spec = world.spec();
        let n = spec.reward.len();
        let mut pairs = Vec::with_capacity(n * (n - 1) / 2);
        for i in 0..n {
            for j in 0..i {
                let mass = world.reference(i) * world.reference(j);
                let i_wins = 1.0 / (1.0 + (spec.reward[j] - spec.reward[i]).exp());
                let mut rates = PairRates { i, j, i_chosen: 0.0, j_chosen: 0.0 };
                for (chosen, rejected, rate) in [(i, j, mass * i_wins), (j, i, mass * (1.0 - i_wins))] {
                    let labels = SafetyLabels {
                        chosen_unsafe: spec.is_unsafe[chosen],
                        rejected_unsafe: spec.is_unsafe[rejected],
                    };
                    let winner = match transform.apply(labels) {
                        Transformed::Keep => chosen,
                        Transformed::Swap => rejected,
                        Transformed::Drop => continue,
                    };
                    *(if winner == i { &mut rates.i_chosen } else { &mut rates.j_chosen }) += rate;
                }
                pairs.push(rates);
            }
        }
        Self { world, loss, pairs }
    }

    pub(crate) fn pairs(&self) -> &[PairRates] {
        &self.pairs
    }

    /// w of the reference policy: every log-ratio is 0.
    pub(crate) fn start(&self) -> Vec<f64> {
        let spec = self.world.spec();
        spec.is_unsafe.iter().map(|s| if *s { spec.safety_penalty } else { 0.0 }).collect()
    }

    /// The policy at w.
    pub(crate) fn policy(&self, w: &[f64]) -> Vec<f64> {
        let start = self.start();
        self.world.tilted(|y| (w[y] - start[y]) / self.world.spec().beta)
    }

    /// The two halves of the risk's derivative by the pair's gap = w_i - w_j.
    pub(crate) fn pull(&self, pair: &PairRates, gap: f64) -> Result<Pull, ObjectiveError> {
        let side =
            |rate: f64, u: f64| if rate > 0.0 { self.loss.slope(u).map(|s| rate * s) } else { Ok(0.0) };
        Ok(Pull { widening: side(pair.i_chosen, -gap)?, narrowing: side(pair.j_chosen, gap)? })
    }

    /// The pulls of all pairs at w, in the order of [`Population::pairs`].
    pub(crate) fn pulls(&self, w: &[f64]) -> Result<Vec<Pull>, ObjectiveError> {
        self.pairs.iter().map(|pair| self.pull(pair, w[pair.i] - w[pair.j])).collect()
    }

    /// The risk's slope along a direction of w, from the pulls at w.
    pub(crate) fn slope_along(&self, pulls: &[Pull], direction: &[f64]) -> f64 {
        let each = self.pairs.iter().zip(pulls);
        each.map(|(pair, pull)| pull.by_gap() * (direction[pair.i] - direction[pair.j])).sum()
    }
}

impl Pull {
    /// The risk's derivative by the gap.
    pub(crate) fn by_gap(self) -> f64 {
        self.narrowing - self.widening
    }
}
