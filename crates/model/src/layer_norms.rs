//! A layer's norms, where its family has them: before products or not, after a branch or not, on queries and keys or not.
//! Each backward is below its forward.

use crate::layer::Layer;
use crate::layout::{LinearPlace, NormPlace};
use crate::norm::Norm;
use crate::part::RowInputs;
use bso_engine::{Accumulate, Array, EngineError};

impl Layer<'_> {
    /// `y = linear(x)`, or the norm of it, where one stands there; `between` keeps what that norm reads.
    pub(crate) fn leave_branch(
        &self,
        linear: LinearPlace,
        x: &Array,
        norm: Option<NormPlace>,
        between: &mut Array,
        (y, inverse): (&mut Array, &mut Array),
    ) -> Result<(), EngineError> {
        let Some(norm) = norm else { return self.linear(linear, x, y) };
        self.linear(linear, x, between)?;
        inverse.resize(between.rows(), 1)?;
        self.norm().forward(norm, between, y, inverse)
    }

    /// The rows' norm, for products to read; without a norm, the rows themselves.
    pub(crate) fn normalise(
        &self,
        norm: Option<NormPlace>,
        x: &Array,
        (normed, inverse): (&mut Array, &mut Array),
    ) -> Result<(), EngineError> {
        normed.resize_rows(x.rows())?;
        inverse.resize(x.rows(), 1)?;
        match norm {
            Some(norm) => self.norm().forward(norm, x, normed, inverse),
            None => self.engine.copy(x, normed),
        }
    }

    /// What the MLP's norm reads: the stream after attention, or where residuals are parallel the layer's input.
    pub(crate) fn mlp_source<'b>(&self, x: RowInputs<'b>, middle: &'b Array) -> &'b Array {
        if self.config.parallel_residual { x.residual } else { middle }
    }

    /// The gradient of what a branch gives, from that of the stream which it enters: the same, but for a norm between
    /// them, whose stored numbers are computed again.
    pub(crate) fn branch_backward<'b>(
        &self,
        (norm, x): (Option<NormPlace>, &Array),
        stream: &'b Array,
        (branch, normed, inverse): (&'b mut Array, &mut Array, &mut Array),
        gradients: &mut [Array],
    ) -> Result<&'b Array, EngineError> {
        let Some(place) = norm else { return Ok(stream) };
        self.normalise(norm, x, (normed, inverse))?;
        let dx = (&mut *branch, Accumulate::Overwrite);
        self.norm().backward(place, (stream, x, inverse), dx, gradients)?;
        Ok(branch)
    }

    /// The gradient of queries or keys before their norm, if they have one.
    pub(crate) fn qk_norm_backward<'b>(
        &self,
        (norm, raw, inverse): (Option<NormPlace>, &Array, &Array),
        dy: &'b Array,
        draw: &'b mut Array,
        gradients: &mut [Array],
    ) -> Result<&'b Array, EngineError> {
        let Some(norm) = norm else { return Ok(dy) };
        draw.resize(dy.rows(), dy.cols())?;
        self.norm().backward(norm, (dy, raw, inverse), (&mut *draw, Accumulate::Overwrite), gradients)?;
        Ok(draw)
    }

    /// Adds the gradient of what a norm read; without a norm, that of what products read.
    pub(crate) fn norm_backward(
        &self,
        norm: Option<NormPlace>,
        (dy, x, inverse): (&Array, &Array, &Array),
        dx: &mut Array,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        match norm {
            Some(norm) => self.norm().backward(norm, (dy, x, inverse), (dx, Accumulate::Add), gradients),
            None => self.engine.add_assign(dx, dy),
        }
    }

    pub(crate) fn norm(&self) -> Norm<'_> {
        let Self { engine, parameters, config, .. } = *self;
        Norm { engine, parameters, kind: config.norm(), eps: config.norm_eps }
    }
}
