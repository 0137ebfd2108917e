//! What a `config.json` may say, and how the rest is refused.

use bso_model::{ModelConfig, RopeScaling};
use serde_json::{Value, json};
use std::path::Path;

fn base() -> Value {
    json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 24, "intermediate_size": 40,
        "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64,
        "max_position_embeddings": 128, "eos_token_id": [2, 7], "bos_token_id": 1
    })
}

fn with(changes: &Value) -> Result<ModelConfig, String> {
    let mut value = base();
    for (key, change) in changes.as_object().unwrap() {
        if *change == json!("remove") {
            value.as_object_mut().unwrap().remove(key);
        } else {
            value[key] = change.clone();
        }
    }
    ModelConfig::from_value(value, Path::new("config.json")).map_err(|e| e.to_string())
}

#[test]
fn fields_are_read_and_absent_ones_have_the_defaults_of_transformers() {
    let config = with(&json!({"head_dim": "remove", "num_key_value_heads": "remove"})).unwrap();
    assert_eq!((config.head_dim, config.kv_heads, config.max_positions), (6, 4, 128));
    assert_eq!((config.bos_token_id, config.pad_token_id), (Some(1), None));
    assert_eq!(config.eos_token_ids, [2, 7]);
    assert_eq!((config.rope_theta, config.rope_scaling.clone()), (10_000.0, RopeScaling::None));
    assert!(!config.qkv_bias && !config.output_bias && !config.mlp_bias && !config.tied_head);
    let biased = with(&json!({"attention_bias": true, "mlp_bias": true})).unwrap();
    assert!(biased.qkv_bias && biased.output_bias && biased.mlp_bias);
    let qwen = with(
        &json!({"architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "use_sliding_window": false}),
    )
    .unwrap();
    assert!(qwen.qkv_bias && !qwen.output_bias);
}

#[test]
fn both_layouts_of_rope_settings_mean_the_same() {
    let linear = RopeScaling::Linear { factor: 2.0 };
    for changes in [
        json!({"rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 2.0}}),
        json!({"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}}),
        json!({"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}}),
    ] {
        let config = with(&changes).unwrap();
        assert_eq!((config.rope_theta, config.rope_scaling), (5e5, linear.clone()));
    }
    let yarn = with(&json!({"rope_scaling": {"type": "yarn", "factor": 4.0}})).unwrap().rope_scaling;
    let RopeScaling::Yarn { attention_factor, original_max_position_embeddings, .. } = yarn else {
        panic!("{yarn:?}");
    };
    assert_eq!(original_max_position_embeddings, 128.0);
    assert!((attention_factor - 1.138_629_436_111_989).abs() < 1e-12);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (changes, named) in [
        (json!({"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2"}), "GPT2LMHeadModel"),
        (json!({"architectures": ["LlamaForSequenceClassification"]}), "LlamaForSequenceClassification"),
        (json!({"architectures": "remove", "model_type": "remove"}), "model_type"),
        (json!({"hidden_act": "gelu"}), "gelu"),
        (json!({"use_sliding_window": true}), "use_sliding_window"),
        (json!({"layer_types": ["full_attention", "sliding_attention"]}), "sliding_attention"),
        (json!({"quantization_config": {"quant_method": "gptq"}}), "gptq"),
        (json!({"partial_rotary_factor": 0.5}), "partial_rotary_factor"),
        (json!({"rope_scaling": {"type": "longrope", "factor": 2.0}}), "longrope"),
        (json!({"rope_scaling": {"type": "default", "mrope_section": [1, 1]}}), "mrope_section"),
        (json!({"hidden_size": "remove"}), "hidden_size"),
        (json!({"hidden_size": -4}), "hidden_size"),
        (json!({"vocab_size": 1e30}), "vocab_size"),
        (json!({"num_hidden_layers": 18_446_744_073_709_551_615u64}), "num_hidden_layers"),
        (json!({"head_dim": 7}), "head_dim"),
        (json!({"head_dim": "remove", "hidden_size": 26}), "num_attention_heads"),
        (json!({"num_key_value_heads": 3}), "num_key_value_heads"),
        (json!({"num_attention_heads": 0}), "num_attention_heads"),
        (json!({"head_dim": 2_000_000}), "head_dim"),
        (json!({"rms_norm_eps": "x"}), "rms_norm_eps"),
        (json!({"tie_word_embeddings": 3}), "tie_word_embeddings"),
        (json!({"eos_token_id": "</s>"}), "eos_token_id"),
        (json!({"rope_scaling": {"type": "linear"}}), "factor"),
        (
            json!({"rope_scaling": {"type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 1}}),
            "high_freq_factor",
        ),
        (json!({"rope_scaling": [1]}), "rope_scaling"),
    ] {
        let error = with(&changes).expect_err(&changes.to_string());
        assert!(error.starts_with("config.json: ") && error.contains(named), "{error}");
    }
    let error = with(&json!({"architectures": ["MambaForCausalLM"], "model_type": "mamba"})).unwrap_err();
    assert!(error.contains("LlamaForCausalLM") && error.contains("Qwen2ForCausalLM"), "{error}");
}

#[test]
fn a_broken_or_missing_file_is_named() {
    let dir = tempfile::tempdir().unwrap();
    let error = || ModelConfig::from_dir(dir.path()).unwrap_err().to_string();
    assert!(error().contains("config.json"), "{}", error());
    for broken in ["", "{", "[1]", "\u{0}\u{1}"] {
        std::fs::write(dir.path().join("config.json"), broken).unwrap();
        assert!(error().contains("config.json"), "{}", error());
    }
    let deep = "[".repeat(200_000);
    std::fs::write(dir.path().join("config.json"), deep).unwrap();
    assert!(error().contains("JSON"), "{}", error());
}
