//! Low-rank updates: two thin products each way, with the inner rows in working memory.

use bso_cuda::operation::{self, Factor};
use bso_cuda::{CudaError, Number, View};

use super::gpu::{Cuda, State};
use super::views::{failed, view};
use crate::accelerator::DeviceLowRank;
use crate::{Dropout, EngineError};

/// What both directions compute from: the input after dropout, and `scale seen a^T` in its precision.
struct Inner<'a> {
    seen: View<'a>,
    inner: View<'a>,
    /// `[n, r]` in f32.
    wide: View<'a>,
    /// As the input, in f32, where there is dropout and room was asked for.
    dseen: View<'a>,
}

impl Cuda {
    pub(super) fn low_rank_of(
        &self,
        x: View<'_>,
        w: DeviceLowRank<'_>,
        y: View<'_>,
    ) -> Result<(), EngineError> {
        let mut state = self.state();
        let b = Factor::transposed(view(w.b)?);
        let Inner { inner, .. } = self.inner_of(&mut state, x, w, false)?;
        operation::product(&self.gpu, Factor::plain(inner), b, y, true).map_err(failed)
    }

    pub(super) fn low_rank_backward_of(
        &self,
        [dy, x]: [View<'_>; 2],
        w: DeviceLowRank<'_>,
        [dx, da, db]: [View<'_>; 3],
    ) -> Result<(), EngineError> {
        let mut state = self.state();
        let (gpu, a, b) = (&self.gpu, Factor::plain(view(w.a)?), Factor::plain(view(w.b)?));
        let Inner { seen, inner, wide: dinner, dseen } = self.inner_of(&mut state, x, w, true)?;
        let backward = || -> Result<(), CudaError> {
            operation::product(gpu, Factor::transposed(dy), Factor::plain(inner), db, true)?;
            operation::product(gpu, Factor::plain(dy), b, dinner, false)?;
            operation::scale(gpu, dinner, w.scale)?;
            operation::product(gpu, Factor::transposed(dinner), Factor::plain(seen), da, true)?;
            match w.dropout {
                None => operation::product(gpu, Factor::plain(dinner), a, dx, true),
                Some(dropout) => {
                    operation::product(gpu, Factor::plain(dinner), a, dseen, false)?;
                    operation::dropout(gpu, mask(dropout), dseen, dx, true)
                }
            }
        };
        backward().map_err(failed)
    }

    fn inner_of<'a>(
        &self,
        state: &mut State,
        x: View<'a>,
        w: DeviceLowRank<'a>,
        backward: bool,
    ) -> Result<Inner<'a>, EngineError> {
        let (gpu, rows, rank) = (&self.gpu, x.rows(), w.a.rows());
        let rows_if = |there: bool| if there { rows } else { 0 };
        let (narrow, drops) = (x.number() == Number::Bf16, w.dropout.is_some());
        let wanted = [
            (x.number(), rows_if(drops), x.cols()),
            (Number::F32, rows, rank),
            (x.number(), rows_if(narrow || backward), rank),
            (Number::F32, rows_if(drops && backward), x.cols()),
        ];
        let [dropped, wide, apart, dseen] = state.room.views(gpu, wanted).map_err(failed)?;
        let inner = if narrow || backward { apart } else { wide };
        let forward = || -> Result<View<'a>, CudaError> {
            let seen = match w.dropout {
                None => x,
                Some(dropout) => {
                    operation::dropout(gpu, mask(dropout), x, dropped, false)?;
                    dropped
                }
            };
            // In f32 first: the factor is applied before the only rounding.
            let exact = if narrow { wide } else { inner };
            let a =
                Factor::transposed(view(w.a).map_err(|error| CudaError::Shape {
                    operation: "low_rank",
                    reason: error.to_string(),
                })?);
            operation::product(gpu, Factor::plain(seen), a, exact, false)?;
            operation::scale(gpu, exact, w.scale)?;
            if narrow {
                operation::convert(gpu, exact, inner)?;
            }
            Ok(seen)
        };
        let seen = forward().map_err(failed)?;
        Ok(Inner { seen, inner, wide, dseen })
    }
}

fn mask(dropout: Dropout) -> operation::Dropout {
    let Dropout { rate, key, first_row } = dropout;
    operation::Dropout { rate, key, first_row: first_row as u64 }
}
