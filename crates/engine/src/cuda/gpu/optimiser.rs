//! Optimisers, and the norm of what they read.

use bso_cuda::operation::{self, AdamWNumbers, RmsPropNumbers, SgdNumbers};
use bso_cuda::{CudaError, Number, View};

use super::Cuda;
use super::views::{failed, view};
use crate::{AdamW, AdamWState, Array, EngineError, RmsProp, Sgd, optimiser_update};

impl Cuda {
    pub(super) fn adamw_of(
        &self,
        state: AdamWState<'_>,
        factor: f32,
        rule: &AdamW,
    ) -> Result<(), EngineError> {
        let optimiser_update::AdamWNumbers {
            factor,
            keep,
            first_weight,
            beta2,
            second_weight,
            bias_root,
            step_size,
            epsilon,
        } = optimiser_update::AdamWNumbers::new(rule, factor);
        let numbers =
            AdamWNumbers { factor, keep, first_weight, beta2, second_weight, bias_root, step_size, epsilon };
        let AdamWState { parameter, gradient, first_moment, second_moment } = state;
        let arrays = [view(parameter)?, view(gradient)?, view(first_moment)?, view(second_moment)?];
        operation::adamw(&self.gpu, arrays, numbers).map_err(failed)
    }

    pub(super) fn rmsprop_of(
        &self,
        arrays: [View<'_>; 3],
        factor: f32,
        rule: &RmsProp,
    ) -> Result<(), EngineError> {
        let numbers = RmsPropNumbers {
            factor,
            alpha: rule.alpha as f32,
            square_weight: (1.0 - rule.alpha) as f32,
            learning_rate: rule.learning_rate as f32,
            epsilon: rule.epsilon as f32,
            weight_decay: rule.weight_decay as f32,
        };
        operation::rmsprop(&self.gpu, arrays, numbers).map_err(failed)
    }

    pub(super) fn sgd_of(&self, arrays: [View<'_>; 2], factor: f32, rule: &Sgd) -> Result<(), EngineError> {
        let numbers = SgdNumbers {
            factor,
            learning_rate: rule.learning_rate as f32,
            weight_decay: rule.weight_decay as f32,
        };
        operation::sgd(&self.gpu, arrays, numbers).map_err(failed)
    }

    pub(super) fn squared_norm_of(&self, arrays: &[&Array]) -> Result<f64, EngineError> {
        let views = arrays.iter().map(|array| view(array)).collect::<Result<Vec<_>, _>>()?;
        let longest = views.iter().map(View::len).max().unwrap_or(0);
        let mut state = self.state();
        let wanted = [(Number::F64, 1, 1), (Number::F64, 1, operation::partial_totals(longest))];
        let [total, room] = state.room.views(&self.gpu, wanted).map_err(failed)?;
        let mut sum = [0.0_f64];
        let add = |x: &View<'_>| -> Result<(), CudaError> {
            // SAFETY: the beginning of the room.
            let room =
                unsafe { View::at(room.address(), Number::F64, 1, operation::partial_totals(x.len())) };
            operation::add_squared_norm(&self.gpu, *x, room, total)
        };
        self.gpu
            .clear(total)
            .and_then(|()| views.iter().filter(|x| !x.is_empty()).try_for_each(add))
            .and_then(|()| self.gpu.download(total, bytemuck::cast_slice_mut(&mut sum)))
            .map_err(failed)?;
        state.lists.synchronised();
        Ok(sum[0])
    }
}
