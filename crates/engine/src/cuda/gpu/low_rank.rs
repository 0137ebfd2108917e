//! Low-rank updates: two thin products each way, with the inner rows in working memory.

use bso_cuda::operation::{self, Factor};
use bso_cuda::{CudaError, Gpu, Number, View};

use super::Cuda;
use super::room::Wanted;
use super::views::{failed, view};
use crate::accelerator::DeviceLowRank;
use crate::{Dropout, EngineError};

/// An update as the kernels read it.
#[derive(Clone, Copy)]
pub(super) struct Update<'a> {
    pub a: View<'a>,
    pub b: View<'a>,
    pub scale: f32,
    pub dropout: Option<operation::Dropout>,
}

/// What both directions compute from.
#[derive(Clone, Copy)]
pub(super) struct Inner<'a> {
    /// The input after dropout.
    pub seen: View<'a>,
    /// `scale seen a^T`, in the input's precision.
    pub inner: View<'a>,
    /// Room for as much in f32.
    pub wide: View<'a>,
}

impl<'a> Update<'a> {
    pub(super) fn of(w: DeviceLowRank<'a>) -> Result<Self, EngineError> {
        let DeviceLowRank { a, b, scale, dropout } = w;
        let mask =
            |Dropout { rate, key, first_row }| operation::Dropout { rate, key, first_row: first_row as u64 };
        Ok(Self { a: view(a)?, b: view(b)?, scale, dropout: dropout.map(mask) })
    }

    /// Room for [`Update::inner`]: the input after dropout, and the inner rows twice.
    pub(super) fn wanted(&self, x: View<'_>) -> [Wanted; 3] {
        let dropped = if self.dropout.is_some() { x.rows() } else { 0 };
        let rank = self.a.rows();
        [(x.number(), dropped, x.cols()), (Number::F32, x.rows(), rank), (x.number(), x.rows(), rank)]
    }

    pub(super) fn inner(
        &self,
        gpu: &Gpu,
        x: View<'a>,
        [dropped, wide, inner]: [View<'a>; 3],
    ) -> Result<Inner<'a>, CudaError> {
        let seen = match self.dropout {
            None => x,
            Some(dropout) => {
                operation::dropout(gpu, dropout, x, dropped, false)?;
                dropped
            }
        };
        // In f32 first: the factor is applied before the only rounding.
        let exact = if x.number() == Number::Bf16 { wide } else { inner };
        operation::product(gpu, Factor::plain(seen), Factor::transposed(self.a), exact, false)?;
        operation::scale(gpu, exact, self.scale)?;
        if x.number() == Number::Bf16 {
            operation::convert(gpu, exact, inner)?;
        }
        Ok(Inner { seen, inner, wide })
    }

    /// `db += dy^T inner` and `da += dinner^T seen`; gives `dinner = scale dy b`, in the room of the wide inner rows.
    pub(super) fn backward(
        &self,
        gpu: &Gpu,
        dy: View<'_>,
        Inner { seen, inner, wide: dinner }: Inner<'a>,
        [da, db]: [View<'_>; 2],
    ) -> Result<View<'a>, CudaError> {
        operation::product(gpu, Factor::transposed(dy), Factor::plain(inner), db, true)?;
        operation::product(gpu, Factor::plain(dy), Factor::plain(self.b), dinner, false)?;
        operation::scale(gpu, dinner, self.scale)?;
        operation::product(gpu, Factor::transposed(dinner), Factor::plain(seen), da, true)?;
        Ok(dinner)
    }
}

impl Cuda {
    pub(super) fn low_rank_of(
        &self,
        x: View<'_>,
        w: DeviceLowRank<'_>,
        y: View<'_>,
    ) -> Result<(), EngineError> {
        let (update, mut state) = (Update::of(w)?, self.state());
        let room = state.room.views(&self.gpu, update.wanted(x)).map_err(failed)?;
        let add = |inner: Inner<'_>| {
            operation::product(&self.gpu, Factor::plain(inner.inner), Factor::transposed(update.b), y, true)
        };
        update.inner(&self.gpu, x, room).and_then(add).map_err(failed)
    }

    pub(super) fn low_rank_backward_of(
        &self,
        [dy, x]: [View<'_>; 2],
        w: DeviceLowRank<'_>,
        [dx, da, db]: [View<'_>; 3],
    ) -> Result<(), EngineError> {
        let (gpu, update, mut state) = (&self.gpu, Update::of(w)?, self.state());
        let [dropped, wide, inner] = update.wanted(x);
        let dseen = (Number::F32, dropped.1, dropped.2);
        let [dropped, wide, inner, dseen] =
            state.room.views(gpu, [dropped, wide, inner, dseen]).map_err(failed)?;
        let backward = || -> Result<(), CudaError> {
            let inner = update.inner(gpu, x, [dropped, wide, inner])?;
            let dinner = update.backward(gpu, dy, inner, [da, db])?;
            let (dinner, a) = (Factor::plain(dinner), Factor::plain(update.a));
            match update.dropout {
                None => operation::product(gpu, dinner, a, dx, true),
                Some(dropout) => {
                    operation::product(gpu, dinner, a, dseen, false)?;
                    operation::dropout(gpu, dropout, dseen, dx, true)
                }
            }
        };
        backward().map_err(failed)
    }
}
