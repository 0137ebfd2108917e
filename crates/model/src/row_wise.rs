//! What follows attention in a layer: output projection, residual, norm, MLP, residual. No row needs another; the
//! backward is directly under the forward.

use crate::activations::RowActivations;
use crate::layer::Layer;
use crate::part::RowInputs;
use bso_engine::{Accumulate, Array, EngineError};

/// What is computed on the way and not kept.
pub(crate) struct RowPassing<'a> {
    pub normed: &'a mut Array,
    pub inverse: &'a mut Array,
    pub gated: &'a mut Array,
}

impl RowPassing<'_> {
    pub(crate) fn reborrow(&mut self) -> RowPassing<'_> {
        RowPassing { normed: self.normed, inverse: self.inverse, gated: self.gated }
    }
}

/// Gradients on their way through.
pub(crate) struct RowFlow<'a> {
    /// Comes in as that of the layer's output, goes out as that of the residual stream before the layer, by all ways but
    /// attention.
    pub stream: &'a mut Array,
    /// Goes out as that of what attention gave.
    pub attended: &'a mut Array,
    pub normed: &'a mut Array,
    pub gated: &'a mut Array,
    pub up: &'a mut Array,
    pub branch: &'a mut Array,
}

impl Layer<'_> {
    /// `next`: the residual stream after the layer.
    pub(crate) fn rows_forward(
        &self,
        x: RowInputs<'_>,
        (a, mut passing): (&mut RowActivations, RowPassing<'_>),
        next: &mut Array,
    ) -> Result<(), EngineError> {
        self.mlp_inputs(x, (a, passing.reborrow()))?;
        let RowPassing { inverse, gated, .. } = passing;
        self.activate(a, gated)?;
        self.leave_branch(self.place.down, gated, self.place.post_mlp_norm, &mut a.mlp_out, (next, inverse))?;
        self.engine.add_assign(next, &a.middle)
    }

    /// Fills `a` as [`Layer::rows_forward`] did, and leaves out the product that only the next layer needs.
    pub(crate) fn rows_again(
        &self,
        x: RowInputs<'_>,
        (a, mut passing): (&mut RowActivations, RowPassing<'_>),
    ) -> Result<(), EngineError> {
        self.mlp_inputs(x, (a, passing.reborrow()))?;
        if self.place.post_mlp_norm.is_none() {
            return Ok(());
        }
        self.activate(a, passing.gated)?;
        self.linear(self.place.down, passing.gated, &mut a.mlp_out)
    }

    /// `a.middle = residual + output(attended)`, and the inputs of the activation.
    fn mlp_inputs(
        &self,
        x: RowInputs<'_>,
        (a, passing): (&mut RowActivations, RowPassing<'_>),
    ) -> Result<(), EngineError> {
        let (place, RowPassing { normed, inverse, .. }) = (self.place, passing);
        let RowActivations { middle, attention_out, .. } = a;
        let norm = place.post_attention_norm;
        self.leave_branch(place.output, x.attended, norm, attention_out, (middle, inverse))?;
        self.engine.add_assign(middle, x.residual)?;
        self.normalise(place.mlp_norm, self.mlp_source(x, &a.middle), (normed, inverse))?;
        if let Some(gate) = place.gate {
            self.linear(gate, normed, &mut a.gate)?;
        }
        self.linear(place.up, normed, &mut a.up)
    }

    fn activate(&self, a: &RowActivations, out: &mut Array) -> Result<(), EngineError> {
        self.config.activation().forward(self.engine, self.activation_inputs(a), out)
    }

    fn activation_inputs<'b>(&self, a: &'b RowActivations) -> (Option<&'b Array>, &'b Array) {
        (self.place.gate.map(|_| &*a.gate), &a.up)
    }

    /// Gradients from the stream after the layer to that before it and to what attention gave.
    pub(crate) fn rows_backward(
        &self,
        x: RowInputs<'_>,
        (a, mut passing): (&RowActivations, RowPassing<'_>),
        mut flow: RowFlow<'_>,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        // Side by side both branches see the gradient as it comes in; else attention sees the MLP's share too.
        if self.config.parallel_residual {
            self.output_backward(x, (a, passing.reborrow()), &mut flow, gradients)?;
            self.mlp_backward(x, (a, passing), &mut flow, gradients)
        } else {
            self.mlp_backward(x, (a, passing.reborrow()), &mut flow, gradients)?;
            self.output_backward(x, (a, passing), &mut flow, gradients)
        }
    }

    /// From the layer's output through the MLP; what its norm read gets its share of the gradient.
    fn mlp_backward(
        &self,
        x: RowInputs<'_>,
        (a, passing): (&RowActivations, RowPassing<'_>),
        flow: &mut RowFlow<'_>,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        use Accumulate::{Add, Overwrite};
        let (place, activation, inputs) = (self.place, self.config.activation(), self.activation_inputs(a));
        let RowFlow { stream, normed: dnormed, gated: dgated, up, branch, .. } = flow;
        let RowPassing { normed, inverse, gated } = passing;
        activation.forward(self.engine, inputs, gated)?;
        let norm = (place.post_mlp_norm, &*a.mlp_out);
        let dy = self.branch_backward(norm, stream, (branch, normed, inverse), gradients)?;
        self.linear_backward(place.down, dy, gated, (dgated, Overwrite), gradients)?;
        // Once its weight's gradient is known, the activation gives its place to the gate's gradient.
        let dgate = gated;
        activation.backward(self.engine, inputs, dgated, (dgate, up))?;
        let source = self.mlp_source(x, &a.middle);
        self.normalise(place.mlp_norm, source, (normed, inverse))?;
        let mut accumulate = Overwrite;
        if let Some(gate) = place.gate {
            self.linear_backward(gate, dgate, normed, (dnormed, Overwrite), gradients)?;
            accumulate = Add;
        }
        self.linear_backward(place.up, up, normed, (dnormed, accumulate), gradients)?;
        self.norm_backward(place.mlp_norm, (dnormed, source, inverse), stream, gradients)
    }

    /// From the residual stream into what attention gave.
    fn output_backward(
        &self,
        x: RowInputs<'_>,
        (a, passing): (&RowActivations, RowPassing<'_>),
        flow: &mut RowFlow<'_>,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        let RowPassing { normed, inverse, .. } = passing;
        let norm = (self.place.post_attention_norm, &*a.attention_out);
        let dy = self.branch_backward(norm, flow.stream, (flow.branch, normed, inverse), gradients)?;
        let dx = (&mut *flow.attended, Accumulate::Overwrite);
        self.linear_backward(self.place.output, dy, x.attended, dx, gradients)
    }
}
