//! A short measurement on this machine: two layers of the network with random weights and a part of its vocabulary
//! compute a batch of the data's real lengths. Gives rates, and what operations borrow as working memory.

use super::workload::{Work, Workload};
use crate::RecipeError;
use crate::config::TrainConfig;
use crate::session::optimiser_kind;
use bso_durable::Seed;
use bso_model::{
    Activations, AdapterConfig, BatchSize, Decoder, Engine, Gradients, ModelConfig, ModelError, Optimiser,
    PackedBatch, PromptResponse, Targets, Workspace,
};
use std::sync::Arc;
use std::time::Instant;

/// Rows that are enough for products to run at full speed.
const ROWS: usize = 2048;
/// Floating-point operations of one calibrated pass, about: bounds its time for wide models.
const OPERATIONS: f64 = 4e11;
/// Layers that are measured.
const LAYERS: usize = 2;
/// Vocabularies that are measured; the difference gives the head's rate.
const VOCABULARIES: [usize; 2] = [1024, 4096];
/// Timed repetitions, after one to warm up; the fastest counts, as the least disturbed.
const REPETITIONS: usize = 4;

/// Seconds of a pass.
#[derive(Clone, Copy, Debug)]
struct Seconds {
    forward: f64,
    training: f64,
}

/// Floating-point operations a second.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rates {
    /// Of the layers' forward, and of their forward and backward.
    pub layers: (f64, f64),
    /// Of the head's.
    pub head: (f64, f64),
    /// Seconds that the optimiser takes a parameter, clearing and norms included.
    pub parameter: f64,
}

/// What was measured.
pub(super) struct Calibrated {
    pub rates: Rates,
    /// Bytes that operations borrow.
    pub scratch: u64,
    /// Rows of the batch that was measured.
    pub rows: usize,
    pub seconds: f64,
}

pub(super) fn calibrate(
    (config, adapter): (&TrainConfig, Option<&AdapterConfig>),
    model: &ModelConfig,
    engine: &Engine,
    workload: &Workload,
) -> Result<Calibrated, RecipeError> {
    let started = Instant::now();
    // An engine of its own: its working memory is then what these passes took.
    let own = Engine::on(engine.device(), Some(engine.num_threads())).map_err(bso_model::ModelError::from)?;
    let engine = Arc::new(own);
    let [few, mut many] = VOCABULARIES.map(|vocab| vocab.min(model.vocab_size));
    if model.score.is_some() {
        // Its head has one output, whatever the vocabulary.
        many = few;
    }
    let rows =
        (OPERATIONS / (6.0 * layer_operations(model) * LAYERS as f64)).clamp(64.0, ROWS as f64) as usize;
    let run = |vocab| run((config, adapter), model, (vocab, rows), &engine, workload);
    let small = run(few)?;
    let large = if many > few { run(many)? } else { small };
    let rates = rates(model, Training::of(config, adapter), [(few, small), (many, large)]);
    let scratch = engine.scratch_bytes() as u64;
    Ok(Calibrated { rates, scratch, rows: small.1.rows, seconds: started.elapsed().as_secs_f64() })
}

/// One measurement: seconds, the batch, and the optimiser's seconds a parameter.
type Measured = (Seconds, BatchSize, f64);

fn run(
    (config, adapter): (&TrainConfig, Option<&AdapterConfig>),
    model: &ModelConfig,
    (vocab, rows): (usize, usize),
    engine: &Arc<Engine>,
    workload: &Workload,
) -> Result<Measured, RecipeError> {
    let mut part = model.clone();
    (part.layers, part.vocab_size) = (LAYERS.min(model.layers), vocab);
    let mut decoder = Decoder::random(part, Seed::new(0), engine.clone())?;
    config.quantisation.map_or(Ok(()), |kind| decoder.quantise(kind))?;
    if let Some(adapter) = adapter {
        // Names of single layers may be of others than these: then all layers stand for them.
        let of_all = AdapterConfig { targets: Targets::AllLinear, ..adapter.clone() };
        let attached = decoder.attach_adapter(adapter, Seed::new(0));
        attached.or_else(|_| decoder.attach_adapter(&of_all, Seed::new(0)))?;
    }
    decoder.compute_in(config.model.compute_dtype(), true)?;
    let batch = batch(workload, decoder.config(), rows)?;
    let weights = vec![1e-3; batch.sequences()];
    let mut workspace = Workspace::new();
    let forward = fastest(engine, || Ok(decoder.outputs_in(&batch, &mut workspace).map(|_| ())?))?;
    let mut activations =
        if config.model.gradient_checkpointing { Activations::checkpointed() } else { Activations::new() };
    activations.drop_by(adapter.map(|_| Seed::new(0)));
    let mut gradients = Gradients::zeros(&decoder)?;
    let training = fastest(engine, || {
        decoder.forward(&batch, &mut activations)?;
        Ok(decoder.backward(&batch, &mut activations, &weights, &mut gradients)?)
    })?;
    let mut optimiser = Optimiser::new(optimiser_kind(config), 0.0, &decoder)?;
    let update = fastest(engine, || {
        optimiser.step(&mut decoder, &gradients, f64::from(gradients.squared_norm()?.is_finite()), 1e-6)?;
        Ok(gradients.zero()?)
    })?;
    let parameters = decoder.trained_count() as f64;
    Ok((Seconds { forward, training }, BatchSize::of(&batch), update / parameters))
}

