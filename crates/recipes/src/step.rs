//! One optimiser step: log-probs of every micro-batch, weights from the objective, gradients, clipping, update.

use crate::RecipeError;
use crate::example::Example;
use crate::objective::{BatchLogProbs, Detail, Observation, TrainingObjective};
use crate::scaled_gradients::ScaledGradients;
use bso_data::TokenisedSequence;
use bso_durable::Seed;
use bso_model::{Activations, BatchSize, Decoder, Gradients, Optimiser, PackedBatch, Reads, Workspace};

/// Consecutive sequences with equal prompts share the prompt's rows: the same values for less work.
pub(crate) const SHARE_PROMPT: bool = true;

/// The memory of steps: allocated by the first, reused by all.
pub struct StepMemory {
    batch: PackedBatch,
    activations: Activations,
    workspace: Workspace,
    gradients: ScaledGradients,
}

/// One micro-batch with its reference log-probs.
pub struct MicroBatch<'a> {
    /// The examples.
    pub examples: Vec<&'a Example>,
    /// For each example the reference's log-probs of its [`Example::scored`] sequences; empty for SFT.
    pub reference: Vec<&'a [f64]>,
}

/// What a step showed.
#[derive(Debug)]
pub struct StepOutcome {
    /// Every example, in the order of the micro-batches.
    pub observations: Vec<Observation>,
    /// Likewise of the replayed ones.
    pub replay: Vec<Observation>,
    /// Global gradient norm before clipping.
    pub grad_norm: f64,
    /// Tokens that entered the model, shared prompts counted each time.
    pub tokens: usize,
    /// Sequences that the policy computed, mismatched ones included.
    pub sequences: usize,
}

impl StepMemory {
    /// Memory for steps of `decoder`; `checkpointed` keeps each layer's input only.
    ///
    /// # Errors
    /// A device has not got the memory.
    pub fn new(decoder: &Decoder, checkpointed: bool) -> Result<Self, RecipeError> {
        Ok(Self {
            batch: PackedBatch::empty(),
            activations: if checkpointed { Activations::checkpointed() } else { Activations::new() },
            workspace: Workspace::new(),
            gradients: ScaledGradients::zeros(decoder)?,
        })
    }

    /// Takes the memory of batches up to `size` at once.
    ///
    /// # Errors
    /// None that a decoder's own precision could cause.
    pub fn reserve(&mut self, decoder: &Decoder, size: BatchSize) -> Result<(), RecipeError> {
        Ok(self.activations.reserve(decoder, size)?)
    }

    /// The gradients of the last step, divided by a power of two.
    pub fn gradients(&self) -> &Gradients {
        &self.gradients.stored
    }
}

/// Runs one optimiser step; `check` sees the observations before any weight is changed.
///
/// # Errors
/// A non-finite log-prob, loss or gradient (the weights are untouched then), or a true gradient that does not fit f32 while
/// there is no clipping.
pub fn optimise(
    decoder: &mut Decoder,
    optimiser: &mut Optimiser,
    memory: &mut StepMemory,
    objective: &TrainingObjective,
    step: &Step<'_>,
    check: impl FnOnce(&[Observation]) -> Result<(), RecipeError>,
) -> Result<StepOutcome, RecipeError> {
    let mut outcome = accumulate(decoder, memory, objective, step)?;
    check(&outcome.observations)?;
    outcome.replay =
        outcome.observations.split_off(step.micro_batches.iter().map(|m| m.examples.len()).sum());
    outcome.grad_norm = memory.gradients.apply((decoder, optimiser), step.rate, step.max_grad_norm)?;
    update_normaliser(decoder, step, &outcome.observations);
    Ok(outcome)
}

/// Takes in the scores of each micro-batch, where the model has a normaliser that follows training.
fn update_normaliser(decoder: &mut Decoder, step: &Step<'_>, observations: &[Observation]) {
    let mut rest = observations;
    for micro in &step.micro_batches {
        let (these, others) = rest.split_at(micro.examples.len().min(rest.len()));
        let of_pair = |o: &Observation| match o.detail {
            Detail::Scored { scores, .. } => scores.to_vec(),
            _ => Vec::new(),
        };
        decoder.update_normaliser(&these.iter().flat_map(of_pair).collect::<Vec<f64>>());
        rest = others;
    }
}

