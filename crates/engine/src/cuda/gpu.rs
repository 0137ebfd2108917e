//! A GPU as the engine's accelerator: each operation as launches of `bso_cuda::operation`, in one order. What is more than
//! a few launches is in files of its own.

mod attention;
mod cache;
mod codes;
mod dora;
mod head;
mod head_update;
mod lists;
mod low_rank;
mod norm;
mod optimiser;
mod room;
mod views;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bso_cuda::operation::{self, Factor as Product};
use bso_cuda::{Gpu, KernelCache, Number, View};

use self::cache::Pages;
use self::head_update::Written;
use self::lists::Lists;
use self::room::{Room, room_for};
use self::views::{bytes_at, failed, view};
use crate::accelerator::{
    Accelerator, CacheSize, CachedSequences, DeviceCodes, DeviceDora, DeviceDoraGrads, DeviceHead,
    DeviceLowRank, DeviceWeight, Factor, Memory, RoomFor,
};
use crate::{
    Accumulate, AdamW, AdamWState, Array, AttentionForward, AttentionGrads, AttentionShape, DType, Device,
    EngineError, Gelu, GeluGrads, HeadAdapterGrads, LayerNormGrads, NormWeight, Qkv, RmsNormGrads, RmsProp,
    RotaryTable, ScoreGrads, Segments, Sgd, SwigluGrads,
};

/// A GPU in use.
#[derive(Debug)]
pub(super) struct Cuda {
    // Before the GPU, so that its memory goes first.
    state: Mutex<State>,
    gpu: Gpu,
}

/// What operations share: held locked by each until its launches are queued.
#[derive(Debug, Default)]
struct State {
    lists: Lists,
    room: Room,
    /// Of what stays while several operations take room.
    outer: Room,
}

impl Cuda {
    pub(super) fn open(ordinal: u32) -> Result<Self, EngineError> {
        let gpu = Gpu::open(ordinal, &KernelCache::of_user()).map_err(failed)?;
        Ok(Self { state: Mutex::default(), gpu })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Numbers to the host, after all work so far.
    fn read(&self, from: View<'_>, to: &mut [u8]) -> Result<(), EngineError> {
        let asked = self.state().lists.asked();
        self.gpu.download(from, to).map_err(failed)?;
        self.state().lists.done(asked);
        Ok(())
    }
}

impl Accelerator for Cuda {
    fn device(&self) -> Device {
        Device::Cuda(self.gpu.chip().ordinal)
    }

    fn description(&self) -> String {
        let chip = self.gpu.chip();
        format!("{} ({}, {:.0} GiB)", chip.name, chip.architecture(), chip.memory as f64 / f64::from(1 << 30))
    }

    fn memory(&self) -> Result<[usize; 2], EngineError> {
        self.gpu.memory().map_err(failed)
    }

    fn workspace(&self) -> usize {
        let state = self.state();
        let products: usize = self.gpu.blas().map_or(0, |blas| blas.bytes().iter().sum());
        state.room.bytes() + state.outer.bytes() + products
    }

    fn room_for(&self, pass: &RoomFor) -> usize {
        let blas = self.gpu.blas().map(|blas| blas.bytes()[0]);
        let rounded =
            if pass.dtype == DType::Bf16 { blas.map_or(0, |_| 2 * pass.rows * pass.widest) } else { 0 };
        blas.unwrap_or(0) + rounded + room_for(pass).max(pass.adapter)
    }

    fn reserve(&self, pass: &RoomFor) -> Result<(), EngineError> {
        let wanted = (Number::U8, 1, room_for(pass));
        self.state().room.views(&self.gpu, [wanted]).map(|_| ()).map_err(failed)
    }

    fn allow_tf32(&self, allowed: bool) {
        self.gpu.blas().into_iter().for_each(|blas| blas.set_tf32(allowed));
    }

    fn synchronise(&self) -> Result<(), EngineError> {
        let asked = self.state().lists.asked();
        self.gpu.synchronise().map_err(failed)?;
        self.state().lists.done(asked);
        Ok(())
    }

    fn allocate(&self, bytes: usize) -> Result<Box<dyn Memory>, EngineError> {
        let buffer = self.gpu.buffer(bytes).map_err(failed)?;
        Ok(Box::new(buffer))
    }

