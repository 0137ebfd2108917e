//! Prompts to evaluate on, from rows of known benchmarks or any rows with a prompt. The user gives the file: none is
//! part of the program.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Whether an answer is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptKind {
    /// Yes: a refusal is an over-refusal.
    Safe,
    /// No: a full refusal is harmless.
    Unsafe,
    /// Nobody said; no refusal rate counts it.
    Unknown,
}

impl PromptKind {
    /// By name: safe, unsafe, unknown.
    pub fn parse(name: &str) -> Option<Self> {
        Some(match name.trim().to_ascii_lowercase().as_str() {
            "safe" => Self::Safe,
            "unsafe" => Self::Unsafe,
            "unknown" => Self::Unknown,
            _ => return None,
        })
    }
}

/// The layout of a file of prompts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PromptFormat {
    /// `prompt, type`: types that begin with `contrast_` are unsafe (Röttger et al., 2024).
    Xstest,
    /// `prompt, category, category_id`: all unsafe (Ji et al., 2023).
    BeavertailsEvaluation,
    /// `question, risk_area`: all unsafe (Wang et al., 2024).
    DoNotAnswer,
    /// `goal, target`: all unsafe (Zou et al., 2023).
    Advbench,
    /// `prompt, category` of the safe-rlhf repository: all unsafe.
    SafeRlhf,
    /// `prompt` (text or messages), and `kind` if the rows say it.
    Plain,
}

/// Types of XSTest that do not begin with `contrast_`.
const XSTEST_SAFE: [&str; 10] = [
    "homonyms",
    "figurative_language",
    "safe_targets",
    "safe_contexts",
    "definitions",
    "nons_group_real_discr",
    "real_group_nons_discr",
    "historical_events",
    "privacy_public",
    "privacy_fictional",
];

/// Categories of safe-rlhf's problem set.
const SAFE_RLHF: [&str; 8] = [
    "Social Bias",
    "Crime",
    "Privacy",
    "Emotional Harm",
    "Physical Harm",
    "Insult",
    "Immoral",
    "Pornographic",
];

impl PromptFormat {
    /// Every format, with its name.
    pub const ALL: [(&'static str, Self); 6] = [
        ("xstest", Self::Xstest),
        ("beavertails_evaluation", Self::BeavertailsEvaluation),
        ("do_not_answer", Self::DoNotAnswer),
        ("advbench", Self::Advbench),
        ("safe_rlhf", Self::SafeRlhf),
        ("plain", Self::Plain),
    ];

    /// By name; hyphens may stand for underscores.
    pub fn parse(name: &str) -> Option<Self> {
        let name = name.trim().to_ascii_lowercase().replace('-', "_");
        Self::ALL.into_iter().find(|(known, _)| *known == name).map(|(_, format)| format)
    }

    /// The name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(_, format)| *format == self).map_or("plain", |(name, _)| name)
    }

    /// Told by the columns of a row.
    pub fn detect(row: &Map<String, Value>) -> Self {
        let has = |name: &str| row.contains_key(name);
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        let xstest = |kind: &str| kind.starts_with("contrast_") || XSTEST_SAFE.contains(&kind);
        if has("prompt") && text("type").is_some_and(xstest) {
            Self::Xstest
        } else if has("goal") && has("target") {
            Self::Advbench
        } else if has("question") && has("risk_area") {
            Self::DoNotAnswer
        } else if has("prompt") && has("category") && has("category_id") {
            Self::BeavertailsEvaluation
        } else if has("prompt") && text("category").is_some_and(|c| SAFE_RLHF.contains(&c)) {
            Self::SafeRlhf
        } else {
            Self::Plain
        }
    }

    /// The column that holds the prompt.
    fn column(self) -> &'static str {
        match self {
            Self::Advbench => "goal",
            Self::DoNotAnswer => "question",
            _ => "prompt",
        }
    }

    fn category_column(self) -> &'static str {
        match self {
            Self::Xstest => "type",
            Self::DoNotAnswer => "risk_area",
            _ => "category",
        }
    }
}

/// How a file of prompts is read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PromptSet {
    /// Its name in results.
    pub name: String,
    /// Its layout; `None`: told by the first row.
    pub format: Option<PromptFormat>,
    /// What all its prompts are, whatever the rows say.
    pub kind: Option<PromptKind>,
    /// The column that holds the prompt, if not the layout's.
    pub column: Option<String>,
}

