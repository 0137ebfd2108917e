//! How much memory training and scoring take, from a model's shape and a batch's size: no weights, no tokens. The
//! sizes are those by which the memory is taken, in [`crate::activations`] and [`crate::layout`].

use crate::activations::{
    AttentionActivations, HeadActivations, PassingActivations, RowActivations, embeds_again,
};
use crate::adapter::{AdapterConfig, AdapterPlan};
use crate::backward_buffers::{BackwardBuffers, RowGradients};
use crate::batch_size::BatchSize;
use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::{Layout, TensorSpec};
use crate::matrix::bytes;
use crate::optimiser::OptimiserKind;
use crate::part::{PartRows, block};
use bso_engine::{DType, Device, HeadInputs, PackedWeight, Quantisation, QuantisedWeight, RoomFor};

/// Bytes of the parts of a decoder that do not depend on a batch.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelMemory {
    /// Parameters, in f32 or in few bits.
    pub weights: usize,
    /// Of these, what is given up once its rounded copy is there: frozen matrices beside an adapter.
    pub given_up: usize,
    /// An adapter's tensors in f32, and what follows from them.
    pub adapter: usize,
    /// Rounded copies of all these; none in f32.
    pub packed: usize,
    /// The same on a device.
    pub packed_on_device: usize,
    /// Of the parameters that are trained, in f32.
    pub trained: usize,
    /// What loading holds beside the parameters: the largest tensor on its way from a file in f32, and in f32 itself where
    /// it is put in few bits or taken apart.
    pub loading: usize,
}

/// Bytes of what a pass over a batch keeps and computes on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PassMemory {
    /// What layers keep for the backward, or, without gradients, one layer's worth.
    pub activations: usize,
    /// Gradients on their way down.
    pub backward: usize,
}

impl ModelMemory {
    /// Of a decoder that computes in `dtype`; without `gradients` as the reference.
    pub fn of(config: &ModelConfig, dtype: DType, gradients: bool) -> Self {
        let layout = Layout::of(config);
        let weights = layout.tensors.iter().map(|spec| 4 * spec.len()).sum();
        let products = layout.products();
        let [packed, packed_on_device] =
            packed(products.into_iter().map(|place| &layout.tensors[place]), dtype, gradients);
        let largest = layout.stored.iter().map(|stored| {
            let apart = if stored.is_plain() { 0 } else { 4 * stored.len() };
            4 * stored.len() + apart
        });
        let loading = largest.max().unwrap_or(0);
        Self { weights, given_up: 0, adapter: 0, packed, packed_on_device, trained: weights, loading }
    }

    /// Of a decoder with an adapter beside frozen weights, for training in `dtype`.
    ///
    /// # Errors
    /// An adapter that the model cannot have.
    pub fn adapted(
        config: &ModelConfig,
        dtype: DType,
        (adapter, quantisation): (&AdapterConfig, Option<Quantisation>),
    ) -> Result<Self, ModelError> {
        let layout = Layout::of(config);
        let AdapterPlan { adapter, tensors } = AdapterPlan::new(adapter, (config, &layout))?;
        let trained = tensors.iter().map(|spec| 4 * spec.len()).sum();
        let norms: usize = adapter.norms.values().map(|norm| 4 * norm.len()).sum();
        let own = adapter.products().collect::<std::collections::BTreeSet<_>>();
        let own = own.into_iter().map(|place| &tensors[place - adapter.first]);
        let mut memory = Self { adapter: trained + norms, trained, ..Self::of(config, dtype, true) };
        let [own, own_on_device] = packed(own, dtype, true);
        memory.packed += own;
        memory.packed_on_device += own_on_device;
        let Some(kind) = quantisation else {
            if dtype != DType::F32 && adapter.norms.is_empty() {
                let places = layout.products().into_iter().filter(|place| *place != layout.embedding);
                memory.given_up = places.map(|place| 4 * layout.tensors[place].len()).sum();
            }
            return Ok(memory);
        };
        for spec in layout.linears().map(|linear| &layout.tensors[linear.weight]) {
            let (rows, cols) = spec.rows_cols();
            memory.weights -= 4 * spec.len() - QuantisedWeight::bytes_of(rows, cols, kind);
            let [packed, packed_on_device] = packed(std::iter::once(spec), dtype, true);
            memory.packed -= packed;
            memory.packed_on_device -= packed_on_device;
        }
        let largest = layout.stored.iter().map(|stored| {
            let linear = layout.is_linear(stored);
            let apart = if stored.is_plain() { 0 } else { 4 * stored.len() };
            4 * stored.len() + apart + if linear { 4 * stored.len() } else { 0 }
        });
        memory.loading = largest.max().unwrap_or(0);
        Ok(memory)
    }

    /// Of gradients, and of an optimiser's state.
    pub fn gradients_and_state(self, optimiser: OptimiserKind) -> (usize, usize) {
        (self.trained, self.trained * optimiser.slots().len())
    }
}

