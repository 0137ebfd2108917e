//! Speed of generation: prompts of mixed length, a fixed number of new tokens, no stop token; the same prompts as
//! the peer's (`transformers.generate` on a left-padded batch), so that greedy tokens can be compared.
//!
//! Usage: generate_bench MODEL_DIR [prompts=64] [new_tokens=128] [batch_size=64] [threads=2] [repetitions=3]
//! [temperature=0] [dtype=f32]; prints one JSON line.
#![expect(clippy::print_stdout, reason = "a measuring program, not part of the library")]

use bso_model::{DType, Decoder, Engine, GenerateConfig, ModelError};
use std::ops::ControlFlow;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Prompts have 16 to 256 tokens.
const SHORTEST: usize = 16;
const LENGTHS: usize = 241;

fn main() -> Result<(), ModelError> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |i: usize, default: usize| arguments.get(i).and_then(|a| a.parse().ok()).unwrap_or(default);
    let temperature = arguments.get(6).and_then(|a| a.parse().ok()).unwrap_or(0.0);
    let engine = Arc::new(Engine::cpu(Some(number(4, 2)))?);
    let mut decoder = Decoder::load(Path::new(arguments.first().map_or(".", String::as_str)), engine)?;
    decoder.compute_in(DType::parse(arguments.get(7).map_or("f32", String::as_str))?, false)?;
    let prompts = random_prompts(number(1, 64), decoder.config().vocab_size as u32);
    let config = GenerateConfig {
        max_new_tokens: number(2, 128),
        batch_size: number(3, 64),
        temperature,
        ..GenerateConfig::default()
    };
    let (mut seconds, mut first_tokens, mut checksum, mut new_tokens) = (Vec::new(), Vec::new(), 0, 0);
    for _ in 0..number(5, 3).max(1) {
        let (start, mut first) = (Instant::now(), None);
        let generated = decoder.generate(&prompts, &config, &mut |_| {
            first.get_or_insert_with(|| start.elapsed().as_secs_f64());
            ControlFlow::Continue(())
        })?;
        seconds.push(start.elapsed().as_secs_f64());
        first_tokens.push(first.unwrap_or(0.0));
        new_tokens = generated.iter().map(|g| g.tokens.len()).sum();
        checksum = generated.iter().flat_map(|g| &g.tokens).map(|t| u64::from(*t)).sum();
    }
    println!(
        "{{\"engine\": \"bso\", \"generate_tok_s\": {:.0}, \"seconds\": {:.3}, \"best_seconds\": {:.3}, \
         \"first_token_seconds\": {:.3}, \"prompt_tokens\": {}, \"new_tokens\": {new_tokens}, \
         \"processor_seconds\": {:.2}, \"peak_mib\": {}, \"checksum\": {checksum}}}",
        new_tokens as f64 / median(&seconds),
        median(&seconds),
        seconds.iter().copied().fold(f64::INFINITY, f64::min),
        median(&first_tokens),
        prompts.iter().map(Vec::len).sum::<usize>(),
        processor_seconds() / seconds.len() as f64,
        peak_mebibytes(),
    );
    Ok(())
}

/// Lengths that step through 16 to 256, tokens of the yardstick's linear congruential generator.
fn random_prompts(count: usize, vocab: u32) -> Vec<Vec<u32>> {
    let mut state = 12345u32;
    let mut token = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % vocab
    };
    (0..count).map(|i| (0..SHORTEST + i * 37 % LENGTHS).map(|_| token()).collect()).collect()
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

/// Processor time of all threads so far, in Linux's hundredths of a second; 0 where the system does not tell.
fn processor_seconds() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    let fields = stat.rsplit(')').next().unwrap_or("").split_whitespace().skip(11).take(2);
    fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / 100.0
}

/// Largest resident size so far; 0 where the system does not tell.
fn peak_mebibytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0) / 1024
}
