//! Memory of a run, phase by phase, and which change would save most.

use super::workload::Workload;
use crate::RecipeError;
use crate::config::{DTypeChoice, TrainConfig};
use crate::dataset::Dataset;
use crate::session::optimiser_kind;
use bso_model::{CpuPath, DType, ModelConfig, ModelMemory, PassMemory};
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

/// What memory depends on beside the workload.
pub(super) struct Setting<'a> {
    pub config: &'a TrainConfig,
    pub model: &'a ModelConfig,
    /// What the process takes with its data, before any weight.
    pub base: u64,
    /// Of it, tokens.
    pub tokens: u64,
    /// What operations borrow, as the calibration found it.
    pub scratch: u64,
    pub needs_reference: bool,
    pub threads: usize,
}

pub(super) fn peak(phases: &[Phase]) -> u64 {
    phases.iter().map(|phase| phase.bytes).max().unwrap_or(0)
}

impl Setting<'_> {
    /// The phases in order.
    pub(super) fn phases(&self, work: &Workload) -> Vec<Phase> {
        let (dtype, model) = (self.config.model.compute_dtype(), self.model);
        let policy = ModelMemory::of(model, dtype, true);
        let of_scoring = |size| PassMemory::of_scoring(model, dtype, size).activations;
        let mut phases =
            vec![self.phase("loading", &[("weights", policy.weights), ("weight file", self.file())])];
        if self.needs_reference {
            let reference = ModelMemory::of(model, dtype, false);
            let parts = [
                ("weights", policy.weights),
                ("packed weights", policy.packed),
                ("reference weights", reference.weights),
            ];
            phases.push(
                self.phase("loading the reference", &[&parts[..], &[("weight file", self.file())]].concat()),
            );
            let both = [work.largest_scored, work.largest_evaluated];
            let pass = both.into_iter().flatten().map(of_scoring).max().unwrap_or(0);
            let more = [("reference packed", reference.packed), ("activations", pass), self.scratch(dtype)];
            phases.push(self.phase("reference pass", &[&parts[..], &more].concat()));
        }
        phases.push(self.training(work, policy));
        phases
    }

    fn training(&self, work: &Workload, policy: ModelMemory) -> Phase {
        let (dtype, model) = (self.config.model.compute_dtype(), self.model);
        let (gradients, state) = policy.gradients_and_state(optimiser_kind(self.config));
        let checkpointed = self.config.model.gradient_checkpointing;
        let pass = PassMemory::of_training(model, dtype, checkpointed, work.largest);
        let of_scoring = |size| PassMemory::of_scoring(model, dtype, size).activations;
        // An evaluation borrows the memory of a scoring pass; KTO's mismatched sequences keep theirs.
        let scoring =
            work.largest_evaluated.map_or(0, of_scoring) + work.largest_mismatched.map_or(0, of_scoring);
        self.phase(
            "training",
            &[
                ("weights", policy.weights),
                ("packed weights", policy.packed),
                ("gradients", gradients),
                ("optimiser", state),
                ("activations", pass.activations),
                ("backward buffers", pass.backward),
                ("scoring passes", scoring),
                self.scratch(dtype),
            ],
        )
    }

    fn scratch(&self, dtype: DType) -> (&'static str, usize) {
        let products = if dtype == DType::F32 { PRODUCT_ROOM * self.threads as u64 } else { 0 };
        ("workspace and logits", (self.scratch + products) as usize)
    }

    /// Bytes of the weights on disk, which the loader maps.
    fn file(&self) -> usize {
        let dir = self.config.model.ref_model.as_ref().unwrap_or(&self.config.model.model_name_or_path);
        let files = std::fs::read_dir(dir).into_iter().flatten().flatten();
        let weights = files.filter(|f| f.path().extension().is_some_and(|e| e == "safetensors"));
        weights.filter_map(|f| f.metadata().ok()).map(|m| m.len() as usize).sum()
    }

    fn phase(&self, name: &'static str, parts: &[(&'static str, usize)]) -> Phase {
        let own =
            [("process", self.base.saturating_sub(self.tokens)), ("tokens", self.tokens.min(self.base))];
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
                let work = Workload::of(&config, dataset, cut)?;
                let setting = Setting { config: &config, ..*self };
                let peak_bytes = peak(&setting.phases(&work));
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
        if now.model.dtype == DTypeChoice::F32 && CpuPath::detect().is_ok_and(CpuPath::has_bf16_instructions)
        {
            let mut config = now.clone();
            config.model.dtype = DTypeChoice::Bf16;
            consider("dtype: bf16".into(), config, None)?;
        }
        let longest = dataset.train.iter().flat_map(|e| &e.sequences).map(|s| s.len()).max().unwrap_or(0);
        if longest > 64 {
            consider(format!("max_length: {}", longest / 2), now.clone(), Some(longest / 2))?;
        }
        found.sort_by_key(|s| s.peak_bytes);
        Ok(found)
    }
}
