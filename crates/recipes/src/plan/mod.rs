//! `bso plan`: what a run will take, computed before it is started. Loads no weights.
//!
//! Memory is added up from the functions by which it is taken (`memory`), for the largest batch that the data's
//! real lengths give (`workload`); time from a short calibration on a small part of the network (`calibration`).

mod calibration;
mod machine;
mod memory;
mod time;
mod workload;

use crate::RecipeError;
use crate::config::{Stage, TrainConfig};
use crate::dataset::{Dataset, template_choice};
use crate::fitting::{check_context, check_vocabulary};
use crate::location::located;
use crate::policy;
use crate::train::engine;
use bso_data::ChatTokenizer;
use bso_durable::Observer;
use bso_model::{ModelConfig, ModelError};
use serde::Serialize;
use std::time::Instant;

pub use machine::available_memory;
pub use memory::{Component, Phase, Suggestion};
pub use time::TimePlan;
pub use workload::Tokens;
pub(crate) use workload::largest_batch;

/// What a run will take.
#[derive(Clone, Debug, Serialize)]
pub struct Plan {
    /// What is minimised, as a formula.
    pub objective: String,
    /// The reference in words, where the objective has one.
    pub reference: Option<String>,
    /// Parameters that are trained.
    pub trainable_parameters: usize,
    /// The adapter that they are, in words; absent where all are trained.
    pub adapter: Option<String>,
    /// How the frozen matrices beside it are kept, in words; absent where they are whole.
    pub quantisation: Option<String>,
    /// Precision of products.
    pub dtype: String,
    /// What computes, in words; the memory is its own.
    pub device: String,
    /// Threads that compute, or prepare what a device computes.
    pub threads: usize,
    /// Examples to train on, and held out.
    pub examples: (usize, usize),
    /// What became of the rows: label, count, first rows.
    pub ledger: Vec<(String, usize, String)>,
    /// Optimiser steps of the run.
    pub steps: u64,
    /// Examples in a pass, and passes in an optimiser step.
    pub batch: (usize, usize),
    /// Tokens of one epoch, as packed and as padded.
    pub tokens: Tokens,
    /// Rows of the largest batch of the run.
    pub largest_batch_rows: usize,
    /// Memory by component, phase by phase; bytes.
    pub phases: Vec<Phase>,
    /// The largest phase's memory: the predicted peak of the resident set, bytes.
    pub peak_bytes: u64,
    /// What the machine has free, bytes, where the system tells.
    pub available_bytes: Option<u64>,
    /// Whether it fits; absent where the system does not tell what is free.
    pub fits: Option<bool>,
    /// Changes by what they would save, the most first; made where the run does not fit.
    pub suggestions: Vec<Suggestion>,
    /// Seconds by part of the run.
    pub time: TimePlan,
}

/// Plans a run. `available` stands for the free memory of another machine; absent, this one is asked.
///
/// # Errors
/// What [`crate::train()`] would refuse before its first step.
pub fn plan(
    config: &TrainConfig,
    available: Option<u64>,
    observer: &dyn Observer,
) -> Result<Plan, RecipeError> {
    let config = &located(config, observer)?;
    config.check_paths()?;
    if config.stage == Stage::PpoLag {
        return Err(RecipeError::input(
            "bso plan does not count stage ppo_lag: how long sampled responses become is not known before; six models are in memory \
             at once (actor, reference, reward and cost model, two critics), three of them with gradients and the optimiser's state",
        ));
    }
    let engine = engine(config)?;
    let objective = config.objective.build()?;
    let dir = &config.model.model_name_or_path;
    let tokenizer_dir = policy::tokenizer_folder(dir)?;
    let mut tokenizer = ChatTokenizer::load(&tokenizer_dir, &template_choice(&config.data.chat_template))?;
    if config.objective.score_head().is_some() {
        tokenizer.keep_whole_turns();
    }
    let model = policy::trained_shape(config, ModelConfig::from_dir(dir)?)?;
    check_vocabulary(&tokenizer, &model, dir)?;
    let started = Instant::now();
    let dataset = Dataset::load(config, &tokenizer, objective.pair_loss(), observer)?;
    let tokenising = started.elapsed().as_secs_f64();
    check_context(dataset.all(), &model, dir)?;
    // The same data and tokenizer lie in memory as in the run: what the process takes now, the run takes too.
    let base = machine::resident_memory().unwrap_or(0);

    let workload = workload::Workload::of(config, &dataset, model.reads(), None)?;
    let needs_reference = objective.needs_reference();
    let adapter = policy::adapter_settings(config)?;
    let adapter = adapter.as_ref();
    let calibrated = calibration::calibrate((config, adapter), &model, &engine, &workload)?;
    let setting = memory::Setting {
        config,
        model: &model,
        adapter,
        base,
        tokens: workload::token_bytes(&dataset),
        scratch: calibrated.scratch,
        calibrated_rows: calibrated.rows,
        needs_reference,
        engine: &engine,
    };
    let phases = setting.phases(&workload)?;
    let trained = setting.policy(config)?.trained / 4;
    let peak = memory::peak(&phases);
    let free = match engine.device_memory().map_err(ModelError::from)? {
        Some([free, _]) => Some(free as u64),
        // What this process takes already is free to the run.
        None => available_memory().map(|free| free.saturating_add(base)),
    };
    let available = available.or(free);
    let fits = available.map(|free| peak <= free);
    let suggestions = if fits == Some(false) { setting.suggestions(&dataset, peak)? } else { Vec::new() };
    Ok(Plan {
        objective: objective.formula(),
        reference: needs_reference.then(|| config.reference_in_words()),
        trainable_parameters: trained,
        adapter: adapter.map(ToString::to_string),
        quantisation: config.quantisation.map(|kind| kind.to_string()),
        dtype: config.model.dtype.to_string(),
        device: format!("{}: {}", engine.device(), engine.description()),
        threads: engine.num_threads(),
        examples: (dataset.train.len(), dataset.eval.len()),
        ledger: dataset.ledger.lines(),
        steps: workload.steps,
        batch: (config.schedule.per_device_train_batch_size, config.schedule.gradient_accumulation_steps),
        tokens: workload.tokens,
        largest_batch_rows: workload.largest.rows,
        peak_bytes: peak,
        phases,
        available_bytes: available,
        fits,
        suggestions,
        time: calibrated.time((config, adapter), (&model, trained), &workload, (needs_reference, tokenising)),
    })
}