    fn upload(&self, from: &[u8], (memory, first): (&dyn Memory, usize)) -> Result<(), EngineError> {
        let asked = self.state().lists.asked();
        self.gpu.upload(from, bytes_at(memory, first, from.len())?).map_err(failed)?;
        self.state().lists.done(asked);
        Ok(())
    }

    fn download(&self, (memory, first): (&dyn Memory, usize), to: &mut [u8]) -> Result<(), EngineError> {
        self.read(bytes_at(memory, first, to.len())?, to)
    }

    fn copy(
        &self,
        (from, from_first): (&dyn Memory, usize),
        (to, to_first): (&dyn Memory, usize),
        count: usize,
    ) -> Result<(), EngineError> {
        let (from, to) = (bytes_at(from, from_first, count)?, bytes_at(to, to_first, count)?);
        self.gpu.copy(from, to).map_err(failed)
    }

    fn clear(&self, memory: &dyn Memory) -> Result<(), EngineError> {
        self.gpu.clear(bytes_at(memory, 0, memory.bytes())?).map_err(failed)
    }

    fn convert(&self, x: &Array, y: &mut Array) -> Result<(), EngineError> {
        let (x, y) = (view(x)?, view(y)?);
        let done =
            if x.number() == y.number() { self.gpu.copy(x, y) } else { operation::convert(&self.gpu, x, y) };
        done.map_err(failed)
    }

    fn add_assign(&self, y: &mut Array, x: &Array) -> Result<(), EngineError> {
        operation::add_assign(&self.gpu, view(y)?, view(x)?).map_err(failed)
    }

    fn scale(&self, x: &mut Array, factor: f32) -> Result<(), EngineError> {
        operation::scale(&self.gpu, view(x)?, factor).map_err(failed)
    }

    fn soft_cap(&self, x: &mut Array, cap: f32) -> Result<(), EngineError> {
        operation::soft_cap(&self.gpu, view(x)?, cap).map_err(failed)
    }

    fn repeat_row(&self, row: &Array, y: &mut Array) -> Result<(), EngineError> {
        operation::repeat_row(&self.gpu, view(row)?, view(y)?).map_err(failed)
    }

    fn add_row(&self, row: &Array, y: &mut Array) -> Result<(), EngineError> {
        let (row, y, mut state) = (view(row)?, view(y)?, self.state());
        let [rows] = state.room.views(&self.gpu, [(Number::F32, y.rows(), y.cols())]).map_err(failed)?;
        operation::repeat_row(&self.gpu, row, rows)
            .and_then(|()| operation::add_assign(&self.gpu, y, rows))
            .map_err(failed)
    }

    fn add_sum_of_rows(&self, x: &Array, sum: &mut Array) -> Result<(), EngineError> {
        let (x, sum, mut state) = (view(x)?, view(sum)?, self.state());
        let wanted = (Number::F32, 1, operation::partial_sums(x.rows(), x.cols()));
        let [partial] = state.room.views(&self.gpu, [wanted]).map_err(failed)?;
        operation::add_column_sums(&self.gpu, x, sum, partial).map_err(failed)
    }

    fn gather_rows(&self, x: &Array, index: &[u32], out: &mut Array) -> Result<(), EngineError> {
        let mut state = self.state();
        let index = state.lists.view(&self.gpu, index).map_err(failed)?;
        operation::gather_rows(&self.gpu, view(x)?, index, view(out)?).map_err(failed)
    }

    fn add_gathered_rows(&self, x: &Array, index: &[u32], out: &mut Array) -> Result<(), EngineError> {
        let mut state = self.state();
        let index = state.lists.view(&self.gpu, index).map_err(failed)?;
        operation::add_gathered_rows(&self.gpu, view(x)?, index, view(out)?).map_err(failed)
    }

    fn scatter_add_rows(&self, rows: &Array, index: &[u32], x: &mut Array) -> Result<(), EngineError> {
        if index.is_empty() {
            return Ok(());
        }
        let mut state = self.state();
        let groups = state.lists.groups(&self.gpu, index).map_err(failed)?;
        operation::add_row_groups(&self.gpu, view(rows)?, groups, view(x)?).map_err(failed)
    }

