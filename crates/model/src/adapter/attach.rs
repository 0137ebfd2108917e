//! Giving a decoder an adapter, new or empty: which tensors it has, and their first values.

use super::targets::is_name_of;
use super::{Adapter, AdapterConfig, LowRankPlace, MAGNITUDE, PREFIX};
use crate::decoder::{Decoder, allocate};
use crate::error::ModelError;
use crate::layout::TensorSpec;
use bso_durable::Seed;
use bso_engine::{Array, DType, PackedWeight};
use rand::Rng;
use std::collections::{BTreeMap, BTreeSet};

/// The tensors of an adapter that is not attached yet, and where they will lie.
pub(super) struct Plan {
    pub adapter: Adapter,
    pub tensors: Vec<TensorSpec>,
}

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
                place if Some(place) == plan.adapter.head => Some(self.layout.head),
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
    pub(super) fn plan_adapter(&self, config: &AdapterConfig) -> Result<Plan, ModelError> {
        config.check()?;
        if self.adapter.is_some() {
            return Err(ModelError::argument("the model has an adapter already", "merge it first"));
        }
        let first = self.parameters.len();
        let mut tensors: Vec<TensorSpec> = Vec::new();
        let mut push = |module: &str, end: &str, shape: &[usize]| {
            let name = format!("{PREFIX}{module}.{end}");
            tensors.push(TensorSpec { name, shape: shape.to_vec() });
            first + tensors.len() - 1
        };
        let names = &self.config.family().names;
        let is_target = config.targets.matcher(names.head)?;
        if is_target(names.head) {
            return Err(ModelError::argument(
                format!("the head ({}) cannot have a low-rank adapter", names.head),
                format!("train it whole: lora_modules_to_save: [{}]", names.head),
            ));
        }
        let mut low_rank = BTreeMap::new();
        for linear in self.layout.linears() {
            let spec = &self.layout.tensors[linear.weight];
            let stored = self.layout.stored_in(linear.weight);
            let module = stored.map_or(spec.name.as_str(), |stored| &stored.name).trim_end_matches(".weight");
            if is_target(module) {
                if stored.is_some_and(|stored| stored.parts.len() > 1) {
                    return Err(self.refuse_fused(module));
                }
                let (outputs, inputs) = spec.rows_cols();
                let a = push(module, "lora_A.weight", &[config.r, inputs]);
                let b = push(module, "lora_B.weight", &[outputs, config.r]);
                let magnitude = config.dora.then(|| push(module, MAGNITUDE, &[outputs]));
                low_rank.insert(linear.weight, LowRankPlace { a, b, magnitude });
            }
        }
        if low_rank.is_empty() {
            return Err(ModelError::argument(
                format!(
                    "no linear layer is called as lora_target_modules says: {:?}",
                    config.targets.words()
                ),
                "name some of its layers, as q_proj, or write all-linear",
            ));
        }
        let (mut embedding, mut head) = (None, None);
        for name in &config.modules_to_save {
            let embedding_module = format!("{}{}", names.body, names.embedding);
            let shape = [self.config.vocab_size, self.config.hidden_size];
            match name.as_str() {
                name if is_name_of(name, &embedding_module) => {
                    embedding = embedding.or_else(|| Some(push(&embedding_module, "weight", &shape)));
                }
                name if name == names.head => {
                    head = head.or_else(|| Some(push(names.head, "weight", &shape)));
                }
                other => {
                    return Err(ModelError::argument(
                        format!("{other:?} cannot be trained whole beside an adapter"),
                        format!("lora_modules_to_save may name {} and {}", names.embedding, names.head),
                    ));
                }
            }
        }
        let norm = |(place, low_rank): (&usize, &LowRankPlace)| {
            low_rank.magnitude.map(|_| (*place, Array::zeros(1, self.parameters[*place].rows())))
        };
        let norms = low_rank.iter().filter_map(norm).collect();
        let adapter = Adapter { config: config.clone(), first, low_rank, norms, embedding, head };
        Ok(Plan { adapter, tensors })
    }

    /// Several layers of the same inputs share one stored matrix, and in PEFT's files one `a`; here each would have its own.
    fn refuse_fused(&self, module: &str) -> ModelError {
        let single = self.layout.stored.iter().filter(|stored| stored.parts.len() == 1);
        let linear = |place: &usize| self.layout.linears().any(|linear| linear.weight == *place);
        let others: BTreeSet<&str> = single
            .filter(|stored| linear(&stored.parts[0]))
            .filter_map(|stored| stored.name.trim_end_matches(".weight").rsplit('.').next())
            .collect();
        ModelError::argument(
            format!(
                "{module} of a {} is several layers in one matrix, which cannot have a low-rank adapter",
                self.config.model_type()
            ),
            format!(
                "name other layers (lora_target_modules: [{}]), or train without an adapter",
                others.into_iter().collect::<Vec<_>>().join(", ")
            ),
        )
    }

    /// Takes the planned tensors with their values.
    pub(super) fn adopt(&mut self, plan: Plan, arrays: Vec<Array>) -> Result<(), ModelError> {
        let products: Vec<usize> = plan.adapter.products().collect();
        let first = plan.adapter.first;
        if self.dtype != DType::F32 {
            self.packed.extend(arrays.iter().enumerate().map(|(index, array)| {
                let packs = products.contains(&(first + index));
                packs.then(|| PackedWeight::new(array.rows(), array.cols(), true))
            }));
        }
        self.layout.tensors.extend(plan.tensors);
        self.parameters.extend(arrays);
        self.adapter = Some(plan.adapter);
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
    pub fn drops_out(&self) -> bool {
        let Some(adapter) = self.adapter.as_ref().filter(|adapter| adapter.config.dropout > 0.0) else {
            return false;
        };
        !adapter.low_rank.values().all(|place| self.is_zero(place.b))
    }

    fn is_zero(&self, place: usize) -> bool {
        self.parameters[place].as_slice().iter().all(|x| *x == 0.0)
    }

    /// Whether the tensor gets no gradient at present because of what another one holds: `a` of an adapter, while its `b`
    /// is zero.
    pub fn rests(&self, name: &str) -> bool {
        let Some(adapter) = &self.adapter else { return false };
        adapter
            .low_rank
            .values()
            .any(|place| self.layout.tensors[place.a].name == name && self.is_zero(place.b))
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
