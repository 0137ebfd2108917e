//! One training example of any stage: the sequences whose log-probs the objective reads, and its labels.

use bso_data::{TokenisedPair, TokenisedSequence, TokenisedSft, TokenisedUnpaired};
use bso_objective::SafetyLabels;

/// One sequence for supervised training and KTO; chosen and rejected, in this order, for pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The sequences that receive gradients.
    pub sequences: Vec<TokenisedSequence>,
    /// KTO only: this prompt with another prompt's completion, for the estimate of the KL. Never trained on.
    pub mismatched: Option<TokenisedSequence>,
    /// Safety labels of a pair, if known.
    pub labels: Option<SafetyLabels>,
    /// MODPO's margins of a pair, if given.
    pub margins: Option<(f64, f64)>,
    /// KTO only: whether the completion is a good one.
    pub desirable: bool,
}

impl Example {
    /// Every sequence whose reference log-prob is needed: the trained ones, then the mismatched one.
    pub fn scored(&self) -> impl Iterator<Item = &TokenisedSequence> {
        self.sequences.iter().chain(&self.mismatched)
    }

    /// Tokens of all its sequences, prompts counted each time.
    pub fn tokens(&self) -> usize {
        self.scored().map(|s| s.prompt.len() + s.response.len()).sum()
    }

    /// Tokens whose log-probs the loss reads.
    pub fn response_tokens(&self) -> usize {
        self.sequences.iter().map(|s| s.response.len()).sum()
    }

    fn of(sequences: Vec<TokenisedSequence>) -> Self {
        Self { sequences, mismatched: None, labels: None, margins: None, desirable: true }
    }
}

impl From<TokenisedSft> for Example {
    fn from(sft: TokenisedSft) -> Self {
        Self::of(vec![sft.sequence])
    }
}

impl From<TokenisedPair> for Example {
    fn from(pair: TokenisedPair) -> Self {
        let labels = pair.chosen_unsafe.zip(pair.rejected_unsafe);
        Self {
            labels: labels
                .map(|(chosen_unsafe, rejected_unsafe)| SafetyLabels { chosen_unsafe, rejected_unsafe }),
            margins: pair.margins,
            ..Self::of(vec![pair.chosen, pair.rejected])
        }
    }
}

impl From<TokenisedUnpaired> for Example {
    fn from(unpaired: TokenisedUnpaired) -> Self {
        Self { desirable: unpaired.desirable, ..Self::of(vec![unpaired.sequence]) }
    }
}

/// Gives each KTO example a completion of another prompt, cut to `max_length` before its last token, so that the
/// mismatched log-probs of the reference can be computed once: completions are rotated in data order by the longest run
/// of equal prompts (1 for unpaired rows; the two responses of a pair are no mismatch for each other).
pub fn mismatch(examples: &mut [Example], max_length: Option<usize>) {
    let responses: Vec<Vec<u32>> =
        partners(examples).into_iter().map(|i| examples[i].sequences[0].response.clone()).collect();
    for (example, mut response) in examples.iter_mut().zip(responses) {
        let prompt = example.sequences[0].prompt.clone();
        let room = max_length.map_or(usize::MAX, |limit| limit.saturating_sub(prompt.len()).max(1));
        if response.len() > room {
            response.drain(room - 1..response.len() - 1);
        }
        example.mismatched = Some(TokenisedSequence { prompt, response });
    }
}

/// For each example another one whose prompt differs; the next one where all prompts are the same.
fn partners(examples: &[Example]) -> Vec<usize> {
    let count = examples.len();
    let prompt = |i: usize| &examples[i % count].sequences[0].prompt;
    let shift =
        examples.chunk_by(|a, b| a.sequences[0].prompt == b.sequences[0].prompt).map(<[_]>::len).max();
    let shift = shift.filter(|run| *run < count).unwrap_or(1);
    // The first place behind each at which the prompt changes; going round twice carries it over the end.
    let mut change = vec![None; count];
    for i in (0..2 * count).rev() {
        let behind = (i + 1) % count;
        change[i % count] = if prompt(i) == prompt(behind) { change[behind] } else { Some(behind) };
    }
    let partner = |i: usize| {
        let at = (i + shift) % count;
        if prompt(i) == prompt(at) { change[at].unwrap_or(at) } else { at }
    };
    (0..count).map(partner).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(prompt: u32, response: &[u32]) -> Example {
        Example::of(vec![TokenisedSequence { prompt: vec![prompt; 3], response: response.to_vec() }])
    }

    fn mismatched(prompts: &[u32], max_length: Option<usize>) -> Vec<(u32, Vec<u32>)> {
        let mut examples: Vec<Example> =
            (10..).zip(prompts).map(|(i, prompt)| example(*prompt, &[i, i, i, 9])).collect();
        mismatch(&mut examples, max_length);
        let sequences = examples.into_iter().filter_map(|e| e.mismatched);
        sequences.map(|s| (s.prompt[0], s.response)).collect()
    }

    #[test]
    fn completions_of_unpaired_rows_are_rotated_by_one() {
        let rotated = mismatched(&[0, 1, 2], None);
        assert_eq!(rotated.iter().map(|(p, r)| (*p, r[0])).collect::<Vec<_>>(), [(0, 11), (1, 12), (2, 10)]);
    }

    #[test]
    fn a_mismatched_completion_never_belongs_to_the_same_prompt() {
        for prompts in [vec![0, 0, 1, 1, 2, 2], vec![0, 1, 0, 0, 1], vec![0, 0, 0, 1], vec![0, 1]] {
            for (prompt, response) in mismatched(&prompts, None) {
                assert_ne!(prompts[response[0] as usize - 10], prompt, "{prompts:?}");
            }
        }
        // Pairs: chosen and rejected completions stay in balance.
        let mut used: Vec<u32> = mismatched(&[0, 0, 1, 1, 2, 2], None).iter().map(|(_, r)| r[0]).collect();
        used.sort_unstable();
        assert_eq!(used, [10, 11, 12, 13, 14, 15]);
        // One prompt alone has no mismatch: the next completion stands in.
        assert_eq!(mismatched(&[0, 0], None)[0].1[0], 11);
        assert_eq!(mismatched(&[0], None)[0].1[0], 10);
    }

    #[test]
    fn a_mismatched_sequence_keeps_to_max_length_and_its_end_of_turn() {
        for (limit, expected) in [(7, vec![11, 11, 11, 9]), (5, vec![11, 9]), (4, vec![9])] {
            assert_eq!(mismatched(&[0, 1], Some(limit))[0].1, expected);
        }
    }
}
