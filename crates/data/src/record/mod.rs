//! One row of any preference schema as one checked record, before a preference orders it. One file per schema.

mod conversational;
mod fields;
mod flat;
mod hh;
mod pku;
mod sft;
mod unpaired;

use crate::message::Message;
use crate::origin::Origin;
use crate::pair::{PreferencePair, SftExample, UnpairedExample};
use crate::preference::Preference;
use crate::rejection::Rejection;
use crate::schema::Schema;
use serde_json::{Map, Value};

pub(crate) type Fields = Map<String, Value>;
/// A reason and what exactly was found.
pub(crate) type Refusal = (Rejection, String);

/// A prompt, two responses, and what is known about them.
#[derive(Clone, Debug, PartialEq)]
pub struct PreferenceRecord {
    /// The conversation before the response, not empty.
    pub prompt: Vec<Message>,
    /// The two responses: not blank, not the same.
    pub responses: [String; 2],
    /// Whether each is unsafe, where labelled.
    pub is_unsafe: [Option<bool>; 2],
    /// Which of them is more helpful, where labelled.
    pub better: Option<usize>,
    /// Which of them is safer, where labelled.
    pub safer: Option<usize>,
    /// MODPO's m(y) of each, where given.
    pub margins: [Option<f64>; 2],
    /// Where the row stands.
    pub origin: Origin,
}

impl PreferenceRecord {
    /// Reads one row of `schema`.
    ///
    /// # Errors
    /// The reason for which the row cannot be used, with the field and what was found.
    pub fn parse(schema: Schema, row: &Fields, origin: &Origin) -> Result<Self, (Rejection, String)> {
        let record = match schema {
            Schema::PkuSafeRlhf => pku::record(row, origin),
            Schema::Flat => flat::record(row, origin),
            Schema::Conversational => conversational::record(row, origin),
            Schema::Hh => hh::record(row, origin),
            Schema::Unpaired | Schema::Sft => Err((
                Rejection::MissingField,
                format!("rows of format {} hold no pair of responses", schema.name()),
            )),
        }?;
        record.checked()
    }

    fn checked(self) -> Result<Self, Refusal> {
        if self.prompt.iter().all(|m| m.content.trim().is_empty()) {
            return Err((Rejection::MissingPrompt, "the prompt is blank".to_owned()));
        }
        if self.responses.iter().any(|r| r.trim().is_empty()) {
            return Err((Rejection::EmptyResponse, "a response is blank".to_owned()));
        }
        if self.responses[0] == self.responses[1] {
            return Err((Rejection::IdenticalResponses, "both responses are the same".to_owned()));
        }
        Ok(self)
    }

    /// Which response is chosen under `preference`, if the row says so.
    pub fn chosen(&self, preference: Preference) -> Option<usize> {
        match preference {
            Preference::Better | Preference::SafeBetter => self.better,
            Preference::Safer => self.safer,
        }
    }

    /// Orders the pair.
    ///
    /// # Errors
    /// [`Rejection::NoPreferenceLabel`] when the row does not say which response is preferred in this sense.
    pub fn into_pair(self, preference: Preference) -> Result<PreferencePair, (Rejection, String)> {
        let Some(chosen) = self.chosen(preference) else {
            return Err((Rejection::NoPreferenceLabel, format!("no {} label", preference.name())));
        };
        let [first, second] = self.responses;
        let pair = PreferencePair {
            prompt: self.prompt,
            chosen: first,
            rejected: second,
            chosen_unsafe: self.is_unsafe[0],
            rejected_unsafe: self.is_unsafe[1],
            chosen_margin: self.margins[0],
            rejected_margin: self.margins[1],
            origin: self.origin,
        };
        Ok(if chosen == 0 { pair } else { pair.swapped() })
    }
}

/// The safer response where the labels alone say it: exactly one of the two is unsafe.
fn safer_by_labels(is_unsafe: [Option<bool>; 2]) -> Option<usize> {
    match is_unsafe {
        [Some(false), Some(true)] => Some(0),
        [Some(true), Some(false)] => Some(1),
        _ => None,
    }
}

pub(crate) fn sft_example(schema: Schema, row: &Fields, origin: &Origin) -> Result<SftExample, Refusal> {
    let example =
        if schema == Schema::Sft { sft::example(row, origin) } else { unpaired::as_sft(row, origin) }?;
    if example.response.trim().is_empty() {
        return Err((Rejection::EmptyResponse, "the response is blank".to_owned()));
    }
    Ok(example)
}

pub(crate) fn unpaired_example(row: &Fields, origin: &Origin) -> Result<UnpairedExample, Refusal> {
    let example = unpaired::example(row, origin)?;
    if example.prompt.iter().all(|m| m.content.trim().is_empty()) {
        return Err((Rejection::MissingPrompt, "the prompt is blank".to_owned()));
    }
    if example.completion.trim().is_empty() {
        return Err((Rejection::EmptyResponse, "the completion is blank".to_owned()));
    }
    Ok(example)
}

#[cfg(test)]
mod tests;
