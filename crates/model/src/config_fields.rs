//! Reading single fields of `config.json`: each checked for kind and range, refused by name, or given the default
//! that transformers gives it. Which fields make up a shape is `config`'s business.

use crate::activation::Activation;
use crate::error::ModelError;
use crate::families::{FAMILIES, supported};
use crate::family::{Bias, Cap, Family, HeadClass, Mlp, Positions, Scale, Windows};
use serde_json::{Map, Value};
use std::path::PathBuf;

/// The fields of a config with the file's name for errors.
pub(crate) struct Fields<'a> {
    pub map: &'a Map<String, Value>,
    pub file: PathBuf,
}

/// Fields by which some architecture changes the computation, and what to do where a family does not honour them. Null,
/// false, 1 and lists of ones change nothing.
pub(crate) const CHANGES: &[(&str, &str)] = &[
    ("attention_bias", "the family's projections have no such biases; correct the field"),
    ("mlp_bias", "the family's projections have no such biases; correct the field"),
    ("use_sliding_window", "use a checkpoint with full attention"),
    ("sliding_window", "the family attends to everything; set it to null if that is meant"),
    ("attention_chunk_size", "use a checkpoint with full attention"),
    (
        "attn_logit_softcapping",
        "transformers does not cap scores in this family; set it to null if that is meant",
    ),
    ("final_logit_softcapping", "the family's logits are not capped; set it to null if that is meant"),
    ("query_pre_attn_scalar", "the family scales scores by head_dim; remove the field if that is meant"),
    ("no_rope_layers", "the family rotates in every layer; remove the field if that is meant"),
    ("partial_rotary_factor", "use a checkpoint that rotates whole heads"),
    ("rotary_pct", "use a checkpoint that rotates whole heads"),
    ("use_parallel_residual", "the family's residuals are sequential; remove the field if that is meant"),
    ("parallel_attn", "the family's residuals are sequential; remove the field if that is meant"),
    (
        "scale_attn_by_inverse_layer_idx",
        "the family does not scale by layer; remove the field if that is meant",
    ),
    ("use_bidirectional_attention", "use a causal checkpoint"),
    ("use_mrope", "use a text-only checkpoint"),
    ("is_encoder_decoder", "use a decoder-only checkpoint"),
    ("add_cross_attention", "use a decoder-only checkpoint"),
    ("use_qk_norm", "use a checkpoint without it"),
    ("qk_layernorm", "use a checkpoint without it"),
    ("clip_qkv", "use a checkpoint without it"),
    ("alibi", "use a checkpoint with rotary embedding"),
    ("num_experts", "use a dense checkpoint"),
    ("num_local_experts", "use a dense checkpoint"),
    ("embedding_multiplier", "use a checkpoint without it"),
    ("residual_multiplier", "use a checkpoint without it"),
    ("attention_multiplier", "use a checkpoint without it"),
    ("logits_scaling", "use a checkpoint without it"),
    ("logit_scale", "use a checkpoint without it"),
];

