//! What an adapter is like: rank, scale, targets. Read from and written to PEFT's `adapter_config.json`.

use super::peft_fields::Fields;
use super::targets::Targets;
use crate::config::ModelConfig;
use crate::error::ModelError;
use serde_json::{Map, Value, json};
use std::path::Path;

/// The settings of an adapter, as PEFT's `LoraConfig` has them.
#[derive(Clone, Debug, PartialEq)]
pub struct AdapterConfig {
    /// Rank of the update.
    pub r: usize,
    /// Numerator of the update's scale.
    pub alpha: f64,
    /// Share of the adapter's input that is dropped in training, in `[0, 1)`.
    pub dropout: f64,
    /// The linear layers that have one.
    pub targets: Targets,
    /// Scale by alpha / sqrt(r) in place of alpha / r (rsLoRA).
    pub rslora: bool,
    /// Train the lengths of the weights' rows apart from their directions (DoRA).
    pub dora: bool,
    /// Modules trained whole, as copies: `embed_tokens`, `lm_head`.
    pub modules_to_save: Vec<String>,
}

/// The file with the settings.
pub(crate) const CONFIG_FILE: &str = "adapter_config.json";
const LARGEST_RANK: usize = 65_536;
/// PEFT's `task_type` of an adapter beside a scalar head.
const SCORE_TASK: &str = "SEQ_CLS";

fn is_of_score(fields: &Fields) -> bool {
    fields.get("task_type").and_then(Value::as_str) == Some(SCORE_TASK)
}

/// Beside a scalar head PEFT names both names that one may have, whichever the model has.
fn saved_modules(fields: &Fields) -> Result<Vec<String>, ModelError> {
    let mut modules = fields.words("modules_to_save")?;
    if is_of_score(fields) {
        modules.retain(|module| module != "classifier");
    }
    Ok(modules)
}

impl std::fmt::Display for AdapterConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let kind = match (self.dora, self.rslora) {
            (true, _) => "DoRA",
            (false, true) => "rsLoRA",
            (false, false) => "LoRA",
        };
        let targets = self.targets.words().join(", ");
        write!(f, "{kind}, rank {}, alpha {}, dropout {} on {targets}", self.r, self.alpha, self.dropout)?;
        match self.modules_to_save.as_slice() {
            [] => Ok(()),
            modules => write!(f, "; {} trained whole", modules.join(", ")),
        }
    }
}

impl AdapterConfig {
    /// Factor of the update.
    pub fn scale(&self) -> f64 {
        let r = self.r as f64;
        self.alpha / if self.rslora { r.sqrt() } else { r }
    }

    /// Refuses settings out of their range.
    pub(super) fn check(&self) -> Result<(), ModelError> {
        let refuse = |problem: String, remedy: &str| Err(ModelError::argument(problem, remedy));
        if !(1..=LARGEST_RANK).contains(&self.r) {
            return refuse(format!("rank {} is not from 1 to {LARGEST_RANK}", self.r), "correct lora_r");
        }
        if !(self.alpha.is_finite() && self.alpha > 0.0 && (self.scale() as f32).is_finite()) {
            return refuse(format!("alpha {} is not a positive number", self.alpha), "correct lora_alpha");
        }
        if !(0.0..1.0).contains(&self.dropout) {
            return refuse(format!("dropout {} is not in [0, 1)", self.dropout), "correct lora_dropout");
        }
        Ok(())
    }

    /// Reads `dir/adapter_config.json`.
    ///
    /// # Errors
    /// A missing or broken file; a kind of adapter or a setting that is not supported, by name.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let fields = Fields::read(&dir.join(CONFIG_FILE))?;
        fields.refuse_unsupported()?;
        let targets = match fields.get("target_modules") {
            Some(Value::String(word)) if word == "all-linear" => Targets::AllLinear,
            // PEFT takes any single text as a pattern.
            Some(Value::String(pattern)) => Targets::Pattern(pattern.clone()),
            Some(Value::Array(_)) => Targets::Names(fields.words("target_modules")?),
            _ => return Err(fields.wrong("target_modules names no modules", "add them")),
        };
        let config = Self {
            r: fields.whole("r")?,
            alpha: fields.number("lora_alpha")?,
            dropout: fields.number("lora_dropout")?,
            targets,
            rslora: fields.flag("use_rslora")?,
            dora: fields.flag("use_dora")?,
            modules_to_save: saved_modules(&fields)?,
        };
        config.check().map_err(|error| fields.wrong(error.to_string(), "fetch or save the adapter again"))?;
        Ok(config)
    }

    /// Whether the adapter in `dir` stands beside a scalar head.
    pub(crate) fn is_of_score(dir: &Path) -> Result<bool, ModelError> {
        Ok(is_of_score(&Fields::read(&dir.join(CONFIG_FILE))?))
    }

    /// `base_model_name_or_path` of `dir/adapter_config.json`; empty where it is not given.
    pub(crate) fn base_of(dir: &Path) -> Result<String, ModelError> {
        let fields = Fields::read(&dir.join(CONFIG_FILE))?;
        Ok(fields.get("base_model_name_or_path").and_then(Value::as_str).unwrap_or_default().to_owned())
    }

    /// Writes `adapter_config.json` for an adapter of the model in `base`. `modules` are the names of the adapted layers.
    pub(super) fn save(
        &self,
        dir: &Path,
        base: &Path,
        (modules, model): (&[String], &ModelConfig),
    ) -> Result<(), ModelError> {
        let targets = match &self.targets {
            // As PEFT writes it: the layers that the word stood for.
            Targets::AllLinear => json!(modules),
            Targets::Names(names) => json!(names),
            Targets::Pattern(pattern) => json!(pattern),
        };
        let whole = |x: f64| if x.fract() == 0.0 && x < 1e15 { json!(x as u64) } else { json!(x) };
        let saved = if self.modules_to_save.is_empty() { Value::Null } else { json!(self.modules_to_save) };
        let fields: Map<String, Value> = [
            ("peft_type", json!("LORA")),
            ("task_type", json!(if model.score.is_some() { SCORE_TASK } else { "CAUSAL_LM" })),
            ("base_model_name_or_path", json!(base)),
            ("inference_mode", json!(true)),
            ("r", json!(self.r)),
            ("lora_alpha", whole(self.alpha)),
            ("lora_dropout", json!(self.dropout)),
            ("target_modules", targets),
            ("modules_to_save", saved),
            ("use_rslora", json!(self.rslora)),
            ("use_dora", json!(self.dora)),
            ("bias", json!("none")),
            ("fan_in_fan_out", json!(model.family().names.transposed)),
            ("init_lora_weights", json!(true)),
        ]
        .map(|(key, value)| (key.to_owned(), value))
        .into_iter()
        .collect();
        Ok(bso_durable::write_json(&dir.join(CONFIG_FILE), &fields)?)
    }
}