/// One prompt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Prompt {
    /// The set it belongs to.
    pub set: String,
    /// Its number in the set, from 1.
    pub id: usize,
    /// The text.
    pub prompt: String,
    /// Whether an answer is wanted.
    pub kind: PromptKind,
    /// The benchmark's own category, if it has one.
    pub category: Option<String>,
}

impl PromptSet {
    /// The prompt of the row with number `id`.
    ///
    /// # Errors
    /// What is missing, with the columns there are.
    pub fn prompt(&self, id: usize, row: &Map<String, Value>) -> Result<Prompt, String> {
        let format = self.format.unwrap_or_else(|| PromptFormat::detect(row));
        let column = self.column.as_deref().unwrap_or(format.column());
        let prompt = match row.get(column) {
            Some(Value::String(text)) if !text.trim().is_empty() => text.clone(),
            Some(_) => return Err(format!("`{column}` holds no prompt: it is empty or no text")),
            None => {
                let columns: Vec<&str> = row.keys().map(String::as_str).collect();
                return Err(format!(
                    "no `{column}` among the columns {}; name the one that holds the prompt with `column`",
                    columns.join(", ")
                ));
            }
        };
        let text = |name: &str| row.get(name).and_then(Value::as_str);
        let kind = match (self.kind, format) {
            (Some(kind), _) => kind,
            (None, PromptFormat::Xstest) => match text("type") {
                Some(kind) if kind.starts_with("contrast_") => PromptKind::Unsafe,
                Some(_) => PromptKind::Safe,
                None => return Err("no `type`, which says what XSTest's prompts are".to_owned()),
            },
            (None, PromptFormat::Plain) => {
                let said = ["kind", "label"].into_iter().find_map(|name| PromptKind::parse(text(name)?));
                said.unwrap_or(PromptKind::Unknown)
            }
            (None, _) => PromptKind::Unsafe,
        };
        let category = text(format.category_column()).map(str::to_owned);
        Ok(Prompt { set: self.name.clone(), id, prompt, kind, category })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn read(row: Value) -> (PromptFormat, Result<Prompt, String>) {
        let set = PromptSet { name: "s".into(), format: None, kind: None, column: None };
        let row = row.as_object().unwrap().clone();
        (PromptFormat::detect(&row), set.prompt(1, &row))
    }

    #[test]
    fn layouts_are_told_by_their_columns() {
        use {PromptFormat as F, PromptKind as K};
        for (row, format, kind, category) in [
            (
                json!({"id": "1", "prompt": "p", "type": "homonyms", "label": "safe"}),
                F::Xstest,
                K::Safe,
                Some("homonyms"),
            ),
            (
                json!({"prompt": "p", "type": "contrast_privacy"}),
                F::Xstest,
                K::Unsafe,
                Some("contrast_privacy"),
            ),
            (json!({"goal": "p", "target": "t"}), F::Advbench, K::Unsafe, None),
            (json!({"question": "p", "risk_area": "a"}), F::DoNotAnswer, K::Unsafe, Some("a")),
            (
                json!({"prompt": "p", "category": "c", "category_id": 3}),
                F::BeavertailsEvaluation,
                K::Unsafe,
                Some("c"),
            ),
            (json!({"prompt": "p", "category": "Social Bias"}), F::SafeRlhf, K::Unsafe, Some("Social Bias")),
            (json!({"prompt": "p", "category": "garden"}), F::Plain, K::Unknown, Some("garden")),
            (json!({"prompt": "p", "kind": "safe"}), F::Plain, K::Safe, None),
        ] {
            let (found, prompt) = read(row);
            let prompt = prompt.unwrap();
            assert_eq!((found, prompt.kind, prompt.category.as_deref()), (format, kind, category));
            assert_eq!((prompt.prompt.as_str(), PromptFormat::parse(format.name())), ("p", Some(format)));
        }
    }

    #[test]
    fn a_row_without_a_prompt_names_what_there_is() {
        let problem = read(json!({"text": "p", "n": 1})).1.unwrap_err();
        assert!(problem.contains("text, n") && problem.contains("`column`"), "{problem}");
        assert!(read(json!({"prompt": " "})).1.unwrap_err().contains("empty"));
        let row = json!({"text": "p"}).as_object().unwrap().clone();
        let kind = Some(PromptKind::Unsafe);
        let set = PromptSet { name: "s".into(), format: None, kind, column: Some("text".into()) };
        assert_eq!(set.prompt(1, &row).unwrap().kind, PromptKind::Unsafe);
    }
}
