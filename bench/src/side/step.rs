//! Forward passes and preference steps on equal-length random tokens: the job of `peers/torch_step.py`, with the
//! same tokens and the same loss, so that first losses can be compared.

use super::{engine, load, rounded};
use crate::arguments::Method;
use bso_durable::Seed;
use bso_model::{
    Activations, AdapterConfig, BatchSize, DType, Decoder, Engine, Gradients, Optimiser, OptimiserKind,
    PackedBatch, PassMemory, PromptResponse, Targets, Workspace,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Instant;

use crate::row::Spread;

/// What to do. The second half of every sequence is scored.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Model directory.
    pub model: PathBuf,
    /// Precision of products.
    pub dtype: String,
    /// Sequences of the batch, an even number.
    pub sequences: usize,
    /// Tokens of each.
    pub tokens: usize,
    /// Measured passes of each kind.
    pub steps: usize,
    /// Passes of each kind before them.
    pub warm_up: usize,
    /// Whether passes without gradients are measured as well.
    pub forward: bool,
    /// What is trained, and whether activations are recomputed.
    pub method: Method,
    /// `adamw` or `rmsprop`.
    pub optimiser: String,
    /// Of the peer's weights where all are trained.
    pub peer_weights: String,
    /// Width of the products that a profile measures a GPU's rate by.
    pub product: usize,
    /// Where it computes.
    pub device: String,
    /// Threads.
    pub threads: usize,
}

/// `forward_seconds`, `step_seconds` (medians), `losses`, `activation_mib`: the sizes of the arrays that a forward
/// pass leaves for its backward, and `device_mib`: what the model, the optimiser and the passes took of the device's
/// memory.
pub fn run(settings: &Settings) -> anyhow::Result<Value> {
    let engine = engine(&settings.device, settings.threads)?;
    let before = free(&engine)?;
    let mut decoder = if settings.method.is_lora() {
        // As a run begins: of the frozen base only what is needed comes to a device.
        let mut decoder = Decoder::load_base(&settings.model, Arc::new(engine))?;
        decoder.attach_adapter(&adapter(), Seed::new(4))?;
        decoder.freeze_base_in(DType::parse(&settings.dtype)?)?;
        decoder
    } else {
        load(&settings.model, &settings.dtype, engine, true)?
    };
    let tokens = random_tokens(settings.sequences * settings.tokens, decoder.config().vocab_size as u32);
    let sequences: Vec<PromptResponse<'_>> =
        tokens.chunks(settings.tokens).map(|s| s.split_at(settings.tokens / 2)).collect();
    let batch = PackedBatch::from_sequences(&sequences, false)?;
    let passes = settings.warm_up + settings.steps;

    let mut forward = Vec::new();
    let mut workspace = Workspace::new();
    for _ in 0..if settings.forward { passes } else { 0 } {
        let start = Instant::now();
        decoder.log_probs_in(&batch, &mut workspace)?;
        forward.push(start.elapsed().as_secs_f64());
    }
    drop(workspace);

    let kind = if settings.optimiser == "rmsprop" { OptimiserKind::RMSPROP } else { OptimiserKind::ADAMW };
    let mut optimiser = Optimiser::new(kind, 0.01, &decoder)?;
    let checkpointed = settings.method.is_checkpointed();
    let mut activations = if checkpointed { Activations::checkpointed() } else { Activations::new() };
    let mut gradients = Gradients::zeros(&decoder)?;
    let (mut step, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..passes {
        let start = Instant::now();
        gradients.zero()?;
        let (loss, weights) = preference_loss(decoder.forward(&batch, &mut activations)?);
        decoder.backward(&batch, &mut activations, &weights, &mut gradients)?;
        optimiser.step(&mut decoder, &gradients, 1.0, 1e-6)?;
        decoder.engine().synchronise()?;
        step.push(start.elapsed().as_secs_f64());
        losses.push(rounded(loss));
    }
    let size = BatchSize::of(&batch);
    let on = (decoder.dtype(), decoder.engine().device());
    let kept = PassMemory::of_training(decoder.config(), on, checkpointed, size);
    let after = free(decoder.engine())?;
    let median = |times: &[f64]| Spread::of(times.get(settings.warm_up..)?).map(|s| s.median);
    Ok(json!({
        "forward_seconds": median(&forward),
        "step_seconds": median(&step),
        "activation_mib": kept.activations as f64 / 1048576.0,
        "device_mib": before.saturating_sub(after) as f64 / 1048576.0,
        "losses": losses,
    }))
}

/// Rank 16 on every linear layer but the head; nothing is dropped, as dropping costs the sides differently.
fn adapter() -> AdapterConfig {
    AdapterConfig {
        r: 16,
        alpha: 32.0,
        dropout: 0.0,
        targets: Targets::AllLinear,
        rslora: false,
        dora: false,
        modules_to_save: Vec::new(),
    }
}

/// Free bytes of the device's own memory, after all work so far.
fn free(engine: &Engine) -> anyhow::Result<usize> {
    engine.synchronise()?;
    Ok(engine.device_memory()?.map_or(0, |[free, _]| free))
}

/// A linear congruential generator that Python writes in one line too.
fn random_tokens(count: usize, vocabulary: u32) -> Vec<u32> {
    let mut state = 12345u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocabulary
    })
    .take(count)
    .collect()
}

/// Mean of `-log sigmoid(0.1 (lp_w - lp_l - ref_i))`, `ref` from -1 to 1 in equal steps, and its derivatives.
pub fn preference_loss(log_probs: &[f64]) -> (f64, Vec<f32>) {
    let pairs = log_probs.len() / 2;
    let (mut loss, mut weights) = (0.0, Vec::new());
    for (i, pair) in log_probs.as_chunks::<2>().0.iter().enumerate() {
        let reference = if pairs > 1 { -1.0 + 2.0 * i as f64 / (pairs - 1) as f64 } else { -1.0 };
        let margin: f64 = 0.1 * (pair[0] - pair[1] - reference);
        loss += ((-margin).max(0.0) + (-margin.abs()).exp().ln_1p()) / pairs as f64;
        let slope = -0.1 / (1.0 + margin.exp()) / pairs as f64;
        weights.extend([slope as f32, -slope as f32]);
    }
    (loss, weights)
}
