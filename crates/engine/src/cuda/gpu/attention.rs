//! Attention: the batch's tiles, and the kernels that serve its heads.

use bso_cuda::operation::{self, AttentionKernels};
use bso_cuda::{Number, View};

use super::views::{failed, number, view};
use super::{Cuda, State};
use crate::{AttentionForward, AttentionGrads, AttentionShape, EngineError, Qkv, Segments};

impl Cuda {
    pub(super) fn attention_of(
        &self,
        qkv: Qkv<'_>,
        batch: (&Segments, AttentionShape),
        [out, lse]: [View<'_>; 2],
    ) -> Result<(), EngineError> {
        let mut state = self.state();
        let qkv = self.with_tiles(&mut state, qkv, batch)?;
        operation::attention(&self.gpu, qkv, out, lse).map_err(failed)
    }

    pub(super) fn attention_backward_of(
        &self,
        qkv: Qkv<'_>,
        forward: AttentionForward<'_>,
        batch: (&Segments, AttentionShape),
        grads: AttentionGrads<'_>,
    ) -> Result<(), EngineError> {
        let mut state = self.state();
        let qkv = self.with_tiles(&mut state, qkv, batch)?;
        let AttentionForward { out, lse, dout } = forward;
        let wanted = (Number::F32, lse.rows(), lse.cols());
        let [delta] = state.room.views(&self.gpu, [wanted]).map_err(failed)?;
        let forward =
            operation::AttentionForward { out: view(out)?, lse: view(lse)?, dout: view(dout)?, delta };
        let AttentionGrads { dq, dk, dv } = grads;
        let grads = operation::AttentionGrads { dq: view(dq)?, dk: view(dk)?, dv: view(dv)? };
        operation::attention_backward(&self.gpu, qkv, forward, grads).map_err(failed)
    }

    fn with_tiles<'a>(
        &self,
        state: &mut State,
        qkv: Qkv<'a>,
        (segments, shape): (&Segments, AttentionShape),
    ) -> Result<operation::Qkv<'a>, EngineError> {
        let AttentionShape { heads, kv_heads, head_dim, scale, window, cap } = shape;
        let kernels = AttentionKernels::of(number(qkv.q.dtype()), head_dim);
        let list: Vec<operation::Segment> = segments.list().iter().map(segment).collect();
        let tiles = state.lists.tiles(&self.gpu, &list, kernels).map_err(failed)?;
        let shape = operation::AttentionShape { heads, kv_heads, head_dim, scale, window, cap };
        Ok(operation::Qkv { q: view(qkv.q)?, k: view(qkv.k)?, v: view(qkv.v)?, tiles, kernels, shape })
    }
}

fn segment(segment: &crate::Segment) -> operation::Segment {
    operation::Segment { start: segment.start, len: segment.len, context: segment.context }
}
