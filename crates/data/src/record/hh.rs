//! Anthropic HH (arXiv 2204.05862): whole dialogues as text, split at the last assistant turn.

use super::conversational::split_last;
use super::fields::text;
use super::flat::ordered;
use super::{Fields, PreferenceRecord, Refusal};
use crate::message::Message;
use crate::origin::Origin;
use crate::rejection::Rejection;

const MARKERS: [(&str, &str); 2] = [("\n\nHuman:", "user"), ("\n\nAssistant:", "assistant")];

pub(super) fn record(row: &Fields, origin: &Origin) -> Result<PreferenceRecord, Refusal> {
    let (before, chosen) = split_last(turns(&text(row, "chosen")?)?)?;
    let (other, rejected) = split_last(turns(&text(row, "rejected")?)?)?;
    if before != other {
        return Err((
            Rejection::PromptsDiffer,
            "chosen and rejected differ before their last assistant turn".to_owned(),
        ));
    }
    ordered(row, origin, before, [chosen, rejected])
}

/// The turns of a dialogue; each begins with a marker, and the blank behind the marker belongs to it.
fn turns(dialogue: &str) -> Result<Vec<Message>, Refusal> {
    let mut rest = dialogue;
    let mut turns = Vec::new();
    while let Some((marker, role)) = MARKERS.into_iter().find(|(m, _)| rest.starts_with(m)) {
        let text = &rest[marker.len()..];
        let end = MARKERS.iter().filter_map(|(m, _)| text.find(m)).min().unwrap_or(text.len());
        let content = text[..end].strip_prefix(' ').unwrap_or(&text[..end]);
        turns.push(Message::new(role, content));
        rest = &text[end..];
    }
    if rest.is_empty() {
        Ok(turns)
    } else {
        Err((Rejection::WrongType, "the dialogue does not begin with \"\\n\\nHuman: \"".to_owned()))
    }
}
