//! The supported families, one table entry each: as transformers' `configuration_*.py` and `modeling_*.py` have them.

use crate::family::{
    Attention, Bias, Cap, Defaults, Family, Keys, Mlp, Names, NormKind, Positions, QkNorm, Scale, Windows,
};

const KEYS: Keys = Keys {
    hidden_size: "hidden_size",
    intermediate_size: "intermediate_size",
    layers: "num_hidden_layers",
    heads: "num_attention_heads",
    kv_heads: Some("num_key_value_heads"),
    head_dim: Some("head_dim"),
    max_positions: "max_position_embeddings",
    norm_eps: "rms_norm_eps",
    activation: "hidden_act",
    rotary_share: None,
};

const DEFAULTS: Defaults = Defaults {
    max_positions: 2048,
    kv_heads: None,
    head_dim: None,
    norm_eps: 1e-6,
    activation: "silu",
    tied: false,
    rope_theta: 10_000.0,
    rotary_share: 1.0,
    window: None,
};

const NAMES: Names = Names {
    body: "model.",
    embedding: "embed_tokens",
    positions: "",
    layers: "layers",
    attention: Attention::Split(["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"]),
    output: "self_attn.o_proj",
    qk_norms: ["self_attn.q_norm", "self_attn.k_norm"],
    mlp: Mlp::Gated(["mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"]),
    norms: [Some("input_layernorm"), None, Some("post_attention_layernorm"), None],
    final_norm: "norm",
    head: "lm_head",
    transposed: false,
};

const EVERY_ROPE: &[&str] = &["default", "linear", "dynamic", "llama3", "yarn"];

const LLAMA: Family = Family {
    model_type: "llama",
    architecture: "LlamaForCausalLM",
    classifier: "LlamaForSequenceClassification",
    scorers: &["LlamaForScore", "LlamaModelForScore"],
    keys: KEYS,
    defaults: DEFAULTS,
    names: NAMES,
    qkv_bias: Bias::Key("attention_bias", false),
    output_bias: Bias::Key("attention_bias", false),
    mlp_bias: Bias::Key("mlp_bias", false),
    norm: NormKind::Rms,
    qk_norm: QkNorm::None,
    windows: Windows::Never,
    positions: Positions::Rotary("rope_theta"),
    no_rope_layers: false,
    rope_types: EVERY_ROPE,
    scale: Scale::HeadDim,
    attention_cap: Cap::Never,
    logit_cap: Cap::Never,
    scaled_embedding: false,
    parallel_residual: false,
};

const QWEN2: Family = Family {
    model_type: "qwen2",
    architecture: "Qwen2ForCausalLM",
    classifier: "Qwen2ForSequenceClassification",
    scorers: &["Qwen2ForScore"],
    defaults: Defaults { max_positions: 32768, window: Some(4096), ..DEFAULTS },
    qkv_bias: Bias::Always,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::FromLayer,
    ..LLAMA
};

const QWEN3: Family = Family {
    model_type: "qwen3",
    architecture: "Qwen3ForCausalLM",
    classifier: "Qwen3ForSequenceClassification",
    scorers: &[],
    defaults: Defaults { head_dim: Some(128), ..QWEN2.defaults },
    qkv_bias: Bias::Key("attention_bias", false),
    output_bias: Bias::Key("attention_bias", false),
    qk_norm: QkNorm::Heads,
    ..QWEN2
};

const MISTRAL: Family = Family {
    model_type: "mistral",
    architecture: "MistralForCausalLM",
    classifier: "MistralForSequenceClassification",
    scorers: &["MistralForScore"],
    defaults: Defaults { max_positions: 131_072, kv_heads: Some(8), window: Some(4096), ..DEFAULTS },
    qkv_bias: Bias::Never,
    output_bias: Bias::Never,
    mlp_bias: Bias::Never,
    windows: Windows::Every,
    ..LLAMA
};

const SMOLLM3: Family = Family {
    model_type: "smollm3",
    architecture: "SmolLM3ForCausalLM",
    classifier: "SmolLM3ForSequenceClassification",
    scorers: &[],
    defaults: Defaults {
        max_positions: 32768,
        kv_heads: Some(4),
        tied: true,
        rope_theta: 2_000_000.0,
        ..DEFAULTS
    },
    windows: Windows::WithoutRope,
    no_rope_layers: true,
    ..LLAMA
};

const PHI3: Family = Family {
    model_type: "phi3",
    architecture: "Phi3ForCausalLM",
    classifier: "Phi3ForSequenceClassification",
    scorers: &[],
    keys: Keys { rotary_share: Some("partial_rotary_factor"), ..KEYS },
    defaults: Defaults { max_positions: 4096, norm_eps: 1e-5, ..DEFAULTS },
    names: Names {
        attention: Attention::Stacked("self_attn.qkv_proj"),
        mlp: Mlp::GatedStacked(["mlp.gate_up_proj", "mlp.down_proj"]),
        ..NAMES
    },
    rope_types: &["default"],
    ..MISTRAL
};

