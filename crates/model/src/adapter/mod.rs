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
pub(crate) use files::open as open_weights;
pub(crate) use plan::AdapterPlan;
pub use targets::Targets;

use crate::decoder;
use crate::quantised_base::QuantisedBase;
use crate::stored::StoredTensor;
use bso_engine::{Array, Dropout, Engine, EngineError, LowRank, RowLengths, Weight};
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
    /// Trained copy of the output head.
    pub head: Option<usize>,
    /// Trained copy of a scalar head, whose score is computed in f32.
    pub score: Option<usize>,
}

impl Adapter {
    /// The update beside the weight at a place, if it has one: its places and values. `dropout` is what decides what is dropped,
    /// if anything, and the place of the first row at hand among all.
    pub(crate) fn update<'a>(
        &self,
        weight: usize,
        (dropout, first_row): (Option<u64>, usize),
        value: impl Fn(usize) -> Weight<'a>,
    ) -> Option<(LowRankPlace, LowRank<'a>)> {
        let places = *self.low_rank.get(&weight)?;
        let rate = self.config.dropout;
        // Odd, so that no two layers share a key, but those that share `a`, which see the same input.
        let of_layer = (2 * places.a as u64 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let dropout = dropout.filter(|_| rate > 0.0);
        let dropout = dropout.map(|key| Dropout { rate, key: key ^ of_layer, first_row });
        let (a, b) = (value(places.a), value(places.b));
        Some((places, LowRank { a, b, scale: self.config.scale() as f32, dropout }))
    }

    /// The lengths of the rows of the weight at a place, where they are trained.
    pub(crate) fn lengths<'a>(&'a self, weight: usize, parameters: &'a [Array]) -> Option<RowLengths<'a>> {
        let magnitude = self.low_rank.get(&weight)?.magnitude?;
        Some(RowLengths { magnitude: &parameters[magnitude], norm: self.norms.get(&weight)? })
    }

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
