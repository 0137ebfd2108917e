//! Speed of one preference step, one forward pass and generation on equal-length random tokens: the same job,
//! tokens and loss as PyTorch's yardstick for workload W1, so that first losses can be compared.
//!
//! Usage: step_bench MODEL_DIR [sequences=16] [tokens=256] [steps=7] [threads=2] [dtype=f32] [stored|checkpointed]; prints
//! one JSON line.
#![expect(clippy::print_stdout, reason = "a measuring program, not part of the library")]

use bso_model::{
    Activations, DType, Decoder, Engine, GenerateConfig, Gradients, ModelError, Optimiser, OptimiserKind,
    PackedBatch, PromptResponse, Workspace,
};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

const WARM_UP: usize = 2;

fn main() -> Result<(), ModelError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let (count, length, steps, threads) = (number(1, 16), number(2, 256), number(3, 7), number(4, 2));
    let engine = Arc::new(Engine::cpu(Some(threads))?);
    let mut decoder = Decoder::load(Path::new(arguments.first().map_or(".", String::as_str)), engine)?;
    let dtype = DType::parse(arguments.get(5).map_or("f32", String::as_str))?;
    decoder.compute_in(dtype, true)?;
    let tokens = random_tokens(count * length, decoder.config().vocab_size as u32);
    let sequences: Vec<PromptResponse<'_>> = tokens.chunks(length).map(|s| s.split_at(length / 2)).collect();
    let batch = PackedBatch::from_sequences(&sequences, false)?;
    let total = (count * length) as f64;

    let mut workspace = Workspace::new();
    let mut forward = Vec::new();
    for _ in 0..WARM_UP + steps {
        let start = Instant::now();
        decoder.log_probs_in(&batch, &mut workspace)?;
        forward.push(start.elapsed().as_secs_f64());
    }
    let forward_peak = peak_mebibytes();
    drop(workspace);

    let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.01, &decoder)?;
    let checkpointed = arguments.get(6).is_some_and(|a| a == "checkpointed");
    let mut activations = if checkpointed { Activations::checkpointed() } else { Activations::new() };
    let mut gradients = Gradients::zeros(&decoder);
    let (mut step, mut losses) = (Vec::new(), Vec::new());
    for _ in 0..WARM_UP + steps {
        let start = Instant::now();
        gradients.zero();
        let (loss, weights) = preference_loss(decoder.forward(&batch, &mut activations)?);
        decoder.backward(&batch, &mut activations, &weights, &mut gradients)?;
        optimiser.step(&mut decoder, &gradients, 1.0, 1e-6)?;
        step.push(start.elapsed().as_secs_f64());
        losses.push((loss * 1e6).round() / 1e6);
    }
    let train_peak = peak_mebibytes();

    let prompts: Vec<Vec<u32>> = sequences.iter().map(|(prompt, _)| prompt.to_vec()).collect();
    let config = GenerateConfig { max_new_tokens: length / 2, ..GenerateConfig::default() };
    let start = Instant::now();
    let generated = decoder.generate(&prompts, &config, &mut |_| ControlFlow::Continue(()))?;
    let new_tokens: usize = generated.iter().map(|g| g.tokens.len()).sum();
    let generation = new_tokens as f64 / start.elapsed().as_secs_f64();

    println!(
        "{{\"engine\": \"bso\", \"dtype\": \"{}\", \"train_tok_s\": {:.0}, \"forward_tok_s\": {:.0}, \"generate_tok_s\": {generation:.0}, \
         \"train_ms\": {:.0}, \"forward_ms\": {:.0}, \"min_train_ms\": {:.0}, \"peak_forward_mib\": {forward_peak}, \
         \"peak_train_mib\": {train_peak}, \"losses\": {:?}}}",
        dtype.name(),
        total / median(&step),
        total / median(&forward),
        median(&step) * 1e3,
        median(&forward) * 1e3,
        step.iter().copied().fold(f64::INFINITY, f64::min) * 1e3,
        &losses[..losses.len().min(5)],
    );
    Ok(())
}

/// The yardstick's linear congruential generator.
fn random_tokens(count: usize, vocab: u32) -> Vec<u32> {
    let mut state = 12345u32;
    std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocab
    })
    .take(count)
    .collect()
}

/// Mean of `-log sigmoid(0.1 (lp_w - lp_l - ref_i))`, `ref` from -1 to 1 in equal steps, and its derivatives.
fn preference_loss(log_probs: &[f64]) -> (f64, Vec<f32>) {
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

fn median(times: &[f64]) -> f64 {
    let mut sorted = times[WARM_UP.min(times.len() - 1)..].to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Largest resident size so far; 0 where the system does not tell.
fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}
