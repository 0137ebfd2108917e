//! Memory of a run, phase by phase, and which change would save most.

use super::workload::Workload;
use crate::RecipeError;
use crate::config::{DTypeChoice, TrainConfig};
use crate::dataset::Dataset;
use crate::session::optimiser_kind;
use bso_model::{
    AdapterConfig, CpuPath, DType, Device, Engine, ModelConfig, ModelMemory, PassMemory, Quantisation,
    adapter_room, room_for,
};
use serde::Serialize;

/// A part of the memory.
#[derive(Clone, Debug, Serialize)]
pub struct Component {
    /// What it holds.
    pub name: &'static str,
    /// Its bytes.
    pub bytes: u64,
}

/// What is in memory at the same time.
#[derive(Clone, Debug, Serialize)]
pub struct Phase {
    /// What the run does then.
    pub name: &'static str,
    /// Its memory by component.
    pub components: Vec<Component>,
    /// Their sum, bytes.
    pub bytes: u64,
}

/// A change and the peak that it would lead to.
#[derive(Clone, Debug, Serialize)]
pub struct Suggestion {
    /// The settings to change.
    pub change: String,
    /// The peak after it, bytes.
    pub peak_bytes: u64,
}

/// Second caches and packing buffers of the f32 product library, which does not tell what it takes: an estimate for each
/// thread, under 1 % of any run that matters.
const PRODUCT_ROOM: u64 = 2 << 20;

/// While weights are read: pages of the file, and the numbers before they are where they belong.
const ON_ITS_WAY: &str = "tensor on its way";

/// What memory depends on beside the workload.
pub(super) struct Setting<'a> {
    pub config: &'a TrainConfig,
    pub model: &'a ModelConfig,
    /// What is trained beside frozen weights.
    pub adapter: Option<&'a AdapterConfig>,
    /// What the process takes with its data, before any weight.
    pub base: u64,
    /// Of it, tokens.
    pub tokens: u64,
    /// What operations borrow, as the calibration found it.
    pub scratch: u64,
    /// Rows of the batch that it was found with.
    pub calibrated_rows: usize,
    pub needs_reference: bool,
    pub engine: &'a Engine,
}

pub(super) fn peak(phases: &[Phase]) -> u64 {
    phases.iter().map(|phase| phase.bytes).max().unwrap_or(0)
}

