//! The seam between network and objective: a packed batch in, one log-prob per sequence out; one weight per
//! sequence back, parameter gradients out. Everything a loss needs of a network is in this file.

use crate::activations::{Activations, HeadActivations, LayerActivations, Workspace};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::gradients::Gradients;
use crate::layer::attention_shape;
use crate::packed_batch::PackedBatch;
use bso_engine::{
    Accumulate, Array, EngineError, HeadInputs, Qkv, RmsNormGrads, RotaryTable, Segments,
    SelectedLogProbGrads,
};

impl Decoder {
    /// The log-prob of each sequence's response (nats, summed in f64), keeping in `activations` what
    /// [`Decoder::backward`] needs.
    ///
    /// # Errors
    /// A token outside the vocabulary, a sequence longer than the model's context.
    pub fn forward(
        &self,
        batch: &PackedBatch,
        activations: &mut Activations,
    ) -> Result<Vec<f64>, ModelError> {
        let rotary = self.check(batch)?;
        activations.shape = None;
        activations.fit(self.dtype(), (batch.rows(), batch.targets().len()), self.config())?;
        self.engine().install(|| -> Result<(), EngineError> {
            let Activations { residual, layers, head, .. } = activations;
            self.engine().embedding(batch.tokens(), self.embedding(), &mut residual[0])?;
            for (i, layer) in layers.iter_mut().enumerate() {
                let [from, to] = &mut residual[i..i + 2] else { continue };
                self.layer_forward(i, batch, &rotary, (from, to), layer)?;
            }
            self.head_forward(batch, &residual[layers.len()], head)
        })?;
        activations.shape = Some((batch.rows(), batch.targets().len()));
        Ok(sums(batch, &activations.head.log_probs))
    }

    /// Adds to `gradients` those of `sum_i weights[i] * log_prob[i]`, from the activations of a
    /// [`Decoder::forward`] on the same batch with the same parameters.
    ///
    /// # Errors
    /// Another number of weights than sequences; activations or gradients of another batch or model.
    pub fn backward(
        &self,
        batch: &PackedBatch,
        activations: &mut Activations,
        weights: &[f32],
        gradients: &mut Gradients,
    ) -> Result<(), ModelError> {
        if weights.len() != batch.sequences() {
            return Err(ModelError::argument(
                format!("{} weights for {} sequences", weights.len(), batch.sequences()),
                "give one weight per sequence",
            ));
        }
        let shape = (batch.rows(), batch.targets().len());
        if activations.shape != Some(shape) || activations.layers.len() != self.config().layers {
            return Err(ModelError::argument(
                "the activations are not those of this batch",
                "call forward on the batch before backward",
            ));
        }
        gradients.fits(self)?;
        let rotary = self.check(batch)?;
        let Activations { residual, layers, head, backward, .. } = activations;
        backward.fit(self.dtype(), shape, self.config())?;
        backward.row_weights.clear();
        for (range, weight) in batch.scored().iter().zip(weights) {
            backward.row_weights.extend(std::iter::repeat_n(*weight, range.len()));
        }
        self.engine().install(|| -> Result<(), EngineError> {
            let engine = self.engine();
            engine.selected_log_prob_backward(
                self.head_inputs(batch, &head.normed),
                SelectedLogProbGrads {
                    lse: &head.lse,
                    weights: &backward.row_weights,
                    dhidden: &mut backward.head_normed,
                    dhead: Some(&mut gradients.arrays[self.layout().head]),
                },
            )?;
            engine.rms_norm_backward(RmsNormGrads {
                dy: &backward.head_normed,
                x: &head.gathered,
                weight: self.final_norm(),
                inv_rms: &head.inv_rms,
                dx: (&mut backward.head_gathered, Accumulate::Overwrite),
                dweight: Some(&mut gradients.arrays[self.layout().norm]),
            })?;
            backward.residual.fill(0.0);
            engine.scatter_add_rows(&backward.head_gathered, batch.hidden_rows(), &mut backward.residual)?;
            for (i, layer) in layers.iter().enumerate().rev() {
                let at = self.layer(i, batch.positions(), &rotary);
                at.backward(&residual[i], layer, batch.segments(), backward, &mut gradients.arrays)?;
            }
            let dtable = &mut gradients.arrays[self.layout().embedding];
            engine.embedding_backward(batch.tokens(), &backward.residual, dtable)
        })?;
        Ok(())
    }

