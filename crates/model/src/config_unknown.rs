//! Fields of `config.json` that this program does not know. One of them may change what is computed, as a future family's
//! switch would: they are listed instead of passed over. Those known by name are in three groups: read for the shape,
//! refused unless neutral (`config_fields`), and without effect on log-probs.

use crate::config::ModelConfig;
use crate::config_fields::CHANGES;
use crate::family::Family;

/// Read by every family that has them, under these names.
const READ: &[&str] = &[
    "vocab_size",
    "initializer_range",
    "tie_word_embeddings",
    "bos_token_id",
    "eos_token_id",
    "pad_token_id",
    "rope_parameters",
    "rope_scaling",
    "rope_theta",
    "rope_local_base_freq",
    "rotary_emb_base",
    "original_max_position_embeddings",
    "layer_types",
    "max_window_layers",
    "no_rope_layer_interval",
    "scale_attn_weights",
    "sliding_window_pattern",
    "_sliding_window_pattern",
    "quantization_config",
];

/// Names, versions, caches and defaults of generation; dropout, which is off here; heads for other tasks; speed.
const NO_EFFECT: &[&str] = &[
    "architectures",
    "model_type",
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "transformers.js_config",
    "torch_dtype",
    "dtype",
    "auto_map",
    "use_cache",
    "cache_implementation",
    "return_dict",
    "output_attentions",
    "output_hidden_states",
    "torchscript",
    "use_bfloat16",
    "gradient_checkpointing",
    "pretraining_tp",
    "is_decoder",
    "is_llama_config",
    "chunk_size_feed_forward",
    "pruned_heads",
    "tokenizer_class",
    "prefix",
    "task_specific_params",
    "problem_type",
    "finetuning_task",
    "id2label",
    "label2id",
    "num_labels",
    "classifier_dropout",
    "classifier_bias",
    "classifier_activation",
    "decoder_start_token_id",
    "sep_token_id",
    "cls_token_id",
    "mask_token_id",
    "unk_token_id",
    "attention_dropout",
    "attn_pdrop",
    "embd_pdrop",
    "resid_pdrop",
    "hidden_dropout",
    "hidden_dropout_prob",
    "embedding_dropout",
    "summary_activation",
    "summary_first_dropout",
    "summary_proj_to_labels",
    "summary_type",
    "summary_use_proj",
    "reorder_and_upcast_attn",
    "n_ctx",
    "n_special",
    "predict_special_tokens",
    "max_length",
    "max_new_tokens",
    "min_length",
    "do_sample",
    "temperature",
    "top_k",
    "top_p",
    "repetition_penalty",
    "length_penalty",
    "no_repeat_ngram_size",
    "num_beams",
    "num_return_sequences",
    "bad_words_ids",
    "attn_implementation",
    "_attn_implementation_autoset",
    "_flash_attn_2_enabled",
    "use_flash_attention_2",
    "unsloth_version",
    "unsloth_fixed",
];

impl ModelConfig {
    /// Fields of `config.json` that are not known here, and so not computed with; sorted. Null says nothing.
    pub fn unknown_fields(&self) -> Vec<&str> {
        let given = self.fields().iter().filter(|(_, value)| !value.is_null());
        let mut unknown: Vec<&str> =
            given.map(|(key, _)| key.as_str()).filter(|key| !is_known(key, self.family())).collect();
        unknown.sort_unstable();
        unknown
    }
}

fn is_known(key: &str, family: &Family) -> bool {
    let keys = &family.keys;
    let of_family = [
        Some(keys.hidden_size),
        Some(keys.intermediate_size),
        Some(keys.layers),
        Some(keys.heads),
        Some(keys.max_positions),
        Some(keys.norm_eps),
        Some(keys.activation),
        keys.kv_heads,
        keys.head_dim,
        keys.rotary_share,
    ];
    of_family.contains(&Some(key))
        || CHANGES.iter().any(|(name, _)| *name == key)
        || READ.contains(&key)
        || NO_EFFECT.contains(&key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn published_configs_hold_nothing_unknown_and_what_is_unknown_is_named() {
        let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
        let mut seen = 0;
        for entry in std::fs::read_dir(fixtures).unwrap() {
            let file = entry.unwrap().path().join("config.json");
            let Ok(text) = std::fs::read(&file) else { continue };
            let mut value: serde_json::Value = serde_json::from_slice(&text).unwrap();
            let config = ModelConfig::from_value(value.clone(), &file).unwrap();
            assert_eq!(config.unknown_fields(), Vec::<&str>::new(), "{}", file.display());
            let map = value.as_object_mut().unwrap();
            map.insert("swap_gate_and_up".into(), true.into());
            map.insert("attention_sink_size".into(), 4.into());
            map.insert("not_said".into(), serde_json::Value::Null);
            let config = ModelConfig::from_value(value, &file).unwrap();
            assert_eq!(config.unknown_fields(), ["attention_sink_size", "swap_gate_and_up"]);
            seen += 1;
        }
        assert!(seen > 5, "{seen}");
    }
}
