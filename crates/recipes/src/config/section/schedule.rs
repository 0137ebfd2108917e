//! How long, in which batches, at which learning rate.

use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::Settings;
use crate::schedule::{Decay, Schedule};

/// Length of the linear warm-up.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Warmup {
    /// In optimiser steps.
    Steps(u64),
    /// As a share of all steps, in `[0, 1)`.
    Ratio(f64),
}

/// Batches, steps and learning rate.
#[derive(Clone, Debug, PartialEq)]
pub struct ScheduleSection {
    /// Passes over the data, > 0; not read where `max_steps` is given.
    pub num_train_epochs: f64,
    /// Optimiser steps in all.
    pub max_steps: Option<u64>,
    /// Pairs (rows for sft and kto) in one pass.
    pub per_device_train_batch_size: usize,
    /// Passes in one optimiser step.
    pub gradient_accumulation_steps: usize,
    /// Rate after the warm-up.
    pub learning_rate: f64,
    /// How it falls.
    pub lr_scheduler_type: Decay,
    /// How it rises.
    pub warmup: Warmup,
}

impl ScheduleSection {
    pub(in super::super) fn read(r: &Resolver) -> Result<Self, ConfigError> {
        Ok(Self {
            num_train_epochs: r.real("num_train_epochs")?,
            max_steps: r.optional_integer("max_steps")?,
            per_device_train_batch_size: r.integer("per_device_train_batch_size")? as usize,
            gradient_accumulation_steps: r.integer("gradient_accumulation_steps")? as usize,
            learning_rate: r.real("learning_rate")?,
            lr_scheduler_type: r.choice("lr_scheduler_type")?,
            warmup: warmup(r)?,
        })
    }

    pub(in super::super) fn write(&self, out: &mut Settings) {
        out.real("num_train_epochs", self.num_train_epochs);
        out.optional_integer("max_steps", self.max_steps);
        out.integer("per_device_train_batch_size", self.per_device_train_batch_size as u64);
        out.integer("gradient_accumulation_steps", self.gradient_accumulation_steps as u64);
        out.real("learning_rate", self.learning_rate);
        out.choice("lr_scheduler_type", self.lr_scheduler_type);
        match self.warmup {
            Warmup::Steps(steps) => out.integer("warmup_steps", steps),
            Warmup::Ratio(ratio) => out.real("warmup_ratio", ratio),
        }
    }

    /// Optimiser steps of a run whose epoch has `steps_per_epoch` of them; at least one.
    pub fn total_steps(&self, steps_per_epoch: u64) -> u64 {
        let by_epochs = (self.num_train_epochs * steps_per_epoch as f64).ceil() as u64;
        self.max_steps.unwrap_or(by_epochs).max(1)
    }

    /// The learning rate of a run of `total_steps` optimiser steps.
    pub fn schedule(&self, total_steps: u64) -> Schedule {
        let warmup_steps = self.warmup_steps(total_steps);
        Schedule { peak: self.learning_rate, warmup_steps, total_steps, decay: self.lr_scheduler_type }
    }

    /// Warm-up steps of a run of `total` optimiser steps; a share is rounded down.
    pub fn warmup_steps(&self, total: u64) -> u64 {
        match self.warmup {
            Warmup::Steps(steps) => steps,
            // The little added keeps 0.05 * 60 from becoming 2 where the product falls just below 3.
            Warmup::Ratio(ratio) => (ratio * total as f64 + 1e-9).floor() as u64,
        }
    }
}

/// Of warmup_ratio and warmup_steps the stronger layer's wins; in one layer only one may be positive.
fn warmup(r: &Resolver) -> Result<Warmup, ConfigError> {
    let (ratio, steps) = (r.real("warmup_ratio")?, r.integer("warmup_steps")?);
    let by_ratio = || Ok(Warmup::Ratio(ratio));
    let by_steps = || Ok(Warmup::Steps(steps));
    match (r.layer_of("warmup_ratio"), r.layer_of("warmup_steps")) {
        (None, _) => by_steps(),
        (Some(_), None) => {
            if ratio == 0.0 {
                by_steps()
            } else {
                by_ratio()
            }
        }
        (Some(a), Some(b)) if a == b && ratio > 0.0 && steps > 0 => Err(ConfigError::Conflict {
            place: r.place("warmup_steps"),
            problem: "`warmup_ratio` and `warmup_steps` are both given; keep one".into(),
        }),
        (Some(a), Some(b)) => {
            let ratio_wins = a > b || (a == b && ratio > 0.0);
            if ratio_wins { by_ratio() } else { by_steps() }
        }
    }
}
