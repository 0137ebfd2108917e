//! Why a row is not used: one closed list, so that every count has a name.

use serde::Serialize;
use std::fmt;

/// A reason for leaving a row out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Rejection {
    /// The line or element is not JSON, or no object (only counted under `skip_bad_rows`).
    NotJson,
    /// A field of the schema is absent or null.
    MissingField,
    /// A field has another type than the schema says.
    WrongType,
    /// The prompt is absent or blank.
    MissingPrompt,
    /// A response is blank.
    EmptyResponse,
    /// Both responses are the same text.
    IdenticalResponses,
    /// The two dialogues do not share everything before the last assistant turn.
    PromptsDiffer,
    /// A dialogue without an assistant turn at its end.
    NoAssistantTurn,
    /// No label says which response is preferred in the sense asked for.
    NoPreferenceLabel,
    /// Safety labels are absent although they are needed (the load as a whole then fails).
    NoSafetyLabel,
    /// Margins are absent although the loss needs them (the load as a whole then fails).
    NoMargin,
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotJson => "not a JSON object",
            Self::MissingField => "a field is missing or null",
            Self::WrongType => "a field has the wrong type",
            Self::MissingPrompt => "no prompt",
            Self::EmptyResponse => "an empty response",
            Self::IdenticalResponses => "identical responses",
            Self::PromptsDiffer => "the two dialogues differ before the last answer",
            Self::NoAssistantTurn => "no assistant turn at the end",
            Self::NoPreferenceLabel => "no label for this preference",
            Self::NoSafetyLabel => "no safety labels",
            Self::NoMargin => "no margins",
        })
    }
}
