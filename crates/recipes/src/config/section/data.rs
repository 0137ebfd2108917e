//! Which rows, in which order of preference, as which tokens.

use super::super::choices::LossType;
use super::super::dataset::DatasetSource;
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
    /// Files or folders of rows, at least one.
    pub datasets: Vec<DatasetSource>,
    /// Split to train on, where the data comes in splits.
    pub train_split: Option<String>,
    /// Split to evaluate on, in place of `eval_split`.
    pub test_split: Option<String>,
    /// Schema of the rows; `None`: told from the first one.
    pub dataset_format: Option<Schema>,
    /// Canonical field name to the name in the file.
    pub columns: BTreeMap<String, String>,
    /// Share of the prompts held out, in `[0, 1)`.
    pub eval_split: f64,
    /// Which label orders a pair; not read by kto and ppo_lag.
    pub preference: Preference,
    /// What safety labels do to pairs; none where pairs are not what is learnt from.
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
        let transformed = is_transformed(r.loss);
        Ok(Self {
            datasets: match r.get("dataset_name")? {
                Setting::Datasets(sources) => sources,
                other => return Err(ConfigError::Table(format!("`dataset_name` has the value {other:?}"))),
            },
            train_split: r.optional_text("dataset_train_split")?,
            test_split: r.optional_text("dataset_test_split")?,
            dataset_format: r.optional_choice("dataset_format")?,
            columns: match r.get("columns")? {
                Setting::Mapping(map) => map,
                _ => BTreeMap::new(),
            },
            eval_split: r.real("eval_split")?,
            preference: if !is_ordered(r.loss) { Preference::Better } else { r.choice("preference")? },
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

    /// The data sets in words: their paths, in order.
    pub fn named(&self) -> String {
        self.datasets.iter().map(|source| source.path.display().to_string()).collect::<Vec<_>>().join(", ")
    }

    /// Whether anything is held out to evaluate on.
    pub fn holds_out(&self) -> bool {
        self.test_split.is_some() || self.eval_split > 0.0
    }

    pub(in super::super) fn write(&self, loss: LossType, out: &mut Settings) {
        out.put("dataset_name", Setting::Datasets(self.datasets.clone()));
        for (key, split) in
            [("dataset_train_split", &self.train_split), ("dataset_test_split", &self.test_split)]
        {
            if let Some(split) = split {
                out.put(key, Setting::Text(split.clone()));
            }
        }
        match self.dataset_format {
            Some(schema) => out.choice("dataset_format", schema),
            None => out.put("dataset_format", Setting::Absent),
        }
        if !self.columns.is_empty() {
            out.put("columns", Setting::Mapping(self.columns.clone()));
        }
        out.real("eval_split", self.eval_split);
        if is_ordered(loss) {
            out.choice("preference", self.preference);
        }
        if is_transformed(loss) {
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

/// Whether safety labels may change or drop pairs: not where they, or nothing, are what is learnt from.
fn is_transformed(loss: LossType) -> bool {
    !matches!(loss, LossType::Nll | LossType::Kto | LossType::Reward | LossType::Cost | LossType::PpoLag)
}

/// Whether one response of a pair is the better one: not where rows are judged one by one, or only their prompts are read.
fn is_ordered(loss: LossType) -> bool {
    !matches!(loss, LossType::Kto | LossType::PpoLag)
}