const GEMMA2: Family = Family {
    model_type: "gemma2",
    architecture: "Gemma2ForCausalLM",
    classifier: "Gemma2ForSequenceClassification",
    scorers: &[],
    keys: Keys { activation: "hidden_activation", ..KEYS },
    defaults: Defaults {
        max_positions: 8192,
        kv_heads: Some(4),
        head_dim: Some(256),
        activation: "gelu_pytorch_tanh",
        tied: true,
        window: Some(4096),
        ..DEFAULTS
    },
    names: Names {
        norms: [
            Some("input_layernorm"),
            Some("post_attention_layernorm"),
            Some("pre_feedforward_layernorm"),
            Some("post_feedforward_layernorm"),
        ],
        ..NAMES
    },
    mlp_bias: Bias::Never,
    norm: NormKind::RmsPlusOne,
    windows: Windows::AllButEvery(None, 2),
    scale: Scale::PreAttention,
    attention_cap: Cap::Key(Some(50.0)),
    logit_cap: Cap::Key(Some(30.0)),
    scaled_embedding: true,
    ..LLAMA
};

const GEMMA3: Family = Family {
    model_type: "gemma3_text",
    architecture: "Gemma3ForCausalLM",
    classifier: "Gemma3TextForSequenceClassification",
    scorers: &[],
    defaults: Defaults { max_positions: 131_072, rope_theta: 1_000_000.0, ..GEMMA2.defaults },
    qk_norm: QkNorm::Heads,
    windows: Windows::AllButEvery(Some("sliding_window_pattern"), 6),
    positions: Positions::RotaryByWindow,
    attention_cap: Cap::Never,
    logit_cap: Cap::Key(None),
    ..GEMMA2
};

const OLMO2: Family = Family {
    model_type: "olmo2",
    architecture: "Olmo2ForCausalLM",
    classifier: "Olmo2ForSequenceClassification",
    scorers: &[],
    defaults: Defaults { norm_eps: 1e-5, ..DEFAULTS },
    names: Names {
        norms: [None, Some("post_attention_layernorm"), None, Some("post_feedforward_layernorm")],
        ..NAMES
    },
    mlp_bias: Bias::Never,
    qk_norm: QkNorm::Projection,
    ..LLAMA
};

const GPT_NEOX: Family = Family {
    model_type: "gpt_neox",
    architecture: "GPTNeoXForCausalLM",
    classifier: "GPTNeoXForSequenceClassification",
    scorers: &["GPTNeoXForScore"],
    keys: Keys {
        kv_heads: None,
        head_dim: None,
        norm_eps: "layer_norm_eps",
        rotary_share: Some("rotary_pct"),
        ..KEYS
    },
    defaults: Defaults { norm_eps: 1e-5, activation: "gelu", rotary_share: 0.25, ..DEFAULTS },
    names: Names {
        body: "gpt_neox.",
        embedding: "embed_in",
        attention: Attention::Interleaved("attention.query_key_value"),
        output: "attention.dense",
        mlp: Mlp::Plain(["mlp.dense_h_to_4h", "mlp.dense_4h_to_h"]),
        final_norm: "final_layer_norm",
        head: "embed_out",
        ..NAMES
    },
    qkv_bias: Bias::Key("attention_bias", true),
    output_bias: Bias::Key("attention_bias", true),
    mlp_bias: Bias::Always,
    norm: NormKind::Layer,
    positions: Positions::Rotary("rotary_emb_base"),
    parallel_residual: true,
    ..LLAMA
};

const GPT2: Family = Family {
    model_type: "gpt2",
    architecture: "GPT2LMHeadModel",
    classifier: "GPT2ForSequenceClassification",
    scorers: &["GPT2ForScore"],
    keys: Keys {
        hidden_size: "n_embd",
        intermediate_size: "n_inner",
        layers: "n_layer",
        heads: "n_head",
        kv_heads: None,
        head_dim: None,
        max_positions: "n_positions",
        norm_eps: "layer_norm_epsilon",
        activation: "activation_function",
        rotary_share: None,
    },
    defaults: Defaults {
        max_positions: 1024,
        norm_eps: 1e-5,
        activation: "gelu_new",
        tied: true,
        ..DEFAULTS
    },
    names: Names {
        body: "transformer.",
        embedding: "wte",
        positions: "wpe",
        layers: "h",
        attention: Attention::Stacked("attn.c_attn"),
        output: "attn.c_proj",
        mlp: Mlp::Plain(["mlp.c_fc", "mlp.c_proj"]),
        norms: [Some("ln_1"), None, Some("ln_2"), None],
        final_norm: "ln_f",
        transposed: true,
        ..NAMES
    },
    qkv_bias: Bias::Always,
    output_bias: Bias::Always,
    mlp_bias: Bias::Always,
    norm: NormKind::Layer,
    positions: Positions::Learned,
    scale: Scale::Switched,
    ..LLAMA
};

pub(crate) const FAMILIES: &[Family] =
    &[LLAMA, QWEN2, QWEN3, MISTRAL, SMOLLM3, PHI3, GEMMA2, GEMMA3, OLMO2, GPT_NEOX, GPT2];

/// The supported architectures in words.
pub(crate) fn supported() -> String {
    let classes =
        FAMILIES.iter().map(|f| format!("{} ({})", f.architecture, f.model_type)).collect::<Vec<_>>();
    format!(
        "{}; with a scalar head ...ForSequenceClassification of each, and safe-rlhf's ...ForScore",
        classes.join(", ")
    )
}
