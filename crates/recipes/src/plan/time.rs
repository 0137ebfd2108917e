//! Seconds of a run from the calibrated rates.

use super::calibration::{Calibrated, Training, head_operations, layers_operations};
use super::workload::{Work, Workload};
use crate::config::TrainConfig;
use bso_model::{AdapterConfig, ModelConfig};
use serde::Serialize;

/// Where the time goes, seconds.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct TimePlan {
    /// Reading and tokenising, as this plan took for it.
    pub tokenising: f64,
    /// The reference's log-probs.
    pub reference: f64,
    /// All optimiser steps.
    pub training: f64,
    /// All evaluations.
    pub evaluation: f64,
    /// Their sum.
    pub total: f64,
    /// Tokens a second while training, prompts counted each time.
    pub tokens_per_second: f64,
    /// The rate of training's arithmetic that is assumed, GFLOP/s.
    pub gflops: f64,
    /// What the calibration took.
    pub calibration: f64,
}

impl Calibrated {
    /// The time of a run that trains so many parameters; last, whether it has a reference, and the seconds that tokenising took.
    pub(super) fn time(
        &self,
        (config, adapter): (&TrainConfig, Option<&AdapterConfig>),
        (model, trained): (&ModelConfig, usize),
        work: &Workload,
        (needs_reference, tokenising): (bool, f64),
    ) -> TimePlan {
        let rates = self.rates;
        let vocab = model.vocab_size as f64;
        let scoring = |work: Work| {
            layers_operations(model, work) / rates.layers.0
                + head_operations(model, vocab, work) / rates.head.0
        };
        let products = Training::of(config, adapter);
        let (in_layers, in_head) = (products.layers(model), products.head());
        let operations = |work: Work| {
            (in_layers * layers_operations(model, work), in_head * head_operations(model, vocab, work))
        };
        let (layers, head) = operations(work.training);
        let parameters = trained as f64;
        let passes = layers / rates.layers.1 + head / rates.head.1;
        let training = passes + scoring(work.mismatched) + work.steps as f64 * parameters * rates.parameter;
        let reference =
            if needs_reference { scoring(work.train_scored) + scoring(work.eval_scored) } else { 0.0 };
        let evaluation = work.evaluations as f64 * scoring(work.eval_scored);
        let given = work.tokens.given as f64 * work.training.passes / work.epoch_passes.max(1.0);
        TimePlan {
            tokenising,
            reference,
            training,
            evaluation,
            total: tokenising + reference + training + evaluation,
            tokens_per_second: given / training.max(1e-9),
            gflops: (layers + head) / training.max(1e-9) / 1e9,
            calibration: self.seconds,
        }
    }
}
