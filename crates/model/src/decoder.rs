//! A decoder: its config, its parameters by their Hugging Face names, and the engine it computes on. Loading,
//! random starts and saving; what it computes is in `sequence_log_prob` and `generate`.

use crate::adapter::Adapter;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layer::Layer;
use crate::layout::{Layout, TensorSpec};
use crate::model_directory::ModelDirectory;
use crate::rope::inverse_frequencies;
use crate::weights::{Checkpoint, TensorToWrite, save_tensors};
use bso_durable::Seed;
use bso_engine::{Array, DType, Engine, EngineError, PackedWeight, RotaryTable, Weight};
use rand::Rng;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

/// Largest shard that [`Decoder::save`] writes, bytes; transformers' default.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Weights and shape of a decoder-only language model, with or without an adapter. The weights are kept in f32; products are computed in f32, or in
/// bf16 with sums in f32 ([`Decoder::compute_in`]).
#[derive(Debug)]
pub struct Decoder {
    pub(crate) config: ModelConfig,
    pub(crate) layout: Layout,
    /// With an adapter, its tensors stand last; those before them are frozen.
    pub(crate) parameters: Vec<Array>,
    pub(crate) dtype: DType,
    /// Rounded copies of the matrices that products read; none in f32.
    pub(crate) packed: Vec<Option<PackedWeight>>,
    pub(crate) adapter: Option<Adapter>,
    inverse_frequencies: Vec<f32>,
    attention_factor: f32,
    /// Covers the longest batch so far; grown when a longer one comes.
    rotary: Mutex<Arc<RotaryTable>>,
    engine: Arc<Engine>,
}

impl Decoder {
    /// Loads a model directory in Hugging Face layout; bf16 and f16 become f32. An adapter's directory gives its base model
    /// with the adapter merged in.
    ///
    /// Names, shapes and sizes of all tensors are checked before any memory is taken for them.
    ///
    /// # Errors
    /// A missing, damaged or unsupported config or weight file; a missing, superfluous or misshapen tensor.
    pub fn load(dir: &Path, engine: Arc<Engine>) -> Result<Self, ModelError> {
        let ModelDirectory { base: dir, adapter } = ModelDirectory::find(dir)?;
        let config = ModelConfig::from_dir(&dir)?;
        let layout = Layout::of(&config);
        let checkpoint = Checkpoint::open(&dir)?;
        for spec in &layout.tensors {
            checkpoint.check(&spec.name, &spec.shape)?;
        }
        refuse_superfluous(&checkpoint, &config, &layout)?;
        let mut decoder = Self::zeros(config, layout, engine)?;
        for (spec, array) in decoder.layout.tensors.iter().zip(&mut decoder.parameters) {
            checkpoint.read(&spec.name, &spec.shape, array.as_mut_slice())?;
        }
        decoder.refuse_untied_head(&checkpoint)?;
        if let Some(adapter) = adapter {
            decoder.load_adapter(&adapter)?;
            decoder.merge_adapter()?;
        }
        Ok(decoder)
    }

    /// Random weights: normal with the config's `initializer_range` (0.02 where it has none), norms 1, biases 0.
    /// Each tensor has its own stream, so that the same seed gives the same tensor in any model that has it.
    ///
    /// # Errors
    /// More parameters than fit in memory.
    pub fn random(config: ModelConfig, seed: Seed, engine: Arc<Engine>) -> Result<Self, ModelError> {
        let layout = Layout::of(&config);
        let mut decoder = Self::zeros(config, layout, engine)?;
        let std = decoder.config.initializer_range;
        for (spec, array) in decoder.layout.tensors.iter().zip(&mut decoder.parameters) {
            if spec.shape.len() == 1 {
                array.fill(if spec.name.ends_with(".bias") { 0.0 } else { 1.0 });
            } else {
                fill_normal(array.as_mut_slice(), std, seed.derive(&spec.name, 0));
            }
        }
        Ok(decoder)
    }

    fn zeros(config: ModelConfig, layout: Layout, engine: Arc<Engine>) -> Result<Self, ModelError> {
        let parameters = layout.tensors.iter().map(allocate).collect::<Result<_, _>>()?;
        let (inverse_frequencies, attention_factor) =
            inverse_frequencies(config.head_dim, config.rope_theta, &config.rope_scaling);
        let rotary = Mutex::new(Arc::new(RotaryTable::new(&inverse_frequencies, attention_factor, 0)));
        Ok(Self {
            config,
            layout,
            parameters,
            dtype: DType::F32,
            packed: Vec::new(),
            adapter: None,
            inverse_frequencies,
            attention_factor,
            rotary,
            engine,
        })
    }

