//! Preference steps with each prompt computed once for both responses, against packing alone: the same numbers, and
//! the time of each.

use super::{engine, load, step::preference_loss};
use crate::row::Spread;
use bso_data::{
    ChatTokenizer, LoadOptions, TemplateChoice, TokenisedPair, Truncation, TruncationMode, load_pairs,
    tokenise_pairs,
};
use bso_durable::Silent;
use bso_model::{Activations, Decoder, Gradients, Optimiser, OptimiserKind, PackedBatch};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::Instant;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Model directory with a tokenizer.
    pub model: PathBuf,
    /// Pairs with prompts of several turns.
    pub pairs: PathBuf,
    /// Precision of products.
    pub dtype: String,
    /// How many pairs.
    pub count: usize,
    /// Pairs of a batch.
    pub batch: usize,
    /// Longest prompt with response, tokens; longer pairs are left out.
    pub max_length: usize,
    /// Where it computes.
    pub device: String,
    /// Threads.
    pub threads: usize,
}

/// Prompts of at least this many turns count as long.
const TURNS: usize = 3;

/// `packed_seconds` and `shared_seconds` (of one pass over all pairs), the largest relative differences
/// `value_difference` and `gradient_difference`, and the mean lengths `prompt_tokens` and `response_tokens`.
pub fn run(settings: &Settings) -> anyhow::Result<Value> {
    let pairs = long_pairs(settings)?;
    let engine = engine(&settings.device, settings.threads)?;
    let mut decoder = load(&settings.model, &settings.dtype, engine, true)?;
    let batches = |share_prompt| -> Result<Vec<PackedBatch>, _> {
        let views: Vec<_> = pairs.iter().map(|p| (view(&p.chosen), view(&p.rejected))).collect();
        views.chunks(settings.batch).map(|pairs| PackedBatch::from_pairs(pairs, share_prompt)).collect()
    };
    let (packed, shared) = (batches(false)?, batches(true)?);
    let (values, gradients) = differences(&decoder, &packed, &shared)?;
    let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.01, &decoder)?;
    let (mut activations, mut memory) = (Activations::new(), Gradients::zeros(&decoder)?);
    let mut pass = |batches: &[PackedBatch]| -> anyhow::Result<f64> {
        let start = Instant::now();
        for batch in batches {
            memory.zero()?;
            let (_, weights) = preference_loss(decoder.forward(batch, &mut activations)?);
            decoder.backward(batch, &mut activations, &weights, &mut memory)?;
            optimiser.step(&mut decoder, &memory, 1.0, 1e-6)?;
        }
        decoder.engine().synchronise()?;
        Ok(start.elapsed().as_secs_f64())
    };
    // The first batch of each warms up; then they take turns.
    pass(&packed[..1])?;
    pass(&shared[..1])?;
    let (mut one, mut two) = (Vec::new(), Vec::new());
    for _ in 0..2 {
        one.push(pass(&packed)?);
        two.push(pass(&shared)?);
    }
    let mean = |total: usize, count: usize| total as f64 / count.max(1) as f64;
    Ok(json!({
        "packed_seconds": Spread::of(&one).map(|s| s.median),
        "shared_seconds": Spread::of(&two).map(|s| s.median),
        "value_difference": values,
        "gradient_difference": gradients,
        "prompt_tokens": mean(pairs.iter().map(|p| p.chosen.prompt.len()).sum(), pairs.len()),
        "response_tokens":
            mean(pairs.iter().map(|p| p.chosen.response.len() + p.rejected.response.len()).sum(), 2 * pairs.len()),
    }))
}

fn view(sequence: &bso_data::TokenisedSequence) -> (&[u32], &[u32]) {
    (&sequence.prompt, &sequence.response)
}

fn long_pairs(settings: &Settings) -> anyhow::Result<Vec<TokenisedPair>> {
    let tokenizer = ChatTokenizer::load(&settings.model, &TemplateChoice::Auto)?;
    let mut loaded = load_pairs(&settings.pairs, &LoadOptions::default(), &Silent)?;
    loaded.examples.retain(|pair| pair.prompt.len() >= TURNS);
    let truncation = Truncation { max_length: Some(settings.max_length), mode: TruncationMode::Drop };
    let mut pairs = tokenise_pairs(&loaded.examples, &tokenizer, truncation, &mut loaded.ledger, &Silent)?;
    pairs.retain(|pair| pair.chosen.prompt == pair.rejected.prompt);
    pairs.truncate(settings.count);
    anyhow::ensure!(
        !pairs.is_empty(),
        "no pair with {TURNS} turns of prompt in {}",
        settings.pairs.display()
    );
    Ok(pairs)
}

/// The largest difference of a sequence's log-prob relative to it, and of a gradient relative to the largest of its
/// tensor, over all batches.
fn differences(
    decoder: &Decoder,
    packed: &[PackedBatch],
    shared: &[PackedBatch],
) -> anyhow::Result<(f64, f64)> {
    let compute = |batch: &PackedBatch| -> anyhow::Result<(Vec<f64>, Gradients)> {
        let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(decoder)?);
        let log_probs = decoder.forward(batch, &mut activations)?.to_vec();
        let (_, weights) = preference_loss(&log_probs);
        decoder.backward(batch, &mut activations, &weights, &mut gradients)?;
        Ok((log_probs, gradients))
    };
    let (mut values, mut worst) = (0.0f64, 0.0f64);
    for (one, two) in packed.iter().zip(shared) {
        let ((a, da), (b, db)) = (compute(one)?, compute(two)?);
        for (a, b) in a.iter().zip(&b) {
            values = values.max((a - b).abs() / a.abs());
        }
        for ((_, a), (_, b)) in da.iter().zip(db.iter()) {
            let (a, b) = (a.on_host()?, b.on_host()?);
            let (a, b) = (a.as_slice(), b.as_slice());
            let largest = a.iter().fold(0.0f32, |m, x| m.max(x.abs()));
            let difference = a.iter().zip(b).fold(0.0f32, |m, (x, y)| m.max((x - y).abs()));
            if difference > 0.0 {
                worst = worst.max(f64::from(difference) / f64::from(largest));
            }
        }
    }
    Ok((values, worst))
}
