//! Low-rank adapters (LoRA, arXiv 2106.09685; rsLoRA, arXiv 2312.03732; DoRA, arXiv 2402.09353): small trained tensors beside frozen weights.
//! Their tensors stand behind the decoder's own among its parameters, so that packing, gradients, optimiser and files
//! treat them like any other; here is which linear layer has which.

mod attach;
mod config;
mod files;
mod merge;
mod peft_fields;
mod plan;
mod targets;

pub use config::AdapterConfig;
pub(crate) use config::CONFIG_FILE;
pub(crate) use plan::AdapterPlan;
pub use targets::Targets;

use crate::decoder;
use crate::quantised_base::QuantisedBase;
use crate::stored::StoredTensor;
use bso_engine::{Array, Engine, EngineError};
use std::collections::BTreeMap;

/// What stands before a module's name in PEFT's files.
const PREFIX: &str = "base_model.model.";

/// Ends the names of trained row lengths there.
pub(crate) const MAGNITUDE: &str = "lora_magnitude_vector";

/// Places of one linear layer's adapter among the parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LowRankPlace {
    /// `[r, inputs]`; layers that are stored as one matrix share it.
    pub a: usize,
    /// `[outputs, r]`.
    pub b: usize,
    /// `[1, outputs]`: the lengths of the weight's rows, where they are trained (DoRA).
    pub magnitude: Option<usize>,
}

/// The adapter of a decoder: its settings, and where its tensors lie.
#[derive(Clone, Debug)]
pub(crate) struct Adapter {
    pub config: AdapterConfig,
    /// Its first tensor: parameters before this are frozen.
    pub first: usize,
    /// By the place of the weight that each one adapts.
    pub low_rank: BTreeMap<usize, LowRankPlace>,
    /// How PEFT stores its tensors; parts count from the first.
    pub stored: Vec<StoredTensor>,
    /// Where lengths are trained: those of the updated weight's rows at present, by the same places.
    pub norms: BTreeMap<usize, Array>,
    /// Trained copy of the embedding.
    pub embedding: Option<usize>,
    /// Trained copy of the head.
    pub head: Option<usize>,
}

impl Adapter {
    /// The row lengths after a change of the tensors.
    pub(crate) fn renew_norms(
        &mut self,
        engine: &Engine,
        (parameters, quantised): (&[Array], Option<&QuantisedBase>),
    ) -> Result<(), EngineError> {
        let scale = self.config.scale() as f32;
        for (weight, norm) in &mut self.norms {
            let LowRankPlace { a, b, .. } = self.low_rank[weight];
            let w = decoder::weight(*weight, (parameters, &[], quantised));
            engine.updated_row_norms(w, (&parameters[a], &parameters[b], scale), norm)?;
        }
        Ok(())
    }

    /// Places of its matrices that products read.
    pub(crate) fn products(&self) -> impl Iterator<Item = usize> {
        let [a, b] = [|place: &LowRankPlace| place.a, |place: &LowRankPlace| place.b]
            .map(|which| self.low_rank.values().map(which));
        a.chain(b).chain(self.head)
    }
}
