//! Giving a decoder an adapter, new or read, and taking it off.

use super::plan::AdapterPlan;
use super::{Adapter, AdapterConfig};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::loading::allocate;
use bso_durable::Seed;
use bso_engine::{Array, DType, EngineError};
use rand::Rng;

impl Decoder {
    /// Freezes the weights and puts a new adapter beside them: `b` zero, so that the model computes what it did before, and
    /// `a` as PEFT starts it (uniform within 1 / sqrt(inputs)); copies of whole modules start as the originals.
    ///
    /// # Errors
    /// Settings out of range; targets or modules that the model does not have; an adapter that is there already.
    pub fn attach_adapter(&mut self, config: &AdapterConfig, seed: Seed) -> Result<(), ModelError> {
        let plan = self.plan_adapter(config)?;
        let mut arrays = Vec::with_capacity(plan.tensors.len());
        for (index, spec) in plan.tensors.iter().enumerate() {
            let place = plan.adapter.first + index;
            let original = match place {
                place if Some(place) == plan.adapter.embedding => Some(self.layout.embedding),
                place if [plan.adapter.head, plan.adapter.score].contains(&Some(place)) => {
                    Some(self.layout.head)
                }
                _ => None,
            };
            arrays.push(match original {
                Some(original) => self.parameters[original].clone(),
                None => {
                    let mut array = allocate(spec)?;
                    if plan.adapter.low_rank.values().any(|low_rank| low_rank.a == place) {
                        fill_uniform(&mut array, seed.derive(&spec.name, 0));
                    }
                    array
                }
            });
        }
        let magnitudes: Vec<(usize, usize)> = plan
            .adapter
            .low_rank
            .iter()
            .filter_map(|(weight, place)| Some((*weight, place.magnitude?)))
            .collect();
        self.adopt(plan, arrays)?;
        // While `b` is zero these are the lengths of the weights' own rows.
        for (weight, magnitude) in magnitudes {
            if let Some(norm) = self.adapter.as_ref().and_then(|adapter| adapter.norms.get(&weight)) {
                self.parameters[magnitude] = norm.clone();
            }
        }
        Ok(())
    }

    /// What an adapter of these settings consists of on this model.
    pub(super) fn plan_adapter(&self, config: &AdapterConfig) -> Result<AdapterPlan, ModelError> {
        if self.adapter.is_some() {
            return Err(ModelError::argument("the model has an adapter already", "merge it first"));
        }
        AdapterPlan::new(config, (&self.config, &self.layout))
    }

    /// Takes the planned tensors with their values.
    pub(super) fn adopt(&mut self, plan: AdapterPlan, arrays: Vec<Array>) -> Result<(), ModelError> {
        let products: Vec<usize> = plan.adapter.products().collect();
        let first = plan.adapter.first;
        if self.dtype != DType::F32 {
            for (index, array) in arrays.iter().enumerate() {
                let packs = products.contains(&(first + index));
                let packed = packs.then(|| self.engine.packed_weight(array.rows(), array.cols(), true));
                self.packed.push(packed.transpose()?);
            }
        }
        let placed = self.is_placed();
        self.layout.tensors.extend(plan.tensors);
        self.parameters.extend(arrays);
        self.adapter = Some(plan.adapter);
        if placed {
            self.place()?;
        }
        Ok(self.renew_packed()?)
    }

    /// Takes the adapter off; the weights are what they were before it.
    pub(super) fn drop_adapter(&mut self) -> Option<(Adapter, Vec<Array>)> {
        let adapter = self.adapter.take()?;
        self.layout.tensors.truncate(adapter.first);
        self.packed.truncate(adapter.first);
        let arrays = self.parameters.split_off(adapter.first);
        Some((adapter, arrays))
    }

    /// The settings of its adapter, if it has one.
    pub fn adapter(&self) -> Option<&AdapterConfig> {
        self.adapter.as_ref().map(|adapter| &adapter.config)
    }

    /// Another rate for what is trained from here on, in `[0, 1)`.
    pub fn set_adapter_dropout(&mut self, rate: f64) {
        self.adapter.iter_mut().for_each(|adapter| adapter.config.dropout = rate);
    }

    /// Whether dropout shows in what a training step computes: not while every `b` is zero.
    ///
    /// # Errors
    /// A device fails.
    pub fn drops_out(&self) -> Result<bool, ModelError> {
        let Some(adapter) = self.adapter.as_ref().filter(|adapter| adapter.config.dropout > 0.0) else {
            return Ok(false);
        };
        Ok(!self.all_zero(adapter.low_rank.values().map(|place| place.b))?)
    }

    fn all_zero(&self, mut places: impl Iterator<Item = usize>) -> Result<bool, EngineError> {
        places.try_fold(true, |zero, place| {
            Ok(zero && self.engine.squared_norm(&[&self.parameters[place]])? == 0.0)
        })
    }

    /// Whether the tensor gets no gradient at present because of what others hold: `a` of an adapter, while every `b` that it
    /// meets is zero.
    ///
    /// # Errors
    /// A device fails.
    pub fn rests(&self, name: &str) -> Result<bool, ModelError> {
        let Some(adapter) = &self.adapter else { return Ok(false) };
        let mut meets =
            adapter.low_rank.values().filter(|place| self.layout.tensors[place.a].name == name).peekable();
        Ok(meets.peek().is_some() && self.all_zero(meets.map(|place| place.b))?)
    }
}

/// Uniform within `1 / sqrt(inputs)`: Kaiming's bound with PyTorch's slope of sqrt(5), which PEFT uses.
fn fill_uniform(array: &mut Array, seed: Seed) {
    let bound = 1.0 / (array.cols() as f64).sqrt();
    let mut rng = seed.rng();
    for value in array.as_mut_slice() {
        *value = (bound * (2.0 * rng.random::<f64>() - 1.0)) as f32;
    }
}
