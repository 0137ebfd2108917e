//! Greedy continuation of prompts of mixed length: the job of `peers/generate.py`.

use super::{engine, load};
use bso_model::{Decoder, GenerateConfig, Generated};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use std::time::Instant;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Model directory.
    pub model: PathBuf,
    /// JSON list of prompts, each a list of token ids.
    pub prompts: PathBuf,
    /// Precision of products.
    pub dtype: String,
    /// Most tokens generated for a prompt.
    pub new_tokens: usize,
    /// Tokens that end a sequence.
    pub stop_ids: Vec<u32>,
    /// Where it computes.
    pub device: String,
    /// Threads.
    pub threads: usize,
}

/// `seconds`, `new_tokens`, `ended` (sequences that met a stop token), `first_tokens` (the tokens of the first
/// prompt).
pub fn run(settings: &Settings) -> anyhow::Result<Value> {
    let (decoder, prompts) = prepare(settings)?;
    let warm_up = GenerateConfig { max_new_tokens: 2, ..GenerateConfig::default() };
    decoder.generate(&prompts[..1], &warm_up, &mut |_| ControlFlow::Continue(()))?;
    let start = Instant::now();
    let generated = generate(&decoder, &prompts, settings)?;
    let seconds = start.elapsed().as_secs_f64();
    let ended = generated.iter().filter(|g| g.finish_reason == bso_model::FinishReason::Stop).count();
    Ok(json!({
        "seconds": seconds,
        "new_tokens": generated.iter().map(|g| g.tokens.len()).sum::<usize>(),
        "ended": ended,
        "first_tokens": generated.first().map(|g| &g.tokens),
    }))
}

/// `stop_ids` that end every second sequence after a share of its tokens which differs from one to the next, as
/// far as sequences have tokens of their own, and no other sequence.
pub fn stops(settings: &Settings) -> anyhow::Result<Value> {
    let (decoder, prompts) = prepare(settings)?;
    let generated = generate(&decoder, &prompts, settings)?;
    let whole: BTreeSet<u32> = generated.iter().skip(1).step_by(2).flat_map(|g| g.tokens.clone()).collect();
    let ending: Vec<&Generated> = generated.iter().step_by(2).collect();
    let stop = |(i, generated): (usize, &&Generated)| {
        let wanted = generated.tokens.len() * (1 + 2 * i % 8) / 9;
        let (earlier, later) = generated.tokens.split_at(wanted);
        later.iter().find(|token| !whole.contains(token) && !earlier.contains(token)).copied()
    };
    let stop_ids: BTreeSet<u32> = ending.iter().enumerate().filter_map(stop).collect();
    Ok(json!({"stop_ids": stop_ids}))
}

fn prepare(settings: &Settings) -> anyhow::Result<(Decoder, Vec<Vec<u32>>)> {
    let engine = engine(&settings.device, settings.threads)?;
    let decoder = load(&settings.model, &settings.dtype, engine, false)?;
    let prompts: Vec<Vec<u32>> = serde_json::from_slice(&std::fs::read(&settings.prompts)?)?;
    anyhow::ensure!(!prompts.is_empty(), "no prompts");
    Ok((decoder, prompts))
}

fn generate(decoder: &Decoder, prompts: &[Vec<u32>], settings: &Settings) -> anyhow::Result<Vec<Generated>> {
    let config = GenerateConfig {
        max_new_tokens: settings.new_tokens,
        stop_ids: settings.stop_ids.clone(),
        ..GenerateConfig::default()
    };
    Ok(decoder.generate(prompts, &config, &mut |_| ControlFlow::Continue(()))?)
}