    /// Chooses the precision of products and of what lies between them. In bf16 each matrix has a rounded copy (2 bytes
    /// a value, twice that with `gradients`), renewed after every change of the parameters; without `gradients` there
    /// is no backward pass.
    ///
    /// # Errors
    /// f16, which is a storage format only.
    pub fn compute_in(&mut self, dtype: DType, gradients: bool) -> Result<(), ModelError> {
        self.packed = match dtype {
            DType::F32 => Vec::new(),
            DType::Bf16 => {
                let mut matrices = self.layout.products();
                matrices.extend(self.adapter.iter().flat_map(Adapter::products));
                let pack = |(i, array): (usize, &Array)| {
                    matrices.contains(&i).then(|| PackedWeight::new(array.rows(), array.cols(), gradients))
                };
                self.parameters.iter().enumerate().map(pack).collect()
            }
            DType::F16 => return Err(EngineError::NoArithmetic(dtype).into()),
        };
        self.dtype = dtype;
        Ok(self.pack_from(0)?)
    }

    /// The precision of products.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rounds the trained parameters into their packed copies, and whatever else follows from them: due after every
    /// change.
    pub(crate) fn renew_packed(&mut self) -> Result<(), EngineError> {
        if let Some(adapter) = &mut self.adapter {
            adapter.renew_norms(&self.engine, &self.parameters)?;
        }
        self.pack_from(self.first_trained())
    }

    fn pack_from(&mut self, first: usize) -> Result<(), EngineError> {
        let Self { engine, parameters, packed, .. } = self;
        engine.install(|| {
            parameters.iter().zip(packed).skip(first).try_for_each(|(parameter, packed)| match packed {
                Some(packed) => engine.pack_weight(parameter, packed),
                None => Ok(()),
            })
        })
    }

    /// Writes `config.json` and the weights into `dir` (which must exist), rounded to `dtype`, as transformers
    /// reads them. Tied weights are written once. Each file appears whole or not at all.
    ///
    /// # Errors
    /// The I/O error with the path.
    pub fn save(&self, dir: &Path, dtype: DType) -> Result<(), ModelError> {
        self.save_sharded(dir, dtype, SHARD_BYTES)
    }

    /// As [`Decoder::save`], with shards of at most `max_shard_bytes` (a larger tensor has a shard of its own).
    ///
    /// # Errors
    /// The I/O error with the path.
    pub fn save_sharded(&self, dir: &Path, dtype: DType, max_shard_bytes: u64) -> Result<(), ModelError> {
        if self.adapter.is_some() {
            return Err(ModelError::argument(
                "the model has an adapter, which whole weights cannot hold",
                "merge it, or save it by itself",
            ));
        }
        let tensors = self.layout.tensors.iter().zip(&self.parameters).map(|(spec, array)| TensorToWrite {
            name: spec.name.clone(),
            shape: spec.shape.clone(),
            data: array.as_slice().into(),
        });
        save_tensors(dir, tensors.collect(), dtype, max_shard_bytes)?;
        self.config.save(dir, dtype)
    }

    /// The shape.
    pub fn config(&self) -> &ModelConfig {
        &self.config
    }

