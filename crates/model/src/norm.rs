//! The model's normalisation, whichever kind it is: RMSNorm, RMSNorm with weights stored less one, LayerNorm.

use crate::family::NormKind;
use crate::gradients::trained;
use crate::layout::NormPlace;
use bso_engine::{Accumulate, Array, Engine, EngineError, LayerNormGrads, NormWeight, RmsNormGrads};

/// A kind of norm with what it computes on.
#[derive(Clone, Copy)]
pub(crate) struct Norm<'a> {
    pub engine: &'a Engine,
    pub parameters: &'a [Array],
    pub kind: NormKind,
    pub eps: f32,
}

impl<'a> Norm<'a> {
    fn rms_weight(&self, place: NormPlace) -> NormWeight<'a> {
        let offset = if self.kind == NormKind::RmsPlusOne { 1.0 } else { 0.0 };
        NormWeight { values: &self.parameters[place], offset }
    }

    /// `y` and, for the backward, one number a normalised row.
    pub(crate) fn forward(
        &self,
        place: NormPlace,
        x: &Array,
        y: &mut Array,
        inverse: &mut Array,
    ) -> Result<(), EngineError> {
        if self.kind == NormKind::Layer {
            let affine = [&self.parameters[place], &self.parameters[place + 1]];
            return self.engine.layer_norm(x, affine, self.eps, y, inverse);
        }
        self.engine.rms_norm(x, self.rms_weight(place), self.eps, y, inverse)
    }

    /// `dx` from `dy`; gradients of weight and bias, where these are trained, are added to `gradients`.
    pub(crate) fn backward(
        &self,
        place: NormPlace,
        (dy, x, inverse): (&Array, &Array, &Array),
        dx: (&mut Array, Accumulate),
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        if self.kind == NormKind::Layer {
            let (weights, biases) = gradients.split_at_mut(place + 1);
            let dweight = weights.last_mut().and_then(trained);
            let dbias = biases.first_mut().and_then(trained);
            let dweight_dbias = dweight.zip(dbias).map(<[&mut Array; 2]>::from);
            let weight = &self.parameters[place];
            return self.engine.layer_norm_backward(LayerNormGrads {
                dy,
                x,
                weight,
                inv_std: inverse,
                dx,
                dweight_dbias,
            });
        }
        let (weight, dweight) = (self.rms_weight(place), trained(&mut gradients[place]));
        self.engine.rms_norm_backward(RmsNormGrads { dy, x, weight, inv_rms: inverse, dx, dweight })
    }
}
