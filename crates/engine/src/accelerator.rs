//! What a device other than the processor offers: memory, and one method for each operation that runs there. An operation
//! of [`crate::Engine`] checks its shapes first, then asks where its output is: of arrays on the host it computes itself,
//! of arrays on a device it calls the device's method. A method returns when its work is queued; what the host reads is
//! waited for.
#![allow(dead_code, reason = "what only a device reads, which a binary built without any has not got")]

use std::fmt::Debug;
use std::sync::Arc;

use crate::device_memory::DeviceMemory;
use crate::{
    Accumulate, AdamW, AdamWState, Array, AttentionForward, AttentionGrads, AttentionShape, CachedRows,
    DType, Device, Dropout, EngineError, Gelu, GeluGrads, HeadAdapterGrads, LayerNormGrads, NormWeight, Qkv,
    Quantisation, RmsNormGrads, RmsProp, RotaryTable, ScoreGrads, Segments, Sgd, SwigluGrads,
};

/// Rows whose logits exist on a device at a time, and tokens of the vocabulary that they exist for: 128 MiB of logits, and
/// products that are large enough for a whole chip.
pub(crate) const LOGITS: [usize; 2] = [4096, 8192];

/// Memory of a device; given back when dropped.
pub(crate) trait Memory: Debug + Send + Sync {
    /// Where it begins.
    fn address(&self) -> u64;
    /// Size.
    fn bytes(&self) -> usize;
    /// Why there is none, where it could not be taken.
    fn missing(&self) -> Option<&EngineError> {
        None
    }
}

/// A factor of a product: a matrix as it lies (`false`) or turned round (`true`).
pub(crate) type Factor<'a> = (&'a Array, bool);

/// A weight as products on the device take it.
#[derive(Debug, Clone, Copy)]
pub(crate) enum DeviceWeight<'a> {
    /// In the precision of the other factor.
    Whole(&'a Array),
    /// In few bits, to be widened to this precision.
    Codes(&'a DeviceCodes, DType),
}

/// The numbers of a weight in few bits on the device, in the order in which the host keeps them: codes, then scales.
#[derive(Debug, Clone)]
pub(crate) struct DeviceCodes {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// How they are kept.
    pub kind: Quantisation,
    /// Codes, and scales; nested: codes, codes of the scales, scales of these, and the levels.
    pub parts: Vec<DeviceMemory>,
    /// What nested scales are distances from.
    pub mean: f32,
}

/// The head's products and its losses: [`crate::HeadInputs`] with the weight that the device reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceHead<'a> {
    /// `[m, d]`.
    pub hidden: &'a Array,
    /// `[vocab, d]`, in the precision of `hidden`.
    pub head: &'a Array,
    /// One per row.
    pub targets: &'a [u32],
    /// Soft cap of the logits.
    pub cap: Option<f32>,
    /// An adapter beside the head.
    pub update: Option<DeviceHeadUpdate<'a>>,
}

/// [`crate::HeadAdapter`] with what the device reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceHeadUpdate<'a> {
    /// Its update.
    pub update: DeviceLowRank<'a>,
    /// Lengths of the rows as trained, and before they are scaled, where they are trained.
    pub lengths: Option<[&'a Array; 2]>,
}

/// [`crate::LowRank`] with the matrices that the device reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceLowRank<'a> {
    /// `[r, i]`.
    pub a: &'a Array,
    /// `[o, r]`.
    pub b: &'a Array,
    /// Factor of the update.
    pub scale: f32,
    /// On its input.
    pub dropout: Option<Dropout>,
}

/// [`crate::Dora`] with what the device reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct DeviceDora<'a> {
    /// `[o, i]`.
    pub w: DeviceWeight<'a>,
    /// `[1, o]`.
    pub bias: Option<&'a Array>,
    /// The update of its direction.
    pub update: DeviceLowRank<'a>,
    /// Lengths of the rows as trained, and before they are scaled, `[1, o]` each.
    pub lengths: [&'a Array; 2],
}