    /// What it computes on.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// Names and values of all parameters, in Hugging Face's order; a vector is one row. Tied ones appear once.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.layout.tensors.iter().map(|t| t.name.as_str()).zip(&self.parameters)
    }

    /// As [`Decoder::parameters`], to be changed in place; [`Decoder::renew_packed`] must follow.
    pub(crate) fn parameters_mut(&mut self) -> impl Iterator<Item = (&str, &mut Array)> {
        self.layout.tensors.iter().map(|t| t.name.as_str()).zip(&mut self.parameters)
    }

    /// Number of parameters; tied ones count once.
    pub fn parameter_count(&self) -> usize {
        self.parameters.iter().map(Array::len).sum()
    }

    /// The place of the first parameter that is trained; every later one is as well.
    pub(crate) fn first_trained(&self) -> usize {
        self.adapter.as_ref().map_or(0, |adapter| adapter.first)
    }

    /// Number of parameters that are trained: all, or an adapter's.
    pub fn trained_count(&self) -> usize {
        self.parameters.iter().skip(self.first_trained()).map(Array::len).sum()
    }

    pub(crate) fn arrays(&self) -> &[Array] {
        &self.parameters
    }

    pub(crate) fn layout(&self) -> &Layout {
        &self.layout
    }

    pub(crate) fn embedding_place(&self) -> usize {
        self.adapter.as_ref().and_then(|adapter| adapter.embedding).unwrap_or(self.layout.embedding)
    }

    pub(crate) fn head_place(&self) -> usize {
        self.adapter.as_ref().and_then(|adapter| adapter.head).unwrap_or(self.layout.head)
    }

    pub(crate) fn embedding(&self) -> &Array {
        &self.parameters[self.embedding_place()]
    }

    pub(crate) fn final_norm(&self) -> &Array {
        &self.parameters[self.layout.norm]
    }

    pub(crate) fn head(&self) -> Weight<'_> {
        self.weight(self.head_place())
    }

    /// A matrix as products take it.
    pub(crate) fn weight(&self, place: usize) -> Weight<'_> {
        Weight { values: &self.parameters[place], packed: self.packed.get(place).and_then(Option::as_ref) }
    }

    pub(crate) fn layer<'a>(
        &'a self,
        index: usize,
        positions: &'a [u32],
        rotary: &'a RotaryTable,
    ) -> Layer<'a> {
        Layer {
            engine: &self.engine,
            config: &self.config,
            parameters: &self.parameters,
            packed: &self.packed,
            adapter: self.adapter.as_ref(),
            dropout: None,
            dtype: self.dtype,
            place: &self.layout.layers[index],
            rotary,
            positions,
        }
    }

    /// The table for at least `positions` positions.
    pub(crate) fn rotary_covering(&self, positions: usize) -> Result<Arc<RotaryTable>, ModelError> {
        let limit = self.config.max_positions;
        if positions > limit {
            return Err(ModelError::argument(
                format!(
                    "a sequence takes {positions} positions, the model has {limit} (max_position_embeddings)"
                ),
                "truncate it (max_length) or use a model with a longer context",
            ));
        }
        // A poisoned lock holds a whole table all the same: it is replaced in one assignment.
        let mut table = self.rotary.lock().unwrap_or_else(PoisonError::into_inner);
        if table.positions() < positions {
            let size = positions.next_power_of_two().max(256).min(limit);
            *table = Arc::new(RotaryTable::new(&self.inverse_frequencies, self.attention_factor, size));
        }
        Ok(table.clone())
    }

    /// transformers ignores a stored head where the config ties it; a different one would be lost silently.
    fn refuse_untied_head(&self, checkpoint: &Checkpoint) -> Result<(), ModelError> {
        let name = "lm_head.weight";
        if !self.config.tied_head || !checkpoint.has(name) {
            return Ok(());
        }
        let spec = &self.layout.tensors[self.layout.embedding];
        checkpoint.check(name, &spec.shape)?;
        let mut head = allocate(spec)?;
        checkpoint.read(name, &spec.shape, head.as_mut_slice())?;
        if head.as_slice() == self.parameters[self.layout.embedding].as_slice() {
            return Ok(());
        }
        Err(ModelError::Tensor {
            file: checkpoint.file_of(name).to_owned(),
            tensor: name.into(),
            expected: "the values of model.embed_tokens.weight (tie_word_embeddings is true)".into(),
            found: "others".into(),
            remedy: "set tie_word_embeddings to false in config.json, or remove the tensor".into(),
        })
    }
}

impl Clone for Decoder {
    fn clone(&self) -> Self {
        let rotary = self.rotary.lock().unwrap_or_else(PoisonError::into_inner).clone();
        Self {
            config: self.config.clone(),
            layout: self.layout.clone(),
            parameters: self.parameters.clone(),
            dtype: self.dtype,
            packed: self.packed.clone(),
            adapter: self.adapter.clone(),
            inverse_frequencies: self.inverse_frequencies.clone(),
            attention_factor: self.attention_factor,
            rotary: Mutex::new(rotary),
            engine: self.engine.clone(),
        }
    }
}

/// Tensors that the model would not use: a sign of another architecture, except for two that older versions of
/// transformers wrote.
fn refuse_superfluous(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    layout: &Layout,
) -> Result<(), ModelError> {
    let known: std::collections::HashSet<&str> = layout.tensors.iter().map(|t| t.name.as_str()).collect();
    let harmless =
        |name: &str| name.ends_with(".rotary_emb.inv_freq") || (name == "lm_head.weight" && config.tied_head);
    match checkpoint.names().find(|name| !known.contains(name) && !harmless(name)) {
        None => Ok(()),
        Some(name) => Err(ModelError::Tensor {
            file: checkpoint.file_of(name).to_owned(),
            tensor: name.into(),
            expected: format!("only the tensors of a {} of {} layers", config.model_type(), config.layers),
            found: "this one besides".into(),
            remedy: "config.json and the weights belong to different models; fetch both again".into(),
        }),
    }
}

pub(crate) fn allocate(spec: &TensorSpec) -> Result<Array, ModelError> {
    let (rows, cols) = spec.rows_cols();
    let mut data = Vec::new();
    let fits = rows.checked_mul(cols).filter(|n| data.try_reserve_exact(*n).is_ok());
    let Some(len) = fits else {
        return Err(ModelError::argument(
            format!("no memory for {} of {rows} x {cols} numbers", spec.name),
            "use a smaller model or a machine with more memory",
        ));
    };
    data.resize(len, 0.0);
    Ok(Array::from_vec(rows, cols, data)?)
}

/// Normal numbers by the Box-Muller transform.
fn fill_normal(values: &mut [f32], std: f64, seed: Seed) {
    let mut rng = seed.rng();
    for pair in values.chunks_mut(2) {
        // 1 - u is in (0, 1], where the logarithm is finite.
        let (u, v): (f64, f64) = (1.0 - rng.random::<f64>(), rng.random());
        let (radius, angle) = (std * (-2.0 * u.ln()).sqrt(), std::f64::consts::TAU * v);
        for (value, x) in pair.iter_mut().zip([radius * angle.cos(), radius * angle.sin()]) {
            *value = x as f32;
        }
    }
}
