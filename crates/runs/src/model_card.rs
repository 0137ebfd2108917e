//! README.md of a trained model: front matter that the Hugging Face hub understands, then what was done to the
//! model and how it did, for a reader who was not there.

use crate::report::{Estimate, number};
use crate::{LedgerRow, RunsError};
use bso_durable::atomic_write;
use std::fmt::Write;
use std::path::Path;

/// What the card says.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ModelCard {
    /// The model's name.
    pub name: String,
    /// What it was trained from: a hub id such as `owner/name`, or a path (which then only the text names).
    pub base_model: String,
    /// Hub ids or paths of the training data.
    pub datasets: Vec<String>,
    /// License id as the hub knows it, if the user said one.
    pub license: Option<String>,
    /// Language codes, if known.
    pub languages: Vec<String>,
    /// Whether the files are a PEFT adapter instead of a whole model.
    pub adapter: bool,
    /// Whether the model gives scores instead of text.
    pub scores: bool,
    /// Short name of the method (`bso`, `dpo`, `sft`, ...).
    pub method: String,
    /// The resolved objective in one line.
    pub objective: String,
    /// The resolved reference in words, where there is one.
    pub reference: Option<String>,
    /// Settings worth showing, by name.
    pub settings: Vec<(String, String)>,
    /// What happened to the data.
    pub ledger: Vec<LedgerRow>,
    /// Figures of the evaluation, by name.
    pub evaluation: Vec<(String, Estimate)>,
    /// What a user should know before relying on the model; further paragraphs.
    pub notes: Vec<String>,
}

impl ModelCard {
    /// The Markdown text.
    pub fn render(&self) -> String {
        let mut out = String::from("---\n");
        self.front_matter(&mut out);
        out.push_str("---\n\n");
        // Writing into a String cannot fail; the results are dropped for that reason.
        let _ = writeln!(out, "# {}\n", line(&self.name));
        let what = if self.adapter { "An adapter for" } else { "A model trained from" };
        let _ = writeln!(out, "{what} `{}` with `{}`.\n", code(&self.base_model), code(&self.method));
        let _ = writeln!(out, "## Objective\n\n```text\n{}\n```\n", fenced(&self.objective));
        if let Some(reference) = &self.reference {
            let _ = writeln!(out, "Reference: {}\n", line(reference));
        }
        table(&mut out, "Evaluation", ["Figure", "Value", "95 % interval"], &self.evaluation_rows());
        table(&mut out, "Data", ["What", "Rows", "Note"], &self.ledger_rows());
        table(&mut out, "Settings", ["Setting", "Value", ""], &self.setting_rows());
        if !self.notes.is_empty() {
            let _ = writeln!(out, "## Notes\n");
            for note in &self.notes {
                let _ = writeln!(out, "{}\n", line(note));
            }
        }
        let _ = writeln!(
            out,
            "Files beside this one: `config.yaml` (every setting), `manifest.json` (versions and fingerprints), \
             `metrics.jsonl` (every logged step), `report.html`."
        );
        out
    }

    /// Writes the card whole.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write(&self, path: &Path) -> Result<(), RunsError> {
        let text = self.render();
        Ok(atomic_write(path, |out| out.write_all(text.as_bytes()))?)
    }

    fn front_matter(&self, out: &mut String) {
        let mut list = |name: &str, values: &[&str]| {
            if !values.is_empty() {
                let _ = writeln!(out, "{name}:");
                values.iter().for_each(|value| {
                    let _ = writeln!(out, "- {}", yaml(value));
                });
            }
        };
        let languages: Vec<&str> = self.languages.iter().map(String::as_str).collect();
        list("language", &languages);
        // A local path in these fields makes the hub refuse the card.
        let datasets: Vec<&str> = self.datasets.iter().map(String::as_str).filter(|d| is_hub_id(d)).collect();
        list("datasets", &datasets);
        let mut tags = vec!["bso", "alignment", "safety"];
        if !self.method.is_empty() && !tags.contains(&self.method.as_str()) {
            tags.push(&self.method);
        }
        list("tags", &tags);
        let library = if self.adapter { "peft" } else { "transformers" };
        let mut field = |name: &str, value: &str| {
            let _ = writeln!(out, "{name}: {}", yaml(value));
        };
        field("library_name", library);
        field("pipeline_tag", if self.scores { "text-classification" } else { "text-generation" });
        field("model_name", &self.name);
        if is_hub_id(&self.base_model) {
            field("base_model", &self.base_model);
        }
        if let Some(license) = &self.license {
            field("license", license);
        }
    }

    fn evaluation_rows(&self) -> Vec<[String; 3]> {
        let interval = |e: &Estimate| {
            e.interval().map_or(String::new(), |(l, h)| format!("{} to {}", number(l), number(h)))
        };
        self.evaluation.iter().map(|(name, e)| [cell(name), number(e.mean), interval(e)]).collect()
    }

    fn ledger_rows(&self) -> Vec<[String; 3]> {
        self.ledger.iter().map(|row| [cell(&row.what), row.count.to_string(), cell(&row.note)]).collect()
    }

    fn setting_rows(&self) -> Vec<[String; 3]> {
        self.settings.iter().map(|(name, value)| [cell(name), cell(value), String::new()]).collect()
    }
}

fn table(out: &mut String, title: &str, head: [&str; 3], rows: &[[String; 3]]) {
    if rows.is_empty() {
        return;
    }
    let columns = if rows.iter().all(|row| row[2].is_empty()) { 2 } else { 3 };
    let _ = writeln!(out, "## {title}\n\n| {} |", head[..columns].join(" | "));
    let _ = writeln!(out, "|{}", "---|".repeat(columns));
    rows.iter().for_each(|row| {
        let _ = writeln!(out, "| {} |", row[..columns].join(" | "));
    });
    out.push('\n');
}

/// `name` or `owner/name` of the characters that the hub allows.
fn is_hub_id(name: &str) -> bool {
    let is_part = |p: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        !p.is_empty() && p.len() <= 96 && p.chars().all(allowed) && !p.starts_with(['.', '-'])
    };
    name.split('/').count() == 2 && name.split('/').all(is_part)
}

/// A YAML scalar: JSON strings are YAML strings.
fn yaml(text: &str) -> String {
    serde_json::Value::from(text.chars().filter(|c| !c.is_control()).collect::<String>()).to_string()
}

/// One line of running text in which no markup of the value's own takes effect.
fn line(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars().map(|c| if c.is_control() { ' ' } else { c }) {
        match c {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '\\' | '`' | '*' | '[' | ']' | '#' | '|' => out.extend(['\\', c]),
            c => out.push(c),
        }
    }
    out
}

fn cell(text: &str) -> String {
    line(text)
}

/// The inside of a code span.
fn code(text: &str) -> String {
    text.chars().map(|c| if c.is_control() || c == '`' { ' ' } else { c }).collect()
}

/// The inside of a fenced block.
fn fenced(text: &str) -> String {
    text.replace("```", "'''")
}