impl Fields<'_> {
    pub(crate) fn wrong(&self, problem: impl Into<String>, remedy: impl Into<String>) -> ModelError {
        ModelError::Config { file: self.file.clone(), problem: problem.into(), remedy: remedy.into() }
    }

    pub(crate) fn absent(&self, key: &str) -> bool {
        self.map.get(key).is_none_or(Value::is_null)
    }

    /// The family, and what stands on its decoder.
    pub(crate) fn family(&self) -> Result<(&'static Family, HeadClass), ModelError> {
        let architecture = self.map.get("architectures").and_then(|a| a.get(0)).and_then(Value::as_str);
        let model_type = self.map.get("model_type").and_then(Value::as_str);
        let found = FAMILIES.iter().find_map(|f| {
            let class = match (architecture, model_type) {
                (_, Some(m)) if f.model_type != m => None,
                (Some(a), _) => f.head_of(a),
                (None, Some(_)) => Some(HeadClass::LanguageModel),
                (None, None) => None,
            };
            Some((f, class?))
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

    /// Settings that would change the computation in a way that is not implemented, or that the family does not have.
    pub(crate) fn refuse_unsupported(&self, family: &Family) -> Result<(), ModelError> {
        if let Some(value) = self.map.get("quantization_config").filter(|v| !v.is_null()) {
            let method = value.get("quant_method").unwrap_or(&Value::Null);
            return Err(self.wrong(
                format!("quantization_config.quant_method = {method} is not supported"),
                "use the unquantised checkpoint (f32, bf16 or f16)",
            ));
        }
        let honoured = |key: &str| match key {
            "attention_bias" => !matches!(family.qkv_bias, Bias::Never),
            "mlp_bias" => !matches!(family.mlp_bias, Bias::Never),
            "sliding_window" => family.windows != Windows::Never,
            "use_sliding_window" => matches!(family.windows, Windows::FromLayer | Windows::WithoutRope),
            "attn_logit_softcapping" => family.attention_cap != Cap::Never,
            "final_logit_softcapping" => family.logit_cap != Cap::Never,
            "query_pre_attn_scalar" => family.scale == Scale::PreAttention,
            "no_rope_layers" => family.no_rope_layers,
            "partial_rotary_factor" => family.keys.rotary_share.is_some(),
            "rotary_pct" => family.keys.rotary_share == Some("rotary_pct"),
            "use_parallel_residual" => family.parallel_residual,
            "scale_attn_by_inverse_layer_idx" => family.scale == Scale::Switched,
            _ => false,
        };
        for (key, remedy) in CHANGES {
            let neutral = |value: &Value| match value {
                Value::Null | Value::Bool(false) => true,
                Value::Number(x) => x.as_f64() == Some(1.0),
                Value::Array(list) => list.iter().all(|x| x.as_u64() == Some(1)),
                _ => false,
            };
            if let Some(value) = self.map.get(*key).filter(|value| !honoured(key) && !neutral(value)) {
                let problem = format!("{key} = {value} is not supported in a {}", family.model_type);
                return Err(self.wrong(problem, *remedy));
            }
        }
        Ok(())
    }

    pub(crate) fn activation(&self, family: &Family) -> Result<Activation, ModelError> {
        let (key, gated) = (family.keys.activation, !matches!(family.names.mlp, Mlp::Plain(_)));
        let default = Value::from(family.defaults.activation);
        let value = self.map.get(key).filter(|value| !value.is_null()).unwrap_or(&default);
        let activation = value.as_str().and_then(|name| Activation::named(name, gated));
        activation.ok_or_else(|| {
            self.wrong(format!("{key} = {value} is not supported"), Activation::supported(gated))
        })
    }

    /// Key and value heads, and the width of a head.
    pub(crate) fn head_sizes(
        &self,
        family: &Family,
        hidden_size: usize,
        heads: usize,
        largest: u64,
    ) -> Result<(usize, usize), ModelError> {
        let (keys, defaults) = (&family.keys, &family.defaults);
        let kv_heads = match keys.kv_heads {
            None => heads,
            // An explicit null means as many as query heads; so does silence where the family has no number.
            Some(key) if self.map.get(key).is_some_and(Value::is_null) => heads,
            Some(key) => self.size(key, Some(defaults.kv_heads.unwrap_or(heads)), largest)?,
        };
        if !heads.is_multiple_of(kv_heads) {
            return Err(self.wrong(
                format!("{} {heads} is not a multiple of num_key_value_heads {kv_heads}", keys.heads),
                "correct the two fields",
            ));
        }
        let stated = keys.head_dim.filter(|key| !self.absent(key));
        let shared = if stated.is_some() { None } else { defaults.head_dim };
        if stated.is_none() && shared.is_none() && !hidden_size.is_multiple_of(heads) {
            return Err(self.wrong(
                format!("{} {hidden_size} is not a multiple of {} {heads}", keys.hidden_size, keys.heads),
                if keys.head_dim.is_some() { "add the field head_dim" } else { "correct the two fields" },
            ));
        }
        let head_dim = match stated {
            Some(key) => self.size(key, None, largest)?,
            None => shared.unwrap_or(hidden_size / heads),
        };
        if head_dim == 0 || heads.saturating_mul(head_dim) as u64 > largest {
            return Err(self.wrong(
                format!("{} x head_dim = {heads} x {head_dim} is zero or too large", keys.heads),
                "correct the two fields",
            ));
        }
        if !head_dim.is_multiple_of(2) && family.positions != Positions::Learned {
            return Err(self.wrong(
                format!("head_dim {head_dim} is odd; rotary embedding turns pairs"),
                "use a model with an even head_dim",
            ));
        }
        Ok((kv_heads, head_dim))
    }

    /// A soft cap: a positive number, or none.
    pub(crate) fn cap(&self, key: &str, cap: Cap) -> Result<Option<f32>, ModelError> {
        let Cap::Key(default) = cap else { return Ok(None) };
        if self.map.get(key).is_some_and(Value::is_null) {
            return Ok(None);
        }
        if self.absent(key) && default.is_none() {
            return Ok(None);
        }
        let cap = self.number(self.map, key, default, 0.0)? as f32;
        if cap > 0.0 && cap.is_finite() {
            return Ok(Some(cap));
        }
        Err(self.wrong(format!("{key} = {cap} is not above zero"), "correct the field; null means no cap"))
    }

    pub(crate) fn whole_number(&self, key: &str, default: usize) -> Result<usize, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => value.as_u64().and_then(|n| usize::try_from(n).ok()).ok_or_else(|| {
                self.wrong(format!("{key} = {value} is not a whole number"), "correct the field")
            }),
        }
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

    pub(crate) fn flag(&self, key: &str, default: bool) -> Result<bool, ModelError> {
        match self.map.get(key) {
            None | Some(Value::Null) => Ok(default),
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
            Bias::Key(key, default) => self.flag(key, default),
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
}
