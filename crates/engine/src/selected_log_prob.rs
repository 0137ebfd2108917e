//! Output head and log-softmax in one: the log-probability of one chosen token per row. Logits exist for a block of
//! rows and a chunk of the vocabulary at a time, in the forward and again in the backward; never all of them.

use crate::{Array, Engine, EngineError};

/// What the head sees.
#[derive(Debug, Clone, Copy)]
pub struct HeadInputs<'a> {
    /// Final hidden rows, `[m, d]`.
    pub hidden: &'a Array,
    /// Output weight, `[vocab, d]`.
    pub head: &'a Array,
    /// The token whose log-probability is asked for, one per row.
    pub targets: &'a [u32],
}

/// Arguments of [`Engine::selected_log_prob_backward`].
#[derive(Debug)]
pub struct SelectedLogProbGrads<'a> {
    /// Log-sum-exp of each row's logits, as the forward stored it, `[m]`.
    pub lse: &'a [f32],
    /// Gradient of each row's log-probability, `[m]`.
    pub weights: &'a [f32],
    /// Gradient of the hidden rows, `[m, d]`; overwritten.
    pub dhidden: &'a mut Array,
    /// Gradient of the head, `[vocab, d]`; added to.
    pub dhead: Option<&'a mut Array>,
}

impl Engine {
    /// `log_probs[r] = log softmax(hidden[r] head^T)[targets[r]]` in nats, and each row's log-sum-exp for the
    /// backward; both `[m]`.
    ///
    /// # Errors
    /// A target outside the vocabulary; shapes that do not fit.
    pub fn selected_log_prob(
        &self,
        inputs: HeadInputs<'_>,
        log_probs: &mut [f64],
        lse: &mut [f32],
    ) -> Result<(), EngineError> {
        let _ = (inputs, log_probs, lse);
        todo!()
    }

    /// Gradients of `sum_r weights[r] * log_probs[r]`.
    ///
    /// # Errors
    /// A target outside the vocabulary; shapes that do not fit.
    pub fn selected_log_prob_backward(
        &self,
        inputs: HeadInputs<'_>,
        grads: SelectedLogProbGrads<'_>,
    ) -> Result<(), EngineError> {
        let _ = (inputs, grads);
        todo!()
    }
}
