//! Flat rows: `prompt, chosen, rejected` as text. The written order is the helpfulness judgement.

use super::fields::{number, prompt, text, unsafe_flag};
use super::{Fields, PreferenceRecord, Refusal, safer_by_labels};
use crate::message::Message;
use crate::origin::Origin;

pub(super) fn record(row: &Fields, origin: &Origin) -> Result<PreferenceRecord, Refusal> {
    ordered(row, origin, prompt(row)?, [text(row, "chosen")?, text(row, "rejected")?])
}

/// A record of a schema that writes the chosen response first, with the optional columns of such schemas.
pub(super) fn ordered(
    row: &Fields,
    origin: &Origin,
    prompt: Vec<Message>,
    responses: [String; 2],
) -> Result<PreferenceRecord, Refusal> {
    let is_unsafe = [unsafe_flag(row, "chosen_safe")?, unsafe_flag(row, "rejected_safe")?];
    Ok(PreferenceRecord {
        prompt,
        responses,
        is_unsafe,
        better: Some(0),
        safer: safer_by_labels(is_unsafe),
        margins: [number(row, "chosen_margin")?, number(row, "rejected_margin")?],
        origin: origin.clone(),
    })
}