    /// The log-prob of each sequence's response (nats), without gradients. Memory does not grow with depth.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn log_probs(&self, batch: &PackedBatch) -> Result<Vec<f64>, ModelError> {
        self.log_probs_in(batch, &mut Workspace::new())
    }

    /// As [`Decoder::log_probs`], reusing the memory of earlier calls.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn log_probs_in(
        &self,
        batch: &PackedBatch,
        workspace: &mut Workspace,
    ) -> Result<Vec<f64>, ModelError> {
        self.run_without_gradients(batch, workspace)?;
        Ok(sums(batch, &workspace.head.log_probs))
    }

    /// The log-prob of every response token (nats), sequence by sequence.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn token_log_probs(&self, batch: &PackedBatch) -> Result<Vec<Vec<f64>>, ModelError> {
        let mut workspace = Workspace::new();
        self.run_without_gradients(batch, &mut workspace)?;
        Ok(batch.scored().iter().map(|range| workspace.head.log_probs[range.clone()].to_vec()).collect())
    }

    pub(crate) fn run_without_gradients(
        &self,
        batch: &PackedBatch,
        workspace: &mut Workspace,
    ) -> Result<(), ModelError> {
        let rotary = self.check(batch)?;
        workspace.fit(self.dtype(), (batch.rows(), batch.targets().len()), self.config())?;
        let Workspace { residual, next, layer, head } = workspace;
        self.engine().install(|| -> Result<(), EngineError> {
            self.engine().embedding(batch.tokens(), self.embedding(), residual)?;
            for i in 0..self.config().layers {
                self.layer_forward(i, batch, &rotary, (residual, next), layer)?;
                std::mem::swap(residual, next);
            }
            self.head_forward(batch, residual, head)
        })?;
        Ok(())
    }

    fn layer_forward(
        &self,
        index: usize,
        batch: &PackedBatch,
        rotary: &RotaryTable,
        (from, to): (&Array, &mut Array),
        activations: &mut LayerActivations,
    ) -> Result<(), EngineError> {
        let segments: &Segments = batch.segments();
        self.layer(index, batch.positions(), rotary).forward(from, activations, to, |a| {
            let qkv = Qkv { q: &a.query, k: &a.key, v: &a.value };
            self.engine().attention(
                qkv,
                segments,
                attention_shape(self.config()),
                &mut a.attended,
                &mut a.lse,
            )
        })
    }

    /// Only the scored rows meet the head, and the final norm.
    fn head_forward(
        &self,
        batch: &PackedBatch,
        hidden: &Array,
        a: &mut HeadActivations,
    ) -> Result<(), EngineError> {
        let engine = self.engine();
        engine.gather_rows(hidden, batch.hidden_rows(), &mut a.gathered)?;
        let eps = self.config().rms_norm_eps;
        engine.rms_norm(&a.gathered, self.final_norm(), eps, &mut a.normed, &mut a.inv_rms)?;
        engine.selected_log_prob(self.head_inputs(batch, &a.normed), &mut a.log_probs, &mut a.lse)
    }

    fn head_inputs<'a>(&'a self, batch: &'a PackedBatch, hidden: &'a Array) -> HeadInputs<'a> {
        HeadInputs { hidden, head: self.head(), targets: batch.targets() }
    }

    /// Refuses what the model cannot take, naming the sequence's number where it can; gives the rotary table.
    fn check(&self, batch: &PackedBatch) -> Result<std::sync::Arc<RotaryTable>, ModelError> {
        let vocab = self.config().vocab_size as u32;
        let outside = batch.tokens().iter().chain(batch.targets()).find(|t| **t >= vocab);
        if let Some(token) = outside {
            return Err(ModelError::argument(
                format!("token id {token} is outside the model's vocabulary of {vocab}"),
                "the tokenizer belongs to another model; use the one in the model's directory",
            ));
        }
        self.rotary_covering(batch.positions().iter().max().map_or(0, |p| *p as usize + 1))
    }
}

fn sums(batch: &PackedBatch, log_probs: &[f64]) -> Vec<f64> {
    batch.scored().iter().map(|range| log_probs[range.clone()].iter().sum()).collect()
}
