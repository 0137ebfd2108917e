//! An adapter beside the output head (`crate::head_update`), chunk by chunk of its logits, in the same steps as on the
//! processor.

use bso_cuda::operation::{self, Factor};
use bso_cuda::{CudaError, Gpu, Number, View};

use super::head::{Chunk, Inputs};
use super::low_rank::{Inner, Update};
use super::room::Room;
use super::views::{failed, view};
use crate::EngineError;
use crate::accelerator::DeviceHeadUpdate;

/// An adapter with what all chunks read.
pub(super) struct HeadUpdate<'a> {
    update: Update<'a>,
    inner: Inner<'a>,
    lengths: Option<Lengths<'a>>,
    /// Gradient of the hidden rows after dropout, in f32.
    dseen: View<'a>,
}

struct Lengths<'a> {
    norm: View<'a>,
    factors: View<'a>,
}

/// Two parts of a chunk's logits apart, where lengths are trained: of the head and of the update.
pub(super) type Parts<'a> = [View<'a>; 2];

/// Where gradients go.
#[derive(Clone, Copy)]
pub(super) struct Written<'a> {
    pub da: View<'a>,
    pub db: View<'a>,
    pub dmagnitude: Option<View<'a>>,
}

impl<'a> HeadUpdate<'a> {
    /// Computes what does not depend on the vocabulary, in `room`.
    pub(super) fn of(
        gpu: &Gpu,
        room: &mut Room,
        hidden: View<'a>,
        update: DeviceHeadUpdate<'a>,
    ) -> Result<Self, EngineError> {
        let DeviceHeadUpdate { update, lengths } = update;
        let (update, vocab) = (Update::of(update)?, update.b.rows());
        let [dropped, wide, inner] = update.wanted(hidden);
        let wanted = [
            dropped,
            wide,
            inner,
            (Number::F32, dropped.1, dropped.2),
            (Number::F32, 1, if lengths.is_some() { vocab } else { 0 }),
        ];
        let [dropped, wide, inner, dseen, factors] = room.views(gpu, wanted).map_err(failed)?;
        let inner = update.inner(gpu, hidden, [dropped, wide, inner]).map_err(failed)?;
        let lengths = match lengths {
            None => None,
            Some([magnitude, norm]) => {
                let norm = view(norm)?;
                operation::length_factors(gpu, view(magnitude)?, norm, factors).map_err(failed)?;
                Some(Lengths { norm, factors })
            }
        };
        Ok(Self { update, inner, lengths, dseen })
    }

    pub(super) fn has_lengths(&self) -> bool {
        self.lengths.is_some()
    }

    /// Makes the head's logits of a chunk those of the adapted head; `parts` keep what the backward reads.
    pub(super) fn add_logits(
        &self,
        gpu: &Gpu,
        inputs: &Inputs<'_>,
        (chunk, logits): (Chunk, View<'_>),
        parts: Parts<'_>,
    ) -> Result<(), CudaError> {
        let inner = Factor::plain(chunk.rows_of(self.inner.inner)?);
        let b = Factor::transposed(chunk.tokens_of(self.update.b)?);
        let Some(Lengths { factors, .. }) = &self.lengths else {
            return operation::product(gpu, inner, b, logits, true);
        };
        let [straight, turned] = [chunk.shaped(parts[0])?, chunk.shaped(parts[1])?];
        match self.update.dropout {
            None => gpu.copy(logits, straight)?,
            Some(_) => {
                let (seen, head) = (chunk.rows_of(self.inner.seen)?, chunk.tokens_of(inputs.head)?);
                operation::product(gpu, Factor::plain(seen), Factor::transposed(head), straight, false)?;
            }
        }
        operation::product(gpu, inner, b, turned, false)?;
        let factors = chunk.of_tokens(*factors)?;
        operation::add_scaled_columns(gpu, straight, (factors, 1.0), logits, true)?;
        operation::add_scaled_columns(gpu, turned, (factors, 0.0), logits, true)
    }

    /// From the gradient of a chunk's logits, in f32, to that of the hidden rows as far as they are read past dropout, and to
    /// the adapter's. `partial` is room for the lengths' sums.
    pub(super) fn through_logits(
        &self,
        gpu: &Gpu,
        inputs: &Inputs<'_>,
        (chunk, dlogits): (Chunk, View<'_>),
        (parts, partial): (Parts<'_>, View<'_>),
        (dhidden, written): (View<'_>, Written<'_>),
    ) -> Result<(), CudaError> {
        let (head, later) = (Factor::plain(chunk.tokens_of(inputs.head)?), chunk.first > 0);
        let drows = chunk.rows_of(dhidden)?;
        let mut turned = dlogits;
        if let Some(Lengths { norm, factors }) = &self.lengths {
            let [straight, own] = [chunk.shaped(parts[0])?, chunk.shaped(parts[1])?];
            if let Some(dmagnitude) = written.dmagnitude {
                let of = [chunk.of_tokens(*norm)?, chunk.of_tokens(dmagnitude)?];
                operation::add_length_gradient(gpu, (straight, Some(own)), dlogits, of, partial)?;
            }
            let factors = chunk.of_tokens(*factors)?;
            operation::add_scaled_columns(gpu, dlogits, (factors, 0.0), own, false)?;
            turned = own;
            if self.update.dropout.is_some() {
                operation::add_scaled_columns(gpu, dlogits, (factors, 1.0), straight, false)?;
                let dseen = chunk.rows_of(self.dseen)?;
                operation::product(gpu, Factor::plain(straight), head, dseen, later)?;
                operation::product(gpu, Factor::plain(dlogits), head, drows, later)?;
            } else {
                operation::product(gpu, Factor::plain(turned), head, drows, later)?;
            }
        } else {
            operation::product(gpu, Factor::plain(dlogits), head, drows, later)?;
        }
        let (b, dinner) = (chunk.tokens_of(self.update.b)?, chunk.rows_of(self.inner.wide)?);
        operation::product(gpu, Factor::plain(turned), Factor::plain(b), dinner, later)?;
        let inner = Factor::plain(chunk.rows_of(self.inner.inner)?);
        operation::product(gpu, Factor::transposed(turned), inner, chunk.tokens_of(written.db)?, true)
    }

    /// `da += dinner^T seen`, and the hidden rows' share by the inner rows.
    pub(super) fn through_inner(
        &self,
        gpu: &Gpu,
        dhidden: View<'_>,
        written: Written<'_>,
    ) -> Result<(), CudaError> {
        let Inner { seen, wide: dinner, .. } = self.inner;
        operation::scale(gpu, dinner, self.update.scale)?;
        operation::product(gpu, Factor::transposed(dinner), Factor::plain(seen), written.da, true)?;
        let (dinner, a) = (Factor::plain(dinner), Factor::plain(self.update.a));
        match self.update.dropout {
            None => operation::product(gpu, dinner, a, dhidden, true),
            Some(dropout) => {
                operation::product(gpu, dinner, a, self.dseen, self.lengths.is_some())?;
                operation::dropout(gpu, dropout, self.dseen, dhidden, true)
            }
        }
    }
}
