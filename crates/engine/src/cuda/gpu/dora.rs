//! Weights whose rows have lengths of their own (`crate::dora`), in the same steps as on the processor.

use bso_cuda::operation::{self, Factor, ScaledColumns};
use bso_cuda::{CudaError, Number, View};

use super::Cuda;
use super::codes::Held;
use super::low_rank::Update;
use super::views::{failed, view};
use crate::accelerator::{DeviceDora, DeviceDoraGrads, DeviceWeight};
use crate::{Accumulate, Array, EngineError};

impl Cuda {
    pub(super) fn dora_of(&self, x: View<'_>, w: DeviceDora<'_>, y: View<'_>) -> Result<(), EngineError> {
        let (gpu, update, weight) = (&self.gpu, Update::of(w.update)?, Held::of(w.w)?);
        let [magnitude, norm] = [view(w.lengths[0])?, view(w.lengths[1])?];
        let bias = w.bias.map(view).transpose()?;
        let [dropped, wide, inner] = update.wanted(x);
        let outputs = (Number::F32, x.rows(), y.cols());
        let rest = (Number::F32, dropped.1, y.cols());
        let wanted = [dropped, wide, inner, outputs, rest, (Number::F32, 1, y.cols()), weight.wanted()];
        let mut state = self.state();
        let [dropped, wide, inner, updated, rest, factors, widened] =
            state.room.views(gpu, wanted).map_err(failed)?;
        let forward = || -> Result<(), CudaError> {
            let w = Factor::transposed(weight.widened(gpu, widened)?);
            let inner = update.inner(gpu, x, [dropped, wide, inner])?;
            let (seen, b) = (Factor::plain(inner.seen), Factor::transposed(update.b));
            operation::length_factors(gpu, magnitude, norm, factors)?;
            let mut columns = ScaledColumns { x: updated, factors, bias, rest: None };
            operation::product(gpu, seen, w, updated, false)?;
            if update.dropout.is_some() {
                operation::product(gpu, Factor::plain(x), w, rest, false)?;
                operation::add_scaled_columns(gpu, updated, (factors, 1.0), rest, true)?;
                columns.rest = Some(rest);
            }
            // With dropout the weight's own share is in the rest.
            operation::product(gpu, Factor::plain(inner.inner), b, updated, update.dropout.is_none())?;
            operation::scale_columns(gpu, columns, y)
        };
        forward().map_err(failed)
    }

    pub(super) fn dora_backward_of(&self, grads: DeviceDoraGrads<'_>) -> Result<(), EngineError> {
        let DeviceDoraGrads { read: [dy, x], w, dx: (dx, accumulate), added: [da, db, dmagnitude] } = grads;
        let (dy, x, dx) = (view(dy)?, view(x)?, view(dx)?);
        let [da, db, dmagnitude] = [view(da)?, view(db)?, view(dmagnitude)?];
        let (gpu, update, weight) = (&self.gpu, Update::of(w.update)?, Held::of(w.w)?);
        let [magnitude, norm] = [view(w.lengths[0])?, view(w.lengths[1])?];
        let (rows, outputs) = (dy.rows(), dy.cols());
        let [dropped, wide, inner] = update.wanted(x);
        let narrow = dy.number() == Number::Bf16;
        let wanted = [
            dropped,
            wide,
            inner,
            (Number::F32, rows, outputs),
            (Number::F32, if narrow { rows } else { 0 }, outputs),
            (Number::F32, dropped.1, dropped.2),
            (Number::F32, 1, outputs),
            (Number::F64, 1, operation::partial_sums(rows, outputs)),
            weight.wanted(),
        ];
        let mut state = self.state();
        let [dropped, wide, inner, updated, widened_dy, dseen, factors, partial, widened] =
            state.room.views(gpu, wanted).map_err(failed)?;
        let add = accumulate == Accumulate::Add;
        let backward = || -> Result<(), CudaError> {
            let w = weight.widened(gpu, widened)?;
            let inner = update.inner(gpu, x, [dropped, wide, inner])?;
            operation::length_factors(gpu, magnitude, norm, factors)?;
            operation::product(gpu, Factor::plain(inner.seen), Factor::transposed(w), updated, false)?;
            let b = Factor::transposed(update.b);
            operation::product(gpu, Factor::plain(inner.inner), b, updated, true)?;
            let dy = if narrow {
                operation::convert(gpu, dy, widened_dy)?;
                widened_dy
            } else {
                dy
            };
            operation::add_length_gradient(gpu, (updated, None), dy, [norm, dmagnitude], partial)?;
            // From here on the gradient of the product before it was scaled, in the same memory.
            let dupdated = updated;
            operation::add_scaled_columns(gpu, dy, (factors, 0.0), dupdated, false)?;
            let dinner = update.backward(gpu, dupdated, inner, [da, db])?;
            let (w, a, dinner) = (Factor::plain(w), Factor::plain(update.a), Factor::plain(dinner));
            let Some(dropout) = update.dropout else {
                operation::product(gpu, Factor::plain(dupdated), w, dx, add)?;
                return operation::product(gpu, dinner, a, dx, true);
            };
            operation::product(gpu, Factor::plain(dy), w, dx, add)?;
            operation::add_scaled_columns(gpu, dy, (factors, 1.0), dupdated, false)?;
            operation::product(gpu, Factor::plain(dupdated), w, dseen, false)?;
            operation::product(gpu, dinner, a, dseen, true)?;
            operation::dropout(gpu, dropout, dseen, dx, true)
        };
        backward().map_err(failed)
    }

    pub(super) fn row_norms_of(
        &self,
        w: DeviceWeight<'_>,
        (a, b, scale): (&Array, &Array, f32),
        norm: View<'_>,
    ) -> Result<(), EngineError> {
        let (weight, update) = (Held::of(w)?, operation::Update { a: view(a)?, b: view(b)?, scale });
        let mut state = self.state();
        let [room] = state.room.views(&self.gpu, [weight.wanted()]).map_err(failed)?;
        let norms = |w| operation::row_norms(&self.gpu, w, update, norm);
        weight.widened(&self.gpu, room).and_then(norms).map_err(failed)
    }
}
