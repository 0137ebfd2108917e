//! What the demo trains from, as real files that a user can look at and train from again: SafeWorld's rows as
//! JSONL, and a small decoder with random weights beside its word-level tokenizer.

use super::Sizes;
use super::method::{self, Method};
use crate::RecipeError;
use bso_data::ChatTokenizer;
use bso_durable::{Seed, atomic_write, ensure_dir};
use bso_model::{DType, Decoder, Engine, ModelConfig};
use bso_world::{
    PreferencePair, World, WorldConfig, preference_pairs, preference_row, prompt_row, sft_examples, sft_row,
    vocabulary,
};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// Writes data, base model and configs into `dir`; returns the world.
///
/// # Errors
/// When something cannot be written.
pub fn write(
    dir: &Path,
    (methods, sizes): (&[Method], &Sizes),
    seed: u64,
    engine: &Arc<Engine>,
) -> Result<World, RecipeError> {
    let root = Seed::new(seed);
    let world = World::new(WorldConfig::default(), root.derive("world", 0))?;
    let data = dir.join("data");
    ensure_dir(&data)?;
    let sft = sft_examples(world.train(), sizes.sft_rows, root.derive("sft", 0));
    write_rows(&data.join("sft.jsonl"), sft.iter().map(sft_row))?;
    let pairs = preference_pairs(world.train(), &sizes.pairs(), root.derive("pairs", 0))?;
    write_rows(&data.join("pairs.jsonl"), pairs.iter().map(preference_row))?;
    write_rows(&data.join("judged.jsonl"), pairs.iter().flat_map(judged_rows))?;
    write_rows(&data.join("held_out_prompts.jsonl"), world.held_out().iter().map(prompt_row))?;
    write_base_model(&dir.join("base"), sizes, root.derive("weights", 0), engine)?;
    let configs = [("sft", method::sft_config(sizes, seed))]
        .into_iter()
        .chain(methods.iter().map(|m| (m.name.as_str(), method::preference_config(m, sizes, seed))));
    for (name, text) in configs {
        atomic_write(&dir.join(format!("{name}.yaml")), |out| out.write_all(text.as_bytes()))?;
    }
    Ok(world)
}

/// A pair as two responses that are desirable where they are labelled safe.
fn judged_rows(pair: &PreferencePair) -> [Value; 2] {
    [0, 1].map(
        |i| json!({"prompt": pair.prompt.text(), "completion": pair.response(i), "label": pair.is_safe[i]}),
    )
}

fn write_rows(path: &Path, rows: impl Iterator<Item = Value>) -> Result<(), RecipeError> {
    Ok(atomic_write(path, |out| {
        for row in rows {
            serde_json::to_writer(&mut *out, &row)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })?)
}

fn write_base_model(dir: &Path, sizes: &Sizes, seed: Seed, engine: &Arc<Engine>) -> Result<(), RecipeError> {
    ensure_dir(dir)?;
    let tokenizer = ChatTokenizer::word_level(&vocabulary())?;
    tokenizer.save(dir)?;
    let config = json!({
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": sizes.hidden,
        "intermediate_size": 3 * sizes.hidden,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.hidden / 32,
        "num_key_value_heads": sizes.hidden / 32,
        "vocab_size": tokenizer.vocab_size(),
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": true,
        "initializer_range": 0.05,
        "bos_token_id": tokenizer.bos().map(|b| b.1),
        "eos_token_id": tokenizer.eos().1,
        "dtype": "float32",
    });
    fs::write(dir.join("config.json"), format!("{config:#}\n"))?;
    let config = ModelConfig::from_dir(dir)?;
    Ok(Decoder::random(config, seed, engine.clone())?.save(dir, DType::F32)?)
}
