//! A decoder: its config, its parameters by their Hugging Face names, and the engine it computes on. Random
//! starts and saving; loading is in `loading`, what it computes in `sequence_log_prob` and `generate`.

use crate::adapter::{Adapter, LowRankPlace};
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::family::NormKind;
use crate::layer::Layer;
use crate::layout::{Layout, TensorSpec};
use crate::loading::allocate;
use crate::norm::Norm;
use crate::quantised_base::QuantisedBase;
use crate::rope::{Rope, inverse_frequencies};
use crate::scores::statistics_to_write;
use crate::stored::StoredTensor;
use crate::weights::save_tensors;
use bso_durable::Seed;
use bso_engine::{
    Array, DType, Device, Engine, EngineError, HeadAdapter, PackedWeight, Quantisation, RotaryTable, Weight,
};
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
    /// Matrices that are kept in few bits.
    pub(crate) quantised: Option<QuantisedBase>,
    /// One table for each rotary embedding. They cover the longest batch so far; grown when a longer one comes.
    rotary: Mutex<Arc<[RotaryTable]>>,
    pub(crate) engine: Arc<Engine>,
}

impl Decoder {
    /// Random weights: normal with the config's `initializer_range` (0.02 where it has none), norms neutral, biases 0.
    /// Each tensor has its own stream, so that the same seed gives the same tensor in any model that has it.
    ///
    /// # Errors
    /// More parameters than fit in memory.
    pub fn random(config: ModelConfig, seed: Seed, engine: Arc<Engine>) -> Result<Self, ModelError> {
        let layout = Layout::of(&config);
        let mut decoder = Self::zeros(config, layout, engine, None)?;
        let std = decoder.config.initializer_range;
        for (spec, array) in decoder.layout.tensors.iter().zip(&mut decoder.parameters) {
            if spec.shape.len() == 1 {
                let less_one = decoder.config.norm() == NormKind::RmsPlusOne;
                array.fill(if less_one || spec.name.ends_with(".bias") { 0.0 } else { 1.0 });
            } else {
                fill_normal(array.as_mut_slice(), std, seed.derive(&spec.name, 0));
            }
        }
        decoder.place()?;
        Ok(decoder)
    }

    /// Whether the parameters are where the engine computes.
    pub(crate) fn is_placed(&self) -> bool {
        let there = |array: &&Array| array.device() == self.engine.device();
        self.parameters.iter().find(|array| !array.is_empty()).as_ref().is_some_and(there)
    }

    /// Moves the parameters to where the engine computes; due where some were made on the host.
    pub(crate) fn place(&mut self) -> Result<(), EngineError> {
        self.move_parameters(|engine, array| engine.place(array))
    }

    /// Brings the parameters to the host, where some of what is done to them is computed; [`Decoder::place`] must follow.
    pub(crate) fn fetch(&mut self) -> Result<(), EngineError> {
        self.move_parameters(|_, array| match array.device() {
            Device::Cpu => Ok(array),
            Device::Cuda(_) => Ok(array.on_host()?.into_owned()),
        })
    }

    fn move_parameters(
        &mut self,
        moved: impl Fn(&Engine, Array) -> Result<Array, EngineError>,
    ) -> Result<(), EngineError> {
        let Self { engine, parameters, adapter, .. } = self;
        let norms = adapter.iter_mut().flat_map(|adapter| adapter.norms.values_mut());
        // One at a time: none is in two places at once.
        for array in parameters.iter_mut().chain(norms) {
            *array = moved(engine, std::mem::replace(array, Array::zeros(0, 0)))?;
        }
        Ok(())
    }

    pub(crate) fn zeros(
        config: ModelConfig,
        layout: Layout,
        engine: Arc<Engine>,
        quantisation: Option<Quantisation>,
    ) -> Result<Self, ModelError> {
        let mut parameters: Vec<Array> = layout.tensors.iter().map(|_| Array::zeros(0, 0)).collect();
        let later = |stored: &&StoredTensor| quantisation.is_some() && layout.is_linear(stored);
        for stored in layout.stored.iter().filter(|stored| !later(stored)) {
            for part in &stored.parts {
                parameters[*part] = allocate(&layout.tensors[*part])?;
            }
        }
        let rotary = Mutex::new(rotary_tables(&config, 0)?);
        Ok(Self {
            config,
            layout,
            parameters,
            dtype: DType::F32,
            packed: Vec::new(),
            adapter: None,
            quantised: quantisation.map(QuantisedBase::new),
            rotary,
            engine,
        })
    }

