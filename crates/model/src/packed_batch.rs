//! Sequences laid end to end without padding, and which hidden row predicts which token of which sequence.
//! Tokens and positions only: no weights, no log-probs.

use crate::error::ModelError;
use bso_engine::{Segment, Segments};
use std::ops::Range;

/// Prompt and response as token ids. Every response token is scored, none of the prompt.
pub type PromptResponse<'a> = (&'a [u32], &'a [u32]);

/// A batch ready for the decoder.
///
/// A sequence's last token predicts nothing that is scored, so it is not fed in: a batch of one sequence of
/// n tokens has n - 1 rows. With a shared prompt, consecutive sequences with equal prompts store it once: the
/// responses (each without its last token) follow as segments that also see the prompt, and the prompt's last
/// row predicts the first token of every one of them.
#[derive(Clone, Debug, PartialEq)]
pub struct PackedBatch {
    tokens: Vec<u32>,
    positions: Vec<u32>,
    segments: Segments,
    head_rows: Vec<usize>,
    head_index: Vec<usize>,
    targets: Vec<u32>,
    scored: Vec<Range<usize>>,
    given_tokens: usize,
    /// For each scored token the row that predicts it; `head_rows` and `head_index` say the same.
    hidden_rows: Vec<usize>,
}

impl PackedBatch {
    /// Packs the sequences in order.
    ///
    /// # Errors
    /// No sequence at all; an empty response; an empty prompt (nothing would predict the first response token);
    /// more rows than 32 bits can number. The error names the sequence.
    pub fn from_sequences(sequences: &[PromptResponse<'_>], share_prompt: bool) -> Result<Self, ModelError> {
        let mut batch = Self::empty();
        batch.pack(sequences, share_prompt)?;
        Ok(batch)
    }

    /// A batch of nothing, to be filled by [`PackedBatch::pack`].
    pub fn empty() -> Self {
        Self {
            tokens: Vec::new(),
            positions: Vec::new(),
            segments: Segments::independent(&[]),
            head_rows: Vec::new(),
            head_index: Vec::new(),
            targets: Vec::new(),
            scored: Vec::new(),
            given_tokens: 0,
            hidden_rows: Vec::new(),
        }
    }

    /// Replaces what is packed, in the memory that is there: what grows with the tokens is allocated once for the
    /// largest batch.
    ///
    /// # Errors
    /// As [`PackedBatch::from_sequences`]; the batch is empty then.
    pub fn pack(&mut self, sequences: &[PromptResponse<'_>], share_prompt: bool) -> Result<(), ModelError> {
        self.clear();
        let packed = self.fill(sequences, share_prompt);
        if packed.is_err() {
            self.clear();
        }
        packed
    }

    fn clear(&mut self) {
        self.segments = Segments::independent(&[]);
        [&mut self.tokens, &mut self.positions, &mut self.targets].into_iter().for_each(Vec::clear);
        [&mut self.head_rows, &mut self.head_index, &mut self.hidden_rows].into_iter().for_each(Vec::clear);
        self.scored.clear();
        self.given_tokens = 0;
    }

    fn fill(&mut self, sequences: &[PromptResponse<'_>], share_prompt: bool) -> Result<(), ModelError> {
        if sequences.is_empty() {
            return Err(ModelError::argument("a batch of no sequences", "give at least one"));
        }
        let (mut segments, mut first) = (Vec::with_capacity(sequences.len() + 1), 0);
        for run in runs(sequences, share_prompt) {
            self.add_run(first, run, &mut segments)?;
            first += run.len();
        }
        self.segments = Segments::new(segments, self.tokens.len())?;
        self.given_tokens = sequences.iter().map(|(p, r)| p.len() + r.len()).sum();
        self.find_head_rows();
        Ok(())
    }

    /// The distinct rows, ascending, and each scored token's place among them.
    fn find_head_rows(&mut self) {
        let Self { head_rows, head_index, hidden_rows, .. } = self;
        head_rows.extend_from_slice(hidden_rows);
        head_rows.sort_unstable();
        head_rows.dedup();
        head_index.extend(hidden_rows.iter().map(|row| head_rows.partition_point(|other| other < row)));
    }

    /// Packs pairs as sequences 2i (chosen) and 2i + 1 (rejected).
    ///
    /// # Errors
    /// As [`PackedBatch::from_sequences`].
    pub fn from_pairs(
        pairs: &[(PromptResponse<'_>, PromptResponse<'_>)],
        share_prompt: bool,
    ) -> Result<Self, ModelError> {
        let sequences: Vec<PromptResponse<'_>> = pairs.iter().flat_map(|(c, r)| [*c, *r]).collect();
        Self::from_sequences(&sequences, share_prompt)
    }

    /// Token ids, one a row.
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    /// Rows of the batch: what the decoder computes on.
    pub fn rows(&self) -> usize {
        self.tokens.len()
    }

    /// Tokens of the sequences as they were given, shared prompts counted each time.
    pub fn given_tokens(&self) -> usize {
        self.given_tokens
    }

    /// Position of each row within its sequence, from 0.
    pub fn positions(&self) -> &[u32] {
        &self.positions
    }

    /// Which rows see which.
    pub fn segments(&self) -> &Segments {
        &self.segments
    }

    /// The rows whose hidden states predict scored tokens, ascending, each once: all that the head, and the last
    /// layer from its attention on, need to compute.
    pub fn head_rows(&self) -> &[usize] {
        &self.head_rows
    }

    /// For each scored token, the place in [`PackedBatch::head_rows`] of the row that predicts it; one row may serve
    /// several.
    pub fn head_index(&self) -> &[usize] {
        &self.head_index
    }

    /// The scored tokens, sequence by sequence.
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// For each sequence, its range among the scored tokens.
    pub fn scored(&self) -> &[Range<usize>] {
        &self.scored
    }

    /// Number of sequences.
    pub fn sequences(&self) -> usize {
        self.scored.len()
    }
}

/// Consecutive sequences that can share their prompt; single ones where nothing is shared.
fn runs<'s, 'a>(
    sequences: &'s [PromptResponse<'a>],
    share_prompt: bool,
) -> impl Iterator<Item = &'s [PromptResponse<'a>]> {
    sequences.chunk_by(move |a, b| share_prompt && a.0 == b.0)
}

/// How sequences are laid down.
impl PackedBatch {
    fn add_run(
        &mut self,
        first: usize,
        run: &[PromptResponse<'_>],
        segments: &mut Vec<Segment>,
    ) -> Result<(), ModelError> {
        let mut size = run[0].0.len();
        for (i, (prompt, response)) in run.iter().enumerate() {
            let refuse = |problem: &str, remedy: &str| {
                Err(ModelError::Sequence {
                    sequence: first + i,
                    problem: problem.into(),
                    remedy: remedy.into(),
                })
            };
            if response.is_empty() {
                return refuse(
                    "its response is empty",
                    "give at least the end-of-turn token, or leave it out",
                );
            }
            if prompt.is_empty() {
                return refuse(
                    "its prompt is empty, so that nothing predicts its first token",
                    "begin it with the BOS token or a chat template",
                );
            }
            size = size.saturating_add(response.len());
        }
        if self.tokens.len().saturating_add(size) > u32::MAX as usize {
            return Err(ModelError::argument("the batch has more than 2^32 tokens", "make it smaller"));
        }
        let prompt = run[0].0;
        let start = self.push(prompt, 0);
        let prompt_end = self.tokens.len();
        match run {
            [(_, response)] => {
                self.push(&response[..response.len() - 1], prompt.len());
                segments.push(Segment { start, len: self.tokens.len() - start, context: None });
                self.score(prompt_end - 1, prompt_end, response);
            }
            _ => {
                segments.push(Segment { start, len: prompt.len(), context: None });
                for (_, response) in run {
                    let begin = self.push(&response[..response.len() - 1], prompt.len());
                    let len = self.tokens.len() - begin;
                    if len > 0 {
                        let context = Some((start, prompt.len()));
                        segments.push(Segment { start: begin, len, context });
                    }
                    self.score(prompt_end - 1, begin, response);
                }
            }
        }
        Ok(())
    }

    /// Appends rows with positions from `position`; returns the first row.
    fn push(&mut self, tokens: &[u32], position: usize) -> usize {
        let row = self.tokens.len();
        self.tokens.extend_from_slice(tokens);
        self.positions.extend((position..position + tokens.len()).map(|p| p as u32));
        row
    }

    /// The first response token is predicted by `before`, the others by the rows from `row`.
    fn score(&mut self, before: usize, row: usize, response: &[u32]) {
        let begin = self.targets.len();
        self.hidden_rows.push(before);
        self.hidden_rows.extend(row..row + response.len() - 1);
        self.targets.extend_from_slice(response);
        self.scored.push(begin..self.targets.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sequence_is_one_causal_segment_without_its_last_token() {
        let batch = PackedBatch::from_sequences(&[(&[5, 6], &[7, 8]), (&[5, 6], &[9])], false).unwrap();
        assert_eq!(batch.tokens(), [5, 6, 7, 5, 6]);
        assert_eq!(batch.positions(), [0, 1, 2, 0, 1]);
        assert_eq!(batch.head_rows(), [1, 2, 4]);
        assert_eq!(batch.head_index(), [0, 1, 2]);
        assert_eq!(batch.targets(), [7, 8, 9]);
        assert_eq!(batch.scored(), [0..2, 2..3]);
        assert_eq!(batch.segments(), &Segments::independent(&[3, 2]));
        assert_eq!(batch.given_tokens(), 7);
    }

    #[test]
    fn a_shared_prompt_is_stored_once_and_its_last_row_predicts_both_first_tokens() {
        let batch = PackedBatch::from_pairs(&[((&[5, 6], &[7, 8, 9]), (&[5, 6], &[4]))], true).unwrap();
        assert_eq!(batch.tokens(), [5, 6, 7, 8]);
        assert_eq!(batch.positions(), [0, 1, 2, 3]);
        assert_eq!(batch.head_rows(), [1, 2, 3]);
        assert_eq!(batch.head_index(), [0, 1, 2, 0]);
        assert_eq!(batch.targets(), [7, 8, 9, 4]);
        let context = Some((0, 2));
        let prompt = Segment { start: 0, len: 2, context: None };
        assert_eq!(batch.segments().list(), [prompt, Segment { start: 2, len: 2, context }]);
    }

    #[test]
    fn a_lone_prompt_is_not_split_although_sharing_is_asked_for() {
        let shared = PackedBatch::from_sequences(&[(&[1], &[2, 3]), (&[4], &[2, 3])], true).unwrap();
        assert_eq!(shared, PackedBatch::from_sequences(&[(&[1], &[2, 3]), (&[4], &[2, 3])], false).unwrap());
    }

    #[test]
    fn what_cannot_be_scored_is_refused_by_its_number() {
        for share in [false, true] {
            let empty_response =
                PackedBatch::from_sequences(&[(&[1], &[2]), (&[1], &[])], share).unwrap_err();
            assert!(empty_response.to_string().contains("sequence 1"), "{empty_response}");
            let empty_prompt = PackedBatch::from_sequences(&[(&[], &[2])], share).unwrap_err();
            assert!(empty_prompt.to_string().contains("BOS"), "{empty_prompt}");
            assert!(PackedBatch::from_sequences(&[], share).is_err());
        }
    }
}
