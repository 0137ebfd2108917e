//! Generation with a key-value cache: many prompts at once in a bounded number of places; a finished sequence
//! leaves and the next prompt enters at once. Token ids in and out.

use crate::activations::{LayerActivations, Matrix};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::layer::attention_shape;
use crate::sample::Sampling;
use bso_durable::Seed;
use bso_engine::{CachedRows, EngineError, KvCache};
use rand_chacha::ChaCha8Rng;
use std::ops::ControlFlow;

/// Prompt tokens computed in one pass; longer prompts take several, so that memory stays bounded.
const PROMPT_CHUNK: usize = 512;

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
    /// Sequences in progress at any time; at least 1. Bounds the cache's memory.
    pub batch_size: usize,
}

impl Default for GenerateConfig {
    /// Greedy, 256 tokens, 16 sequences at a time, no stop token.
    fn default() -> Self {
        Self {
            max_new_tokens: 256,
            temperature: 0.0,
            top_p: 1.0,
            top_k: 0,
            seed: 0,
            stop_ids: Vec::new(),
            batch_size: 16,
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
        let mut session = Session::new(self, prompts, config);
        while session.admit() {
            for (sequence, token) in session.advance()? {
                let prompt = session.sequences[sequence].prompt;
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

/// A sequence in progress.
struct Sequence {
    prompt: usize,
    slot: usize,
    /// Prompt tokens already in the cache.
    cached: usize,
    new_tokens: Vec<u32>,
    rng: ChaCha8Rng,
    done: bool,
}

struct Session<'a> {
    decoder: &'a Decoder,
    prompts: &'a [Vec<u32>],
    config: &'a GenerateConfig,
    waiting: std::ops::Range<usize>,
    sequences: Vec<Sequence>,
    free_slots: Vec<usize>,
    /// One per layer.
    caches: Vec<KvCache>,
    memory: Memory,
}

#[derive(Default)]
struct Memory {
    residual: Matrix,
    next: Matrix,
    layer: LayerActivations,
    last: Matrix,
    normed: Matrix,
    inv_rms: Vec<f32>,
    logits: Matrix,
    candidates: Vec<(f64, u32)>,
}

/// One pass: rows of several sequences, each at its own place in its own cache slot.
#[derive(Default)]
struct Pass {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    rows: Vec<CachedRows>,
    /// Sequences whose last known token is in this pass, and its row.
    ready: Vec<(usize, usize)>,
}

impl<'a> Session<'a> {
    fn new(decoder: &'a Decoder, prompts: &'a [Vec<u32>], config: &'a GenerateConfig) -> Self {
        let slots = config.batch_size.min(prompts.len());
        let shape = decoder.config();
        Self {
            decoder,
            prompts,
            config,
            waiting: 0..prompts.len(),
            sequences: Vec::new(),
            free_slots: (0..slots).rev().collect(),
            caches: (0..shape.layers).map(|_| KvCache::new(slots, shape.kv_heads, shape.head_dim)).collect(),
            memory: Memory::default(),
        }
    }

    /// Fills free places with waiting prompts; false when nothing is left to do.
    fn admit(&mut self) -> bool {
        while let Some(slot) = self.free_slots.pop() {
            let Some(prompt) = self.waiting.next() else {
                self.free_slots.push(slot);
                break;
            };
            self.caches.iter_mut().for_each(|c| c.clear(slot));
            let rng = Seed::new(self.config.seed).derive("generate", prompt as u64).rng();
            self.sequences.push(Sequence {
                prompt,
                slot,
                cached: 0,
                new_tokens: Vec::new(),
                rng,
                done: false,
            });
        }
        !self.sequences.is_empty()
    }

    /// One pass over all sequences; the tokens chosen, by index of the sequence.
    fn advance(&mut self) -> Result<Vec<(usize, u32)>, ModelError> {
        let pass = self.next_pass();
        self.run(&pass)?;
        let Self { sequences, memory, config, .. } = self;
        let sampling = Sampling { temperature: config.temperature, top_p: config.top_p, top_k: config.top_k };
        let Memory { logits, candidates, .. } = memory;
        let mut chosen = Vec::with_capacity(pass.ready.len());
        for (row, (index, _)) in pass.ready.iter().enumerate() {
            let sequence = &mut sequences[*index];
            let token = sampling.choose(logits.row(row), candidates, &mut sequence.rng);
            sequence.new_tokens.push(token);
            chosen.push((*index, token));
        }
        Ok(chosen)
    }

    fn next_pass(&mut self) -> Pass {
        let mut pass = Pass::default();
        let mut room = PROMPT_CHUNK;
        for (index, sequence) in self.sequences.iter_mut().enumerate() {
            let prompt = &self.prompts[sequence.prompt];
            let start = pass.tokens.len();
            let position = match sequence.new_tokens.last() {
                Some(token) => {
                    pass.tokens.push(*token);
                    prompt.len() + sequence.new_tokens.len() - 1
                }
                None => {
                    let begin = sequence.cached;
                    let end = prompt.len().min(begin + room);
                    pass.tokens.extend_from_slice(&prompt[begin..end]);
                    room -= end - begin;
                    sequence.cached = end;
                    begin
                }
            };
            let len = pass.tokens.len() - start;
            if len == 0 {
                continue;
            }
            pass.positions.extend((position..position + len).map(|p| p as u32));
            pass.rows.push(CachedRows { slot: sequence.slot, start, len });
            if sequence.cached == prompt.len() {
                pass.ready.push((index, start + len - 1));
            }
        }
        pass
    }

    /// The decoder on the pass's rows; leaves one row of logits for each ready sequence.
    fn run(&mut self, pass: &Pass) -> Result<(), ModelError> {
        let (decoder, caches, m) = (self.decoder, &mut self.caches, &mut self.memory);
        let (engine, config) = (decoder.engine(), decoder.config());
        let rotary = decoder.rotary_covering(pass.positions.iter().max().map_or(0, |p| *p as usize + 1))?;
        let rows = pass.tokens.len();
        m.residual.resize(rows, config.hidden_size);
        m.next.resize(rows, config.hidden_size);
        m.layer.fit(rows, config);
        let last: Vec<usize> = pass.ready.iter().map(|(_, row)| *row).collect();
        m.last.resize(last.len(), config.hidden_size);
        m.normed.resize(last.len(), config.hidden_size);
        m.inv_rms.resize(last.len(), 0.0);
        m.logits.resize(last.len(), config.vocab_size);
        engine.install(|| -> Result<(), EngineError> {
            engine.embedding(&pass.tokens, decoder.embedding(), &mut m.residual)?;
            for (i, cache) in caches.iter_mut().enumerate() {
                let layer = decoder.layer(i, &pass.positions, &rotary);
                layer.forward(&m.residual, &mut m.layer, &mut m.next, |a| {
                    cache.append(&pass.rows, &a.key, &a.value)?;
                    engine.cached_attention(
                        &a.query,
                        &pass.rows,
                        cache,
                        attention_shape(config),
                        &mut a.attended,
                    )
                })?;
                std::mem::swap(&mut m.residual, &mut m.next);
            }
            if last.is_empty() {
                return Ok(());
            }
            engine.gather_rows(&m.residual, &last, &mut m.last)?;
            engine.rms_norm(
                &m.last,
                decoder.final_norm(),
                config.rms_norm_eps,
                &mut m.normed,
                &mut m.inv_rms,
            )?;
            engine.linear(&m.normed, decoder.head(), None, &mut m.logits)
        })?;
        Ok(())
    }

    fn finish_reason(&self, index: usize, token: u32) -> Option<FinishReason> {
        let sequence = &self.sequences[index];
        let length = self.prompts[sequence.prompt].len() + sequence.new_tokens.len();
        if self.config.stop_ids.contains(&token) {
            Some(FinishReason::Stop)
        } else if sequence.new_tokens.len() >= self.config.max_new_tokens {
            Some(FinishReason::Length)
        } else if length > self.decoder.config().max_positions {
            // The last token needs no position of its own: it is never fed in.
            Some(FinishReason::Context)
        } else {
            None
        }
    }

    fn take(&mut self, index: usize, finish_reason: FinishReason) -> Generated {
        let sequence = &mut self.sequences[index];
        sequence.done = true;
        Generated { tokens: std::mem::take(&mut sequence.new_tokens), finish_reason }
    }

    fn drain(&mut self, results: &mut [Option<Generated>]) {
        for index in 0..self.sequences.len() {
            if !self.sequences[index].done {
                results[self.sequences[index].prompt] = Some(self.take(index, FinishReason::Interrupted));
            }
        }
    }

    fn remove_finished(&mut self) {
        let free = &mut self.free_slots;
        self.sequences.retain(|s| {
            if s.done {
                free.push(s.slot);
            }
            !s.done
        });
    }
}

fn check(decoder: &Decoder, prompts: &[Vec<u32>], config: &GenerateConfig) -> Result<(), ModelError> {
    let refuse = |problem: String, remedy: &str| Err(ModelError::argument(problem, remedy));
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
