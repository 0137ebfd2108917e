//! A whole training job, as `bso train` runs it: the same call with the same configuration, a clock in the place of
//! the terminal.

use anyhow::Context;
use bso_durable::{Event, Interrupt, Observer};
use bso_recipes::{config, train};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::arguments::Method;
use crate::row::Spread;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// What to do: DPO, one pass over the pairs.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Model directory with a tokenizer.
    pub model: PathBuf,
    /// Pairs in PKU-SafeRLHF's schema.
    pub pairs: PathBuf,
    /// Precision of products.
    pub dtype: String,
    /// Pairs of a batch.
    pub batch: usize,
    /// Longest prompt with response, tokens.
    pub max_length: usize,
    /// What is trained, and whether activations are recomputed.
    pub method: Method,
    /// Of the peer's weights where all are trained.
    pub peer_weights: String,
    /// The peer reads no more pairs than this, and 0 is all.
    pub peer_pairs: usize,
    /// Where it computes.
    pub device: String,
    /// Whether all steps are done, or the first only.
    pub whole: bool,
    /// Threads.
    pub threads: usize,
}

/// `startup_seconds` (to the beginning of the first step, the reference pass aside), `reference_seconds`,
/// `training_seconds`, `first_loss`, `last_loss`, `mean_reference_log_prob`; `steps`, `step_seconds` (the median of those
/// after the first two) and `step_tokens`, where there are so many; `pairs`.
pub fn run(settings: &Settings) -> anyhow::Result<Value> {
    let before = since_start().unwrap_or_default();
    let clock = Clock { start: Instant::now(), times: Mutex::default() };
    let dir = tempfile::tempdir()?;
    let output = dir.path().join("run");
    let mut overrides = written(settings, &output).to_vec();
    if settings.method.is_lora() {
        overrides.extend(LORA.map(|(key, value)| (key, value.to_owned())));
    }
    let overrides: Vec<(String, String)> =
        overrides.into_iter().map(|(key, value)| (key.to_owned(), value)).collect();
    let resolved = config::load_text("", "the benchmark", &overrides)?;
    train(&resolved.config, &Interrupt::new(), &clock)?;
    let times = clock.times.into_inner().unwrap_or_else(PoisonError::into_inner);
    let to_first_step = times.to_first_step.context("no step was done")?;
    let logged = logged(&output)?;
    let losses: Vec<f64> = logged.iter().filter_map(|row| row["loss"].as_f64()).collect();
    let [seconds, tokens] = later_steps(&logged);
    Ok(json!({
        "startup_seconds": (before + to_first_step - times.reference).as_secs_f64(),
        "reference_seconds": times.reference.as_secs_f64(),
        "training_seconds": times.training.as_secs_f64(),
        "first_loss": losses.first(),
        "last_loss": losses.last(),
        "mean_reference_log_prob": mean_reference(&output)?,
        "steps": losses.len(),
        "step_seconds": seconds,
        "step_tokens": tokens,
        "pairs": std::fs::read_to_string(&settings.pairs)?.lines().count(),
    }))
}

fn written(settings: &Settings, output: &Path) -> [(&'static str, String); 18] {
    let path = |path: &Path| path.display().to_string();
    [
        ("stage", "preference".to_owned()),
        ("loss_type", "dpo".to_owned()),
        ("beta", "0.1".to_owned()),
        ("safety_transform", "swap_drop".to_owned()),
        ("model_name_or_path", path(&settings.model)),
        ("dataset_name", path(&settings.pairs)),
        ("output_dir", path(output)),
        ("eval_split", "0".to_owned()),
        ("dtype", settings.dtype.clone()),
        ("device", settings.device.clone()),
        ("gradient_checkpointing", settings.method.is_checkpointed().to_string()),
        ("num_threads", settings.threads.to_string()),
        ("max_length", settings.max_length.to_string()),
        ("per_device_train_batch_size", settings.batch.to_string()),
        ("num_train_epochs", "1".to_owned()),
        ("max_steps", if settings.whole { "none" } else { "1" }.to_owned()),
        ("learning_rate", "1e-6".to_owned()),
        ("logging_steps", "1".to_owned()),
    ]
}

/// The adapter of a step by itself (`side/step.rs`).
const LORA: [(&str, &str); 4] =
    [("use_peft", "true"), ("lora_r", "16"), ("lora_alpha", "32"), ("lora_dropout", "0")];

/// Time from the moment the parent started this process.
fn since_start() -> Option<Duration> {
    let started: f64 = std::env::var(crate::process::STARTED).ok()?.parse().ok()?;
    let now = SystemTime::now().duration_since(UNIX_EPOCH).ok()?.as_secs_f64();
    Duration::try_from_secs_f64(now - started).ok()
}

/// Hears the run's events and notes when they came.
struct Clock {
    start: Instant,
    times: Mutex<Times>,
}

#[derive(Default)]
struct Times {
    task: String,
    reference: Duration,
    to_first_step: Option<Duration>,
    training: Duration,
}

impl Observer for Clock {
    fn event(&self, event: Event) {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { task, .. } => {
                if task == "training" {
                    times.to_first_step = Some(self.start.elapsed());
                }
                times.task = task;
            }
            Event::Finished { elapsed, .. } if times.task == "training" => times.training = elapsed,
            Event::Finished { elapsed, .. } if times.task.starts_with("reference") => {
                times.reference += elapsed;
            }
            _ => {}
        }
    }
}

fn logged(run: &Path) -> anyhow::Result<Vec<Value>> {
    let text = std::fs::read_to_string(run.join("metrics.jsonl"))?;
    Ok(text.lines().map(serde_json::from_str).collect::<Result<_, _>>()?)
}

/// Medians of seconds and tokens of a step, without the first two, which warm up.
fn later_steps(logged: &[Value]) -> [Option<f64>; 2] {
    let totals: Vec<f64> = logged.iter().filter_map(|row| row["num_tokens"].as_f64()).collect();
    let rates = logged.iter().filter_map(|row| row["tokens_per_second"].as_f64());
    let tokens = totals.iter().zip(std::iter::once(&0.0).chain(&totals)).map(|(now, before)| now - before);
    let (seconds, tokens): (Vec<f64>, Vec<f64>) =
        rates.zip(tokens).skip(2).map(|(rate, tokens)| (tokens / rate, tokens)).unzip();
    [seconds, tokens].map(|values| Spread::of(&values).map(|s| s.median))
}

/// The mean over all sequences: tells whether two programs score the same tokens alike.
fn mean_reference(run: &Path) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(run.join("reference_log_probs.jsonl"))?;
    let rows = text.lines().skip(1).map(serde_json::from_str::<Vec<f64>>).collect::<Result<Vec<_>, _>>()?;
    let all: Vec<f64> = rows.into_iter().flatten().collect();
    Ok(all.iter().sum::<f64>() / all.len().max(1) as f64)
}
