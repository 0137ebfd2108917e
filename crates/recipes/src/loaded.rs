//! What is said of what was loaded or taken: models with their fields that nobody knows, processors, memory.

use crate::config::TrainConfig;
use crate::session::optimiser_kind;
use bso_durable::{Event, Observer};
use bso_model::{BatchSize, Decoder, Engine, ModelMemory, PassMemory};
use std::path::Path;
use std::time::Instant;

/// Logs how long a model took to load, and warns of fields in its `config.json` that nothing here computes with.
pub fn tell_of_model(decoder: &Decoder, dir: &Path, since: Instant, observer: &dyn Observer) {
    log_model(decoder, dir, since);
    if let Some(text) = unknown_fields(decoder, dir) {
        observer.event(Event::Warning(text));
    }
}

/// As [`tell_of_model`] where nobody but the log listens.
pub fn log_model_and_fields(decoder: &Decoder, dir: &Path, since: Instant) {
    log_model(decoder, dir, since);
    if let Some(text) = unknown_fields(decoder, dir) {
        log::warn!("{text}");
    }
}

fn log_model(decoder: &Decoder, dir: &Path, since: Instant) {
    log::info!(
        "{}: {} with {} parameters, loaded in {:.2} s",
        dir.display(),
        decoder.config().model_type(),
        decoder.parameter_count(),
        since.elapsed().as_secs_f64()
    );
    log_engine(decoder.engine());
}

fn unknown_fields(decoder: &Decoder, dir: &Path) -> Option<String> {
    let unknown = decoder.config().unknown_fields();
    (!unknown.is_empty()).then(|| {
        format!(
            "{}: config.json has fields that are not known here: {}; if one of them changes what the model computes, its \
             log-probs are not those of transformers",
            dir.display(),
            unknown.join(", ")
        )
    })
}

fn log_engine(engine: &Engine) {
    log::info!("device {}: {}", engine.device(), engine.description());
}

/// Logs the memory that a run takes before its first step, for batches up to `size`.
pub fn log_memory(config: &TrainConfig, decoder: &Decoder, size: BatchSize) {
    let (dtype, model) = (decoder.dtype(), decoder.config());
    let memory = ModelMemory::of(model, dtype, true);
    let (gradients, state) = memory.gradients_and_state(optimiser_kind(config));
    let pass = PassMemory::of_training(
        model,
        (dtype, decoder.engine().device()),
        config.model.gradient_checkpointing,
        size,
    );
    let mib = |bytes: usize| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    log::info!(
        "memory for batches up to {} rows, {} of them scored, with all weights trained: weights {}, packed {}, gradients {}, \
         optimiser {}, activations {}, their gradients {}",
        size.rows,
        size.head_rows,
        mib(memory.weights),
        mib(memory.packed),
        mib(gradients),
        mib(state),
        mib(pass.activations),
        mib(pass.backward)
    );
}
