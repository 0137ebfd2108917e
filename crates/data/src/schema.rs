//! Which columns a data set has: said by the user or recognised from the first row, and then said to the user.

use crate::error::DataError;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::collections::BTreeMap;

/// The layouts of rows that are read (conventions: "Preference data accepted").
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Schema {
    /// `prompt, response_0, response_1, is_response_{0,1}_safe, better_response_id, safer_response_id`.
    PkuSafeRlhf,
    /// `prompt, chosen, rejected` as text, optional `chosen_safe, rejected_safe, chosen_margin, rejected_margin`.
    Flat,
    /// As flat, each a list of `{role, content}`; without `prompt`, the turns that both share are the prompt.
    Conversational,
    /// Anthropic HH: `chosen` and `rejected` are whole dialogues of "\n\nHuman: " and "\n\nAssistant: " turns.
    Hh,
    /// `prompt, completion, label` (KTO).
    Unpaired,
    /// `prompt` with `response` or `completion`, or `messages`: text to imitate.
    Sft,
}

/// A schema and how it was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Detected {
    /// The layout.
    pub schema: Schema,
    /// In words: the columns seen, or that the user chose it.
    pub because: String,
}

impl Schema {
    /// All schemas.
    pub const ALL: [Self; 6] =
        [Self::PkuSafeRlhf, Self::Flat, Self::Conversational, Self::Hh, Self::Unpaired, Self::Sft];

    /// The name used for `dataset_format`.
    pub fn name(self) -> &'static str {
        match self {
            Self::PkuSafeRlhf => "pku_safe_rlhf",
            Self::Flat => "flat",
            Self::Conversational => "conversational",
            Self::Hh => "hh",
            Self::Unpaired => "unpaired",
            Self::Sft => "sft",
        }
    }

    /// Recognises the schema of a row whose columns have their canonical names.
    ///
    /// # Errors
    /// No schema has these columns; the message lists what was found and what is known.
    pub fn detect(row: &Map<String, Value>) -> Result<Detected, DataError> {
        let has = |name: &str| row.contains_key(name);
        let list = |name: &str| row.get(name).is_some_and(Value::is_array);
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        let (schema, because) = if has("response_0") && has("response_1") {
            (Self::PkuSafeRlhf, "it has response_0 and response_1")
        } else if list("chosen") || list("rejected") {
            (Self::Conversational, "chosen and rejected are lists of messages")
        } else if has("prompt") && has("chosen") && has("rejected") {
            (Self::Flat, "it has prompt, chosen and rejected")
        } else if text("chosen").is_some_and(|t| t.contains("\n\nHuman:")) && has("rejected") {
            (Self::Hh, "chosen and rejected are dialogues of Human and Assistant turns")
        } else if has("completion") && has("label") {
            (Self::Unpaired, "it has completion and label")
        } else if list("messages") {
            (Self::Sft, "it has messages")
        } else if has("prompt") && (has("response") || has("completion")) {
            (Self::Sft, "it has prompt and a response")
        } else {
            return Err(DataError::Schema(unknown(row)));
        };
        Ok(Detected { schema, because: because.to_owned() })
    }
}

impl std::str::FromStr for Schema {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        let wanted = name.to_lowercase().replace('-', "_");
        if let Some(schema) = Self::ALL.into_iter().find(|s| s.name() == wanted) {
            return Ok(schema);
        }
        let nearest = Self::ALL
            .into_iter()
            .map(|s| (strsim::jaro_winkler(&wanted, s.name()), s.name()))
            .max_by(|a, b| a.0.total_cmp(&b.0))
            .filter(|(likeness, _)| *likeness > 0.7)
            .map(|(_, name)| format!("; did you mean {name}?"))
            .unwrap_or_default();
        let known = Self::ALL.map(Self::name).join(", ");
        Err(DataError::Setting(format!("dataset_format {name:?} is unknown (known: {known}){nearest}")))
    }
}

fn unknown(row: &Map<String, Value>) -> String {
    let mut columns: Vec<&str> = row.keys().map(String::as_str).take(20).collect();
    columns.sort_unstable();
    format!(
        "the columns {} fit no known format; known are PKU-SafeRLHF (prompt, response_0, response_1, ...), flat (prompt, chosen, rejected), conversational (lists of messages), hh (chosen and rejected dialogues), unpaired (prompt, completion, label) and sft (prompt, response or messages); name one with dataset_format and map columns with `columns`",
        columns.join(", ")
    )
}

/// Gives columns their canonical names: `columns` maps canonical to actual.
pub(crate) fn rename(mut row: Map<String, Value>, columns: &BTreeMap<String, String>) -> Map<String, Value> {
    let taken: Vec<(String, Option<Value>)> =
        columns.iter().map(|(canonical, actual)| (canonical.clone(), row.remove(actual))).collect();
    for (canonical, value) in taken {
        if let Some(value) = value {
            row.insert(canonical, value);
        }
    }
    row
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn detect(row: Value) -> Result<Schema, String> {
        let Value::Object(row) = row else { unreachable!() };
        Schema::detect(&row).map(|d| d.schema).map_err(|e| e.to_string())
    }

    #[test]
    fn schemas_are_recognised_by_their_columns() {
        let turn = json!([{"role": "user", "content": "hi"}]);
        for (row, schema) in [
            (json!({"prompt": "p", "response_0": "a", "response_1": "b"}), Schema::PkuSafeRlhf),
            (json!({"prompt": "p", "chosen": "a", "rejected": "b"}), Schema::Flat),
            (json!({"prompt": turn, "chosen": turn, "rejected": turn}), Schema::Conversational),
            (json!({"chosen": turn, "rejected": turn}), Schema::Conversational),
            (json!({"chosen": "\n\nHuman: a\n\nAssistant: b", "rejected": ""}), Schema::Hh),
            (json!({"prompt": "p", "completion": "a", "label": true}), Schema::Unpaired),
            (json!({"prompt": "p", "completion": "a"}), Schema::Sft),
            (json!({"prompt": "p", "response": "a"}), Schema::Sft),
            (json!({"messages": turn}), Schema::Sft),
        ] {
            assert_eq!(detect(row.clone()), Ok(schema), "{row}");
        }
    }

    #[test]
    fn an_unknown_layout_names_its_columns_and_a_misspelt_format_gets_a_suggestion() {
        let error = detect(json!({"question": "p", "good": "a"})).unwrap_err();
        assert!(error.contains("good, question") && error.contains("columns"), "{error}");
        let error = "flatt".parse::<Schema>().unwrap_err().to_string();
        assert!(error.contains("did you mean flat?"), "{error}");
    }
}