/// Of rounded copies, on the host and on a device.
fn packed<'a>(tensors: impl Iterator<Item = &'a TensorSpec>, dtype: DType, gradients: bool) -> [usize; 2] {
    if dtype == DType::F32 {
        return [0; 2];
    }
    tensors.fold([0; 2], |[host, device], spec| {
        let (rows, cols) = spec.rows_cols();
        let own = PackedWeight::bytes_of(rows, cols, gradients);
        [host + own, device + PackedWeight::device_bytes_of(rows, cols)]
    })
}

/// Working memory that a training step borrows for an adapter on so many rows, at most: what grows with rows. The rest is
/// the products', which do not grow.
///
/// # Errors
/// An adapter that the model cannot have.
pub fn adapter_room(
    config: &ModelConfig,
    (dtype, checkpointed, device): (DType, bool, Device),
    adapter: &AdapterConfig,
    rows: usize,
) -> Result<usize, ModelError> {
    let layout = Layout::of(config);
    let plan = AdapterPlan::new(adapter, (config, &layout))?;
    let number = dtype.size_in_bytes();
    let before_attention = |place: usize| {
        let mut layers = layout.layers.iter();
        layers.any(|layer| [layer.query, layer.key, layer.value].iter().any(|linear| linear.weight == place))
    };
    let of = |place: &usize| {
        let most = if before_attention(*place) { usize::MAX } else { block(checkpointed, dtype, device) };
        let rows = rows.min(most);
        let (outputs, inputs) = layout.tensors[*place].rows_cols();
        let inner = rows * adapter.r * number;
        // The input after dropout and its gradient; with DoRA the output in f32, and what is added to it or its gradient:
        // of the head for a chunk of the vocabulary at a time.
        let of_head = *place == layout.head;
        let outputs = if of_head { HeadInputs::logits_at_a_time(rows, outputs) } else { rows * outputs };
        let inputs = rows * inputs;
        let dropped = if adapter.dropout > 0.0 { (number + 4) * inputs } else { 0 };
        inner + dropped + if adapter.dora { 8 * outputs } else { 0 }
    };
    Ok(plan.adapter.low_rank.keys().map(of).max().unwrap_or(0))
}

/// The pass whose working memory a device is asked for; `adapter` is what [`adapter_room`] says, or 0.
pub fn room_for(config: &ModelConfig, dtype: DType, size: BatchSize, adapter: usize) -> RoomFor {
    RoomFor {
        rows: size.rows,
        scored: size.scored,
        vocab: config.vocab_size,
        heads: config.heads,
        widest: config.hidden_size.max(config.heads * config.head_dim),
        dtype,
        adapter,
    }
}

impl PassMemory {
    /// Of a forward and a backward pass; `checkpointed` keeps each layer's input only.
    pub fn of_training(
        config: &ModelConfig,
        (dtype, device): (DType, Device),
        checkpointed: bool,
        size: BatchSize,
    ) -> Self {
        let (layers, part) = (config.layers, PartRows::of(size, config, block(checkpointed, dtype, device)));
        let kept = |rows| rows_kept(config, dtype, rows);
        let (stored, rows) = if checkpointed {
            (1, kept(part.any))
        } else {
            (layers, (layers - 1) * kept(size.rows) + kept(size.head_rows))
        };
        let attention = stored * attention(config, dtype, size.rows);
        let streams = layers - usize::from(embeds_again(checkpointed, config));
        let streams = 4 * config.hidden_size * streams * size.rows;
        let passing = passing(config, dtype, (size.rows, part));
        let row_gradients = RowGradients::shapes(part.any, part.copied, config);
        Self {
            activations: attention + rows + streams + passing + head(config, dtype, size),
            backward: bytes(dtype, &BackwardBuffers::USES, &BackwardBuffers::shapes(size, config))
                + bytes(dtype, &RowGradients::USES, &row_gradients),
        }
    }

    /// Of a pass without gradients.
    pub fn of_scoring(config: &ModelConfig, dtype: DType, size: BatchSize) -> Self {
        let part = PartRows::of(size, config, block(false, dtype, Device::Cpu));
        let kept = attention(config, dtype, size.rows) + rows_kept(config, dtype, part.any);
        let streams = 2 * 4 * config.hidden_size * size.rows;
        let passing = passing(config, dtype, (size.rows, part));
        Self { activations: kept + streams + passing + head(config, dtype, size), backward: 0 }
    }
}

fn attention(config: &ModelConfig, dtype: DType, rows: usize) -> usize {
    bytes(dtype, &AttentionActivations::USES, &AttentionActivations::shapes(rows, config))
}

fn rows_kept(config: &ModelConfig, dtype: DType, rows: usize) -> usize {
    bytes(dtype, &RowActivations::USES, &RowActivations::shapes(rows, config))
}

fn passing(config: &ModelConfig, dtype: DType, (rows, part): (usize, PartRows)) -> usize {
    bytes(dtype, &PassingActivations::USES, &PassingActivations::shapes(rows, part, config))
}

fn head(config: &ModelConfig, dtype: DType, size: BatchSize) -> usize {
    bytes(dtype, &HeadActivations::USES, &HeadActivations::shapes(size, config))
}
