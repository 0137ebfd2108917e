//! The configuration of `bso eval`: YAML with keys of its own, and `--key value` (`--judge.model NAME` for a key in a
//! mapping) on the command line, which wins. Relative paths in the file start at its folder.

use super::JudgeSettings;
use crate::RecipeError;
use crate::config::{did_you_mean, from_environment};
use bso_evaluation::{PromptFormat, PromptKind, PromptSet};
use bso_model::Device;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};

/// A commented configuration to start from.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// Everything that an evaluation is told.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct EvalConfig {
    /// The models; the first is the baseline unless `baseline` names another.
    pub models: Vec<Named>,
    /// The baseline's name.
    #[serde(default)]
    pub baseline: Option<String>,
    /// What the KL is taken from; none: the baseline.
    #[serde(default)]
    pub ref_model: Option<PathBuf>,
    /// Files of prompts.
    pub prompt_sets: Vec<SetEntry>,
    /// Most prompts of each set, from its start.
    #[serde(default)]
    pub max_prompts: Option<usize>,
    /// A model with a scalar head: higher is better.
    #[serde(default)]
    pub reward_model: Option<PathBuf>,
    /// A model with a scalar head: above 0 is unsafe.
    #[serde(default)]
    pub cost_model: Option<PathBuf>,
    /// auto, none, a name or a Jinja file.
    #[serde(default = "auto")]
    pub chat_template: String,
    /// 0 is greedy.
    #[serde(default = "temperature")]
    pub temperature: f64,
    /// In (0, 1].
    #[serde(default = "top_p")]
    pub top_p: f64,
    /// 0 is all.
    #[serde(default)]
    pub top_k: usize,
    /// Most tokens of an answer.
    #[serde(default = "max_new_tokens")]
    pub max_new_tokens: usize,
    /// Of sampling and of resampling.
    #[serde(default)]
    pub seed: u64,
    /// Answers in progress at a time.
    #[serde(default = "batch_size")]
    pub batch_size: usize,
    /// f32 or bf16.
    #[serde(default = "f32_name")]
    pub dtype: String,
    /// auto, cpu, cuda or cuda:N.
    #[serde(default = "auto")]
    pub device: String,
    /// None: one per core.
    #[serde(default)]
    pub num_threads: Option<usize>,
    /// Whether the KL is computed.
    #[serde(default = "yes")]
    pub kl: bool,
    /// Resamples of the bootstrap.
    #[serde(default = "resamples")]
    pub resamples: usize,
    /// A language model as judge.
    #[serde(default)]
    pub judge: Option<JudgeSettings>,
    /// Where results go.
    pub output_dir: PathBuf,
}

fn auto() -> String {
    "auto".to_owned()
}
fn temperature() -> f64 {
    0.7
}
fn top_p() -> f64 {
    0.9
}
fn max_new_tokens() -> usize {
    512
}
fn batch_size() -> usize {
    16
}
fn f32_name() -> String {
    "f32".to_owned()
}
pub(super) fn yes() -> bool {
    true
}
fn resamples() -> usize {
    2_000
}

/// A model's directory (or name on a hub), and its name in results.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    /// Where it is.
    pub path: PathBuf,
    /// What it is called; none: the last part of the path.
    #[serde(default)]
    pub name: String,
}

/// A file of prompts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SetEntry {
    /// File or folder of rows, or a data set's name on a hub.
    pub path: PathBuf,
    /// What it is called; none: the file's name.
    #[serde(default)]
    pub name: String,
    /// Its layout; none: told by the columns.
    #[serde(default)]
    pub format: Option<String>,
    /// safe, unsafe or unknown; none: what the layout or the rows say.
    #[serde(default)]
    pub kind: Option<String>,
    /// The column that holds the prompt.
    #[serde(default)]
    pub column: Option<String>,
}

impl EvalConfig {
    /// Reads `text`, whose relative paths start at `base`; `overrides` start at the working directory and win.
    ///
    /// # Errors
    /// What is wrong, with the key and what is expected.
    pub fn read(text: &str, base: &Path, overrides: &[(String, String)]) -> Result<Self, RecipeError> {
        let refuse = |problem: String| {
            RecipeError::input(format!("{problem}; the keys: `bso eval --example`, docs/evaluation.md"))
        };
        let parsed: Value = serde_saphyr::from_str(text).map_err(|e| refuse(e.to_string()))?;
        let parsed = from_environment(&parsed).map_err(refuse)?;
        let Value::Object(mut map) = parsed else {
            return Err(refuse("the configuration is no mapping of keys".to_owned()));
        };
        shape(&mut map, base);
        let mut given = Map::new();
        for (key, value) in overrides {
            let parsed: Value = serde_saphyr::from_str(value).unwrap_or_else(|_| Value::from(value.as_str()));
            let value = if value.is_empty() { Value::from(true) } else { parsed };
            set(&mut given, &key.replace('-', "_"), value);
        }
        let here = std::env::current_dir()?;
        shape(&mut given, &here);
        merge(&mut map, given);
        let config: Self =
            serde_json::from_value(Value::Object(map)).map_err(|e| refuse(with_suggestion(e.to_string())))?;
        config.checked().map_err(refuse)
    }

