//! How many runs go on at a time, on how many threads each: by the memory that `bso plan` counts and by the cores.

use super::runs::Run;
use crate::RecipeError;
use crate::config::{Stage, TrainConfig};
use crate::plan::{available_memory, plan};
use bso_durable::Silent;
use bso_model::Device;
use serde::Serialize;
use std::collections::HashMap;

/// Keys without a say in what a run takes.
const COSTLESS: [&str; 24] = [
    "seed",
    "output_dir",
    "resume_from_checkpoint",
    "beta",
    "safety_penalty",
    "delta",
    "generator",
    "generator_params",
    "generator_lambda",
    "generator_scale",
    "generator_mu",
    "kernel",
    "log_ratio_clamp",
    "log_ratio_tail",
    "label_smoothing",
    "b1",
    "alpha",
    "w0",
    "learning_rate",
    "lr_scheduler_type",
    "warmup_ratio",
    "warmup_steps",
    "weight_decay",
    "logging_steps",
];
/// Share of the free memory that the runs may take together.
const USABLE: f64 = 0.9;

/// What one run will take.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Cost {
    /// Its optimiser steps.
    pub steps: u64,
    /// Its peak of memory, bytes.
    pub peak_bytes: u64,
    /// Its time on its threads, seconds.
    pub seconds: f64,
}

/// How the runs go on.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Schedule {
    /// Runs at a time.
    pub jobs: usize,
    /// Threads of a run whose configuration does not say.
    pub num_threads: usize,
    /// By run, in their order; none where it cannot be told before.
    pub costs: Vec<Option<Cost>>,
    /// Free memory, bytes, where the system tells.
    pub available_bytes: Option<u64>,
}

impl Schedule {
    /// Plans `runs`, which also finds out what in their data or models cannot be used. Runs that differ in nothing that costs
    /// are planned once. `jobs` is what the user asked for, `num_threads` what an earlier call decided.
    ///
    /// # Errors
    /// What [`plan`] refuses of a run of one stage.
    pub fn of(
        runs: &[&Run],
        (jobs, num_threads): (Option<usize>, Option<usize>),
    ) -> Result<Self, RecipeError> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let mut planned: HashMap<Vec<(String, String)>, Option<Cost>> = HashMap::new();
        let mut costs = Vec::new();
        for run in runs {
            let mut config = TrainConfig { recipe: None, ..run.config.clone() };
            let threads = config.model.num_threads.or(num_threads).unwrap_or(1);
            config.model.num_threads = Some(threads);
            let mut kind = config.parameters();
            // What is 0 may be off, as a penalty without which no safety label is needed.
            let is_off = |value: &str| value.parse() == Ok(0.0);
            kind.retain(|(key, value)| !COSTLESS.contains(&key.as_str()) || is_off(value));
            if let Some(known) = planned.get(&kind) {
                costs.push(*known);
                continue;
            }
            let cost = match plan(&config, None, &Silent) {
                Ok(plan) => {
                    Some(Cost { steps: plan.steps, peak_bytes: plan.peak_bytes, seconds: plan.time.total })
                }
                // Stages whose inputs other stages make, and sampling, are not counted before.
                Err(_) if run.config.recipe.is_some() || run.config.stage == Stage::PpoLag => None,
                Err(error) => return Err(super::of_run(run, error)),
            };
            planned.insert(kind, cost);
            costs.push(cost);
        }
        let available_bytes = available_memory();
        let per_run = runs.iter().filter_map(|run| run.config.model.num_threads).max().or(num_threads);
        let most = (cores / per_run.unwrap_or(1)).clamp(1, runs.len().max(1));
        let fitting = || {
            let peak =
                costs.iter().map(|cost| Some(cost.as_ref()?.peak_bytes)).collect::<Option<Vec<u64>>>()?;
            let peak = peak.into_iter().max()?.max(1);
            Some((available_bytes? as f64 * USABLE / peak as f64) as usize)
        };
        // What nobody can count goes alone.
        // Nor does a run on a GPU have its memory counted, and two share its time.
        let most = if runs.iter().any(|run| is_on_gpu(&run.config)) { 1 } else { most };
        let jobs = jobs.unwrap_or_else(|| fitting().unwrap_or(1).clamp(1, most)).clamp(1, runs.len().max(1));
        let num_threads = num_threads.unwrap_or((cores / jobs).max(1));
        Ok(Self { jobs, num_threads, costs, available_bytes })
    }

    /// Seconds of all runs together; none where some run's time is not known.
    pub fn seconds(&self) -> Option<f64> {
        let all: Option<Vec<f64>> = self.costs.iter().map(|cost| Some(cost.as_ref()?.seconds)).collect();
        Some(all?.iter().sum::<f64>() / self.jobs as f64)
    }
}

/// Whether a run computes on a GPU; one that is refused is so when it starts.
fn is_on_gpu(config: &TrainConfig) -> bool {
    matches!(config.model.device(), Ok(Device::Cuda(_)))
}
