//! Typed reading of one field, with an answer for each way in which it can be wrong.

use super::{Fields, Refusal};
use crate::message::Message;
use crate::read::kind;
use crate::rejection::Rejection;
use serde_json::Value;

fn wrong(name: &str, expected: &str, found: &Value) -> Refusal {
    (Rejection::WrongType, format!("{name} should be {expected} and is {}", kind(found)))
}

fn missing(name: &str) -> Refusal {
    let reason = if name == "prompt" { Rejection::MissingPrompt } else { Rejection::MissingField };
    (reason, format!("{name} is missing or null"))
}

fn present<'a>(row: &'a Fields, name: &str) -> Option<&'a Value> {
    row.get(name).filter(|v| !v.is_null())
}

pub(super) fn text(row: &Fields, name: &str) -> Result<String, Refusal> {
    match present(row, name) {
        Some(Value::String(text)) => Ok(text.clone()),
        Some(other) => Err(wrong(name, "a string", other)),
        None => Err(missing(name)),
    }
}

/// A prompt written as text (one user turn) or as a list of messages.
pub(super) fn prompt(row: &Fields) -> Result<Vec<Message>, Refusal> {
    match present(row, "prompt") {
        Some(Value::String(text)) => Ok(vec![Message::user(text.clone())]),
        Some(Value::Array(_)) => messages(row, "prompt"),
        Some(other) => Err(wrong("prompt", "a string or a list of messages", other)),
        None => Err(missing("prompt")),
    }
}

pub(super) fn messages(row: &Fields, name: &str) -> Result<Vec<Message>, Refusal> {
    let items = match present(row, name) {
        Some(Value::Array(items)) => items,
        Some(other) => return Err(wrong(name, "a list of messages", other)),
        None => return Err(missing(name)),
    };
    items
        .iter()
        .map(|item| {
            let part = |key: &str| item.get(key).and_then(Value::as_str);
            match (part("role"), part("content")) {
                (Some(role), Some(content)) => Ok(Message::new(role, content)),
                _ => Err((
                    Rejection::WrongType,
                    format!("{name} should hold messages with the strings role and content"),
                )),
            }
        })
        .collect()
}

/// The assistant's text in a field that is text or a list ending in one assistant turn.
pub(super) fn answer(row: &Fields, name: &str) -> Result<String, Refusal> {
    match present(row, name) {
        Some(Value::Array(_)) => match messages(row, name)?.as_slice() {
            [turn] if turn.role == "assistant" => Ok(turn.content.clone()),
            _ => Err((Rejection::NoAssistantTurn, format!("{name} should be one assistant turn"))),
        },
        _ => text(row, name),
    }
}

/// A truth value; 0 and 1 are accepted, for tools that write them, and so are their texts, for CSV.
pub(super) fn flag(row: &Fields, name: &str) -> Result<Option<bool>, Refusal> {
    match present(row, name) {
        None => Ok(None),
        Some(Value::Bool(flag)) => Ok(Some(*flag)),
        Some(Value::Number(n)) if n.as_i64() == Some(0) => Ok(Some(false)),
        Some(Value::Number(n)) if n.as_i64() == Some(1) => Ok(Some(true)),
        Some(Value::String(text)) if ["true", "1"].contains(&text.to_lowercase().as_str()) => Ok(Some(true)),
        Some(Value::String(text)) if ["false", "0"].contains(&text.to_lowercase().as_str()) => {
            Ok(Some(false))
        }
        Some(other) => Err(wrong(name, "true or false", other)),
    }
}

/// A column that says "safe", as "unsafe".
pub(super) fn unsafe_flag(row: &Fields, safe_column: &str) -> Result<Option<bool>, Refusal> {
    Ok(flag(row, safe_column)?.map(|safe| !safe))
}

/// An id of one of two responses.
pub(super) fn response_id(row: &Fields, name: &str) -> Result<Option<usize>, Refusal> {
    match present(row, name) {
        None => Ok(None),
        Some(Value::Number(n)) if n.as_u64() == Some(0) => Ok(Some(0)),
        Some(Value::Number(n)) if n.as_u64() == Some(1) => Ok(Some(1)),
        Some(Value::String(text)) if text == "0" => Ok(Some(0)),
        Some(Value::String(text)) if text == "1" => Ok(Some(1)),
        Some(other) => {
            Err((Rejection::WrongType, format!("{name} should be 0, 1 or null and is {}", kind(other))))
        }
    }
}

pub(super) fn number(row: &Fields, name: &str) -> Result<Option<f64>, Refusal> {
    match present(row, name) {
        None => Ok(None),
        Some(value) => match real(value).filter(|x| x.is_finite()) {
            Some(x) => Ok(Some(x)),
            None => Err(wrong(name, "a finite number", value)),
        },
    }
}

fn real(value: &Value) -> Option<f64> {
    value.as_str().map_or_else(|| value.as_f64(), |text| text.trim().parse().ok())
}
