//! The checked examples that training uses. Built only by [`crate::load_pairs`] and its siblings or by hand in code.

use crate::message::Message;
use crate::origin::Origin;
use serde::Serialize;

/// A prompt with a chosen and a rejected response.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct PreferencePair {
    /// The conversation up to the response, never empty.
    pub prompt: Vec<Message>,
    /// The preferred response.
    pub chosen: String,
    /// The other response.
    pub rejected: String,
    /// Whether the chosen response is unsafe, if labelled.
    pub chosen_unsafe: Option<bool>,
    /// Whether the rejected response is unsafe, if labelled.
    pub rejected_unsafe: Option<bool>,
    /// m(chosen) for MODPO, beta_m included, if given.
    pub chosen_margin: Option<f64>,
    /// m(rejected) for MODPO, beta_m included, if given.
    pub rejected_margin: Option<f64>,
    /// Where the row stands.
    pub origin: Origin,
}

impl PreferencePair {
    /// Both safety labels (chosen unsafe, rejected unsafe), if both are known.
    pub fn labels(&self) -> Option<(bool, bool)> {
        self.chosen_unsafe.zip(self.rejected_unsafe)
    }

    /// The pair with chosen and rejected exchanged, labels and margins with them.
    #[must_use]
    pub fn swapped(self) -> Self {
        Self {
            chosen: self.rejected,
            rejected: self.chosen,
            chosen_unsafe: self.rejected_unsafe,
            rejected_unsafe: self.chosen_unsafe,
            chosen_margin: self.rejected_margin,
            rejected_margin: self.chosen_margin,
            ..self
        }
    }
}

/// A prompt and the response to imitate.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SftExample {
    /// The conversation up to the response; may be empty for plain text.
    pub prompt: Vec<Message>,
    /// The response that is scored.
    pub response: String,
    /// Where the row stands.
    pub origin: Origin,
}

/// A prompt and one response judged good or bad (KTO).
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct UnpairedExample {
    /// The conversation up to the response.
    pub prompt: Vec<Message>,
    /// The response.
    pub completion: String,
    /// Whether it is desirable.
    pub desirable: bool,
    /// Where the row stands.
    pub origin: Origin,
}

impl UnpairedExample {
    /// The two examples that a pair stands for: chosen desirable, rejected not.
    pub fn from_pair(pair: &PreferencePair) -> [Self; 2] {
        [(&pair.chosen, true), (&pair.rejected, false)].map(|(completion, desirable)| Self {
            prompt: pair.prompt.clone(),
            completion: completion.clone(),
            desirable,
            origin: pair.origin.clone(),
        })
    }
}

/// What has a prompt, and so can be split without a prompt on both sides, and a place.
pub trait Prompted {
    /// The conversation before the response.
    fn prompt(&self) -> &[Message];
    /// Where the row stands.
    fn origin(&self) -> &Origin;
}

impl Prompted for PreferencePair {
    fn prompt(&self) -> &[Message] {
        &self.prompt
    }
    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Prompted for SftExample {
    fn prompt(&self) -> &[Message] {
        &self.prompt
    }
    fn origin(&self) -> &Origin {
        &self.origin
    }
}

impl Prompted for UnpairedExample {
    fn prompt(&self) -> &[Message] {
        &self.prompt
    }
    fn origin(&self) -> &Origin {
        &self.origin
    }
}
