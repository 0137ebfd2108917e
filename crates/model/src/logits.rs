//! Whole logits of one sequence, for looking at a model. Training never forms them.

use crate::activations::Workspace;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::packed_batch::PackedBatch;
use bso_engine::{Array, DType, Dora, EngineError};

impl Decoder {
    /// The logits after each token, `[tokens, vocab]`.
    ///
    /// # Errors
    /// No token, a token outside the vocabulary, a sequence longer than the model's context.
    pub fn logits(&self, tokens: &[u32]) -> Result<Array, ModelError> {
        // Every row has to reach the end of the last layer, so all tokens but the first stand for the response,
        // and any token for the one after them.
        let (prompt, rest) = tokens.split_at(tokens.len().min(1));
        let response: Vec<u32> = rest.iter().copied().chain([0]).collect();
        let batch = PackedBatch::from_sequences(&[(prompt, &response)], false)?;
        let mut workspace = Workspace::new();
        self.run_without_gradients(&batch, &mut workspace)?;
        let (rows, config) = (tokens.len(), self.config());
        let mut normed = self.engine().zeros(DType::F32, rows, config.hidden_size)?;
        let mut logits = self.engine().zeros(DType::F32, rows, config.vocab_size)?;
        let mut inverse = self.engine().zeros(DType::F32, rows, 1)?;
        self.engine().install(|| -> Result<(), EngineError> {
            let engine = self.engine();
            self.norm().forward(self.layout().norm, &workspace.residual, &mut normed, &mut inverse)?;
            match self.head_adapter(None).map(|(_, adapter)| (adapter.update, adapter.lengths)) {
                Some((update, Some(lengths))) => {
                    let adapted = Dora { w: self.head(), bias: None, update, lengths };
                    engine.dora(&normed, adapted, &mut logits)?;
                }
                adapted => {
                    engine.linear(&normed, self.head(), None, &mut logits)?;
                    adapted.map_or(Ok(()), |(update, _)| engine.low_rank(&normed, update, &mut logits))?;
                }
            }
            config.logit_cap.into_iter().try_for_each(|cap| engine.soft_cap(&mut logits, cap))?;
            Ok(())
        })?;
        Ok(logits.on_host()?.into_owned())
    }
}
