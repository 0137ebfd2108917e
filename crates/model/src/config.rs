//! `config.json` of a Hugging Face model directory, read into a checked shape. Every field that changes the
//! computation is honoured or refused by name; fields that do not are kept for writing back.

use crate::config_fields::Fields;
use crate::error::ModelError;
use crate::family::Family;
use crate::model_directory::ModelDirectory;
use crate::rope::RopeScaling;
use crate::weights::torch_name;
use bso_engine::DType;
use serde_json::{Map, Value};
use std::path::Path;

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
    /// Reads `dir/config.json`; in an adapter's directory, that of its base.
    ///
    /// # Errors
    /// A missing or broken file, an unsupported architecture or setting, a size out of range: each by name.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let file = ModelDirectory::find(dir)?.base.join("config.json");
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

    /// A field of `config.json` that decides what is computed and is not the same in another config.
    pub(crate) fn difference(&self, other: &Self) -> Option<String> {
        const DECIDES_NOTHING: [&str; 6] =
            ["dtype", "torch_dtype", "transformers_version", "_name_or_path", "use_cache", "architectures"];
        let keys = self.original.keys().chain(other.original.keys());
        keys.filter(|key| !DECIDES_NOTHING.contains(&key.as_str()))
            .find(|key| self.original.get(*key) != other.original.get(*key))
            .cloned()
    }

    /// The head is no longer the embedding.
    pub(crate) fn untie_head(&mut self) {
        self.tied_head = false;
        self.original.insert("tie_word_embeddings".into(), Value::Bool(false));
    }

    /// `model_type`, e.g. "llama".
    pub fn model_type(&self) -> &'static str {
        self.family.model_type
    }
}
