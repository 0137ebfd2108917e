//! `config.json` of a Hugging Face model directory, read into a checked shape. Every field that changes the
//! computation is honoured or refused by name; fields that do not are kept for writing back.

use crate::activation::Activation;
use crate::config_fields::Fields;
use crate::error::ModelError;
use crate::family::{Family, Mlp, NormKind, Positions};
use crate::layer_kind::LayerKind;
use crate::model_directory::ModelDirectory;
use crate::packed_batch::Reads;
use crate::rope::Rope;
use crate::score_head::{ScoreHead, ScoreLayout};
use crate::weights::torch_name;
use bso_engine::DType;
use serde_json::{Map, Value};
use std::path::Path;

/// A decoder's shape. Built by [`ModelConfig::from_dir`] or [`ModelConfig::from_value`] only.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_size: usize,
    /// Width of the MLP.
    pub intermediate_size: usize,
    /// Number of decoder layers.
    pub layers: usize,
    /// Query heads.
    pub heads: usize,
    /// Key and value heads; divides `heads`.
    pub kv_heads: usize,
    /// Width of one head.
    pub head_dim: usize,
    /// Rows of the embedding.
    pub vocab_size: usize,
    /// Longest sequence, tokens.
    pub max_positions: usize,
    /// Added to the mean square or the variance in norms.
    pub norm_eps: f32,
    /// Standard deviation of random weights.
    pub initializer_range: f64,
    /// Rotary embeddings, to which the layers refer: none, one, or one for full and one for sliding attention.
    pub ropes: Vec<Rope>,
    /// Values of a head that rotary embedding turns, even.
    pub rotary_dim: usize,
    /// How each layer's attention differs from the others'.
    pub layer_kinds: Vec<LayerKind>,
    /// Soft cap of attention scores.
    pub attention_cap: Option<f32>,
    /// Soft cap of logits.
    pub logit_cap: Option<f32>,
    /// Whether attention and MLP read the same residual stream, side by side.
    pub parallel_residual: bool,
    /// Whether the output head is the embedding.
    pub tied_head: bool,
    /// The scalar head of a reward or cost model, in place of the output head.
    pub score: Option<ScoreHead>,
    /// Biases on the query, key and value projections.
    pub qkv_bias: bool,
    /// Bias on the attention output projection.
    pub output_bias: bool,
    /// Biases on the MLP projections.
    pub mlp_bias: bool,
    /// Beginning-of-sequence token.
    pub bos_token_id: Option<u32>,
    /// End-of-sequence tokens; may be empty.
    pub eos_token_ids: Vec<u32>,
    /// Padding token (never needed here: batches are packed).
    pub pad_token_id: Option<u32>,
    activation: Activation,
    family: &'static Family,
    original: Map<String, Value>,
}

/// Largest accepted size of any one dimension, so that products of three fit 64 bits with room.
const LARGEST_SIZE: u64 = 1 << 21;
const LARGEST_VOCABULARY: u64 = 1 << 24;
/// A config file is a few kilobytes; more is another kind of file.
const LARGEST_FILE: u64 = 16 << 20;

