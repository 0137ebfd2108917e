//! The seam between network and objective: a packed batch in, one log-prob per sequence (of a scalar head: one score)
//! out; one weight per sequence back, parameter gradients out. Everything a loss needs of a network is in this file.
//! A loss on tokens reads one number a scored token in place of their sum, and gives one weight for each back.

use crate::activations::{Activations, HeadActivations, Workspace};
use crate::adapter::LowRankPlace;
use crate::backward_buffers::BackwardBuffers;
use crate::batch_size::BatchSize;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::gradients::{Gradients, trained};
use crate::layer::{Layer, LayerActivations};
use crate::packed_batch::PackedBatch;
use crate::part::{PartRows, block};
use bso_engine::{
    Accumulate, Array, DType, EngineError, HeadAdapterGrads, HeadInputs, RotaryTable, SelectedLogProbGrads,
};

impl Decoder {
    /// The log-prob of each sequence's response (nats, summed in f64), or its score where the model has a scalar head,
    /// keeping in `activations` what [`Decoder::backward`] needs.
    ///
    /// # Errors
    /// A batch packed for another head ([`crate::ModelConfig::reads`]), a token outside the vocabulary, a sequence longer than the model's context.
    pub fn forward<'a>(
        &self,
        batch: &PackedBatch,
        activations: &'a mut Activations,
    ) -> Result<&'a [f64], ModelError> {
        let rotary = self.check(batch)?;
        let size = BatchSize::of(batch);
        activations.size = None;
        activations.fit((self.engine(), self.dtype()), size, self.config())?;
        self.engine().install(|| -> Result<(), EngineError> {
            let embeds_again = activations.embeds_again(self.config());
            let Activations {
                checkpointed, dropout, residual, attention, rows, passing, head, backward, ..
            } = &mut *activations;
            let (input, output) = (&mut backward.residual, &mut backward.last_residual);
            if embeds_again {
                std::mem::swap(&mut residual[0], input);
            }
            self.embed(batch.tokens(), batch.positions(), &mut residual[0])?;
            let last = rows.len() - 1;
            for i in 0..self.config().layers {
                let (from, to) = residual.split_at_mut(i + 1);
                let next = to.first_mut().unwrap_or(output);
                // Checkpointed, all layers use the one there is.
                let kept = i.min(last);
                let kept =
                    LayerActivations { attention: &mut attention[kept], rows: &mut rows[kept], passing };
                let seen = (batch.segments(), self.rows_of(i, batch), *checkpointed);
                let layer = Layer { dropout: *dropout, ..self.layer(i, batch.positions(), &rotary) };
                layer.forward_packed(&from[i], seen, kept, next)?;
            }
            if embeds_again {
                std::mem::swap(&mut residual[0], input);
            }
            self.head_forward((batch, *dropout), output, head)
        })?;
        activations.size = Some(size);
        let head = &mut activations.head;
        head.sums.clear();
        head.sums.extend(sums(batch, &head.log_probs));
        Ok(&head.sums)
    }

    /// Adds to `gradients` those of `sum_i weights[i] * log_prob[i]` (or `score[i]`), from the activations of a
    /// [`Decoder::forward`] on the same batch with the same parameters.
    ///
    /// # Errors
    /// Another number of weights than sequences; activations or gradients of another batch or model; activations
    /// that a backward pass has already used, if they are checkpointed.
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
        let of_tokens = batch.scored().iter().zip(weights);
        let of_tokens = of_tokens.flat_map(|(range, weight)| std::iter::repeat_n(*weight, range.len()));
        self.backward_from(batch, activations, of_tokens, gradients)
    }

    /// As [`Decoder::backward`], for `sum_i weights[i] * output[i]` over the scored tokens of all sequences in order
    /// ([`Activations::token_outputs`]).
    ///
    /// # Errors
    /// Another number of weights than scored tokens; otherwise as [`Decoder::backward`].
    pub fn backward_tokens(
        &self,
        batch: &PackedBatch,
        activations: &mut Activations,
        weights: &[f32],
        gradients: &mut Gradients,
    ) -> Result<(), ModelError> {
        let scored = batch.head_index().len();
        if weights.len() != scored {
            return Err(ModelError::argument(
                format!("{} weights for {scored} scored tokens", weights.len()),
                "give one weight per scored token",
            ));
        }
        self.backward_from(batch, activations, weights.iter().copied(), gradients)
    }

    /// `weights`: one a scored token.
    fn backward_from(
        &self,
        batch: &PackedBatch,
        activations: &mut Activations,
        weights: impl Iterator<Item = f32>,
        gradients: &mut Gradients,
    ) -> Result<(), ModelError> {
        let size = BatchSize::of(batch);
        if activations.size != Some(size) || activations.residual.len() != self.config().layers {
            return Err(ModelError::argument(
                "the activations are not those of this batch",
                "call forward on the batch before backward",
            ));
        }
        if self.adapter().is_none() {
            self.refuse_quantised("only an adapter beside them is trained (use_peft: true)")?;
        }
        gradients.fits(self)?;
        let rotary = self.check(batch)?;
        if activations.checkpointed {
            // The last layer's activations, which the forward left, are overwritten on the way down.
            activations.size = None;
        }
        let embeds_again = activations.embeds_again(self.config());
        let Activations { checkpointed, dropout, residual, attention, rows, passing, head, backward, .. } =
            activations;
        backward.fit(self.engine(), size, self.config())?;
        backward.row_weights.extend(weights);
        self.engine().install(|| -> Result<(), EngineError> {
            self.head_backward((batch, *dropout), head, backward, &mut gradients.arrays)?;
            let last = rows.len() - 1;
            for i in (0..self.config().layers).rev() {
                let layer = Layer { dropout: *dropout, ..self.layer(i, batch.positions(), &rotary) };
                let kept = i.min(last);
                let kept =
                    LayerActivations { attention: &mut attention[kept], rows: &mut rows[kept], passing };
                let seen = (batch.segments(), self.rows_of(i, batch), *checkpointed);
                // The second layer, which is done, leaves its input's place to the first.
                let input = if embeds_again { i.max(1) } else { i };
                if input != i {
                    self.embed(batch.tokens(), batch.positions(), &mut residual[input])?;
                }
                layer.backward(&residual[input], seen, kept, backward, &mut gradients.arrays)?;
            }
            self.embed_backward(batch, &mut backward.residual, &mut gradients.arrays)
        })?;
        Ok(())
    }

    /// The rows that the first layer reads: embeddings, scaled or with those of their positions where the family does so.
    pub(crate) fn embed(
        &self,
        tokens: &[u32],
        positions: &[u32],
        out: &mut Array,
    ) -> Result<(), EngineError> {
        let engine = self.engine();
        engine.embedding(tokens, self.embedding(), out)?;
        self.config().embedding_scale().into_iter().try_for_each(|scale| engine.scale(out, scale))?;
        self.positions().map_or(Ok(()), |table| engine.add_embedding(positions, table, out))
    }

    /// `dout` is overwritten.
    fn embed_backward(
        &self,
        batch: &PackedBatch,
        dout: &mut Array,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        let (engine, layout) = (self.engine(), self.layout());
        if let Some(dtable) = layout.positions.and_then(|table| trained(&mut gradients[table])) {
            engine.embedding_backward(batch.positions(), dout, dtable)?;
        }
        let Some(dtable) = trained(&mut gradients[self.embedding_place()]) else { return Ok(()) };
        self.config().embedding_scale().into_iter().try_for_each(|scale| engine.scale(dout, scale))?;
        engine.embedding_backward(batch.tokens(), dout, dtable)
    }

    /// Leaves the gradient of the last layer's output in `b.last_residual`.
    fn head_backward(
        &self,
        (batch, dropout): (&PackedBatch, Option<u64>),
        head: &HeadActivations,
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        let engine = self.engine();
        match self.layout().score {
            Some(place) => self.score_backward(place, head, b, gradients)?,
            None => {
                let inputs = self.head_inputs((batch, dropout), &head.normed);
                let (lse, weights, dhidden) = (&head.lse, &b.row_weights, &mut b.head_normed);
                let (dhead, dupdate) = match self.head_adapter(None) {
                    None => (trained(&mut gradients[self.head_place()]), None),
                    Some((places, _)) => (None, adapter_grads(places, gradients)),
                };
                let grads = SelectedLogProbGrads { lse, weights, dhidden, dhead, dupdate };
                engine.selected_log_prob_backward(inputs, grads)?;
            }
        }
        let dx = (&mut *b.head_gathered, Accumulate::Overwrite);
        let forward = (&*b.head_normed, &*head.gathered, &*head.inverse);
        self.norm().backward(self.layout().norm, forward, dx, gradients)?;
        engine.zero(&mut b.last_residual)?;
        engine.scatter_add_rows(&b.head_gathered, batch.head_index(), &mut b.last_residual)
    }

    /// The rows that layer `index` computes to its end: all, but in the last layer those that meet the head.
    fn rows_of<'a>(&self, index: usize, batch: &'a PackedBatch) -> Option<&'a [usize]> {
        (index + 1 == self.config().layers).then(|| batch.head_rows())
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
        match self.config().score {
            Some(_) => Err(self.other_head()),
            None => self.outputs_in(batch, workspace),
        }
    }

    /// What [`Decoder::forward`] gives, without gradients: log-probs, or scores.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn outputs_in(&self, batch: &PackedBatch, workspace: &mut Workspace) -> Result<Vec<f64>, ModelError> {
        self.run_without_gradients(batch, workspace)?;
        Ok(sums(batch, &workspace.head.log_probs).collect())
    }

    /// The log-prob of every response token (nats), sequence by sequence; of a critic ([`crate::Reads::Values`]) the values
    /// before them.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn token_outputs_in(
        &self,
        batch: &PackedBatch,
        workspace: &mut Workspace,
    ) -> Result<Vec<Vec<f64>>, ModelError> {
        self.run_without_gradients(batch, workspace)?;
        Ok(batch.scored().iter().map(|range| workspace.head.log_probs[range.clone()].to_vec()).collect())
    }

    /// As [`Decoder::token_outputs_in`], in memory of its own.
    ///
    /// # Errors
    /// As [`Decoder::forward`].
    pub fn token_log_probs(&self, batch: &PackedBatch) -> Result<Vec<Vec<f64>>, ModelError> {
        self.token_outputs_in(batch, &mut Workspace::new())
    }

    pub(crate) fn run_without_gradients(
        &self,
        batch: &PackedBatch,
        workspace: &mut Workspace,
    ) -> Result<(), ModelError> {
        let rotary = self.check(batch)?;
        let (config, size) = (self.config(), BatchSize::of(batch));
        let on = (&**self.engine(), self.dtype());
        workspace.residual.fit(on.0, DType::F32, (size.rows, config.hidden_size))?;
        workspace.head.fit(on, size, config)?;
        workspace.passing.fit(
            on,
            size.rows,
            PartRows::of(size, config, block(false, self.dtype(), on.0.device())),
            config,
        )?;
        let Workspace { residual, next, attention, rows: kept_rows, passing, head } = workspace;
        self.engine().install(|| -> Result<(), EngineError> {
            self.embed(batch.tokens(), batch.positions(), residual)?;
            for i in 0..config.layers {
                let rows = self.rows_of(i, batch);
                next.fit(on.0, DType::F32, (rows.map_or(size.rows, <[usize]>::len), config.hidden_size))?;
                let kept = LayerActivations { attention, rows: kept_rows, passing };
                let layer = self.layer(i, batch.positions(), &rotary);
                layer.forward_packed(residual, (batch.segments(), rows, false), kept, next)?;
                std::mem::swap(residual, next);
            }
            self.head_forward((batch, None), residual, head)
        })?;
        Ok(())
    }

    /// The final norm and the head; `hidden` has the rows of [`PackedBatch::head_rows`].
    fn head_forward(
        &self,
        (batch, dropout): (&PackedBatch, Option<u64>),
        hidden: &Array,
        a: &mut HeadActivations,
    ) -> Result<(), EngineError> {
        let engine = self.engine();
        engine.gather_rows(hidden, batch.head_index(), &mut a.gathered)?;
        self.norm().forward(self.layout().norm, &a.gathered, &mut a.normed, &mut a.inverse)?;
        match self.layout().score {
            Some(place) => self.score_forward(place, a),
            None => {
                let inputs = self.head_inputs((batch, dropout), &a.normed);
                engine.selected_log_prob(inputs, &mut a.log_probs, &mut a.lse)
            }
        }
    }

    fn head_inputs<'a>(
        &'a self,
        (batch, dropout): (&'a PackedBatch, Option<u64>),
        hidden: &'a Array,
    ) -> HeadInputs<'a> {
        let update = self.head_adapter(dropout).map(|(_, adapter)| adapter);
        HeadInputs {
            hidden,
            head: self.head(),
            targets: batch.targets(),
            cap: self.config().logit_cap,
            update,
        }
    }

    /// Refuses what the model cannot take, naming the sequence's number where it can; gives the rotary tables.
    fn check(&self, batch: &PackedBatch) -> Result<std::sync::Arc<[RotaryTable]>, ModelError> {
        self.refuse_other_head(batch)?;
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

/// The gradients of the head's adapter.
fn adapter_grads(places: LowRankPlace, gradients: &mut [Array]) -> Option<HeadAdapterGrads<'_>> {
    let [a, b] = [places.a, places.b];
    match places.magnitude {
        None => {
            let [da, db] = gradients.get_disjoint_mut([a, b]).ok()?;
            Some(HeadAdapterGrads { da, db, dmagnitude: None })
        }
        Some(magnitude) => {
            let [da, db, dmagnitude] = gradients.get_disjoint_mut([a, b, magnitude]).ok()?;
            Some(HeadAdapterGrads { da, db, dmagnitude: Some(dmagnitude) })
        }
    }
}

fn sums(batch: &PackedBatch, log_probs: &[f64]) -> impl Iterator<Item = f64> {
    batch.scored().iter().map(|range| log_probs[range.clone()].iter().sum())
}
