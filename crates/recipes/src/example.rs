//! One training example of any stage: the sequences whose log-probs the objective reads, and its labels.

use bso_data::{TokenisedPair, TokenisedSequence, TokenisedSft, TokenisedUnpaired};
use bso_objective::SafetyLabels;

/// One sequence for supervised training and KTO; chosen and rejected, in this order, for pairs.
#[derive(Clone, Debug, PartialEq)]
pub struct Example {
    /// The sequences that receive gradients.
    pub sequences: Vec<TokenisedSequence>,
    /// KTO only: this prompt with another example's completion, for the estimate of the KL. Never trained on.
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

/// Gives each KTO example the completion of the next one in its group of `group` (in data order, the last takes the
/// first's), so that the mismatched log-probs of the reference can be computed once.
pub fn mismatch(examples: &mut [Example], group: usize) {
    for group in examples.chunks_mut(group.max(2)) {
        let responses: Vec<Vec<u32>> = group.iter().map(|e| e.sequences[0].response.clone()).collect();
        for (i, example) in group.iter_mut().enumerate() {
            let response = responses[(i + 1) % responses.len()].clone();
            example.mismatched = Some(TokenisedSequence { response, ..example.sequences[0].clone() });
        }
    }
}
