//! What the tests of training steps share: a small random model, examples of random tokens, and every loss by the
//! name that a config gives it.
#![allow(dead_code, reason = "every test file uses its own part")]

use bso_data::TokenisedSequence;
use bso_durable::Seed;
use bso_model::{DType, Decoder, Engine, ModelConfig};
use bso_objective::SafetyLabels;
use bso_recipes::TrainingObjective;
use bso_recipes::config;
use bso_recipes::example::Example;
use serde_json::json;
use std::path::Path;
use std::sync::Arc;

pub const VOCAB: u32 = 1300;

/// Two layers, grouped heads, a vocabulary of more than one chunk.
pub fn decoder(dtype: DType) -> Decoder {
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": VOCAB,
        "max_position_embeddings": 512, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "initializer_range": 0.1,
    });
    let config = ModelConfig::from_value(config, Path::new("config.json")).unwrap();
    let engine = Arc::new(Engine::cpu(Some(2)).unwrap());
    let mut decoder = Decoder::random(config, Seed::new(1), engine).unwrap();
    decoder.compute_in(dtype, true).unwrap();
    decoder
}

/// Tokens of a linear congruential generator.
pub fn tokens(state: &mut u32, count: usize) -> Vec<u32> {
    let mut next = || {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 8) % VOCAB
    };
    (0..count).map(|_| next()).collect()
}

/// Pairs with labels of every quadrant and margins; `single` completions with a mismatched one, two to a prompt.
pub fn examples(pairs: usize, longest: usize, single: bool) -> Vec<Example> {
    let mut state = 7;
    let mut all = Vec::new();
    for i in 0..pairs {
        let prompt = tokens(&mut state, 2 + (5 * i) % (longest / 2));
        let mut sequence = |extra: usize| {
            let count = 1 + (7 * i + extra) % longest;
            TokenisedSequence { prompt: prompt.clone(), response: tokens(&mut state, count) }
        };
        let (chosen, rejected) = (sequence(longest / 3), sequence(longest / 2));
        let pair = Example {
            sequences: vec![chosen, rejected],
            mismatched: None,
            labels: Some(SafetyLabels { chosen_unsafe: i % 4 == 1, rejected_unsafe: i % 2 == 0 }),
            margins: Some((0.3 * i as f64, -0.2)),
            desirable: true,
        };
        if single {
            for (j, sequence) in pair.sequences.iter().enumerate() {
                let response = tokens(&mut state, 3 + j);
                let mismatched = Some(TokenisedSequence { prompt: sequence.prompt.clone(), response });
                let sequences = vec![sequence.clone()];
                all.push(Example { sequences, mismatched, desirable: j == 0, ..pair.clone() });
            }
        } else {
            all.push(pair);
        }
    }
    all
}

/// Every loss, as configs name them.
pub const LOSSES: [&str; 17] = [
    "stage: sft",
    "loss_type: bso\ngenerator: logistic\nsafety_penalty: 2",
    "loss_type: bso\ngenerator: kliep\nsafety_penalty: 2",
    "loss_type: bso\ngenerator: lsif\nsafety_penalty: 2",
    "loss_type: bso\ngenerator: ba\ngenerator_params: [0.5]\nsafety_penalty: 2",
    "loss_type: bso\ngenerator: sba\ngenerator_params: [0.2, 4]\nsafety_penalty: 2",
    "loss_type: bso\ngenerator: phi_mu\ngenerator_params: [0.5]\nsafety_penalty: 2",
    "loss_type: bso\ngenerator: sba\ngenerator_params: [0.2, 4]\nsafety_penalty: 30\nlabel_smoothing: 0.1",
    "loss_type: dpo",
    "loss_type: cdpo\nlabel_smoothing: 0.1",
    "loss_type: ipo",
    "loss_type: ipo_mean",
    "loss_type: hinge",
    "loss_type: safedpo\ndelta: 5",
    "loss_type: bfpo",
    "loss_type: modpo\nw0: 0.7",
    "loss_type: kto",
];

pub fn is_kto(loss: &str) -> bool {
    loss.ends_with("kto")
}

/// Whether the loss judges completions one by one.
pub fn is_single(loss: &str) -> bool {
    is_kto(loss) || loss.ends_with("sft")
}

pub fn objective(loss: &str) -> TrainingObjective {
    let text = format!("model_name_or_path: model\ndataset_name: pairs.jsonl\noutput_dir: run\n{loss}\n");
    let resolved = config::load_text(&text, "a test", &[]).unwrap_or_else(|e| panic!("{loss}: {e}"));
    resolved.config.objective.build().unwrap()
}
