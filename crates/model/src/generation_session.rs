//! The sequences in progress: who waits, who holds a cache slot, which rows the next pass computes. One pass may
//! hold new tokens of some sequences and pieces of others' prompts.

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::generate::{FinishReason, GenerateConfig, Generated};
use crate::generation_pass::{self, PassMemory, PassRows};
use crate::sample::Sampling;
use bso_durable::Seed;
use bso_engine::KvCache;
use rand::Rng;
use rand_chacha::ChaCha8Rng;

/// Prompt tokens computed in one pass; longer prompts take several, so that memory stays bounded.
const PROMPT_CHUNK: usize = 512;

/// Most bytes that all layers' keys and values take together (a single sequence may need more): fewer sequences are
/// in progress at once where they could become so long.
const CACHE_BYTES: usize = 4 << 30;

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
    pass: PassRows,
    /// The sequences of the pass's ready rows.
    ready: Vec<usize>,
    memory: PassMemory,
    choosers: Vec<Chooser>,
}

/// A share of the ready rows, whose tokens one thread chooses.
#[derive(Debug, Default)]
struct Chooser {
    first_row: usize,
    /// Uniform in [0, 1), one a row.
    draws: Vec<f64>,
    tokens: Vec<u32>,
    candidates: Vec<(f64, u32)>,
}

impl<'a> Session<'a> {
    pub(crate) fn new(
        decoder: &'a Decoder,
        prompts: &'a [Vec<u32>],
        config: &'a GenerateConfig,
    ) -> Result<Self, ModelError> {
        let shape = decoder.config();
        let longest = prompts.iter().map(|prompt| rows_needed(decoder, prompt, config)).max().unwrap_or(0);
        let cache = |slots| {
            let heads = (shape.kv_heads, shape.head_dim);
            decoder.engine().kv_cache((slots, longest), heads, decoder.dtype())
        };
        let sequence_bytes = cache(0)?.row_bytes().saturating_mul(shape.layers).saturating_mul(longest);
        let fit = (CACHE_BYTES / sequence_bytes.max(1)).max(1);
        let slots = config.batch_size.min(prompts.len()).min(fit);
        Ok(Self {
            decoder,
            prompts,
            config,
            waiting: 0..prompts.len(),
            sequences: Vec::new(),
            free_slots: (0..slots).rev().collect(),
            caches: (0..shape.layers).map(|_| cache(slots)).collect::<Result<_, _>>()?,
            pass: PassRows::default(),
            ready: Vec::new(),
            memory: PassMemory::default(),
            choosers: Vec::new(),
        })
    }

    /// Fills free places with waiting prompts; false when nothing is left to do.
    pub(crate) fn admit(&mut self) -> bool {
        while let Some(slot) = self.free_slots.pop() {
            let Some(prompt) = self.waiting.next() else {
                self.free_slots.push(slot);
                break;
            };
            let rows = rows_needed(self.decoder, &self.prompts[prompt], self.config);
            self.caches.iter_mut().for_each(|cache| cache.clear(slot, rows));
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
        self.plan_pass();
        generation_pass::run(self.decoder, &self.pass, &mut self.caches, &mut self.memory)?;
        self.choose()?;
        let chosen = self.choosers.iter().flat_map(|chooser| &chooser.tokens);
        let chosen: Vec<(usize, u32)> = self.ready.iter().copied().zip(chosen.copied()).collect();
        for (index, token) in &chosen {
            self.sequences[*index].new_tokens.push(*token);
        }
        Ok(chosen)
    }

    /// A token for each ready row, the rows dealt out to all threads.
    fn choose(&mut self) -> Result<(), ModelError> {
        let Self { sequences, memory, config, ready, choosers, decoder, .. } = self;
        let sampling = Sampling { temperature: config.temperature, top_p: config.top_p, top_k: config.top_k };
        let share = ready.len().div_ceil(decoder.engine().num_threads()).max(1);
        choosers.resize_with(ready.len().div_ceil(share), Chooser::default);
        for (index, (chooser, ready)) in choosers.iter_mut().zip(ready.chunks(share)).enumerate() {
            chooser.first_row = index * share;
            chooser.draws.clear();
            chooser.draws.extend(ready.iter().map(|index| sequences[*index].rng.random::<f64>()));
        }
        let logits = memory.logits.on_host()?;
        decoder.engine().for_each_mut(choosers, |_, chooser| {
            let Chooser { first_row, draws, tokens, candidates } = chooser;
            tokens.clear();
            let rows = draws.iter().zip(*first_row..);
            tokens.extend(rows.map(|(draw, row)| sampling.choose(logits.row(row), *draw, candidates)));
        });
        Ok(())
    }

    /// The number of the prompt that a sequence continues.
    pub(crate) fn prompt(&self, index: usize) -> usize {
        self.sequences[index].prompt
    }

    /// New tokens of sequences in progress, and pieces of prompts.
    fn plan_pass(&mut self) {
        let Self { pass, ready, sequences, prompts, .. } = self;
        pass.clear();
        ready.clear();
        let mut room = PROMPT_CHUNK;
        for (index, sequence) in sequences.iter_mut().enumerate() {
            let prompt = &prompts[sequence.prompt];
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
            if pass.tokens.len() > pass.positions.len() {
                let is_ready = sequence.cached == prompt.len();
                pass.close_entry(sequence.slot, position, is_ready);
                ready.extend(is_ready.then_some(index));
            }
        }
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

/// Most rows of the cache that a prompt's sequence comes to.
fn rows_needed(decoder: &Decoder, prompt: &[u32], config: &GenerateConfig) -> usize {
    prompt.len().saturating_add(config.max_new_tokens).min(decoder.config().max_positions)
}