/// What one optimiser step is asked to do.
pub struct Step<'a> {
    /// Accumulated into one gradient.
    pub micro_batches: Vec<MicroBatch<'a>>,
    /// General pairs (BFPO) whose loss, by a mean of its own, is added.
    pub replay: Vec<MicroBatch<'a>>,
    /// Learning rate.
    pub rate: f64,
    /// Clipping of the global norm, if any.
    pub max_grad_norm: Option<f64>,
    /// Decides what an adapter's dropout drops in this step.
    pub dropout: Seed,
}

/// Leaves the step's mean gradient in `memory` and returns what was seen, replayed examples last; the norm is not yet known.
fn accumulate(
    decoder: &Decoder,
    memory: &mut StepMemory,
    objective: &TrainingObjective,
    step: &Step<'_>,
) -> Result<StepOutcome, RecipeError> {
    let divisor =
        |part: &[MicroBatch<'_>]| objective.divisor(part.iter().flat_map(|m| m.examples.iter().copied()));
    let parts = [&step.micro_batches, &step.replay];
    let micro_batches =
        parts.into_iter().flat_map(|part| part.iter().map(move |micro| (micro, divisor(part))));
    let mut outcome = StepOutcome {
        observations: Vec::new(),
        replay: Vec::new(),
        grad_norm: f64::NAN,
        tokens: 0,
        sequences: 0,
    };
    memory.gradients.clear()?;
    for (index, (micro, divisor)) in micro_batches.enumerate() {
        memory.activations.drop_by(Some(step.dropout.derive("micro-batch", index as u64)));
        let mismatched = mismatched_log_probs(decoder, memory, &micro.examples)?;
        let sequences = micro.examples.iter().flat_map(|e| &e.sequences);
        pack_into(&mut memory.batch, decoder.config().reads(), sequences)?;
        let policy = decoder.forward(&memory.batch, &mut memory.activations)?;
        let logps = BatchLogProbs { policy, mismatched: &mismatched, reference: &micro.reference };
        let judgement = objective.judge(&micro.examples, &logps)?;
        let mean: Vec<f64> = judgement.weights.iter().map(|w| w / divisor).collect();
        let weights = memory.gradients.admit(&mean)?;
        let StepMemory { batch, activations, gradients, .. } = &mut *memory;
        decoder.backward(batch, activations, &weights, &mut gradients.stored)?;
        outcome.tokens += batch.given_tokens();
        outcome.sequences += micro.examples.iter().map(|e| e.scored().count()).sum::<usize>();
        outcome.observations.extend(judgement.observations);
    }
    Ok(outcome)
}

fn mismatched_log_probs(
    decoder: &Decoder,
    memory: &mut StepMemory,
    examples: &[&Example],
) -> Result<Vec<f64>, RecipeError> {
    if examples.iter().all(|e| e.mismatched.is_none()) {
        return Ok(Vec::new());
    }
    let mismatched = examples.iter().flat_map(|e| &e.mismatched);
    pack_into(&mut memory.batch, decoder.config().reads(), mismatched)?;
    Ok(decoder.log_probs_in(&memory.batch, &mut memory.workspace)?)
}

/// Lays sequences end to end for a model's head, prompts of neighbours shared where they are equal.
///
/// # Errors
/// An empty response or prompt.
pub fn pack<'a>(
    reads: Reads,
    sequences: impl IntoIterator<Item = &'a TokenisedSequence>,
) -> Result<PackedBatch, RecipeError> {
    let mut batch = PackedBatch::empty();
    pack_into(&mut batch, reads, sequences)?;
    Ok(batch)
}

/// As [`pack`], in the memory of an earlier batch.
///
/// # Errors
/// As [`pack`].
pub fn pack_into<'a>(
    batch: &mut PackedBatch,
    reads: Reads,
    sequences: impl IntoIterator<Item = &'a TokenisedSequence>,
) -> Result<(), RecipeError> {
    let views: Vec<_> = sequences.into_iter().map(|s| (s.prompt.as_slice(), s.response.as_slice())).collect();
    Ok(batch.pack_for(reads, &views, SHARE_PROMPT)?)
}
