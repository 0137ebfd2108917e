//! The head of a reward or cost model: one score a sequence, computed in f32 and f64 whatever the precision of products.

use crate::activations::{HeadActivations, Workspace};
use crate::backward_buffers::BackwardBuffers;
use crate::decoder::{Decoder, fill_normal};
use crate::error::ModelError;
use crate::gradients::trained;
use crate::layout::{Layout, LinearPlace};
use crate::loading::allocate;
use crate::packed_batch::{PackedBatch, Reads};
use crate::score_head::{Normaliser, ScoreHead, ScoreLayout};
use crate::weights::{Checkpoint, TensorData, TensorToWrite};
use bso_durable::Seed;
use bso_engine::{Array, DType, EngineError, ScoreGrads};

impl Decoder {
    /// Puts a scalar head in place of the language model's: normal weights of the config's `initializer_range`, a bias of
    /// 0, as transformers begins one. Products are computed in f32 until [`Decoder::compute_in`] says otherwise.
    ///
    /// # Errors
    /// As [`crate::ModelConfig::with_score_head`]; an adapter, which belongs to the other head.
    pub fn replace_head(&mut self, head: ScoreHead, seed: Seed) -> Result<(), ModelError> {
        if self.adapter().is_some() {
            return Err(ModelError::argument("the model has an adapter", "merge it first"));
        }
        let config = self.config.with_score_head(head)?;
        let layout = Layout::of(&config);
        // The head stands last, whatever its kind.
        self.parameters.truncate(layout.head);
        for spec in &layout.tensors[layout.head..] {
            let mut array = allocate(spec)?;
            if spec.shape.len() > 1 {
                fill_normal(array.as_mut_slice(), config.initializer_range, seed.derive(&spec.name, 0));
            }
            self.parameters.push(array);
        }
        (self.config, self.layout, self.packed) = (config, layout, Vec::new());
        self.dtype = DType::F32;
        Ok(self.place()?)
    }

    /// The score of each sequence without gradients, before the normaliser ([`ScoreHead::normalise`]). Memory does not grow
    /// with depth.
    ///
    /// # Errors
    /// A model without a scalar head; otherwise as [`Decoder::forward`].
    pub fn scores_in(&self, batch: &PackedBatch, workspace: &mut Workspace) -> Result<Vec<f64>, ModelError> {
        match self.config().score {
            Some(_) => self.outputs_in(batch, workspace),
            None => Err(self.other_head()),
        }
    }

    /// Takes the scores of a training batch into the normaliser's statistics.
    pub fn update_normaliser(&mut self, scores: &[f64]) {
        self.config.score.iter_mut().for_each(|head| head.normaliser.update(scores));
    }

    /// A batch that is packed for another head than the model's.
    pub(crate) fn refuse_other_head(&self, batch: &PackedBatch) -> Result<(), ModelError> {
        let scalar = batch.reads() != Reads::Response;
        if scalar == self.config().score.is_some() { Ok(()) } else { Err(self.other_head()) }
    }

    /// The error for a request that the model's head cannot serve.
    pub(crate) fn other_head(&self) -> ModelError {
        let class = self.config().class();
        match self.config().score {
            Some(_) => ModelError::argument(
                format!("a {class} gives one score a sequence, and no probabilities of tokens"),
                "name a causal language model; for scores use bso score",
            ),
            None => ModelError::argument(
                format!("a {class} has no scalar head"),
                "name a reward or cost model (...ForSequenceClassification with num_labels 1, or ...ForScore)",
            ),
        }
    }

    /// Statistics beside the weights go before those in `config.json`, as where safe-rlhf loads them.
    pub(crate) fn read_normaliser(&mut self, checkpoint: &Checkpoint) -> Result<(), ModelError> {
        let Some(head) = self.config.score.as_mut().filter(|head| head.layout == ScoreLayout::SafeRlhf)
        else {
            return Ok(());
        };
        let [mean, var, count] = STATISTICS;
        for (name, statistic) in [(mean, &mut head.normaliser.mean), (var, &mut head.normaliser.var)] {
            if checkpoint.has(name) {
                let mut value = [0.0_f32];
                checkpoint.read(name, &[1], &mut value)?;
                *statistic = f64::from(value[0]);
            }
        }
        if checkpoint.has(count) {
            head.normaliser.count = checkpoint.read_count(count)?;
        }
        Ok(())
    }

    /// Scores of the rows in `a.normed`.
    pub(crate) fn score_forward(
        &self,
        place: LinearPlace,
        a: &mut HeadActivations,
    ) -> Result<(), EngineError> {
        let (head, bias) =
            (&self.arrays()[self.score_place(place)], place.bias.map(|bias| &self.arrays()[bias]));
        self.engine().score(&a.normed, head, bias, &mut a.log_probs)
    }

    /// The weight that is in use: an adapter may have a trained copy, of a head without bias.
    fn score_place(&self, place: LinearPlace) -> usize {
        self.adapter.as_ref().and_then(|adapter| adapter.score).unwrap_or(place.weight)
    }

    /// Leaves the gradient of `a.normed` in `b.head_normed`.
    pub(crate) fn score_backward(
        &self,
        place: LinearPlace,
        a: &HeadActivations,
        b: &mut BackwardBuffers,
        gradients: &mut [Array],
    ) -> Result<(), EngineError> {
        // A bias stands directly after its weight in the layout.
        let weight = self.score_place(place);
        let (dhead, dbias) = match gradients[weight..].split_first_mut() {
            None => (None, None),
            Some((dhead, rest)) => {
                let dbias = place.bias.and_then(|_| rest.first_mut());
                (trained(dhead), dbias.and_then(trained))
            }
        };
        self.engine().score_backward(ScoreGrads {
            weights: &b.row_weights,
            hidden: &a.normed,
            head: &self.arrays()[weight],
            dhidden: &mut b.head_normed,
            dhead,
            dbias,
        })
    }
}

/// The names of a normaliser's statistics in safe-rlhf's layout: mean, variance, number of scores.
pub(crate) const STATISTICS: [&str; 3] = ["normalizer.mean", "normalizer.var", "normalizer.count"];

/// What safe-rlhf keeps beside the weights; exact whatever the number type of these.
pub(crate) fn statistics_to_write<'a>(head: &ScoreHead) -> Vec<TensorToWrite<'a>> {
    if head.layout != ScoreLayout::SafeRlhf {
        return Vec::new();
    }
    let Normaliser { mean, var, count, .. } = head.normaliser;
    let data = [
        TensorData::Exact("F32", (mean as f32).to_le_bytes().to_vec()),
        TensorData::Exact("F32", (var as f32).to_le_bytes().to_vec()),
        TensorData::Exact("I64", (count as i64).to_le_bytes().to_vec()),
    ];
    let named = STATISTICS.into_iter().zip(data);
    named.map(|(name, data)| TensorToWrite { name: name.into(), shape: vec![1], data }).collect()
}