    fn product(
        &self,
        (a, a_turned): Factor<'_>,
        b: (DeviceWeight<'_>, bool),
        c: &mut Array,
        accumulate: Accumulate,
    ) -> Result<(), EngineError> {
        let a = Product { matrix: view(a)?, transposed: a_turned };
        let c = (view(c)?, accumulate == Accumulate::Add);
        codes::product(&self.gpu, &mut self.state().room, a, b, c)
    }

    fn low_rank(&self, x: &Array, w: DeviceLowRank<'_>, y: &mut Array) -> Result<(), EngineError> {
        self.low_rank_of(view(x)?, w, view(y)?)
    }

    fn low_rank_backward(
        &self,
        [dy, x]: [&Array; 2],
        w: DeviceLowRank<'_>,
        [dx, da, db]: [&mut Array; 3],
    ) -> Result<(), EngineError> {
        self.low_rank_backward_of([view(dy)?, view(x)?], w, [view(dx)?, view(da)?, view(db)?])
    }

    fn dora(&self, x: &Array, w: DeviceDora<'_>, y: &mut Array) -> Result<(), EngineError> {
        self.dora_of(view(x)?, w, view(y)?)
    }

    fn dora_backward(&self, grads: DeviceDoraGrads<'_>) -> Result<(), EngineError> {
        self.dora_backward_of(grads)
    }

    fn dequantise(&self, weight: &DeviceCodes, out: &mut Array) -> Result<(), EngineError> {
        codes::dequantise(&self.gpu, weight, view(out)?)
    }

    fn updated_row_norms(
        &self,
        w: DeviceWeight<'_>,
        update: (&Array, &Array, f32),
        norm: &mut Array,
    ) -> Result<(), EngineError> {
        self.row_norms_of(w, update, view(norm)?)
    }

    fn score(
        &self,
        hidden: &Array,
        head: &Array,
        bias: Option<&Array>,
        scores: &mut [f64],
    ) -> Result<(), EngineError> {
        self.score_of(hidden, head, bias, scores)
    }

    fn score_backward(&self, grads: ScoreGrads<'_>) -> Result<(), EngineError> {
        self.score_backward_of(grads)
    }

    fn kv_cache(self: Arc<Self>, size: CacheSize) -> Result<Box<dyn CachedSequences>, EngineError> {
        Ok(Box::new(Pages::new(self, size)?))
    }

    fn rms_norm(
        &self,
        x: &Array,
        weight: NormWeight<'_>,
        eps: f32,
        y: &mut Array,
        inv_rms: &mut Array,
    ) -> Result<(), EngineError> {
        let weight = (view(weight.values)?, weight.offset);
        operation::rms_norm(&self.gpu, view(x)?, weight, eps, [view(y)?, view(inv_rms)?]).map_err(failed)
    }

    fn rms_norm_backward(&self, grads: RmsNormGrads<'_>) -> Result<(), EngineError> {
        self.rms_norm_backward_of(grads)
    }

    fn layer_norm(
        &self,
        x: &Array,
        [weight, bias]: [&Array; 2],
        eps: f32,
        y: &mut Array,
        inv_std: &mut Array,
    ) -> Result<(), EngineError> {
        let affine = [view(weight)?, view(bias)?];
        operation::layer_norm(&self.gpu, view(x)?, affine, eps, [view(y)?, view(inv_std)?]).map_err(failed)
    }

    fn layer_norm_backward(&self, grads: LayerNormGrads<'_>) -> Result<(), EngineError> {
        self.layer_norm_backward_of(grads)
    }

    fn rotary(
        &self,
        x: &mut Array,
        positions: &[u32],
        table: &RotaryTable,
        inverse: bool,
    ) -> Result<(), EngineError> {
        let Some(owner) = x.accelerator() else { return Ok(()) };
        let on_device = table.on(&owner)?;
        let [cosines, sines] = &*on_device;
        let angles =
            operation::Angles { cosines: view(cosines)?, sines: view(sines)?, head_dim: table.head_dim() };
        let mut state = self.state();
        let positions = state.lists.view(&self.gpu, positions).map_err(failed)?;
        operation::rotary(&self.gpu, view(x)?, positions, angles, inverse).map_err(failed)
    }

    fn attention(
        &self,
        qkv: Qkv<'_>,
        segments: &Segments,
        shape: AttentionShape,
        out: &mut Array,
        lse: &mut Array,
    ) -> Result<(), EngineError> {
        self.attention_of(qkv, (segments, shape), [view(out)?, view(lse)?])
    }

    fn attention_backward(
        &self,
        qkv: Qkv<'_>,
        forward: AttentionForward<'_>,
        segments: &Segments,
        shape: AttentionShape,
        grads: AttentionGrads<'_>,
    ) -> Result<(), EngineError> {
        self.attention_backward_of(qkv, forward, (segments, shape), grads)
    }

    fn swiglu(&self, gate: &Array, up: &Array, out: &mut Array) -> Result<(), EngineError> {
        operation::swiglu(&self.gpu, view(gate)?, view(up)?, view(out)?).map_err(failed)
    }

    fn swiglu_backward(&self, grads: SwigluGrads<'_>) -> Result<(), EngineError> {
        let SwigluGrads { dout, gate, up, dgate, dup } = grads;
        let (read, written) = ([view(gate)?, view(up)?], [view(dgate)?, view(dup)?]);
        operation::swiglu_backward(&self.gpu, view(dout)?, read, written).map_err(failed)
    }

    fn gelu(&self, curve: Gelu, x: &Array, up: Option<&Array>, out: &mut Array) -> Result<(), EngineError> {
        let up = up.map(view).transpose()?;
        operation::gelu(&self.gpu, curve_of(curve), view(x)?, up, view(out)?).map_err(failed)
    }

    fn gelu_backward(&self, curve: Gelu, grads: GeluGrads<'_>) -> Result<(), EngineError> {
        let GeluGrads { dout, x, dx, up } = grads;
        let up = match &up {
            Some((up, dup)) => Some((view(up)?, view(dup)?)),
            None => None,
        };
        let read = [view(dout)?, view(x)?];
        operation::gelu_backward(&self.gpu, curve_of(curve), read, up, view(dx)?).map_err(failed)
    }

    fn selected_log_prob(
        &self,
        head: DeviceHead<'_>,
        log_probs: &mut [f64],
        lse: &mut Array,
    ) -> Result<(), EngineError> {
        let lse = view(lse)?;
        self.log_probs_of(head, log_probs, lse)
    }

    fn selected_log_prob_backward(
        &self,
        head: DeviceHead<'_>,
        forward: (&Array, &[f32]),
        dhidden: &mut Array,
        dhead: Option<&mut Array>,
        dupdate: Option<HeadAdapterGrads<'_>>,
    ) -> Result<(), EngineError> {
        let dhead = dhead.as_deref().map(view).transpose()?;
        let written = match &dupdate {
            None => None,
            Some(HeadAdapterGrads { da, db, dmagnitude }) => {
                let dmagnitude = dmagnitude.as_deref().map(view).transpose()?;
                Some(Written { da: view(da)?, db: view(db)?, dmagnitude })
            }
        };
        self.log_probs_backward_of(head, (view(forward.0)?, forward.1), view(dhidden)?, (dhead, written))
    }

    fn adamw_update(&self, state: AdamWState<'_>, factor: f32, rule: &AdamW) -> Result<(), EngineError> {
        self.adamw_of(state, factor, rule)
    }

    fn rmsprop_update(
        &self,
        parameter: &mut Array,
        gradient: &Array,
        square_average: &mut Array,
        factor: f32,
        rule: &RmsProp,
    ) -> Result<(), EngineError> {
        self.rmsprop_of([view(parameter)?, view(gradient)?, view(square_average)?], factor, rule)
    }

    fn sgd_update(
        &self,
        parameter: &mut Array,
        gradient: &Array,
        factor: f32,
        rule: &Sgd,
    ) -> Result<(), EngineError> {
        self.sgd_of([view(parameter)?, view(gradient)?], factor, rule)
    }

    fn squared_norm(&self, arrays: &[&Array]) -> Result<f64, EngineError> {
        self.squared_norm_of(arrays)
    }
}

fn curve_of(curve: Gelu) -> operation::Curve {
    match curve {
        Gelu::Exact => operation::Curve::Exact,
        Gelu::Tanh => operation::Curve::Tanh,
    }
}
