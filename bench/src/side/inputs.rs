//! Makes what the workloads read: models of random weights, tokenizers, pairs and prompts. With a data folder the
//! tokenizers and pairs are real ones; without, words without meaning in texts of similar lengths.

use super::weights;
use crate::inputs::{LONG_PAIRS, PAIRS, PROMPTS};
use crate::sizes::{ModelShape, Sizes};
use anyhow::Context;
use bso_data::{ChatTokenizer, read_rows};
use bso_durable::Seed;
use bso_model::{DType, Decoder, Engine};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::fmt::Write as _;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// What to make, and where.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Folder to write into; it exists.
    pub dir: PathBuf,
    /// Real data, if there is any; not with tiny sizes.
    pub data: Option<PathBuf>,
    /// How large everything is.
    pub sizes: Sizes,
    /// Which model: w1 without a tokenizer but with prompts, w2 and w4 with tokenizer and pairs, others with all of these.
    pub model: ModelShape,
}

/// Writes the files; the answer holds the number of parameters.
pub fn run(settings: &Settings) -> anyhow::Result<Value> {
    let (dir, shape, sizes) = (&settings.dir, settings.model, &settings.sizes);
    if !matches!(shape, ModelShape::W2 | ModelShape::W4) {
        write_json(&dir.join(PROMPTS), &prompts(shape, sizes))?;
    }
    if shape != ModelShape::W1 {
        write_tokenizer(settings, shape, sizes)?;
        let pairs = match shape {
            ModelShape::W2 => sizes.pairs[0],
            ModelShape::W4 => sizes.pairs[2],
            _ => sizes.experiment[0],
        };
        write_rows(&dir.join(PAIRS), &preference_pairs(settings, pairs, sizes)?)?;
    }
    if shape == ModelShape::W2 && settings.data.is_none() {
        write_rows(&dir.join(LONG_PAIRS), &dialogues(sizes.pairs[1], sizes))?;
    }
    if shape.is_published() {
        // Numbers of the usual generator, one by one, would take minutes.
        return Ok(json!({"parameters": weights::write(dir, &shape.value(sizes))?}));
    }
    let engine = Arc::new(Engine::cpu(None)?);
    let decoder = Decoder::random(shape.config(sizes)?, Seed::new(0), engine)?;
    decoder.save(dir, DType::F32)?;
    Ok(json!({"parameters": decoder.parameter_count()}))
}

fn write_tokenizer(settings: &Settings, shape: ModelShape, sizes: &Sizes) -> anyhow::Result<()> {
    // Its special tokens come before the words.
    const SPECIALS: usize = 6;
    let Some(data) = settings.data.as_ref().filter(|_| !shape.is_published()) else {
        let words: Vec<String> = (0..shape.vocabulary(sizes) - SPECIALS).map(word).collect();
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        return Ok(ChatTokenizer::word_level(&words)?.save(&settings.dir)?);
    };
    let name = if shape == ModelShape::W4 { "qwen2" } else { "minimind" };
    let from = data.join("tokenizers").join(name);
    for entry in fs::read_dir(&from).with_context(|| format!("cannot read {}", from.display()))? {
        let file = entry?.path();
        let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        if ["tokenizer", "special", "added", "chat_template"].iter().any(|start| name.starts_with(start)) {
            // Not copied: the copy would be as read-only as a shared original.
            fs::write(settings.dir.join(name), fs::read(&file)?)?;
        }
    }
    Ok(())
}

/// Rows in PKU-SafeRLHF's schema, all of which T(D) keeps.
fn preference_pairs(settings: &Settings, count: usize, sizes: &Sizes) -> anyhow::Result<Vec<Value>> {
    let Some(data) = settings.data.as_ref().filter(|_| !settings.model.is_published()) else {
        return Ok(made_pairs(count, sizes));
    };
    let file = data.join("xstest").join("derived_pairs_with_better.jsonl");
    let rows = read_rows(&file)?.collect::<Result<Vec<_>, _>>()?;
    let kept = rows.into_iter().map(|(_, row)| Value::from(row)).filter(|row| {
        let safe = ["is_response_0_safe", "is_response_1_safe"].map(|name| row[name].as_bool());
        row["better_response_id"].is_u64() && safe.contains(&Some(true))
    });
    let kept: Vec<Value> = kept.take(count).collect();
    anyhow::ensure!(kept.len() == count, "{} has {} of {count} pairs", file.display(), kept.len());
    Ok(kept)
}

fn made_pairs(count: usize, sizes: &Sizes) -> Vec<Value> {
    let mut rng = Seed::new(1).rng();
    let longest = sizes.max_length;
    let row = |_| {
        let prompt = text(&mut rng, longest / 64 + 1..=longest / 12);
        let responses = [(); 2].map(|()| text(&mut rng, longest / 8..=longest * 7 / 8));
        json!({
            "prompt": prompt, "response_0": responses[0], "response_1": responses[1], "is_response_0_safe": true,
            "is_response_1_safe": true, "better_response_id": 0, "safer_response_id": 0,
        })
    };
    (0..count).map(row).collect()
}

/// Dialogues of several turns in Anthropic HH's schema, whose last answers differ.
fn dialogues(count: usize, sizes: &Sizes) -> Vec<Value> {
    let mut rng = Seed::new(2).rng();
    let longest = sizes.long;
    let row = |_| {
        let mut shared = String::new();
        for _ in 0..2 {
            let [asks, answers] = [(); 2].map(|()| text(&mut rng, longest / 24..=longest / 12));
            let _ = write!(shared, "\n\nHuman: {asks}\n\nAssistant: {answers}");
        }
        let _ = write!(shared, "\n\nHuman: {}\n\nAssistant: ", text(&mut rng, longest / 32..=longest / 16));
        let [chosen, rejected] = [(); 2].map(|()| text(&mut rng, longest / 32..=longest / 8));
        json!({"chosen": format!("{shared}{chosen}"), "rejected": format!("{shared}{rejected}")})
    };
    (0..count).map(row).collect()
}

/// Prompts whose lengths step through the range, of random tokens.
fn prompts(shape: ModelShape, sizes: &Sizes) -> Vec<Vec<u32>> {
    let mut rng = Seed::new(3).rng();
    let [from, to] = sizes.prompt_tokens;
    let vocabulary = shape.vocabulary(sizes) as u32;
    let prompt =
        |i: usize| (0..from + i * 37 % (to - from + 1)).map(|_| rng.random_range(0..vocabulary)).collect();
    (0..sizes.prompts).map(prompt).collect()
}

fn word(i: usize) -> String {
    format!("w{i}")
}

/// Words that every made vocabulary has.
fn text(rng: &mut impl Rng, words: RangeInclusive<usize>) -> String {
    let count = rng.random_range(words);
    (0..count).map(|_| word(rng.random_range(0..500))).collect::<Vec<_>>().join(" ")
}

fn write_rows(file: &Path, rows: &[Value]) -> anyhow::Result<()> {
    let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
    fs::write(file, text).with_context(|| format!("cannot write {}", file.display()))
}

fn write_json(file: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    bso_durable::write_json(file, value).with_context(|| format!("cannot write {}", file.display()))
}