    /// With names filled in, or what is wrong.
    fn checked(mut self) -> Result<Self, String> {
        let last = |part: Option<&OsStr>, path: &Path| {
            part.map_or_else(|| path.display().to_string(), |part| part.to_string_lossy().into_owned())
        };
        for model in self.models.iter_mut().filter(|model| model.name.is_empty()) {
            model.name = last(model.path.file_name(), &model.path);
        }
        for set in self.prompt_sets.iter_mut().filter(|set| set.name.is_empty()) {
            set.name = last(set.path.file_stem(), &set.path);
        }
        let twice = |names: Vec<&str>| {
            let found = names.iter().enumerate().find(|(i, n)| names[..*i].contains(n)).map(|(_, n)| *n);
            found.map(str::to_owned)
        };
        let models: Vec<&str> = self.models.iter().map(|m| m.name.as_str()).collect();
        let sets: Vec<&str> = self.prompt_sets.iter().map(|s| s.name.as_str()).collect();
        if models.is_empty() || sets.is_empty() {
            return Err("`models` or `prompt_sets` is empty: name at least one of each".into());
        }
        if let Some(name) = twice(models.clone()).or(twice(sets)) {
            return Err(format!("two are called {name:?}; give names: `- {{path: ..., name: ...}}`"));
        }
        if let Some(name) = self.baseline.as_ref().filter(|name| !models.contains(&name.as_str())) {
            return Err(format!("`baseline` is {name:?}, which is none of the models {}", models.join(", ")));
        }
        if !(self.temperature.is_finite() && self.temperature >= 0.0) {
            return Err(format!("`temperature` is {}; expected a number of at least 0", self.temperature));
        }
        if !(self.top_p > 0.0 && self.top_p <= 1.0) {
            return Err(format!("`top_p` is {}; expected a number in (0, 1]", self.top_p));
        }
        let positive = [
            ("max_new_tokens", self.max_new_tokens),
            ("batch_size", self.batch_size),
            ("resamples", self.resamples),
            ("max_prompts", self.max_prompts.unwrap_or(1)),
        ];
        if let Some((key, _)) = positive.into_iter().find(|(_, value)| *value == 0) {
            return Err(format!("`{key}` is 0; expected at least 1"));
        }
        if !["f32", "bf16"].contains(&self.dtype.as_str()) {
            return Err(format!("`dtype` is {:?}; expected f32 or bf16", self.dtype));
        }
        Device::parse(&self.device).map_err(|error| error.to_string())?;
        self.prompt_sets.iter().try_for_each(|entry| entry.prompt_set().map(|_| ()))?;
        Ok(self)
    }

    /// The baseline's place among the models.
    pub fn baseline(&self) -> usize {
        let named = self.baseline.as_ref().and_then(|name| self.models.iter().position(|m| m.name == *name));
        named.unwrap_or(0)
    }
}

impl SetEntry {
    /// How its rows are read.
    ///
    /// # Errors
    /// A format or kind that does not exist.
    pub fn prompt_set(&self) -> Result<PromptSet, String> {
        let format = self.format.as_deref().map(|name| {
            let known = || PromptFormat::ALL.map(|(name, _)| name).join(", ");
            PromptFormat::parse(name).ok_or_else(|| format!("no format {name:?}; there are {}", known()))
        });
        let kind = self.kind.as_deref().map(|name| {
            PromptKind::parse(name)
                .ok_or_else(|| format!("no kind {name:?}; there are safe, unsafe, unknown"))
        });
        Ok(PromptSet {
            name: self.name.clone(),
            format: format.transpose()?,
            kind: kind.transpose()?,
            column: self.column.clone(),
        })
    }
}

/// What serde says of a key nobody knows ("unknown field `x`, expected one of `a`, `b`"), with the nearest of the others.
fn with_suggestion(message: String) -> String {
    let mut quoted = message.split('`').skip(1).step_by(2);
    let found = quoted.next().filter(|_| message.starts_with("unknown field"));
    let suggestion = found.map(|word| did_you_mean(word, quoted)).unwrap_or_default();
    message + &suggestion
}

/// `a.b` is the key b of the mapping a.
fn set(map: &mut Map<String, Value>, key: &str, value: Value) {
    match key.split_once('.') {
        None => {
            map.insert(key.to_owned(), value);
        }
        Some((outer, inner)) => {
            let entry = map.entry(outer).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(nested) = entry {
                set(nested, inner, value);
            }
        }
    }
}

