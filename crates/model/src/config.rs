//! `config.json` of a Hugging Face model directory, read into a checked shape. Every field that changes the
//! computation is honoured or refused by name; fields that do not are kept for writing back.

use crate::error::ModelError;
use crate::family::{Bias, FAMILIES, Family, supported};
use crate::rope::RopeScaling;
use crate::weights::torch_name;
use bso_engine::DType;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A decoder's shape. Built by [`ModelConfig::from_dir`] or [`ModelConfig::from_value`] only.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the gated MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head, even.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence, tokens.
    pub max_positions: usize,
    /// Added to the mean square in RMSNorm.
    pub rms_norm_eps: f32,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
    /// Base of the rotary frequencies.
    pub rope_theta: f64,
    /// Stretch of the rotary frequencies.
    pub rope_scaling: RopeScaling,
    /// Whether the output head is the embedding.
    pub tied_head: bool,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub output_bias: bool,
    /// Biases on the three MLP projections.
    pub mlp_bias: bool,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence tokens; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Padding token (never needed here: batches are packed).
    pub pad_token_id: Option<u32>,
    family: &'static Family,
    original: Map<String, Value>,
}

/// Largest accepted size of any one dimension, so that products of three fit 64 bits with room.
const LARGEST_SIZE: u64 = 1 << 21;
const LARGEST_VOCABULARY: u64 = 1 << 24;
/// A config file is a few kilobytes; more is another kind of file.
const LARGEST_FILE: u64 = 16 << 20;

impl ModelConfig {
    /// Reads `dir/config.json`.
    ///
    /// # Errors
    /// A missing or broken file, an unsupported architecture or setting, a size out of range: each by name.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let file = dir.join("config.json");
        let bytes = crate::weights::read_small(&file, LARGEST_FILE)?;
        let value = serde_json::from_slice(&bytes).map_err(|e| ModelError::Config {
            file: file.clone(),
            problem: format!("not valid JSON ({e})"),
            remedy: "fetch the file again".into(),
        })?;
        Self::from_value(value, &file)
    }

    /// Reads a config from its JSON value; `file` is named in errors.
    ///
    /// # Errors
    /// As [`ModelConfig::from_dir`].
    pub fn from_value(value: Value, file: &Path) -> Result<Self, ModelError> {
        let Value::Object(original) = value else {
            return Err(ModelError::Config {
                file: file.to_owned(),
                problem: "not a JSON object".into(),
                remedy: "give a Hugging Face model directory".into(),
            });
        };
        let fields = Fields { map: &original, file: file.to_owned() };
        let family = fields.family()?;
        fields.refuse_unsupported()?;
        let hidden_size = fields.size("hidden_size", None, LARGEST_SIZE)?;
        let heads = fields.size("num_attention_heads", None, LARGEST_SIZE)?;
        let kv_heads = fields.size("num_key_value_heads", Some(heads), LARGEST_SIZE)?;
        if heads % kv_heads != 0 {
            return Err(fields.wrong(
                format!("num_attention_heads {heads} is not a multiple of num_key_value_heads {kv_heads}"),
                "correct the two fields",
            ));
        }
        let head_dim = fields.size("head_dim", Some(hidden_size / heads), LARGEST_SIZE)?;
        if fields.absent("head_dim") && hidden_size % heads != 0 {
            return Err(fields.wrong(
                format!("hidden_size {hidden_size} is not a multiple of num_attention_heads {heads}"),
                "add the field head_dim",
            ));
        }
        if head_dim % 2 != 0 {
            return Err(fields.wrong(
                format!("head_dim {head_dim} is odd; rotary embedding turns pairs"),
                "use a model with an even head_dim",
            ));
        }
        let max_positions = fields.size(
            "max_position_embeddings",
            Some(family.default_max_positions),
            u64::from(u32::MAX >> 4),
        )?;
        let (rope_theta, rope_scaling) = fields.rope(max_positions)?;
        let config = Self {
            hidden_size,
            intermediate_size: fields.size("intermediate_size", None, LARGEST_SIZE)?,
            layers: fields.size("num_hidden_layers", None, 10_000)?,
            heads,
            kv_heads,
            head_dim,
            vocab_size: fields.size("vocab_size", None, LARGEST_VOCABULARY)?,
            max_positions,
            rms_norm_eps: fields.number(&original, "rms_norm_eps", Some(1e-6), 0.0)? as f32,
            initializer_range: fields.number(&original, "initializer_range", Some(0.02), 0.0)?,
            rope_theta,
            rope_scaling,
            tied_head: fields.flag("tie_word_embeddings")?,
            qkv_bias: fields.bias(family.qkv_bias)?,
            output_bias: fields.bias(family.output_bias)?,
            mlp_bias: fields.bias(family.mlp_bias)?,
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.token_ids("eos_token_id")?,
            pad_token_id: fields.token_ids("pad_token_id")?.first().copied(),
            family,
            original: original.clone(),
        };
        if config.kv_heads.max(config.heads).saturating_mul(config.head_dim) as u64 > LARGEST_SIZE {
            return Err(fields.wrong(
                format!(
                    "num_attention_heads x head_dim = {} x {} is too large",
                    config.heads, config.head_dim
                ),
                "correct the two fields",
            ));
        }
        Ok(config)
    }

    /// Writes `config.json` into `dir`: the original fields, with the number type of the weights beside it.
    ///
    /// # Errors
    /// The I/O error with the path.
    pub fn save(&self, dir: &Path, dtype: DType) -> Result<(), ModelError> {
        let mut fields = self.original.clone();
        // transformers 5 writes `dtype`, earlier versions `torch_dtype`; each file keeps its own key.
        let key = if fields.contains_key("torch_dtype") { "torch_dtype" } else { "dtype" };
        fields.insert(key.into(), Value::from(torch_name(dtype)));
        fields.entry("architectures").or_insert_with(|| Value::from(vec![self.family.architecture]));
        Ok(bso_durable::write_json(&dir.join("config.json"), &fields)?)
    }

    /// `model_type`, e.g. "llama".
    pub fn model_type(&self) -> &'static str {
        self.family.model_type
    }
}

/// The fields of a config with the file's name for errors.
struct Fields<'a> {
    map: &'a Map<String, Value>,
    file: PathBuf,
}

impl Fields<'_> {
    fn wrong(&self, problem: impl Into<String>, remedy: impl Into<String>) -> ModelError {
        ModelError::Config { file: self.file.clone(), problem: problem.into(), remedy: remedy.into() }
    }

    fn absent(&self, key: &str) -> bool {
        self.map.get(key).is_none_or(Value::is_null)
    }

    fn family(&self) -> Result<&'static Family, ModelError> {
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
    fn refuse_unsupported(&self) -> Result<(), ModelError> {
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

    fn size(&self, key: &str, default: Option<usize>, largest: u64) -> Result<usize, ModelError> {
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

    fn number(
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

    fn flag(&self, key: &str) -> Result<bool, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(false),
            Some(Value::Bool(value)) => Ok(*value),
            Some(value) => {
                Err(self.wrong(format!("{key} = {value} is not true or false"), "correct the field"))
            }
        }
    }

    fn bias(&self, rule: Bias) -> Result<bool, ModelError> {
        match rule {
            Bias::Always => Ok(true),
            Bias::Never => Ok(false),
            Bias::Key(key) => self.flag(key),
        }
    }

    fn token_ids(&self, key: &str) -> Result<Vec<u32>, ModelError> {
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
    fn rope(&self, max_positions: usize) -> Result<(f64, RopeScaling), ModelError> {
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
