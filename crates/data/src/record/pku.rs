//! PKU-SafeRLHF (arXiv 2310.12773): two responses with a safety label each and two judgements, either possibly null.

use super::fields::{prompt, response_id, text, unsafe_flag};
use super::{Fields, PreferenceRecord, Refusal};
use crate::origin::Origin;

pub(super) fn record(row: &Fields, origin: &Origin) -> Result<PreferenceRecord, Refusal> {
    Ok(PreferenceRecord {
        prompt: prompt(row)?,
        responses: [text(row, "response_0")?, text(row, "response_1")?],
        is_unsafe: [unsafe_flag(row, "is_response_0_safe")?, unsafe_flag(row, "is_response_1_safe")?],
        better: response_id(row, "better_response_id")?,
        safer: response_id(row, "safer_response_id")?,
        margins: [None, None],
        origin: origin.clone(),
    })
}