/// Arguments of [`Accelerator::dora_backward`]: [`crate::DoraGrads`] with what the device reads.
#[derive(Debug)]
pub(crate) struct DeviceDoraGrads<'a> {
    /// Gradient of the output, and the forward's input.
    pub read: [&'a Array; 2],
    /// The forward's weight.
    pub w: DeviceDora<'a>,
    /// Gradient of the input.
    pub dx: (&'a mut Array, Accumulate),
    /// Gradients of `a`, `b` and the magnitude; added to.
    pub added: [&'a mut Array; 3],
}

/// Keys and values of sequences being generated, on the device: what [`crate::KvCache`] is there.
pub(crate) trait CachedSequences: Debug + Send + Sync {
    /// Rows of a slot.
    fn len(&self, slot: usize) -> usize;
    /// Forgets a slot's rows.
    fn clear(&mut self, slot: usize);
    /// Appends rows of `k` and `v`.
    fn append(&mut self, rows: &[CachedRows], k: &Array, v: &Array) -> Result<(), EngineError>;
    /// As [`crate::Engine::cached_attention`].
    fn attend(
        &self,
        q: &Array,
        rows: &[CachedRows],
        shape: AttentionShape,
        out: &mut Array,
    ) -> Result<(), EngineError>;
}

/// Slots of a cache, rows that a slot holds at most, key heads and their width.
#[derive(Debug, Clone, Copy)]
pub(crate) struct CacheSize {
    pub slots: usize,
    pub rows: usize,
    pub kv_heads: usize,
    pub head_dim: usize,
    pub dtype: DType,
}

/// A pass whose working memory is asked for ([`crate::Engine::device_room`]).
#[derive(Debug, Clone, Copy)]
pub struct RoomFor {
    /// Rows of the batch, and of these how many meet the head.
    pub rows: usize,
    /// Scored rows.
    pub scored: usize,
    /// Tokens of the vocabulary.
    pub vocab: usize,
    /// Heads of the queries.
    pub heads: usize,
    /// Numbers of the widest row whose gradient is in f32: the residual stream's or the queries'.
    pub widest: usize,
    /// Precision of products.
    pub dtype: DType,
    /// Bytes that an adapter, or a weight in few bits, borrows by itself.
    pub adapter: usize,
}

/// A device in use.
pub(crate) trait Accelerator: Debug + Send + Sync {
    /// Its place among the devices.
    fn device(&self) -> Device;
    /// Its name and what it computes with, for people.
    fn description(&self) -> String;
    /// Bytes of memory: free now, and all.
    fn memory(&self) -> Result<[usize; 2], EngineError>;
    /// Bytes that operations borrow so far.
    fn workspace(&self) -> usize;
    /// Bytes that a training pass borrows at most.
    fn room_for(&self, pass: &RoomFor) -> usize;
    /// Takes at once what such a pass borrows.
    fn reserve(&self, pass: &RoomFor) -> Result<(), EngineError>;
    /// Whether factors of products in f32 may be rounded to TF32.
    fn allow_tf32(&self, allowed: bool);
    /// Waits for all work so far.
    fn synchronise(&self) -> Result<(), EngineError>;

    /// Memory full of zeros.
    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>, EngineError>;
    /// Bytes of the host to the device, from `first` on.
    fn upload(&self, from: &[u8], to: (&dyn Memory, usize)) -> Result<(), EngineError>;
    /// Bytes of the device to the host, after all work so far.
    fn download(&self, from: (&dyn Memory, usize), to: &mut [u8]) -> Result<(), EngineError>;
    /// `count` bytes from one place to another, which do not overlap.
    fn copy(
        &self,
        from: (&dyn Memory, usize),
        to: (&dyn Memory, usize),
        count: usize,
    ) -> Result<(), EngineError>;
    /// Zeros in all of it.
    fn clear(&self, memory: &dyn Memory) -> Result<(), EngineError>;

    fn convert(&self, x: &Array, y: &mut Array) -> Result<(), EngineError>;
    fn add_assign(&self, y: &mut Array, x: &Array) -> Result<(), EngineError>;
    fn scale(&self, x: &mut Array, factor: f32) -> Result<(), EngineError>;
    fn soft_cap(&self, x: &mut Array, cap: f32) -> Result<(), EngineError>;
    /// Each row of `y` becomes `row`.
    fn repeat_row(&self, row: &Array, y: &mut Array) -> Result<(), EngineError>;
    /// `y += row`, in f32.
    fn add_row(&self, row: &Array, y: &mut Array) -> Result<(), EngineError>;
    /// `sum += the sum of the rows of x`.
    fn add_sum_of_rows(&self, x: &Array, sum: &mut Array) -> Result<(), EngineError>;

    fn gather_rows(&self, x: &Array, index: &[u32], out: &mut Array) -> Result<(), EngineError>;
    fn add_gathered_rows(&self, x: &Array, index: &[u32], out: &mut Array) -> Result<(), EngineError>;
    fn scatter_add_rows(&self, rows: &Array, index: &[u32], x: &mut Array) -> Result<(), EngineError>;

    /// `c = a b`, or `c += a b`: in f32, or of `b` in bf16 and `a` in either with sums in f32.
    fn product(
        &self,
        a: Factor<'_>,
        b: (DeviceWeight<'_>, bool),
        c: &mut Array,
        accumulate: Accumulate,
    ) -> Result<(), EngineError>;
    /// As [`crate::Engine::low_rank`].
    fn low_rank(&self, x: &Array, w: DeviceLowRank<'_>, y: &mut Array) -> Result<(), EngineError>;
    /// Of `[dy, x]`, into `[dx, da, db]`, all added to.
    fn low_rank_backward(
        &self,
        read: [&Array; 2],
        w: DeviceLowRank<'_>,
        written: [&mut Array; 3],
    ) -> Result<(), EngineError>;
    /// As [`crate::Engine::dora`].
    fn dora(&self, x: &Array, w: DeviceDora<'_>, y: &mut Array) -> Result<(), EngineError>;
    /// As [`crate::Engine::dora_backward`].
    fn dora_backward(&self, grads: DeviceDoraGrads<'_>) -> Result<(), EngineError>;
    /// The numbers that products see, in the precision of `out`.
    fn dequantise(&self, weight: &DeviceCodes, out: &mut Array) -> Result<(), EngineError>;
    /// As [`crate::Engine::updated_row_norms`].
    fn updated_row_norms(
        &self,
        w: DeviceWeight<'_>,
        update: (&Array, &Array, f32),
        norm: &mut Array,
    ) -> Result<(), EngineError>;

    /// The scores come back to the host.
    fn score(
        &self,
        hidden: &Array,
        head: &Array,
        bias: Option<&Array>,
        scores: &mut [f64],
    ) -> Result<(), EngineError>;
    /// As [`crate::Engine::score_backward`].
    fn score_backward(&self, grads: ScoreGrads<'_>) -> Result<(), EngineError>;

    /// Room for sequences being generated.
    fn kv_cache(self: Arc<Self>, size: CacheSize) -> Result<Box<dyn CachedSequences>, EngineError>;

    fn rms_norm(
        &self,
        x: &Array,
        weight: NormWeight<'_>,
        eps: f32,
        y: &mut Array,
        inv_rms: &mut Array,
    ) -> Result<(), EngineError>;
    fn rms_norm_backward(&self, grads: RmsNormGrads<'_>) -> Result<(), EngineError>;
    fn layer_norm(
        &self,
        x: &Array,
        affine: [&Array; 2],
        eps: f32,
        y: &mut Array,
        inv_std: &mut Array,
    ) -> Result<(), EngineError>;
    fn layer_norm_backward(&self, grads: LayerNormGrads<'_>) -> Result<(), EngineError>;

    fn rotary(
        &self,
        x: &mut Array,
        positions: &[u32],
        table: &RotaryTable,
        inverse: bool,
    ) -> Result<(), EngineError>;
    fn attention(
        &self,
        qkv: Qkv<'_>,
        segments: &Segments,
        shape: AttentionShape,
        out: &mut Array,
        lse: &mut Array,
    ) -> Result<(), EngineError>;
    fn attention_backward(
        &self,
        qkv: Qkv<'_>,
        forward: AttentionForward<'_>,
        segments: &Segments,
        shape: AttentionShape,
        grads: AttentionGrads<'_>,
    ) -> Result<(), EngineError>;

    fn swiglu(&self, gate: &Array, up: &Array, out: &mut Array) -> Result<(), EngineError>;
    fn swiglu_backward(&self, grads: SwigluGrads<'_>) -> Result<(), EngineError>;
    fn gelu(&self, curve: Gelu, x: &Array, up: Option<&Array>, out: &mut Array) -> Result<(), EngineError>;
    fn gelu_backward(&self, curve: Gelu, grads: GeluGrads<'_>) -> Result<(), EngineError>;

    /// The log-probs come back to the host.
    fn selected_log_prob(
        &self,
        head: DeviceHead<'_>,
        log_probs: &mut [f64],
        lse: &mut Array,
    ) -> Result<(), EngineError>;
    fn selected_log_prob_backward(
        &self,
        head: DeviceHead<'_>,
        forward: (&Array, &[f32]),
        dhidden: &mut Array,
        dhead: Option<&mut Array>,
        dupdate: Option<HeadAdapterGrads<'_>>,
    ) -> Result<(), EngineError>;

    fn adamw_update(&self, state: AdamWState<'_>, factor: f32, rule: &AdamW) -> Result<(), EngineError>;
    fn rmsprop_update(
        &self,
        parameter: &mut Array,
        gradient: &Array,
        square_average: &mut Array,
        factor: f32,
        rule: &RmsProp,
    ) -> Result<(), EngineError>;
    fn sgd_update(
        &self,
        parameter: &mut Array,
        gradient: &Array,
        factor: f32,
        rule: &Sgd,
    ) -> Result<(), EngineError>;
    /// Sum of squares over all arrays, in f64.
    fn squared_norm(&self, arrays: &[&Array]) -> Result<f64, EngineError>;
}

/// Shared by an engine and the arrays on its device.
pub(crate) type Shared = Arc<dyn Accelerator>;