impl ModelConfig {
    /// Reads `dir/config.json`; in an adapter's directory, that of its base, with a scalar head where the adapter brings one.
    ///
    /// # Errors
    /// A missing or broken file, an unsupported architecture or setting, a size out of range: each by name.
    pub fn from_dir(dir: &Path) -> Result<Self, ModelError> {
        let found = ModelDirectory::find(dir)?;
        let file = found.base.join("config.json");
        let bytes = crate::weights::read_small(&file, LARGEST_FILE)?;
        let value = serde_json::from_slice(&bytes).map_err(|e| ModelError::Config {
            file: file.clone(),
            problem: format!("not valid JSON ({e})"),
            remedy: "fetch the file again".into(),
        })?;
        let config = Self::from_value(value, &file)?;
        match config.score {
            None if found.has_score_adapter()? => {
                config.with_score_head(ScoreHead::sequence_classification())
            }
            _ => Ok(config),
        }
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
        let (family, class) = fields.family()?;
        let (keys, defaults) = (&family.keys, &family.defaults);
        fields.refuse_unsupported(family)?;
        let hidden_size = fields.size(keys.hidden_size, None, LARGEST_SIZE)?;
        let heads = fields.size(keys.heads, None, LARGEST_SIZE)?;
        let (kv_heads, head_dim) = fields.head_sizes(family, hidden_size, heads, LARGEST_SIZE)?;
        let layers = fields.size(keys.layers, None, 10_000)?;
        let max_positions =
            fields.size(keys.max_positions, Some(defaults.max_positions), u64::from(u32::MAX >> 4))?;
        // GPT-2 alone may leave its MLP's width out.
        let inner = (family.positions == Positions::Learned).then_some(4 * hidden_size);
        let (ropes, rotary_dim) = fields.ropes(family, max_positions, head_dim)?;
        Ok(Self {
            hidden_size,
            intermediate_size: fields.size(keys.intermediate_size, inner, LARGEST_SIZE)?,
            layers,
            heads,
            kv_heads,
            head_dim,
            vocab_size: fields.size("vocab_size", None, LARGEST_VOCABULARY)?,
            max_positions,
            norm_eps: fields.number(&original, keys.norm_eps, Some(defaults.norm_eps), 0.0)? as f32,
            initializer_range: fields.number(&original, "initializer_range", Some(0.02), 0.0)?,
            ropes,
            rotary_dim,
            layer_kinds: fields.layer_kinds(family, layers, head_dim)?,
            attention_cap: fields.cap("attn_logit_softcapping", family.attention_cap)?,
            logit_cap: fields.cap("final_logit_softcapping", family.logit_cap)?,
            parallel_residual: family.parallel_residual && fields.flag("use_parallel_residual", true)?,
            tied_head: fields.flag("tie_word_embeddings", defaults.tied)?,
            score: fields.score_head(class)?,
            qkv_bias: fields.bias(family.qkv_bias)?,
            output_bias: fields.bias(family.output_bias)?,
            mlp_bias: fields.bias(family.mlp_bias)?,
            bos_token_id: fields.token_ids("bos_token_id")?.first().copied(),
            eos_token_ids: fields.token_ids("eos_token_id")?,
            pad_token_id: fields.token_ids("pad_token_id")?.first().copied(),
            activation: fields.activation(family)?,
            family,
            original: original.clone(),
        })
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
        if let Some(score) = &self.score {
            score.write(&mut fields);
        }
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

    /// The same decoder with a scalar head in place of its own.
    ///
    /// # Errors
    /// A model that has a scalar head already; a family without a class for the head's layout.
    pub fn with_score_head(&self, head: ScoreHead) -> Result<Self, ModelError> {
        if self.score.is_some() {
            return Err(ModelError::argument("the model has a scalar head already", "keep it"));
        }
        let Some(class) = self.family.class_with(head.layout) else {
            return Err(ModelError::argument(
                format!("safe-rlhf has no score model of type {}", self.model_type()),
                "use transformers' layout (...ForSequenceClassification)",
            ));
        };
        let mut config = self.clone();
        config.original.insert("architectures".into(), Value::from(vec![class]));
        config.original.remove("num_labels");
        head.write(&mut config.original);
        config.score = Some(head);
        Ok(config)
    }

    /// What the model's head reads of a sequence.
    pub fn reads(&self) -> Reads {
        match &self.score {
            None => Reads::Response,
            Some(score) => match score.layout {
                ScoreLayout::SequenceClassification => Reads::End { pad: self.pad_token_id },
                ScoreLayout::SafeRlhf => Reads::End { pad: None },
            },
        }
    }

    /// The class of the model, as `architectures` in `config.json` names it.
    pub fn class(&self) -> &str {
        let named = self.original.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        named.unwrap_or(self.family.architecture)
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

    /// Everything that `config.json` holds.
    pub(crate) fn fields(&self) -> &Map<String, Value> {
        &self.original
    }

    pub(crate) fn family(&self) -> &'static Family {
        self.family
    }

    pub(crate) fn activation(&self) -> Activation {
        self.activation
    }

    pub(crate) fn norm(&self) -> NormKind {
        self.family.norm
    }

    /// Whether the MLP has a gate.
    pub(crate) fn gated(&self) -> bool {
        !matches!(self.family.names.mlp, Mlp::Plain(_))
    }

    /// What embeddings are multiplied by.
    pub(crate) fn embedding_scale(&self) -> Option<f32> {
        self.family.scaled_embedding.then(|| (self.hidden_size as f64).sqrt() as f32)
    }
}
