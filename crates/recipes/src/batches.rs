//! Which examples each optimiser step sees. A pure function of seed, epoch and sizes, so that a resumed run
//! needs only its step number to continue with the same batches.

use bso_durable::Seed;
use rand::seq::SliceRandom;

/// The order of a whole run.
#[derive(Clone, Copy, Debug)]
pub struct BatchPlan {
    examples: usize,
    micro: usize,
    accumulation: usize,
    seed: Seed,
}

impl BatchPlan {
    /// Plans over `examples` examples in micro-batches of `micro`, `accumulation` of them a step.
    pub fn new(examples: usize, micro: usize, accumulation: usize, seed: Seed) -> Self {
        Self { examples, micro: micro.max(1), accumulation: accumulation.max(1), seed }
    }

    /// Optimiser steps in one pass over the data; the last one may be smaller.
    pub fn steps_per_epoch(&self) -> u64 {
        self.examples.div_ceil(self.per_step()) as u64
    }

    /// Examples in a whole optimiser step; a batch beyond all examples is all of them.
    fn per_step(&self) -> usize {
        self.micro.saturating_mul(self.accumulation)
    }

    /// Micro-batches in an optimiser step, on average over an epoch.
    pub fn passes_per_step(&self) -> f64 {
        let (whole, rest) = (self.examples / self.per_step(), self.examples % self.per_step());
        let passes = whole.saturating_mul(self.accumulation.min(self.examples)) + rest.div_ceil(self.micro);
        passes as f64 / self.steps_per_epoch().max(1) as f64
    }

    /// All micro-batches of an epoch in order.
    pub fn epoch(&self, epoch: u64) -> Vec<Vec<usize>> {
        let order = self.order(epoch);
        let steps = order.chunks(self.per_step());
        steps.flat_map(|step| step.chunks(self.micro)).map(<[usize]>::to_vec).collect()
    }

    fn order(&self, epoch: u64) -> Vec<usize> {
        let mut order: Vec<usize> = (0..self.examples).collect();
        order.shuffle(&mut self.seed.derive("shuffle", epoch).rng());
        order
    }

    /// Examples that the steps before `step` see.
    pub fn seen_before(&self, step: u64) -> usize {
        let per_epoch = self.steps_per_epoch().max(1);
        let (epochs, steps) = ((step / per_epoch) as usize, (step % per_epoch) as usize);
        epochs * self.examples + steps.saturating_mul(self.per_step()).min(self.examples)
    }

    /// The order of `others` examples beside these, from place `from` on: round after round without end, each in another order.
    pub fn beside(&self, others: usize, from: usize) -> impl Iterator<Item = usize> {
        let plan = Self { examples: others, seed: self.seed.derive("beside", 0), ..*self };
        let rounds = from.checked_div(others).map_or(0..0, |round| round as u64..u64::MAX);
        rounds.flat_map(move |round| plan.order(round)).skip(from.checked_rem(others).unwrap_or(0))
    }

    /// The micro-batches, as example indices, of optimiser step `step` counted from 0 over the whole run.
    pub fn step(&self, step: u64) -> Vec<Vec<usize>> {
        let per_epoch = self.steps_per_epoch().max(1);
        let order = self.order(step / per_epoch);
        let start = ((step % per_epoch) as usize).saturating_mul(self.per_step()).min(self.examples);
        let end = start.saturating_add(self.per_step()).min(self.examples);
        order[start..end].chunks(self.micro).map(<[usize]>::to_vec).collect()
    }
}

/// Consecutive groups whose token counts stay within `budget` (a longer one stands alone), for passes that need no particular batch size.
pub fn by_tokens(lengths: impl IntoIterator<Item = usize>, budget: usize) -> Vec<std::ops::Range<usize>> {
    let (mut groups, mut start, mut tokens, mut end) = (Vec::new(), 0, 0, 0);
    for length in lengths {
        if end > start && tokens + length > budget {
            groups.push(start..end);
            (start, tokens) = (end, 0);
        }
        tokens += length;
        end += 1;
    }
    if end > start {
        groups.push(start..end);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_epoch_sees_every_example_once_and_epochs_differ() {
        let plan = BatchPlan::new(23, 3, 2, Seed::new(1));
        assert_eq!(plan.steps_per_epoch(), 4);
        let epoch = |e: u64| -> Vec<usize> { (0..4).flat_map(|s| plan.step(4 * e + s).concat()).collect() };
        let mut sorted = epoch(0);
        sorted.sort_unstable();
        assert_eq!(sorted, (0..23).collect::<Vec<_>>());
        assert_ne!(epoch(0), epoch(1));
        let step_by_step =
            |e: u64| -> Vec<Vec<usize>> { (0..4).flat_map(|s| plan.step(4 * e + s)).collect() };
        assert_eq!(plan.epoch(1), step_by_step(1));
        assert_eq!(plan.passes_per_step() * 4.0, plan.epoch(1).len() as f64);
        assert_eq!(
            plan.step(3),
            vec![plan.step(3).concat()[0..3].to_vec(), plan.step(3).concat()[3..5].to_vec()]
        );
    }

    #[test]
    fn the_largest_batch_that_a_config_allows_is_the_whole_data() {
        let plan = BatchPlan::new(5, 1 << 32, 1 << 32, Seed::new(1));
        assert_eq!((plan.steps_per_epoch(), plan.step(1).concat().len()), (1, 5));
    }

    #[test]
    fn examples_beside_come_round_and_round_wherever_one_begins() {
        let plan = BatchPlan::new(23, 3, 2, Seed::new(1));
        let seen: Vec<usize> = (0..9).map(|step| plan.seen_before(step)).collect();
        assert_eq!(seen, [0, 6, 12, 18, 23, 29, 35, 41, 46]);
        let whole: Vec<usize> = plan.beside(5, 0).take(60).collect();
        assert_eq!(plan.beside(5, 29).take(31).collect::<Vec<_>>(), whole[29..]);
        for round in whole.chunks(5) {
            let mut round = round.to_vec();
            round.sort_unstable();
            assert_eq!(round, [0, 1, 2, 3, 4]);
        }
        assert_ne!(whole[..5], whole[5..10]);
        assert_eq!(plan.beside(0, 7).count(), 0);
    }

    #[test]
    fn groups_keep_to_the_budget_unless_one_example_exceeds_it() {
        assert_eq!(by_tokens([3, 3, 9, 1, 1], 6), vec![0..2, 2..3, 3..5]);
        assert!(by_tokens([], 6).is_empty());
    }
}