impl Setting<'_> {
    /// Memory of the model that is trained.
    pub(super) fn policy(&self, config: &TrainConfig) -> Result<ModelMemory, RecipeError> {
        let dtype = config.model.compute_dtype();
        Ok(match self.adapter {
            None => ModelMemory::of(self.model, dtype, true),
            Some(adapter) => ModelMemory::adapted(self.model, dtype, (adapter, config.quantisation))?,
        })
    }

    fn on_device(&self) -> bool {
        self.engine.device() != Device::Cpu
    }

    /// Rounded copies, where they are.
    fn packed(&self, memory: ModelMemory) -> usize {
        if self.on_device() { memory.packed_on_device } else { memory.packed }
    }

    /// What a model's tensors take on their way from a file: nothing of a device's memory.
    fn on_its_way(&self, memory: ModelMemory) -> (&'static str, usize) {
        (ON_ITS_WAY, if self.on_device() { 0 } else { memory.loading })
    }

    /// The phases in order.
    pub(super) fn phases(&self, work: &Workload) -> Result<Vec<Phase>, RecipeError> {
        let (dtype, model) = (self.config.model.compute_dtype(), self.model);
        let policy = self.policy(self.config)?;
        let of_scoring = |size| PassMemory::of_scoring(model, dtype, size).activations;
        // A base beside an adapter is read on the host.
        let loaded = policy.weights - if self.on_device() { policy.given_up } else { 0 };
        let mut phases = vec![self.phase("loading", &[("weights", loaded), self.on_its_way(policy)])];
        let weights = policy.weights - policy.given_up;
        if self.needs_reference {
            let mut parts = vec![
                ("weights", weights),
                ("adapter", policy.adapter),
                ("packed weights", self.packed(policy)),
            ];
            let both = [work.largest_scored, work.largest_evaluated];
            let pass = both.into_iter().flatten().map(of_scoring).max().unwrap_or(0);
            let mut more = vec![("activations", pass), self.scratch(work, dtype)?];
            // Without a model of its own the reference is the policy before its first step.
            if self.config.model.ref_model.is_some() || self.config.objective.margin_model().is_some() {
                let reference = ModelMemory::of(model, dtype, false);
                parts.push(("reference weights", reference.weights));
                more.push(("reference packed", self.packed(reference)));
                phases.push(
                    self.phase(
                        "loading the reference",
                        &[&parts[..], &[self.on_its_way(reference)]].concat(),
                    ),
                );
            }
            phases.push(self.phase("reference pass", &[parts, more].concat()));
        }
        phases.push(self.training(work, policy)?);
        Ok(phases)
    }

    fn training(&self, work: &Workload, policy: ModelMemory) -> Result<Phase, RecipeError> {
        let (dtype, model) = (self.config.model.compute_dtype(), self.model);
        let (gradients, state) = policy.gradients_and_state(optimiser_kind(self.config));
        let checkpointed = self.config.model.gradient_checkpointing;
        let pass = PassMemory::of_training(model, (dtype, self.engine.device()), checkpointed, work.largest);
        let of_scoring = |size| PassMemory::of_scoring(model, dtype, size).activations;
        // An evaluation borrows the memory of a scoring pass; KTO's mismatched sequences keep theirs.
        let scoring =
            work.largest_evaluated.map_or(0, of_scoring) + work.largest_mismatched.map_or(0, of_scoring);
        let scratch = self.scratch(work, dtype)?;
        Ok(self.phase(
            "training",
            &[
                ("weights", policy.weights - policy.given_up),
                ("adapter", policy.adapter),
                ("packed weights", self.packed(policy)),
                ("gradients", gradients),
                ("optimiser", state),
                ("activations", pass.activations),
                ("backward buffers", pass.backward),
                ("scoring passes", scoring),
                scratch,
            ],
        ))
    }

    /// What an adapter borrows on the largest batch beyond what it did on the calibration's.
    fn adapter_growth(&self, dtype: DType, rows: usize) -> Result<usize, RecipeError> {
        let Some(adapter) = self.adapter else { return Ok(0) };
        let how = (dtype, self.config.model.gradient_checkpointing, self.engine.device());
        let room = |rows| adapter_room(self.model, how, adapter, rows);
        Ok(room(rows)?.saturating_sub(room(self.calibrated_rows)?))
    }

    /// What operations borrow in any pass.
    fn scratch(&self, work: &Workload, dtype: DType) -> Result<(&'static str, usize), RecipeError> {
        const NAME: &str = "workspace and logits";
        // What scoring passes borrow first stays in the pool.
        let passes = [Some(work.largest), work.largest_scored, work.largest_evaluated];
        let rows = passes.iter().flatten().map(|size| size.rows).max().unwrap_or(0);
        if self.on_device() {
            let model = self.model;
            let how = (dtype, self.config.model.gradient_checkpointing, self.engine.device());
            let adapter = self.adapter.map_or(Ok(0), |adapter| adapter_room(model, how, adapter, rows))?;
            let widened = match self.config.quantisation {
                Some(_) => model.hidden_size * model.intermediate_size * dtype.size_in_bytes(),
                None => 0,
            };
            let room = |size| self.engine.device_room(&room_for(model, dtype, size, adapter + widened));
            return Ok((NAME, passes.into_iter().flatten().filter_map(room).max().unwrap_or(0)));
        }
        let products = if dtype == DType::F32 { PRODUCT_ROOM * self.engine.num_threads() as u64 } else { 0 };
        Ok((NAME, (self.scratch + products) as usize + self.adapter_growth(dtype, rows)?))
    }

    fn phase(&self, name: &'static str, parts: &[(&'static str, usize)]) -> Phase {
        // Of the host, which is not what a device runs out of.
        let base = if self.on_device() { 0 } else { self.base };
        let own = [("process", base.saturating_sub(self.tokens)), ("tokens", self.tokens.min(base))];
        let parts = parts.iter().map(|(name, bytes)| (*name, *bytes as u64));
        let components: Vec<Component> = own
            .into_iter()
            .chain(parts)
            .filter(|(_, bytes)| *bytes > 0)
            .map(|(name, bytes)| Component { name, bytes })
            .collect();
        let bytes = components.iter().map(|c| c.bytes).sum();
        Phase { name, components, bytes }
    }

    /// Changes that would lower the peak, the best first.
    pub(super) fn suggestions(
        &self,
        dataset: &Dataset,
        peak_now: u64,
    ) -> Result<Vec<Suggestion>, RecipeError> {
        let mut found = Vec::new();
        let mut consider =
            |change: String, config: TrainConfig, cut: Option<usize>| -> Result<(), RecipeError> {
                let work = Workload::of(&config, dataset, self.model.reads(), cut)?;
                let setting = Setting { config: &config, ..*self };
                let peak_bytes = peak(&setting.phases(&work)?);
                if peak_bytes < peak_now {
                    found.push(Suggestion { change, peak_bytes });
                }
                Ok(())
            };
        let now = self.config;
        let (batch, accumulation) =
            (now.schedule.per_device_train_batch_size, now.schedule.gradient_accumulation_steps);
        if batch > 1 {
            let mut config = now.clone();
            let least = if now.objective.loss_type() == crate::config::LossType::Kto { 2 } else { 1 };
            config.schedule.per_device_train_batch_size = least;
            config.schedule.gradient_accumulation_steps = accumulation.saturating_mul(batch.div_ceil(least));
            let steps = config.schedule.gradient_accumulation_steps;
            let change =
                format!("per_device_train_batch_size: {least} with gradient_accumulation_steps: {steps}");
            consider(change, config, None)?;
        }
        if !now.model.gradient_checkpointing {
            let mut config = now.clone();
            config.model.gradient_checkpointing = true;
            consider("gradient_checkpointing: true".into(), config, None)?;
        }
        let fast = self.on_device() || CpuPath::detect().is_ok_and(CpuPath::has_bf16_instructions);
        if now.model.dtype == DTypeChoice::F32 && fast {
            let mut config = now.clone();
            config.model.dtype = DTypeChoice::Bf16;
            consider("dtype: bf16".into(), config, None)?;
        }
        if now.adapter.is_some() && now.quantisation.is_none() {
            let mut config = now.clone();
            config.quantisation = Some(Quantisation::Nf4 { nested: false });
            consider("load_in_4bit: true".into(), config, None)?;
        }
        let longest = dataset.train.iter().flat_map(|e| &e.sequences).map(|s| s.len()).max().unwrap_or(0);
        if longest > 64 {
            consider(format!("max_length: {}", longest / 2), now.clone(), Some(longest / 2))?;
        }
        found.sort_by_key(|s| s.peak_bytes);
        Ok(found)
    }
}