    /// Chooses the precision of products and of what lies between them. In bf16 each matrix has a rounded copy (2 bytes
    /// a value, twice that with `gradients`), renewed after every change of the parameters; without `gradients` there
    /// is no backward pass.
    ///
    /// # Errors
    /// f16, which is a storage format only; a base that is kept in bf16 alone ([`Decoder::freeze_base_in`]).
    pub fn compute_in(&mut self, dtype: DType, gradients: bool) -> Result<(), ModelError> {
        self.refuse_rounded_base()?;
        self.place()?;
        match dtype {
            DType::F32 => self.packed = Vec::new(),
            DType::Bf16 => self.round((gradients, false))?,
            DType::F16 => return Err(EngineError::NoArithmetic(dtype).into()),
        }
        self.dtype = dtype;
        Ok(())
    }

    /// As [`Decoder::compute_in`] for training an adapter: in bf16 nothing but the rounded copy is kept of the frozen
    /// matrices beside it (where row lengths are trained, which follow from the numbers themselves, these are kept as
    /// well). Such a decoder computes, is trained, and saves its adapter; it is not merged.
    ///
    /// # Errors
    /// As [`Decoder::compute_in`].
    pub fn freeze_base_in(&mut self, dtype: DType) -> Result<(), ModelError> {
        let alone = self.adapter.as_ref().is_some_and(|adapter| adapter.norms.is_empty());
        if dtype != DType::Bf16 || !alone {
            return self.compute_in(dtype, true);
        }
        if self.refuse_rounded_base().is_err() {
            // Done before.
            return Ok(());
        }
        self.round((true, true))?;
        self.dtype = dtype;
        Ok(self.place()?)
    }

    /// Makes the rounded copies, one after another, wherever the numbers are; with `alone` frozen matrices give their
    /// own numbers up.
    fn round(&mut self, (gradients, alone): (bool, bool)) -> Result<(), EngineError> {
        let first = self.first_trained();
        let mut matrices = self.layout.products();
        matrices.extend(self.adapter.iter().flat_map(Adapter::products));
        // Embeddings are looked up as they are.
        let kept = [self.layout.embedding, self.embedding_place()];
        let Self { engine, parameters, packed, .. } = self;
        packed.clear();
        packed.resize_with(parameters.len(), || None);
        for place in matrices {
            let array = &parameters[place];
            if array.is_empty() {
                continue;
            }
            let mut copy = engine.packed_weight(array.rows(), array.cols(), gradients)?;
            engine.install(|| engine.pack_weight(array, &mut copy))?;
            packed[place] = Some(copy);
            if alone && place < first && !kept.contains(&place) {
                parameters[place] = Array::zeros(0, 0);
            }
        }
        Ok(())
    }

    /// Refuses what needs the numbers of a base that is kept in bf16 alone.
    pub(crate) fn refuse_rounded_base(&self) -> Result<(), ModelError> {
        let mut copies = self.packed.iter().zip(&self.parameters);
        if copies.any(|(packed, numbers)| packed.is_some() && numbers.is_empty()) {
            return Err(ModelError::argument(
                "the base of the adapter is kept in bf16 alone",
                "load the model again; bso merge folds an adapter into its base",
            ));
        }
        Ok(())
    }

    /// The precision of products.
    pub fn dtype(&self) -> DType {
        self.dtype
    }