/// Keys of `over` win; mappings are merged.
fn merge(map: &mut Map<String, Value>, over: Map<String, Value>) {
    for (key, value) in over {
        match (map.get_mut(&key), value) {
            (Some(Value::Object(under)), Value::Object(over)) => merge(under, over),
            (_, value) => {
                map.insert(key, value);
            }
        }
    }
}

/// Lists of paths from a text or a list of texts, each a mapping with `path`; paths made absolute.
fn shape(map: &mut Map<String, Value>, base: &Path) {
    for key in ["models", "prompt_sets"] {
        let Some(value) = map.get_mut(key) else { continue };
        if let Value::String(text) = value {
            *value = text.split(',').map(|part| Value::from(part.trim())).collect();
        }
        for item in value.as_array_mut().into_iter().flatten() {
            if item.is_string() {
                *item = Value::Object(Map::from_iter([("path".to_owned(), item.take())]));
            }
            anchor(item.get_mut("path"), base);
        }
    }
    for key in ["ref_model", "reward_model", "cost_model"] {
        anchor(map.get_mut(key), base);
    }
    // Folders that are written are never names on a hub.
    let own = |value: Option<&mut Value>| {
        if let Some(Value::String(text)) = value {
            *text = base.join(text.as_str()).to_string_lossy().into_owned();
        }
    };
    own(map.get_mut("output_dir"));
    own(map.get_mut("judge").and_then(|judge| judge.get_mut("cache_dir")));
    if let Some(template) =
        map.get_mut("chat_template").filter(|t| t.as_str().is_some_and(|t| t.contains('/')))
    {
        anchor(Some(template), base);
    }
}

fn anchor(value: Option<&mut Value>, base: &Path) {
    let Some(value) = value else { return };
    if let Some(place) = crate::config::place(value, base) {
        *value = Value::from(place.to_string_lossy().into_owned());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str, overrides: &[(&str, &str)]) -> Result<EvalConfig, String> {
        let overrides: Vec<_> = overrides.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        EvalConfig::read(text, Path::new("/base"), &overrides).map_err(|e| e.to_string())
    }

    #[test]
    fn the_example_is_valid_and_says_the_defaults() {
        let example = read(EXAMPLE, &[]).unwrap();
        let plain =
            "models: [runs/sft, runs/bso]\nprompt_sets: [xstest_prompts.csv]\noutput_dir: runs/eval\n";
        let plain = read(plain, &[]).unwrap();
        assert_eq!((plain.temperature, plain.top_p, plain.max_new_tokens), (0.7, 0.9, 512));
        assert_eq!(example, EvalConfig { judge: example.judge.clone(), ..plain });
        assert_eq!(example.output_dir, Path::new("/base/runs/eval"));
        assert_eq!(example.prompt_sets[0].path, Path::new("/base/xstest_prompts.csv"));
        assert_eq!(
            (example.models[1].name.as_str(), example.prompt_sets[0].name.as_str()),
            ("bso", "xstest_prompts")
        );
    }

    #[test]
    fn the_command_line_wins_also_inside_mappings() {
        let found = read(
            EXAMPLE,
            &[
                ("models", "a,b"),
                ("baseline", "b"),
                ("top-p", "1"),
                ("judge.base_url", "http://h/v1"),
                ("judge.model", "m"),
            ],
        )
        .unwrap();
        assert_eq!((found.models.len(), found.baseline(), found.top_p), (2, 1, 1.0));
        assert_eq!(found.judge.unwrap().model, "m");
    }

    #[test]
    fn what_is_wrong_is_named() {
        for (key, value, said) in [
            ("modles", "a", "Did you mean `models`?"),
            ("judge.base_urll", "a", "Did you mean `base_url`?"),
            ("temperature", "-1", "temperature"),
            ("models", "a/x,b/x", "two are called"),
            ("baseline", "c", "none of the models"),
            ("max_new_tokens", "0", "max_new_tokens"),
            ("prompt_sets", "[{path: a, format: b}]", "xstest"),
            ("prompt_sets", "[{path: a, kind: b}]", "unsafe"),
        ] {
            let error = read(EXAMPLE, &[(key, value)]).unwrap_err();
            assert!(error.contains(said), "{key}: {error}");
        }
        let text = "models: [\"${NOT_SET_ANYWHERE_AT_ALL:-a}\"]\nprompt_sets: [b]\noutput_dir: c\n";
        assert_eq!(read(text, &[]).unwrap().models[0].name, "a");
        let error = read(&text.replace(":-a", ""), &[]).unwrap_err();
        assert!(error.contains("NOT_SET_ANYWHERE_AT_ALL is not set"), "{error}");
        assert!(read("- a", &[]).unwrap_err().contains("no mapping"));
        assert!(read("models: [a]\n", &[]).unwrap_err().contains("prompt_sets"));
    }
}
