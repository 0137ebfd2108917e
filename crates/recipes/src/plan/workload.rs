//! Every batch of a run by its size: the largest, for memory; the sums, for time; and what padding would have cost.

use crate::RecipeError;
use crate::batches::{BatchPlan, by_tokens};
use crate::config::TrainConfig;
use crate::dataset::Dataset;
use crate::example::Example;
use crate::score::TOKENS;
use bso_data::TokenisedSequence;
use bso_durable::Seed;
use bso_model::{BatchSize, PackedBatch, PromptResponse, Reads};
use serde::Serialize;

/// Batches that are looked at one by one; a longer run is taken to go on like these.
const MOST: usize = 50_000;

/// Tokens of one epoch.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Tokens {
    /// Of the sequences as they are, prompts counted each time.
    pub given: usize,
    /// Rows that are computed: prompts that two responses share once, no last tokens, no padding.
    pub packed: usize,
    /// Rows that sharing prompts saves.
    pub shared: usize,
    /// Places of padded batches, each as wide as its longest sequence.
    pub padded: usize,
}

/// Sizes added up over passes.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Work {
    pub passes: f64,
    pub rows: f64,
    pub head_rows: f64,
    pub scored: f64,
    pub attended_pairs: f64,
}

impl Work {
    pub(super) fn of(size: BatchSize) -> Self {
        Self {
            passes: 1.0,
            rows: size.rows as f64,
            head_rows: size.head_rows as f64,
            scored: size.scored as f64,
            attended_pairs: size.attended_pairs as f64,
        }
    }

    fn add(&mut self, size: BatchSize) {
        let one = Self::of(size);
        self.passes += one.passes;
        self.rows += one.rows;
        self.head_rows += one.head_rows;
        self.scored += one.scored;
        self.attended_pairs += one.attended_pairs;
    }

    fn times(self, factor: f64) -> Self {
        Self {
            passes: self.passes * factor,
            rows: self.rows * factor,
            head_rows: self.head_rows * factor,
            scored: self.scored * factor,
            attended_pairs: self.attended_pairs * factor,
        }
    }
}

/// Everything that a run computes.
pub(super) struct Workload {
    /// Optimiser steps.
    pub steps: u64,
    /// Evaluations of the held-out examples.
    pub evaluations: u64,
    pub tokens: Tokens,
    /// A size that holds every batch that is trained on.
    pub largest: BatchSize,
    /// Likewise for passes without gradients: the reference's, the evaluations', and KTO's mismatched sequences.
    pub largest_scored: Option<BatchSize>,
    pub largest_evaluated: Option<BatchSize>,
    pub largest_mismatched: Option<BatchSize>,
    /// All training passes; KTO's mismatched ones; one scoring pass over training data, and over held-out data.
    pub training: Work,
    pub mismatched: Work,
    pub train_scored: Work,
    pub eval_scored: Work,
    /// The longest example first, then others: what is calibrated on.
    pub sample: Vec<Vec<TokenisedSequence>>,
    /// Passes of one epoch.
    pub epoch_passes: f64,
}

impl Workload {
    /// Of a run; with `cut`, as if no sequence were longer.
    pub(super) fn of(
        config: &TrainConfig,
        dataset: &Dataset,
        reads: Reads,
        cut: Option<usize>,
    ) -> Result<Self, RecipeError> {
        let plan = batch_plan(config, dataset.train.len());
        let (per_epoch, examples) = (plan.steps_per_epoch().max(1), &dataset.train);
        let steps = config.schedule.total_steps(plan.steps_per_epoch());
        let evaluations = (1..=steps.min(MOST as u64))
            .filter(|step| *step == steps || config.run.evaluates_after(*step, per_epoch))
            .count() as u64;
        let (mut packer, mut all) = (Packer::new(reads, cut), Self::empty(steps, evaluations));
        let (mut seen, mut order) = (0.0, plan.beside(dataset.replay.len(), 0));
        for epoch in (0..steps.div_ceil(per_epoch)).take(MOST.div_ceil(per_epoch as usize)) {
            let left = steps - epoch * per_epoch;
            for (index, micro) in plan.epoch(epoch).iter().enumerate() {
                if (index / config.schedule.gradient_accumulation_steps) as u64 >= left || seen >= MOST as f64
                {
                    break;
                }
                let members = || micro.iter().map(|i| &examples[*i]);
                let replayed: Vec<&Example> =
                    order.by_ref().take(micro.len()).map(|i| &dataset.replay[i]).collect();
                for part in [members().collect(), replayed].iter().filter(|part| !part.is_empty()) {
                    let sequences = || part.iter().flat_map(|e| &e.sequences);
                    all.training.add(packer.size(sequences(), &mut all.largest)?);
                    if epoch == 0 {
                        all.epoch_passes += 1.0;
                        all.tokens.add(&packer, sequences())?;
                    }
                }
                if members().any(|e| e.mismatched.is_some()) {
                    let largest = all.largest_mismatched.get_or_insert_default();
                    all.mismatched.add(packer.size(members().flat_map(|e| &e.mismatched), largest)?);
                }
                seen += 1.0;
            }
        }
        let passes = (steps as f64 * plan.passes_per_step()).max(seen);
        (all.training, all.mismatched) =
            (all.training.times(passes / seen.max(1.0)), all.mismatched.times(passes / seen.max(1.0)));
        for (examples, held_out) in [(&dataset.train, false), (&dataset.replay, false), (&dataset.eval, true)]
        {
            let (work, largest) = match held_out {
                false => (&mut all.train_scored, &mut all.largest_scored),
                true => (&mut all.eval_scored, &mut all.largest_evaluated),
            };
            for group in by_tokens(examples.iter().map(Example::tokens), TOKENS) {
                let sequences = examples[group].iter().flat_map(Example::scored);
                work.add(packer.size(sequences, largest.get_or_insert_default())?);
            }
        }
        all.sample = sample(examples);
        Ok(all)
    }

