//! What a run does beside training: evaluation, checkpoints, logs, folders.

use super::super::choices::{SaveStrategy, Strategy, Tracker};
use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::super::value::Setting;
use super::{BestModel, Settings};
use std::path::PathBuf;

/// Where to go on from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Resume {
    /// Start anew.
    No,
    /// The last checkpoint in the output folder.
    Last,
    /// This checkpoint.
    From(PathBuf),
}

/// Evaluation, checkpoints, logs and folders. None of it changes a step; `best` decides which step a run ends with.
#[derive(Clone, Debug, PartialEq)]
pub struct RunSection {
    /// Folder that receives everything.
    pub output_dir: PathBuf,
    /// Whether a finished run in it may be replaced.
    pub overwrite_output_dir: bool,
    /// Where to go on from.
    pub resume_from_checkpoint: Resume,
    /// When the held-out rows are evaluated.
    pub eval_strategy: Strategy,
    /// Interval in optimiser steps of `Strategy::Steps`.
    pub eval_steps: u64,
    /// When checkpoints are written.
    pub save_strategy: SaveStrategy,
    /// Interval in optimiser steps of `SaveStrategy::Steps`.
    pub save_steps: u64,
    /// Checkpoints kept; `None`: all.
    pub save_total_limit: Option<usize>,
    /// Which evaluation counts as the best; none: none does.
    pub best: Option<BestModel>,
    /// Interval of metrics lines in optimiser steps.
    pub logging_steps: u64,
    /// Who receives the metrics besides metrics.jsonl.
    pub report_to: Tracker,
    /// Where log-probs of frozen models are kept that several runs share; none: in each run's folder.
    pub ref_cache_dir: Option<PathBuf>,
}

impl RunSection {
    pub(in super::super) fn read(r: &Resolver) -> Result<Self, ConfigError> {
        let logging_steps = r.integer("logging_steps")?;
        Ok(Self {
            output_dir: r.path("output_dir")?,
            overwrite_output_dir: r.bool("overwrite_output_dir")?,
            resume_from_checkpoint: match r.get("resume_from_checkpoint")? {
                Setting::Bool(false) => Resume::No,
                Setting::Path(path) => Resume::From(path),
                _ => Resume::Last,
            },
            eval_strategy: r.choice("eval_strategy")?,
            eval_steps: r.optional_integer("eval_steps")?.unwrap_or(logging_steps),
            save_strategy: r.choice("save_strategy")?,
            save_steps: r.integer("save_steps")?,
            save_total_limit: r.optional_integer("save_total_limit")?.map(|n| n as usize),
            best: BestModel::read(r)?,
            logging_steps,
            report_to: r.choice("report_to")?,
            ref_cache_dir: r.optional_path("ref_cache_dir")?,
        })
    }

    pub(in super::super) fn write(&self, out: &mut Settings) {
        out.path("output_dir", &self.output_dir);
        out.bool("overwrite_output_dir", self.overwrite_output_dir);
        let resume = match &self.resume_from_checkpoint {
            Resume::No => Setting::Bool(false),
            Resume::Last => Setting::Bool(true),
            Resume::From(path) => Setting::Path(path.clone()),
        };
        out.put("resume_from_checkpoint", resume);
        out.choice("eval_strategy", self.eval_strategy);
        out.integer("eval_steps", self.eval_steps);
        out.choice("save_strategy", self.save_strategy);
        out.integer("save_steps", self.save_steps);
        out.optional_integer("save_total_limit", self.save_total_limit.map(|n| n as u64));
        BestModel::write(self.best.as_ref(), out);
        out.integer("logging_steps", self.logging_steps);
        out.choice("report_to", self.report_to);
        out.optional_path("ref_cache_dir", self.ref_cache_dir.as_deref());
    }

    /// Whether an evaluation is due after optimiser step `done` (counted from 1) of epochs of `steps_per_epoch`.
    pub fn evaluates_after(&self, done: u64, steps_per_epoch: u64) -> bool {
        due(self.eval_strategy, self.eval_steps, done, steps_per_epoch)
    }

    /// Whether a checkpoint is due, by the step's number, after optimiser step `done` (counted from 1) of epochs of `steps_per_epoch`.
    pub fn saves_after(&self, done: u64, steps_per_epoch: u64) -> bool {
        let strategy = match self.save_strategy {
            // A best evaluation is no matter of the step's number.
            SaveStrategy::No | SaveStrategy::Best => Strategy::No,
            SaveStrategy::Steps => Strategy::Steps,
            SaveStrategy::Epoch => Strategy::Epoch,
        };
        due(strategy, self.save_steps, done, steps_per_epoch)
    }
}

fn due(strategy: Strategy, interval: u64, done: u64, steps_per_epoch: u64) -> bool {
    match strategy {
        Strategy::No => false,
        Strategy::Steps => done.is_multiple_of(interval),
        Strategy::Epoch => done.is_multiple_of(steps_per_epoch.max(1)),
    }
}
