//! Generation with a key-value cache: many prompts at once in a bounded number of places; a finished sequence
//! leaves and the next prompt enters at once. Token ids in and out.

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::generation_session::Session;
use std::ops::ControlFlow;

/// How to generate.
#[derive(Clone, Debug, PartialEq)]
pub struct GenerateConfig {
    /// Most tokens generated for a prompt, the stop token included; at least 1.
    pub max_new_tokens: usize,
    /// Divides the logits; 0 takes the most likely token.
    pub temperature: f64,
    /// Keeps the fewest tokens whose probability reaches this, in (0, 1]; 1 keeps all.
    pub top_p: f64,
    /// Keeps this many most likely tokens; 0 keeps all.
    pub top_k: usize,
    /// Each prompt draws from a stream of its own, derived from this and the prompt's number.
    pub seed: u64,
    /// Tokens that end a sequence.
    pub stop_ids: Vec<u32>,
    /// Most sequences in progress at any time; at least 1. Fewer where their keys and values could come to more than
    /// 4 GiB.
    pub batch_size: usize,
}

impl Default for GenerateConfig {
    /// Greedy, 256 tokens, 64 sequences at a time, no stop token.
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: 0,
            stop_ids: Vec::new(),
            batch_size: 64,
        }
    }
}

/// Why a sequence ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// A stop token came.
    Stop,
    /// `max_new_tokens` were generated.
    Length,
    /// The model's context is full.
    Context,
    /// The caller broke off.
    Interrupted,
}

impl FinishReason {
    /// The name in output: stop, length (also for a full context), interrupted.
    pub fn name(self) -> &'static str {
        match self {
            Self::Stop => "stop",
            Self::Length | Self::Context => "length",
            Self::Interrupted => "interrupted",
        }
    }
}

/// A generated continuation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generated {
    /// The new tokens; a stop token is the last of them.
    pub tokens: Vec<u32>,
    /// Why it ended.
    pub finish_reason: FinishReason,
}

/// A token at the moment it is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewToken {
    /// Number of the prompt.
    pub prompt: usize,
    /// The token.
    pub token: u32,
    /// Set on a sequence's last token.
    pub finished: Option<FinishReason>,
}

impl Decoder {
    /// Continues every prompt; results stand in the prompts' order. `on_token` hears each token as it comes;
    /// breaking ends all generation, with what there is.
    ///
    /// What a prompt gives depends on its number and the seed, not on the prompts beside it (up to the rounding
    /// of matrix products of another height).
    ///
    /// # Errors
    /// A setting out of range; an empty prompt, one that leaves no room in the context, a token outside the
    /// vocabulary: before anything is generated, by the prompt's number.
    pub fn generate(
        &self,
        prompts: &[Vec<u32>],
        config: &GenerateConfig,
        on_token: &mut dyn FnMut(NewToken) -> ControlFlow<()>,
    ) -> Result<Vec<Generated>, ModelError> {
        check(self, prompts, config)?;
        let mut results: Vec<Option<Generated>> = vec![None; prompts.len()];
        let mut session = Session::new(self, prompts, config)?;
        while session.admit() {
            for (sequence, token) in session.advance()? {
                let prompt = session.prompt(sequence);
                let finished = session.finish_reason(sequence, token);
                let flow = on_token(NewToken { prompt, token, finished });
                if let Some(reason) = finished {
                    results[prompt] = Some(session.take(sequence, reason));
                }
                if flow.is_break() {
                    session.drain(&mut results);
                    return Ok(complete(results));
                }
            }
            session.remove_finished();
        }
        Ok(complete(results))
    }
}

/// Prompts that never entered were interrupted before their first token.
fn complete(results: Vec<Option<Generated>>) -> Vec<Generated> {
    let none = || Generated { tokens: Vec::new(), finish_reason: FinishReason::Interrupted };
    results.into_iter().map(|r| r.unwrap_or_else(none)).collect()
}

fn check(decoder: &Decoder, prompts: &[Vec<u32>], config: &GenerateConfig) -> Result<(), ModelError> {
    let refuse = |problem: String, remedy: &str| Err(ModelError::argument(problem, remedy));
    if decoder.adapter().is_some() {
        return refuse(
            "generation computes on whole weights, and the model has an adapter".into(),
            "merge it first",
        );
    }
    decoder.refuse_quantised("generate with the whole model")?;
    if decoder.config().score.is_some() {
        return Err(decoder.other_head());
    }
    if !(config.temperature.is_finite() && config.temperature >= 0.0) {
        return refuse(
            format!("temperature {} is not a number of at least 0", config.temperature),
            "0 is greedy",
        );
    }
    if !(config.top_p > 0.0 && config.top_p <= 1.0) {
        return refuse(format!("top_p {} is not in (0, 1]", config.top_p), "1 keeps all tokens");
    }
    if config.max_new_tokens == 0 || config.batch_size == 0 {
        return refuse("max_new_tokens or batch_size is 0".into(), "give at least 1");
    }
    let shape = decoder.config();
    for (sequence, prompt) in prompts.iter().enumerate() {
        let refuse = |problem: String, remedy: &str| {
            Err(ModelError::Sequence { sequence, problem, remedy: remedy.into() })
        };
        if prompt.is_empty() {
            return refuse("the prompt is empty".into(), "begin it with the BOS token or a chat template");
        }
        if prompt.len() > shape.max_positions {
            return refuse(
                format!(
                    "the prompt has {} tokens, the model's context {}",
                    prompt.len(),
                    shape.max_positions
                ),
                "shorten it",
            );
        }
        if let Some(token) = prompt.iter().find(|t| **t as usize >= shape.vocab_size) {
            return refuse(
                format!("token id {token} is outside the model's vocabulary of {}", shape.vocab_size),
                "the tokenizer belongs to another model; use the one in the model's directory",
            );
        }
    }
    Ok(())
}