    fn empty(steps: u64, evaluations: u64) -> Self {
        Self {
            steps,
            evaluations,
            tokens: Tokens::default(),
            largest: BatchSize::default(),
            largest_scored: None,
            largest_evaluated: None,
            largest_mismatched: None,
            training: Work::default(),
            mismatched: Work::default(),
            train_scored: Work::default(),
            eval_scored: Work::default(),
            sample: Vec::new(),
            epoch_passes: 0.0,
        }
    }
}

/// A size that holds every batch of the run (of its first 50,000 passes): what training takes its memory by.
///
/// # Errors
/// Sequences that cannot be packed.
pub(crate) fn largest_batch(
    config: &TrainConfig,
    reads: Reads,
    dataset: &Dataset,
) -> Result<BatchSize, RecipeError> {
    let (examples, replay) = (&dataset.train, &dataset.replay);
    let plan = batch_plan(config, examples.len());
    let steps = config.schedule.total_steps(plan.steps_per_epoch());
    let passes = (steps as f64 * plan.passes_per_step()).ceil().min(MOST as f64) as usize;
    let epochs = steps.div_ceil(plan.steps_per_epoch().max(1));
    let (mut packer, mut largest) = (Packer::new(reads, None), BatchSize::default());
    let mut order = plan.beside(replay.len(), 0);
    for micro in (0..epochs).flat_map(|epoch| plan.epoch(epoch)).take(passes) {
        packer.size(micro.iter().flat_map(|i| &examples[*i].sequences), &mut largest)?;
        if !replay.is_empty() {
            let replayed = order.by_ref().take(micro.len());
            packer.size(replayed.flat_map(|i| &replay[i].sequences), &mut largest)?;
        }
    }
    Ok(largest)
}

fn batch_plan(config: &TrainConfig, examples: usize) -> BatchPlan {
    let schedule = &config.schedule;
    let (micro, accumulation) = (schedule.per_device_train_batch_size, schedule.gradient_accumulation_steps);
    BatchPlan::new(examples, micro, accumulation, Seed::new(config.model.seed))
}

/// Bytes of the examples' tokens and of the lists that hold them.
pub(super) fn token_bytes(dataset: &Dataset) -> u64 {
    let sequence = |s: &TokenisedSequence| size_of::<TokenisedSequence>() + 4 * s.len();
    let example = |e: &Example| size_of::<Example>() + e.scored().map(sequence).sum::<usize>();
    dataset.all().map(|e| example(e) as u64).sum()
}

/// Packs to count, in one batch's memory.
struct Packer {
    batch: PackedBatch,
    reads: Reads,
    cut: Option<usize>,
}

impl Packer {
    fn new(reads: Reads, cut: Option<usize>) -> Self {
        Self { batch: PackedBatch::empty(), reads, cut }
    }

    fn size<'a>(
        &mut self,
        sequences: impl Iterator<Item = &'a TokenisedSequence>,
        largest: &mut BatchSize,
    ) -> Result<BatchSize, RecipeError> {
        let views: Vec<PromptResponse<'_>> = sequences.map(|s| self.view(s)).collect();
        self.batch.pack_for(self.reads, &views, crate::step::SHARE_PROMPT)?;
        let size = BatchSize::of(&self.batch);
        *largest = largest.union(size);
        Ok(size)
    }

    fn view<'a>(&self, sequence: &'a TokenisedSequence) -> PromptResponse<'a> {
        let (prompt, response) = (sequence.prompt.as_slice(), sequence.response.as_slice());
        let limit = self.cut.unwrap_or(usize::MAX).max(2);
        let prompt = &prompt[..prompt.len().min(limit - 1)];
        (prompt, &response[..response.len().min(limit - prompt.len())])
    }
}

impl Tokens {
    /// Adds the batch that `packer` holds.
    fn add<'a>(
        &mut self,
        packer: &Packer,
        sequences: impl Iterator<Item = &'a TokenisedSequence>,
    ) -> Result<(), RecipeError> {
        let lengths: Vec<usize> = sequences.map(TokenisedSequence::len).collect();
        let (count, given) = (lengths.len(), lengths.iter().sum::<usize>());
        self.given += given;
        self.packed += packer.batch.rows();
        // Alone, each sequence has a row for every token, for a language model all but its last.
        let alone = if packer.reads == Reads::Response { given - count } else { given };
        self.shared += alone.saturating_sub(packer.batch.rows());
        self.padded += count * lengths.iter().max().copied().unwrap_or(0);
        Ok(())
    }
}

/// The longest example, then from the start on.
fn sample(examples: &[Example]) -> Vec<Vec<TokenisedSequence>> {
    let longest =
        (0..examples.len()).max_by_key(|i| examples[*i].sequences.iter().map(TokenisedSequence::len).max());
    let order = longest.into_iter().chain((0..examples.len()).filter(|i| Some(*i) != longest));
    order.take(64).map(|i| examples[i].sequences.clone()).collect()
}
