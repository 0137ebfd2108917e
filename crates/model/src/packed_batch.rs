//! Sequences laid end to end without padding, and which hidden row predicts which token of which sequence.
//! Tokens and positions only: no weights, no log-probs.

use crate::error::ModelError;
use bso_engine::{Segment, Segments};
use std::ops::Range;

/// Prompt and response as token ids. Every response token is scored, none of the prompt.
pub type PromptResponse<'a> = (&'a [u32], &'a [u32]);

/// What a model's head reads of a sequence.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Reads {
    /// Every token of the response, each at the row before it: a language model.
    #[default]
    Response,
    /// The row of the last token that is not `pad`: a scalar head.
    End {
        /// transformers' padding token, which its scalar heads pass over wherever it stands.
        pad: Option<u32>,
    },
    /// The row before every token of the response: a scalar head as a critic, which says of each token what may be expected
    /// before it. Packed as for a language model, row by row.
    Values,
}

impl Reads {
    /// Whether sequences are laid down as for a language model: one number a response token, their last one not fed in.
    fn by_token(self) -> bool {
        matches!(self, Self::Response | Self::Values)
    }
}

/// A batch ready for the decoder.
///
/// For a scalar head every token is fed in, and the last one's row is read. For a language model, a sequence's last token predicts nothing that is scored, so it is not fed in: a batch of one sequence of
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
    reads: Reads,
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
            reads: Reads::Response,
            hidden_rows: Vec::new(),
        }
    }

    /// Replaces what is packed, in the memory that is there: what grows with the tokens is allocated once for the
    /// largest batch.
    ///
    /// # Errors
    /// As [`PackedBatch::from_sequences`]; the batch is empty then.
    pub fn pack(&mut self, sequences: &[PromptResponse<'_>], share_prompt: bool) -> Result<(), ModelError> {
        self.pack_for(Reads::Response, sequences, share_prompt)
    }

    /// As [`PackedBatch::pack`], for a head that reads this of each sequence. At a sequence's end a prompt or a response may
    /// be empty, but not both.
    ///
    /// # Errors
    /// As [`PackedBatch::from_sequences`].
    pub fn pack_for(
        &mut self,
        reads: Reads,
        sequences: &[PromptResponse<'_>],
        share_prompt: bool,
    ) -> Result<(), ModelError> {
        self.clear();
        self.reads = reads;
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
        let ends: Vec<PromptResponse<'_>>;
        let read = match self.reads {
            Reads::Response | Reads::Values => sequences,
            Reads::End { pad } => {
                ends = sequences.iter().map(|sequence| without_padding(*sequence, pad)).collect();
                &ends
            }
        };
        for run in runs(read, share_prompt) {
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

    /// What is read of the sequences.
    pub fn reads(&self) -> Reads {
        self.reads
    }

    /// The scored tokens, sequence by sequence; none for a scalar head that reads ends.
    pub fn targets(&self) -> &[u32] {
        &self.targets
    }

    /// For each sequence, its range among the scored tokens; for a scalar head that reads ends its number alone.
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
    sequences.chunk_by(move |a, b| share_prompt && a.0 == b.0 && !a.0.is_empty())
}

/// Up to the last token that is not padding; the first token where all are, as in transformers.
fn without_padding<'a>((prompt, response): PromptResponse<'a>, pad: Option<u32>) -> PromptResponse<'a> {
    let length = |tokens: &[u32]| tokens.iter().rposition(|t| Some(*t) != pad).map_or(0, |last| last + 1);
    match (length(prompt), length(response)) {
        (0, 0) => (
            &prompt[..prompt.len().min(1)],
            if prompt.is_empty() { &response[..response.len().min(1)] } else { &[] },
        ),
        (of_prompt, 0) => (&prompt[..of_prompt], &[]),
        (_, of_response) => (prompt, &response[..of_response]),
    }
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
            if !self.reads.by_token() {
                if prompt.is_empty() && response.is_empty() {
                    return refuse(
                        "it holds no token",
                        "give at least the end-of-turn token, or leave it out",
                    );
                }
                size = size.saturating_add(response.len());
                continue;
            }
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
                self.push(self.fed(response), prompt.len());
                segments.push(Segment { start, len: self.tokens.len() - start, context: None });
                self.score(prompt_end.saturating_sub(1), prompt_end, response);
            }
            _ => {
                segments.push(Segment { start, len: prompt.len(), context: None });
                for (_, response) in run {
                    let begin = self.push(self.fed(response), prompt.len());
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

    /// What of a response is fed in.
    fn fed<'a>(&self, response: &'a [u32]) -> &'a [u32] {
        match self.reads {
            Reads::Response | Reads::Values => &response[..response.len() - 1],
            Reads::End { .. } => response,
        }
    }

    /// The first response token is predicted by `before`, the others by the rows from `row`. A scalar head reads the last of
    /// all these rows.
    fn score(&mut self, before: usize, row: usize, response: &[u32]) {
        if !self.reads.by_token() {
            self.scored.push(self.hidden_rows.len()..self.hidden_rows.len() + 1);
            self.hidden_rows.push(if response.is_empty() { before } else { row + response.len() - 1 });
            return;
        }
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

    fn ends(sequences: &[PromptResponse<'_>], share: bool, pad: Option<u32>) -> PackedBatch {
        let mut batch = PackedBatch::empty();
        batch.pack_for(Reads::End { pad }, sequences, share).unwrap();
        batch
    }

    #[test]
    fn for_a_scalar_head_every_token_is_fed_in_and_the_last_row_is_read() {
        let pair: [PromptResponse<'_>; 2] = [(&[5, 6], &[7, 8]), (&[5, 6], &[9])];
        let batch = ends(&pair, false, None);
        assert_eq!(batch.tokens(), [5, 6, 7, 8, 5, 6, 9]);
        assert_eq!((batch.head_rows(), batch.head_index()), (&[3, 6][..], &[0, 1][..]));
        assert_eq!((batch.scored(), batch.targets().len()), (&[0..1, 1..2][..], 0));
        let shared = ends(&pair, true, None);
        assert_eq!(shared.tokens(), [5, 6, 7, 8, 9]);
        assert_eq!((shared.head_rows(), shared.positions()), (&[3, 4][..], &[0, 1, 2, 3, 2][..]));
        let plain = ends(&[(&[], &[3, 4]), (&[], &[4])], true, None);
        assert_eq!((plain.tokens(), plain.head_rows()), (&[3, 4, 4][..], &[1, 2][..]));
    }

    #[test]
    fn for_a_critic_the_rows_are_those_of_a_language_model() {
        let pair: [PromptResponse<'_>; 2] = [(&[5, 6], &[7, 8, 9]), (&[5, 6], &[4])];
        for share in [false, true] {
            let language = PackedBatch::from_sequences(&pair, share).unwrap();
            let mut values = PackedBatch::empty();
            values.pack_for(Reads::Values, &pair, share).unwrap();
            assert_eq!((values.tokens(), values.scored()), (language.tokens(), language.scored()));
            assert_eq!(
                (values.head_rows(), values.head_index()),
                (language.head_rows(), language.head_index())
            );
            assert_eq!(values.segments(), language.segments());
        }
        let empty = PackedBatch::empty().pack_for(Reads::Values, &[(&[1], &[])], false);
        assert!(empty.unwrap_err().to_string().contains("sequence 0"));
    }

    #[test]
    fn a_scalar_head_passes_over_padding_as_transformers_does() {
        // An answer of nothing but the end token, which is the padding token too, beside a longer one.
        let pair: [PromptResponse<'_>; 2] = [(&[5, 2, 6], &[2]), (&[5, 2, 6], &[2, 8, 2])];
        for share in [false, true] {
            let batch = ends(&pair, share, Some(2));
            let read: Vec<u32> =
                batch.head_index().iter().map(|i| batch.tokens()[batch.head_rows()[*i]]).collect();
            assert_eq!(read, [6, 8], "{share}");
            assert_eq!(ends(&[(&[2, 2], &[2])], share, Some(2)).tokens(), [2]);
            assert_eq!(ends(&[(&[], &[2])], share, Some(2)).tokens(), [2]);
        }
        let nothing = PackedBatch::empty().pack_for(Reads::End { pad: None }, &[(&[], &[])], false);
        assert!(nothing.unwrap_err().to_string().contains("sequence 0"));
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
