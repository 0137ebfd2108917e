//! Which rows, in which order of preference, as which tokens.

use super::super::choices::LossType;
use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::super::value::Setting;
use super::Settings;
use bso_data::{Preference, SafetyTransform, Schema, TruncationMode};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// How a prompt becomes text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChatTemplate {
    /// The tokenizer's own; none where it has none.
    Auto,
    /// No template.
    None,
    /// One that the program knows by this name.
    Named(String),
    /// A Jinja file.
    File(PathBuf),
}

/// The rows and how they become token sequences.
#[derive(Clone, Debug, PartialEq)]
pub struct DataSection {
    /// File or folder of rows.
    pub dataset_name: PathBuf,
    /// Schema of the rows; `None`: told from the first one.
    pub dataset_format: Option<Schema>,
    /// Canonical field name to the name in the file.
    pub columns: BTreeMap<String, String>,
    /// Share of the prompts held out, in `[0, 1)`.
    pub eval_split: f64,
    /// Which label orders a pair; not read by kto.
    pub preference: Preference,
    /// What safety labels do to pairs; none for sft and kto.
    pub safety_transform: SafetyTransform,
    /// How a prompt becomes text.
    pub chat_template: ChatTemplate,
    /// Longest sequence in tokens; `None`: no limit.
    pub max_length: Option<usize>,
    /// What happens to longer ones.
    pub truncation_mode: TruncationMode,
}

impl DataSection {
    pub(in super::super) fn read(r: &Resolver) -> Result<Self, ConfigError> {
        let transformed = !matches!(r.loss, LossType::Nll | LossType::Kto);
        Ok(Self {
            dataset_name: r.path("dataset_name")?,
            dataset_format: r.optional_choice("dataset_format")?,
            columns: match r.get("columns")? {
                Setting::Mapping(map) => map,
                _ => BTreeMap::new(),
            },
            eval_split: r.real("eval_split")?,
            preference: if r.loss == LossType::Kto { Preference::Better } else { r.choice("preference")? },
            safety_transform: if transformed { r.choice("safety_transform")? } else { SafetyTransform::None },
            chat_template: match r.get("chat_template")? {
                Setting::Path(path) => ChatTemplate::File(path),
                Setting::Text(name) if name == "auto" => ChatTemplate::Auto,
                Setting::Text(name) if name == "none" => ChatTemplate::None,
                Setting::Text(name) => ChatTemplate::Named(name),
                other => return Err(ConfigError::Table(format!("`chat_template` has the value {other:?}"))),
            },
            max_length: r.optional_integer("max_length")?.map(|n| n as usize),
            truncation_mode: r.choice("truncation_mode")?,
        })
    }

    pub(in super::super) fn write(&self, loss: LossType, out: &mut Settings) {
        out.path("dataset_name", &self.dataset_name);
        match self.dataset_format {
            Some(schema) => out.choice("dataset_format", schema),
            None => out.put("dataset_format", Setting::Absent),
        }
        if !self.columns.is_empty() {
            out.put("columns", Setting::Mapping(self.columns.clone()));
        }
        out.real("eval_split", self.eval_split);
        if loss != LossType::Kto {
            out.choice("preference", self.preference);
        }
        if !matches!(loss, LossType::Nll | LossType::Kto) {
            out.choice("safety_transform", self.safety_transform);
        }
        let template = match &self.chat_template {
            ChatTemplate::Auto => Setting::Text("auto".into()),
            ChatTemplate::None => Setting::Text("none".into()),
            ChatTemplate::Named(name) => Setting::Text(name.clone()),
            ChatTemplate::File(path) => Setting::Path(path.clone()),
        };
        out.put("chat_template", template);
        out.optional_integer("max_length", self.max_length.map(|n| n as u64));
        out.choice("truncation_mode", self.truncation_mode);
    }
}