    /// Rounds the trained parameters into their packed copies, and whatever else follows from them: due after every
    /// change.
    pub(crate) fn renew_packed(&mut self) -> Result<(), EngineError> {
        if let Some(adapter) = &mut self.adapter {
            adapter.renew_norms(&self.engine, (&self.parameters, self.quantised.as_ref()))?;
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
        self.refuse_quantised("save the adapter by itself")?;
        let tensors = self.layout.stored.iter().map(|stored| stored.to_write(&self.parameters));
        let statistics = self.config.score.iter().flat_map(statistics_to_write);
        save_tensors(dir, tensors.chain(statistics).collect(), dtype, max_shard_bytes)?;
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

    /// Names and values of all parameters; a vector is one row, and what is kept in few bits is empty. Names are Hugging Face's; where several parameters are
    /// stored in one tensor, each adds its part (`qkv_proj.query.weight`). Tied ones appear once.
    pub fn parameters(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.layout.tensors.iter().map(|t| t.name.as_str()).zip(&self.parameters)
    }

    /// As [`Decoder::parameters`], to be changed in place; [`Decoder::renew_packed`] must follow.
    pub(crate) fn parameters_mut(&mut self) -> impl Iterator<Item = (&TensorSpec, &mut Array)> {
        self.layout.tensors.iter().zip(&mut self.parameters)
    }

    /// Number of parameters; tied ones count once.
    pub fn parameter_count(&self) -> usize {
        self.layout.tensors.iter().map(TensorSpec::len).sum()
    }

    /// The place of the first parameter that is trained; every later one is as well.
    pub(crate) fn first_trained(&self) -> usize {
        self.adapter.as_ref().map_or(0, |adapter| adapter.first)
    }

    /// Number of parameters that are trained: all, or an adapter's.
    pub fn trained_count(&self) -> usize {
        self.layout.tensors.iter().skip(self.first_trained()).map(TensorSpec::len).sum()
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

    /// The adapter of the output head, where it has one; `dropout` decides what is dropped, if anything.
    pub(crate) fn head_adapter(&self, dropout: Option<u64>) -> Option<(LowRankPlace, HeadAdapter<'_>)> {
        let (adapter, head) = (self.adapter.as_ref()?, self.layout.head);
        let (places, update) = adapter.update(head, (dropout, 0), |place| self.weight(place))?;
        Some((places, HeadAdapter { update, lengths: adapter.lengths(head, &self.parameters) }))
    }

    pub(crate) fn head_place(&self) -> usize {
        self.adapter.as_ref().and_then(|adapter| adapter.head).unwrap_or(self.layout.head)
    }

    /// Whether the model has an output head, and it is the embedding.
    pub(crate) fn tied_head(&self) -> bool {
        self.config.tied_head && self.config.score.is_none()
    }

    pub(crate) fn embedding(&self) -> &Array {
        &self.parameters[self.embedding_place()]
    }

    /// The embedding of positions, where there is one.
    pub(crate) fn positions(&self) -> Option<&Array> {
        self.layout.positions.map(|place| &self.parameters[place])
    }

    pub(crate) fn norm(&self) -> Norm<'_> {
        let (engine, parameters) = (&*self.engine, &*self.parameters);
        Norm { engine, parameters, kind: self.config.norm(), eps: self.config.norm_eps }
    }

    pub(crate) fn head(&self) -> Weight<'_> {
        self.weight(self.head_place())
    }

    /// A matrix as products take it.
    pub(crate) fn weight(&self, place: usize) -> Weight<'_> {
        weight(place, (&self.parameters, &self.packed, self.quantised.as_ref()))
    }

    pub(crate) fn layer<'a>(
        &'a self,
        index: usize,
        positions: &'a [u32],
        rotary: &'a [RotaryTable],
    ) -> Layer<'a> {
        let kind = self.config.layer_kinds[index];
        Layer {
            engine: &self.engine,
            config: &self.config,
            parameters: &self.parameters,
            packed: &self.packed,
            quantised: self.quantised.as_ref(),
            adapter: self.adapter.as_ref(),
            dropout: None,
            first_row: 0,
            dtype: self.dtype,
            place: &self.layout.layers[index],
            kind,
            rotary: kind.rope.map(|rope| &rotary[rope]),
            positions,
        }
    }

    /// The tables for at least `positions` positions.
    pub(crate) fn rotary_covering(&self, positions: usize) -> Result<Arc<[RotaryTable]>, ModelError> {
        let limit = self.config.max_positions;
        if positions > limit {
            return Err(ModelError::argument(
                format!(
                    "a sequence takes {positions} positions, the model has {limit} (max_position_embeddings)"
                ),
                "truncate it (max_length) or use a model with a longer context",
            ));
        }
        // A poisoned lock holds whole tables all the same: they are replaced in one assignment.
        let mut tables = self.rotary.lock().unwrap_or_else(PoisonError::into_inner);
        if tables.iter().any(|table| table.positions() < positions) {
            *tables = rotary_tables(&self.config, positions.next_power_of_two().max(256).min(limit))?;
        }
        Ok(tables.clone())
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
            quantised: self.quantised.clone(),
            rotary: Mutex::new(rotary),
            engine: self.engine.clone(),
        }
    }
}

/// A matrix as products take it, from where its numbers are.
pub(crate) fn weight<'a>(
    place: usize,
    (parameters, packed, quantised): (&'a [Array], &'a [Option<PackedWeight>], Option<&'a QuantisedBase>),
) -> Weight<'a> {
    match quantised.and_then(|base| base.weight(place)) {
        Some(weight) => Weight::Quantised(weight),
        None => match packed.get(place).and_then(Option::as_ref) {
            Some(packed) if parameters[place].is_empty() => Weight::Rounded(packed),
            packed => Weight::Whole(&parameters[place], packed),
        },
    }
}

fn rotary_tables(config: &ModelConfig, positions: usize) -> Result<Arc<[RotaryTable]>, ModelError> {
    let table = |rope: &Rope| {
        let (frequencies, factor) = inverse_frequencies(config.rotary_dim, rope.theta, &rope.scaling);
        Ok(RotaryTable::new(&frequencies, factor, positions).in_heads_of(config.head_dim)?)
    };
    config.ropes.iter().map(table).collect()
}

/// Normal numbers by the Box-Muller transform.
pub(crate) fn fill_normal(values: &mut [f32], std: f64, seed: Seed) {
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
