//! What a base in few bits costs and saves: the difference of every token's log-prob from that of the base in f32, bytes of
//! its weights, and seconds of a training step of an adapter (rank 16 on every linear layer) beside it.
//!
//!     cargo run --release -p bso-model --example quantised_base -- MODEL_DIR [TOKENS.json] [f32|bf16]
//!     cargo run --release -p bso-model --example quantised_base -- random WIDTH LAYERS [f32|bf16]
//!
//! TOKENS.json holds lists of token ids (one list, or a list of lists); without it ids are random, as are the weights of
//! `random`, which say nothing of language.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "an example, which stops at what it cannot do"
)]

use bso_durable::Seed;
use bso_model::{
    Activations, AdapterConfig, DType, Decoder, Engine, Gradients, ModelConfig, PackedBatch, Quantisation,
    Targets,
};
use rand::Rng;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let only = arguments.pop_if(|last| matches!(last.as_str(), "f32" | "bf16"));
    let engine = Arc::new(Engine::cpu(None).unwrap());
    let made = tempfile::tempdir().unwrap();
    let dir = match arguments.first().map(String::as_str) {
        Some("random") => {
            let number = |i: usize| arguments.get(i).and_then(|n| n.parse::<usize>().ok()).unwrap();
            random_model(made.path(), (number(1), number(2)), &engine);
            made.path()
        }
        Some(dir) => Path::new(dir),
        None => panic!("give a model's directory, or: random WIDTH LAYERS"),
    };
    let whole = Decoder::load(dir, engine.clone()).unwrap();
    let batch = batch(&whole, arguments.get(1).filter(|_| arguments.first().is_some_and(|a| a != "random")));
    println!("{} parameters, {} tokens scored", whole.parameter_count(), batch.targets().len());
    let exact = whole.token_log_probs(&batch).unwrap().concat();
    let mean = -exact.iter().sum::<f64>() / exact.len() as f64;
    println!("f32: mean negative log-prob {mean:.4}");
    drop(whole);
    let kinds = [
        None,
        Some(Quantisation::Int8),
        Some(Quantisation::Nf4 { nested: false }),
        Some(Quantisation::Nf4 { nested: true }),
    ];
    for dtype in [DType::F32, DType::Bf16].into_iter().filter(|d| only.as_ref().is_none_or(|o| o == d.name()))
    {
        for kind in kinds {
            let mut decoder = match kind {
                None => Decoder::load(dir, engine.clone()).unwrap(),
                Some(kind) => Decoder::load_quantised(dir, kind, engine.clone()).unwrap(),
            };
            decoder.compute_in(dtype, true).unwrap();
            let found = decoder.token_log_probs(&batch).unwrap().concat();
            let apart: Vec<f64> = found.iter().zip(&exact).map(|(a, b)| (a - b).abs()).collect();
            let (sum, most) = (apart.iter().sum::<f64>(), apart.iter().copied().fold(0.0, f64::max));
            let loss = -found.iter().sum::<f64>() / found.len() as f64;
            let seconds = step(&mut decoder, &batch);
            let kind = kind.map_or_else(|| "whole".to_owned(), |kind| kind.to_string());
            println!(
                "{} {kind}: log-probs apart by {:.5} on average, {most:.4} at most; mean negative log-prob {loss:.4}; \
                 a step takes {seconds:.3} s",
                dtype.name(),
                sum / apart.len() as f64,
            );
        }
    }
}

fn random_model(dir: &Path, (width, layers): (usize, usize), engine: &Arc<Engine>) {
    let config = serde_json::json!({"model_type": "llama", "vocab_size": 8192, "hidden_size": width, "head_dim": 64,
        "intermediate_size": width * 8 / 3 / 64 * 64, "num_hidden_layers": layers, "num_attention_heads": width / 64,
        "num_key_value_heads": width / 64, "max_position_embeddings": 1024, "rms_norm_eps": 1e-5,
        "tie_word_embeddings": true, "hidden_act": "silu"});
    std::fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let config = ModelConfig::from_dir(dir).unwrap();
    Decoder::random(config, Seed::new(1), engine.clone()).unwrap().save(dir, DType::Bf16).unwrap();
}

fn batch(decoder: &Decoder, file: Option<&String>) -> PackedBatch {
    let mut rng = Seed::new(2).rng();
    let vocab = decoder.config().vocab_size as u32;
    let sequences: Vec<Vec<u32>> = match file {
        Some(file) => {
            let value: serde_json::Value = serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
            let list = |value: &serde_json::Value| -> Vec<u32> {
                value.as_array().unwrap().iter().map(|id| id.as_u64().unwrap() as u32).collect()
            };
            let lists = value.as_array().unwrap();
            if lists[0].is_array() { lists.iter().map(list).collect() } else { vec![list(&value)] }
        }
        None => (0..8).map(|_| (0..256).map(|_| rng.random_range(0..vocab)).collect()).collect(),
    };
    let views: Vec<_> = sequences.iter().map(|ids| ids.split_at(1)).collect();
    PackedBatch::from_sequences(&views, false).unwrap()
}

/// Seconds of forward and backward, the fastest of five.
fn step(decoder: &mut Decoder, batch: &PackedBatch) -> f64 {
    let settings = AdapterConfig {
        r: 16,
        alpha: 32.0,
        dropout: 0.0,
        targets: Targets::AllLinear,
        rslora: false,
        dora: false,
        modules_to_save: Vec::new(),
    };
    decoder.attach_adapter(&settings, Seed::new(3)).unwrap();
    let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(decoder).unwrap());
    let weights = vec![1.0; batch.sequences()];
    let once = |_| {
        let started = Instant::now();
        decoder.forward(batch, &mut activations).unwrap();
        decoder.backward(batch, &mut activations, &weights, &mut gradients).unwrap();
        started.elapsed().as_secs_f64()
    };
    (0..5).map(once).fold(f64::INFINITY, f64::min)
}