/// A batch of the data's lengths: the longest example, then others while they fit. Ids are brought into the vocabulary.
fn batch(workload: &Workload, model: &ModelConfig, rows: usize) -> Result<PackedBatch, RecipeError> {
    let vocab = model.vocab_size as u32;
    let (mut chosen, mut taken) = (Vec::new(), 0);
    for sequences in &workload.sample {
        let size: usize = sequences.iter().map(|s| s.len()).sum();
        if taken > 0 && taken + size > rows {
            break;
        }
        taken += size;
        let inside = |ids: &[u32]| -> Vec<u32> { ids.iter().map(|id| id % vocab).collect() };
        chosen.extend(sequences.iter().map(|s| (inside(&s.prompt), inside(&s.response))));
    }
    let views: Vec<PromptResponse<'_>> = chosen.iter().map(|(p, r)| (p.as_slice(), r.as_slice())).collect();
    let mut batch = PackedBatch::empty();
    batch.pack_for(model.reads(), &views, crate::step::SHARE_PROMPT)?;
    Ok(batch)
}

fn fastest(engine: &Engine, mut work: impl FnMut() -> Result<(), RecipeError>) -> Result<f64, RecipeError> {
    let mut work = || {
        work()?;
        engine.synchronise().map_err(|error| RecipeError::from(ModelError::from(error)))
    };
    work()?;
    let mut fastest = f64::INFINITY;
    for _ in 0..REPETITIONS {
        let start = Instant::now();
        work()?;
        fastest = fastest.min(start.elapsed().as_secs_f64());
    }
    Ok(fastest)
}

/// Rates from two measurements that differ in their vocabulary.
fn rates(
    model: &ModelConfig,
    training: Training,
    [(few, small), (many, large)]: [(usize, Measured); 2],
) -> Rates {
    let work = Work::of(small.1);
    let mut part = model.clone();
    part.layers = LAYERS.min(model.layers);
    let layers = layers_operations(&part, work);
    let head = |vocab: usize| head_operations(&part, vocab as f64, work);
    let of = |small: f64, large: f64, (layer_cost, head_cost): (f64, f64)| {
        // The larger vocabulary's surplus is the head's; a surplus within noise is taken as the layers' rate.
        let surplus = (large - small) / (head_cost * (head(many) - head(few))).max(1.0);
        let whole = small / (layer_cost * layers + head_cost * head(few));
        let per_head =
            if many > few && surplus > 0.0 { surplus.clamp(whole / 4.0, whole * 4.0) } else { whole };
        let in_layers = (small - per_head * head_cost * head(few)).max(small / 10.0);
        (layer_cost * layers / in_layers, 1.0 / per_head)
    };
    let forward = of(small.0.forward, large.0.forward, (1.0, 1.0));
    let trained = of(small.0.training, large.0.training, (training.layers(&part), training.head()));
    Rates { layers: (forward.0, trained.0), head: (forward.1, trained.1), parameter: small.2.max(large.2) }
}

/// Which products a training pass computes.
#[derive(Clone, Copy)]
pub(super) struct Training {
    checkpointed: bool,
    /// Whether layers and head are frozen: there are no products for their gradients then.
    frozen: (bool, bool),
}

impl Training {
    pub(super) fn of(config: &TrainConfig, adapter: Option<&AdapterConfig>) -> Self {
        // An adapter trains the head or the embedding that it is tied to as copies of them.
        let frozen = (adapter.is_some(), adapter.is_some_and(|adapter| adapter.modules_to_save.is_empty()));
        Self { checkpointed: config.model.gradient_checkpointing, frozen }
    }

    /// Forward and backward of the layers, in forwards: up to two products for each one, and checkpointed all layers but
    /// the last a second time.
    pub(super) fn layers(self, model: &ModelConfig) -> f64 {
        let again = (model.layers - 1) as f64 / model.layers as f64;
        (if self.frozen.0 { 2.0 } else { 3.0 }) + if self.checkpointed { again } else { 0.0 }
    }

    /// Forward and backward of the head: its logits are computed twice.
    pub(super) fn head(self) -> f64 {
        if self.frozen.1 { 3.0 } else { 4.0 }
    }
}

/// Floating-point operations of a layer's products for one row.
fn layer_operations(model: &ModelConfig) -> f64 {
    let (attention, rest) = parts(model);
    2.0 * (attention + rest)
}

/// Weights of queries, keys and values; of the output and the MLP.
fn parts(model: &ModelConfig) -> (f64, f64) {
    let (wide, narrow) = (model.heads * model.head_dim, model.kv_heads * model.head_dim);
    let hidden = model.hidden_size;
    ((hidden * (wide + 2 * narrow)) as f64, (hidden * (wide + 3 * model.intermediate_size)) as f64)
}

/// Floating-point operations of all layers' forward.
pub(super) fn layers_operations(model: &ModelConfig, work: Work) -> f64 {
    let (attention, rest) = parts(model);
    let layers = model.layers as f64;
    let scores = 4.0 * (model.heads * model.head_dim) as f64 * work.attended_pairs;
    layers * (2.0 * attention * work.rows + scores)
        + 2.0 * rest * ((layers - 1.0) * work.rows + work.head_rows)
}

/// Floating-point operations of the head's forward.
pub(super) fn head_operations(model: &ModelConfig, vocab: f64, work: Work) -> f64 {
    let outputs = if model.score.is_some() { 1.0 } else { vocab };
    2.0 * outputs * model.hidden_size as f64 * work.scored
}
