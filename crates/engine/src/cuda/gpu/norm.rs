//! The norms' backward, which needs room for partial sums.

use bso_cuda::{Number, operation};

use super::Cuda;
use super::views::{failed, view};
use crate::{Accumulate, EngineError, LayerNormGrads, RmsNormGrads};

impl Cuda {
    pub(super) fn rms_norm_backward_of(&self, grads: RmsNormGrads<'_>) -> Result<(), EngineError> {
        let RmsNormGrads { dy, x, weight, inv_rms, dx: (dx, accumulate), dweight } = grads;
        let (runs, d) = (inv_rms.len(), weight.values.len());
        let mut state = self.state();
        let wanted = (Number::F32, 1, operation::partial_sums(runs, d));
        let [partial] = state.room.views(&self.gpu, [wanted]).map_err(failed)?;
        let dweight = dweight.as_deref().map(view).transpose()?.map(|dweight| (dweight, partial));
        let grads = operation::RmsNormGrads {
            dy: view(dy)?,
            x: view(x)?,
            weight: (view(weight.values)?, weight.offset),
            inv_rms: view(inv_rms)?,
            dx: (view(dx)?, accumulate == Accumulate::Add),
            dweight,
        };
        operation::rms_norm_backward(&self.gpu, grads).map_err(failed)
    }

    pub(super) fn layer_norm_backward_of(&self, grads: LayerNormGrads<'_>) -> Result<(), EngineError> {
        let LayerNormGrads { dy, x, weight, inv_std, dx: (dx, accumulate), dweight_dbias } = grads;
        let (rows, cols) = (x.rows(), x.cols());
        let mut state = self.state();
        let wanted = [(Number::F32, 1, operation::partial_sums(rows, 2 * cols)), (Number::F32, 1, rows)];
        let [partial, means] = state.room.views(&self.gpu, wanted).map_err(failed)?;
        let dweight_dbias = match &dweight_dbias {
            Some([dweight, dbias]) => Some(([view(dweight)?, view(dbias)?], partial)),
            None => None,
        };
        let grads = operation::LayerNormGrads {
            dy: view(dy)?,
            x: view(x)?,
            weight: view(weight)?,
            inv_std: view(inv_std)?,
            means,
            dx: (view(dx)?, accumulate == Accumulate::Add),
            dweight_dbias,
        };
        operation::layer_norm_backward(&self.gpu, grads).map_err(failed)
    }
}
