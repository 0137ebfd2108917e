//! Reading single fields of `config.json`: each checked for kind and range, refused by name, or given the default
//! that transformers gives it. Which fields make up a shape is `config`'s business.

use crate::error::ModelError;
use crate::family::{Bias, FAMILIES, Family, supported};
use crate::rope::RopeScaling;
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The fields of a config with the file's name for errors.
pub(crate) struct Fields<'a> {
    pub map: &'a Map<String, Value>,
    pub file: PathBuf,
}

impl Fields<'_> {
    pub(crate) fn wrong(&self, problem: impl Into<String>, remedy: impl Into<String>) -> ModelError {
        ModelError::Config { file: self.file.clone(), problem: problem.into(), remedy: remedy.into() }
    }

    pub(crate) fn absent(&self, key: &str) -> bool {
        self.map.get(key).is_none_or(Value::is_null)
    }

    pub(crate) fn family(&self) -> Result<&'static Family, ModelError> {
        let architecture = self.map.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = self.map.get("model_type").and_then(Value::as_str);
        let found = FAMILIES.iter().find(|f| match (architecture, model_type) {
            (Some(a), Some(m)) => f.architecture == a && f.model_type == m,
            (Some(a), None) => f.architecture == a,
            (None, Some(m)) => f.model_type == m,
            (None, None) => false,
        });
        found.ok_or_else(|| {
            let name = match (architecture, model_type) {
                (Some(a), Some(m)) => format!("architecture {a:?} (model_type {m:?})"),
                (Some(a), None) => format!("architecture {a:?}"),
                (None, Some(m)) => format!("model_type {m:?}"),
                (None, None) => {
                    return self.wrong(
                        "neither architectures nor model_type is given",
                        format!("add one; supported: {}", supported()),
                    );
                }
            };
            self.wrong(format!("{name} is not supported"), format!("supported: {}", supported()))
        })
    }

    /// Settings that would change the computation in a way that is not implemented.
    pub(crate) fn refuse_unsupported(&self) -> Result<(), ModelError> {
        let refuse = |field: &str, value: &Value, remedy: &str| {
            Err(self.wrong(format!("{field} = {value} is not supported"), remedy))
        };
        match self.map.get("hidden_act") {
            None | Some(Value::Null) => {}
            Some(Value::String(act)) if act == "silu" || act == "swish" => {}
            Some(act) => return refuse("hidden_act", act, "supported: \"silu\""),
        }
        for (key, remedy) in [
            ("use_sliding_window", "use a checkpoint with full attention"),
            ("use_mrope", "use a text-only checkpoint"),
            ("is_encoder_decoder", "use a decoder-only checkpoint"),
        ] {
            match self.map.get(key) {
                None | Some(Value::Null | Value::Bool(false)) => {}
                Some(value) => return refuse(key, value, remedy),
            }
        }
        if let Some(value) = self.map.get("quantization_config").filter(|v| !v.is_null()) {
            let method = value.get("quant_method").unwrap_or(&Value::Null);
            return refuse(
                "quantization_config.quant_method",
                method,
                "use the unquantised checkpoint (f32, bf16 or f16)",
            );
        }
        if let Some(value) =
            self.map.get("partial_rotary_factor").filter(|v| !v.is_null() && v.as_f64() != Some(1.0))
        {
            return refuse("partial_rotary_factor", value, "use a checkpoint that rotates whole heads");
        }
        if let Some(Value::Array(kinds)) = self.map.get("layer_types")
            && let Some(kind) = kinds.iter().find(|k| k.as_str() != Some("full_attention"))
        {
            return refuse("layer_types", kind, "supported: \"full_attention\"");
        }
        Ok(())
    }

    pub(crate) fn size(&self, key: &str, default: Option<usize>, largest: u64) -> Result<usize, ModelError> {
        let value = match (self.map.get(key), default) {
            (None | Some(Value::Null), Some(default)) => Value::from(default),
            (None | Some(Value::Null), None) => {
                return Err(self.wrong(format!("{key} is missing"), "fetch the file again"));
            }
            (Some(value), _) => value.clone(),
        };
        match value.as_u64() {
            Some(n) if (1..=largest).contains(&n) => Ok(n as usize),
            _ => Err(self.wrong(
                format!("{key} = {value} is not a whole number from 1 to {largest}"),
                "correct the field",
            )),
        }
    }

    pub(crate) fn number(
        &self,
        map: &Map<String, Value>,
        key: &str,
        default: Option<f64>,
        least: f64,
    ) -> Result<f64, ModelError> {
        let found = map.get(key).filter(|v| !v.is_null());
        match (found, default) {
            (None, Some(default)) => Ok(default),
            (None, None) => {
                Err(self.wrong(format!("{key} is missing"), "add it, as the model's authors published it"))
            }
            (Some(value), _) => match value.as_f64() {
                Some(x) if x.is_finite() && x >= least => Ok(x),
                _ => Err(self.wrong(
                    format!("{key} = {value} is not a number of at least {least}"),
                    "correct the field",
                )),
            },
        }
    }

    pub(crate) fn flag(&self, key: &str) -> Result<bool, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => {
                Err(self.wrong(format!("{key} = {value} is not true or false"), "correct the field"))
            }
        }
    }

    pub(crate) fn bias(&self, rule: Bias) -> Result<bool, ModelError> {
        match rule {
            Bias::Always => Ok(true),
            Bias::Never => Ok(false),
            Bias::Key(key) => self.flag(key),
        }
    }

    pub(crate) fn token_ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
        let one = |v: &Value| match v.as_i64() {
            Some(id) if u32::try_from(id).is_ok() => Ok(Some(id as u32)),
            // Some configs write -1 for "none".
            Some(-1) => Ok(None),
            _ => Err(self.wrong(format!("{key} = {v} is not a token id"), "correct the field")),
        };
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::Array(ids)) => ids.iter().filter_map(|v| one(v).transpose()).collect(),
            Some(id) => Ok(one(id)?.into_iter().collect()),
        }
    }

    /// Both layouts: `rope_theta` with `rope_scaling`, and transformers 5's `rope_parameters` that holds all.
    pub(crate) fn rope(&self, max_positions: usize) -> Result<(f64, RopeScaling), ModelError> {
        let empty = Map::new();
        let given = ["rope_parameters", "rope_scaling"].into_iter().find(|key| !self.absent(key));
        let map = match given.map(|key| (key, &self.map[key])) {
            None => &empty,
            Some((_, Value::Object(map))) => map,
            Some((key, value)) => {
                return Err(self.wrong(format!("{key} = {value} is not an object"), "correct the field"));
            }
        };
        for key in ["mrope_section", "partial_rotary_factor", "short_factor", "full_attention"] {
            if let Some(value) = map.get(key).filter(|v| !v.is_null() && v.as_f64() != Some(1.0)) {
                return Err(self.wrong(
                    format!("{}.{key} = {value} is not supported", given.unwrap_or_default()),
                    "use a text-only checkpoint with one rotary embedding over whole heads",
                ));
            }
        }
        let outer = self.number(self.map, "rope_theta", Some(10_000.0), 1.0)?;
        let theta = self.number(map, "rope_theta", Some(outer), 1.0)?;
        if theta <= 1.0 {
            return Err(self.wrong("rope_theta = 1 gives no rotation", "correct the field"));
        }
        let factor = || self.number(map, "factor", None, 1.0);
        let outer_original =
            self.number(self.map, "original_max_position_embeddings", Some(max_positions as f64), 1.0)?;
        let original = || self.number(map, "original_max_position_embeddings", Some(outer_original), 1.0);
        let kind =
            map.get("rope_type").or_else(|| map.get("type")).and_then(Value::as_str).unwrap_or("default");
        let scaling = match kind {
            "default" => RopeScaling::None,
            "linear" => RopeScaling::Linear { factor: factor()? },
            "dynamic" => RopeScaling::Dynamic { factor: factor()? },
            "llama3" => RopeScaling::Llama3 {
                factor: factor()?,
                low_freq_factor: self.number(map, "low_freq_factor", None, 0.0)?,
                high_freq_factor: self.number(map, "high_freq_factor", None, 0.0)?,
                original_max_position_embeddings: original()?,
            },
            "yarn" => self.yarn(map, max_positions as f64, original()?)?,
            other => {
                return Err(self.wrong(
                    format!("rope type {other:?} is not supported"),
                    "supported: default, linear, dynamic, llama3, yarn",
                ));
            }
        };
        if let RopeScaling::Llama3 { low_freq_factor: low, high_freq_factor: high, .. } = scaling
            && !(low > 0.0 && high > low)
        {
            return Err(self.wrong(
                format!("high_freq_factor {high} must be above low_freq_factor {low}, and both above 0"),
                "correct the two fields",
            ));
        }
        Ok((theta, scaling))
    }

    fn yarn(
        &self,
        map: &Map<String, Value>,
        max_positions: f64,
        original: f64,
    ) -> Result<RopeScaling, ModelError> {
        let factor = self.number(map, "factor", Some((max_positions / original).max(1.0)), 1.0)?;
        let magnitude = |scale: f64, m: f64| if scale <= 1.0 { 1.0 } else { 0.1 * m * scale.ln() + 1.0 };
        let (m, m_all) = (
            self.number(map, "mscale", Some(0.0), 0.0)?,
            self.number(map, "mscale_all_dim", Some(0.0), 0.0)?,
        );
        let inferred = if m != 0.0 && m_all != 0.0 {
            magnitude(factor, m) / magnitude(factor, m_all)
        } else {
            magnitude(factor, 1.0)
        };
        let or_default = |x: f64, default: f64| if x == 0.0 { default } else { x };
        Ok(RopeScaling::Yarn {
            factor,
            attention_factor: self.number(map, "attention_factor", Some(inferred), 0.0)?,
            beta_fast: or_default(self.number(map, "beta_fast", Some(32.0), 0.0)?, 32.0),
            beta_slow: or_default(self.number(map, "beta_slow", Some(1.0), 0.0)?, 1.0),
            truncate: map.get("truncate").and_then(Value::as_bool).unwrap_or(true),
            original_max_position_embeddings: original,
        })
    }
}
