//! The sequences in progress: who waits, who holds a cache slot, which rows the next pass computes. One pass may
//! hold new tokens of some sequences and pieces of others' prompts.

use crate::activations::{LayerActivations, Matrix};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::generate::{FinishReason, GenerateConfig, Generated};
use crate::layer::attention_shape;
use crate::sample::Sampling;
use bso_durable::Seed;
use bso_engine::{CachedRows, DType, EngineError, KvCache};
use rand_chacha::ChaCha8Rng;

/// Prompt tokens computed in one pass; longer prompts take several, so that memory stays bounded.
const PROMPT_CHUNK: usize = 512;

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

pub(crate) struct Session<'a> {
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
    pub(crate) fn new(decoder: &'a Decoder, prompts: &'a [Vec<u32>], config: &'a GenerateConfig) -> Self {
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
    pub(crate) fn admit(&mut self) -> bool {
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
    pub(crate) fn advance(&mut self) -> Result<Vec<(usize, u32)>, ModelError> {
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

    /// The number of the prompt that a sequence continues.
    pub(crate) fn prompt(&self, index: usize) -> usize {
        self.sequences[index].prompt
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
        m.layer.fit(DType::F32, rows, config)?;
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

    pub(crate) fn finish_reason(&self, index: usize, token: u32) -> Option<FinishReason> {
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

    pub(crate) fn take(&mut self, index: usize, finish_reason: FinishReason) -> Generated {
        let sequence = &mut self.sequences[index];
        sequence.done = true;
        Generated { tokens: std::mem::take(&mut sequence.new_tokens), finish_reason }
    }

    pub(crate) fn drain(&mut self, results: &mut [Option<Generated>]) {
        for index in 0..self.sequences.len() {
            if !self.sequences[index].done {
                results[self.sequences[index].prompt] = Some(self.take(index, FinishReason::Interrupted));
            }
        }
    }

    pub(crate) fn remove_finished(&mut self) {
        let free = &mut self.free_slots;
        self.sequences.retain(|s| {
            if s.done {
                free.push(s.slot);
            }
            !s.done
        });
    }
}
