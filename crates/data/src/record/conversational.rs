//! Conversational rows (TRL): `prompt` a list of messages or text, `chosen` and `rejected` one assistant turn each;
//! or no prompt, and `chosen` and `rejected` whole conversations that differ in their last turn.

use super::fields::{answer, messages, prompt};
use super::flat::ordered;
use super::{Fields, PreferenceRecord, Refusal};
use crate::message::Message;
use crate::origin::Origin;
use crate::rejection::Rejection;

pub(super) fn record(row: &Fields, origin: &Origin) -> Result<PreferenceRecord, Refusal> {
    if row.get("prompt").is_some_and(|p| !p.is_null()) {
        return ordered(row, origin, prompt(row)?, [answer(row, "chosen")?, answer(row, "rejected")?]);
    }
    let (before, chosen) = split_last(messages(row, "chosen")?)?;
    let (other, rejected) = split_last(messages(row, "rejected")?)?;
    if before != other {
        return Err((Rejection::PromptsDiffer, "chosen and rejected share no common prompt".to_owned()));
    }
    ordered(row, origin, before, [chosen, rejected])
}

/// The turns before the last, which must be the assistant's.
pub(super) fn split_last(mut turns: Vec<Message>) -> Result<(Vec<Message>, String), Refusal> {
    match turns.pop() {
        Some(last) if last.role == "assistant" => Ok((turns, last.content)),
        _ => Err((Rejection::NoAssistantTurn, "the last turn is not the assistant's".to_owned())),
    }
}
