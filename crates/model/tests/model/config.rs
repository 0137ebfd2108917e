//! What a `config.json` may say, and how the rest is refused.

use bso_model::{ModelConfig, Rope, RopeScaling};
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
    assert_eq!(config.ropes, [Rope { theta: 10_000.0, scaling: RopeScaling::None }]);
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
        assert_eq!(config.ropes, [Rope { theta: 5e5, scaling: linear.clone() }]);
    }
    let yarn = with(&json!({"rope_scaling": {"type": "yarn", "factor": 4.0}})).unwrap();
    let yarn = &yarn.ropes[0].scaling;
    let RopeScaling::Yarn { attention_factor, original_max_position_embeddings, .. } = *yarn else {
        panic!("{yarn:?}");
    };
    assert_eq!(original_max_position_embeddings, 128.0);
    assert!((attention_factor - 1.138_629_436_111_989).abs() < 1e-12);
}

#[test]
fn what_is_not_supported_is_refused_by_name() {
    for (changes, named) in [
        (json!({"architectures": ["GPTJForCausalLM"], "model_type": "gptj"}), "GPTJForCausalLM"),
        (json!({"architectures": ["LlamaForTokenClassification"]}), "LlamaForTokenClassification"),
        (json!({"architectures": "remove", "model_type": "remove"}), "model_type"),
        (json!({"hidden_act": "relu"}), "relu"),
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

/// The base as a family's, with its own keys where they differ.
fn of(architecture: &str, model_type: &str, changes: &Value) -> Result<ModelConfig, String> {
    let mut all = json!({"architectures": [architecture], "model_type": model_type});
    for (key, change) in changes.as_object().unwrap() {
        all[key] = change.clone();
    }
    with(&all)
}

#[test]
fn windows_fall_on_the_layers_that_transformers_gives_them() {
    let windows = |config: ModelConfig| config.layer_kinds.iter().map(|k| k.window).collect::<Vec<_>>();
    let four = |more: Value| {
        let mut changes = json!({"num_hidden_layers": 4, "sliding_window": 9});
        changes.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        changes
    };
    let (none, some) = (None, Some(9));
    for (architecture, model_type, changes, expected) in [
        ("MistralForCausalLM", "mistral", json!({}), [some; 4]),
        ("MistralForCausalLM", "mistral", json!({"sliding_window": null}), [none; 4]),
        ("MistralForCausalLM", "mistral", json!({"sliding_window": "remove"}), [Some(4096); 4]),
        ("Qwen2ForCausalLM", "qwen2", json!({}), [none; 4]),
        (
            "Qwen2ForCausalLM",
            "qwen2",
            json!({"use_sliding_window": true, "max_window_layers": 3}),
            [none, none, none, some],
        ),
        (
            "Qwen3ForCausalLM",
            "qwen3",
            json!({"use_sliding_window": true, "layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"]}),
            [some, none, none, none],
        ),
        (
            "SmolLM3ForCausalLM",
            "smollm3",
            json!({"use_sliding_window": true, "no_rope_layer_interval": 2}),
            [none, some, none, some],
        ),
        ("Gemma2ForCausalLM", "gemma2", json!({}), [some, none, some, none]),
        ("Gemma3ForCausalLM", "gemma3_text", json!({"sliding_window_pattern": 3}), [some, some, none, some]),
        ("Olmo2ForCausalLM", "olmo2", json!({"sliding_window": null}), [none; 4]),
    ] {
        let config = of(architecture, model_type, &four(changes.clone()));
        assert_eq!(windows(config.unwrap()), expected, "{model_type}: {changes}");
    }
}

#[test]
fn families_have_the_defaults_of_transformers() {
    let bare =
        json!({"head_dim": "remove", "num_key_value_heads": "remove", "max_position_embeddings": "remove"});
    let qwen3 = of("Qwen3ForCausalLM", "qwen3", &bare).unwrap();
    assert_eq!((qwen3.head_dim, qwen3.kv_heads, qwen3.max_positions), (128, 4, 32768));
    let smollm3 = of("SmolLM3ForCausalLM", "smollm3", &json!({"num_hidden_layers": 5})).unwrap();
    let turned: Vec<bool> = smollm3.layer_kinds.iter().map(|kind| kind.rope.is_some()).collect();
    assert_eq!(turned, [true, true, true, false, true]);
    assert_eq!((smollm3.ropes[0].theta, smollm3.tied_head), (2e6, true));
    let phi3 = of("Phi3ForCausalLM", "phi3", &json!({"partial_rotary_factor": 0.5})).unwrap();
    assert_eq!((phi3.rotary_dim, phi3.norm_eps), (4, 1e-5));
    let gemma2 = of("Gemma2ForCausalLM", "gemma2", &bare).unwrap();
    assert_eq!((gemma2.attention_cap, gemma2.logit_cap), (Some(50.0), Some(30.0)));
    assert_eq!((gemma2.head_dim, gemma2.kv_heads, gemma2.layer_kinds[0].scale), (256, 4, 1.0 / 16.0));
    let uncapped = json!({"attn_logit_softcapping": null, "final_logit_softcapping": null});
    let gemma2 = of("Gemma2ForCausalLM", "gemma2", &uncapped).unwrap();
    assert_eq!((gemma2.attention_cap, gemma2.logit_cap), (None, None));
    let old = json!({"rope_theta": 1e6, "rope_local_base_freq": 1e4, "rope_scaling": {"rope_type": "linear", "factor": 8.0}});
    let gemma3 = of("Gemma3ForCausalLM", "gemma3_text", &old).unwrap();
    assert_eq!(gemma3.ropes[0], Rope { theta: 1e6, scaling: RopeScaling::Linear { factor: 8.0 } });
    assert_eq!(gemma3.ropes[1], Rope { theta: 1e4, scaling: RopeScaling::None });
    assert_eq!(gemma3.layer_kinds[0].rope, Some(1));
    let neox = json!({"head_dim": "remove", "num_key_value_heads": "remove", "hidden_size": 32, "rotary_emb_base": 500});
    let neox = of("GPTNeoXForCausalLM", "gpt_neox", &neox).unwrap();
    assert_eq!((neox.rotary_dim, neox.ropes[0].theta, neox.parallel_residual), (2, 500.0, true));
    let gpt2 = json!({
        "architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 24, "n_head": 4, "n_layer": 2,
        "vocab_size": 64, "scale_attn_by_inverse_layer_idx": true
    });
    let gpt2 = ModelConfig::from_value(gpt2, Path::new("config.json")).unwrap();
    assert_eq!((gpt2.intermediate_size, gpt2.max_positions, gpt2.tied_head), (96, 1024, true));
    assert_eq!(gpt2.layer_kinds[1].scale, gpt2.layer_kinds[0].scale / 2.0);
}

#[test]
fn what_a_family_does_not_do_is_refused_by_name() {
    let (llama, mistral) = (["LlamaForCausalLM", "llama"], ["MistralForCausalLM", "mistral"]);
    let (phi3, gemma2) = (["Phi3ForCausalLM", "phi3"], ["Gemma2ForCausalLM", "gemma2"]);
    let (gemma3, neox) = (["Gemma3ForCausalLM", "gemma3_text"], ["GPTNeoXForCausalLM", "gpt_neox"]);
    for ([architecture, model_type], changes, named) in [
        (llama, json!({"sliding_window": 4096}), "sliding_window"),
        (llama, json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (llama, json!({"final_logit_softcapping": 30.0}), "final_logit_softcapping"),
        (llama, json!({"no_rope_layers": [1, 0]}), "no_rope_layers"),
        (llama, json!({"logits_scaling": 8.0}), "logits_scaling"),
        (llama, json!({"num_local_experts": 8}), "num_local_experts"),
        (llama, json!({"rope_parameters": {"full_attention": {}}}), "full_attention"),
        (mistral, json!({"attention_bias": true}), "attention_bias"),
        (mistral, json!({"layer_types": ["full_attention", "sliding_attention"]}), "layer_types"),
        (
            phi3,
            json!({"rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [1]}}),
            "longrope",
        ),
        (phi3, json!({"rope_scaling": {"type": "su", "long_factor": [1]}}), "su"),
        (phi3, json!({"partial_rotary_factor": 0.1}), "partial_rotary_factor"),
        (gemma2, json!({"use_bidirectional_attention": true}), "use_bidirectional_attention"),
        (gemma2, json!({"sliding_window": null}), "sliding_window"),
        (gemma2, json!({"hidden_activation": "relu"}), "relu"),
        (gemma2, json!({"layer_types": ["full_attention"]}), "layer_types"),
        (gemma2, json!({"layer_types": ["full_attention", "chunked_attention"]}), "chunked_attention"),
        (gemma2, json!({"final_logit_softcapping": -1.0}), "final_logit_softcapping"),
        (gemma3, json!({"attn_logit_softcapping": 50.0}), "attn_logit_softcapping"),
        (neox, json!({"hidden_act": "silu", "hidden_size": 32}), "silu"),
        (neox, json!({"hidden_size": 30}), "num_attention_heads"),
    ] {
        let error = of(architecture, model_type, &changes).expect_err(&changes.to_string());
        assert!(error.starts_with("config.json: ") && error.contains(named), "{error}");
    }
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
