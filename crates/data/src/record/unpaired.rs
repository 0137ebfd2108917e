//! Unpaired rows (KTO): `prompt, completion, label`.

use super::fields::{answer, flag, prompt};
use super::{Fields, Refusal};
use crate::origin::Origin;
use crate::pair::{SftExample, UnpairedExample};
use crate::rejection::Rejection;

pub(super) fn example(row: &Fields, origin: &Origin) -> Result<UnpairedExample, Refusal> {
    let desirable = flag(row, "label")?
        .ok_or_else(|| (Rejection::MissingField, "label is missing or null".to_owned()))?;
    Ok(UnpairedExample {
        prompt: prompt(row)?,
        completion: answer(row, "completion")?,
        desirable,
        origin: origin.clone(),
    })
}

/// For SFT only what is desirable is imitated.
pub(super) fn as_sft(row: &Fields, origin: &Origin) -> Result<SftExample, Refusal> {
    let example = example(row, origin)?;
    if !example.desirable {
        return Err((Rejection::NoPreferenceLabel, "the completion is labelled undesirable".to_owned()));
    }
    Ok(SftExample { prompt: example.prompt, response: example.completion, origin: example.origin })
}
