//! Reading single fields of `adapter_config.json`. A field that would change what the adapter computes, and is not
//! supported, is refused by name; so is one that is not known, unless it asks for nothing.

use crate::error::ModelError;
use crate::weights::read_small;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// Fields that are read, and fields that say nothing about the computation.
const KNOWN: [&str; 22] = [
    "peft_type",
    "base_model_name_or_path",
    "r",
    "lora_alpha",
    "lora_dropout",
    "target_modules",
    "use_rslora",
    "use_dora",
    "modules_to_save",
    "bias",
    "init_lora_weights",
    "task_type",
    // PEFT corrects it to the kind of layer that it finds.
    "fan_in_fan_out",
    "auto_mapping",
    "peft_version",
    "revision",
    "inference_mode",
    "megatron_core",
    "qalora_group_size",
    "layers_pattern",
    "runtime_config",
    "ephemeral_gpu_offload",
];
const LARGEST_FILE: u64 = 16 << 20;

/// The fields with the file's name for errors.
pub(super) struct Fields {
    map: Map<String, Value>,
    file: PathBuf,
}

impl Fields {
    pub(super) fn read(file: &Path) -> Result<Self, ModelError> {
        let wrong = |problem: String| ModelError::Config {
            file: file.to_owned(),
            problem,
            remedy: "fetch or save the adapter again".into(),
        };
        match serde_json::from_slice(&read_small(file, LARGEST_FILE)?) {
            Ok(Value::Object(map)) => Ok(Self { map, file: file.to_owned() }),
            Ok(_) => Err(wrong("not a JSON object".into())),
            Err(error) => Err(wrong(format!("not valid JSON ({error})"))),
        }
    }

    pub(super) fn wrong(&self, problem: impl Into<String>, remedy: impl Into<String>) -> ModelError {
        ModelError::Config { file: self.file.clone(), problem: problem.into(), remedy: remedy.into() }
    }

    pub(super) fn get(&self, key: &str) -> Option<&Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    pub(super) fn refuse_unsupported(&self) -> Result<(), ModelError> {
        let refuse = |key: &str, value: &Value, remedy: &str| {
            Err(self.wrong(format!("{key} = {value} is not supported"), remedy))
        };
        let kind = self.get("peft_type").unwrap_or(&Value::Null);
        if kind.as_str() != Some("LORA") {
            return refuse("peft_type", kind, "give a LoRA adapter; supported: \"LORA\"");
        }
        if let Some(bias) = self.get("bias").filter(|bias| bias.as_str() != Some("none")) {
            return refuse("bias", bias, "train the adapter with bias \"none\"");
        }
        if let Some(init) = self.get("init_lora_weights") {
            let changes_base = init.as_str().is_some_and(|name| name != "gaussian" && name != "eva");
            if changes_base {
                let remedy = "its base's weights were changed when training began; merge it with PEFT, or convert it to a \
                              plain LoRA adapter there";
                return refuse("init_lora_weights", init, remedy);
            }
        }
        let neutral = |value: &Value| match value {
            Value::Null | Value::Bool(false) => true,
            Value::Array(items) => items.is_empty(),
            Value::Object(fields) => fields.is_empty(),
            Value::String(text) => text.is_empty(),
            Value::Bool(true) | Value::Number(_) => false,
        };
        let unknown = self.map.iter().find(|(key, value)| !KNOWN.contains(&key.as_str()) && !neutral(value));
        match unknown {
            None => Ok(()),
            Some((key, value)) => {
                refuse(key, value, "merge the adapter into its base with PEFT and give the merged model")
            }
        }
    }

    pub(super) fn whole(&self, key: &str) -> Result<usize, ModelError> {
        let value = self.get(key).unwrap_or(&Value::Null);
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| self.wrong(format!("{key} = {value} is not a whole number"), "correct the field"))
    }

    /// 0 where it is not given.
    pub(super) fn number(&self, key: &str) -> Result<f64, ModelError> {
        let Some(value) = self.get(key) else { return Ok(0.0) };
        value
            .as_f64()
            .ok_or_else(|| self.wrong(format!("{key} = {value} is not a number"), "correct the field"))
    }

    pub(super) fn flag(&self, key: &str) -> Result<bool, ModelError> {
        let Some(value) = self.get(key) else { return Ok(false) };
        let wrong = || self.wrong(format!("{key} = {value} is not true or false"), "correct the field");
        value.as_bool().ok_or_else(wrong)
    }

    pub(super) fn words(&self, key: &str) -> Result<Vec<String>, ModelError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let words = value.as_array().map(|list| list.iter().map(|v| v.as_str().map(str::to_owned)).collect());
        let wrong = || self.wrong(format!("{key} = {value} is not a list of names"), "correct the field");
        words.flatten().ok_or_else(wrong)
    }
}
