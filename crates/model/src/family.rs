//! The supported architectures, one table entry each: how a family differs from the common decoder block.
//! A family is never a model file of its own.

/// Whether a group of linear layers has biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    Always,
    Never,
    /// As the boolean of this name in `config.json` says; false when absent.
    Key(&'static str),
}

/// One row of the table.
#[derive(Debug, PartialEq)]
pub(crate) struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// `architectures[0]` in `config.json`.
    pub architecture: &'static str,
    pub qkv_bias: Bias,
    pub output_bias: Bias,
    pub mlp_bias: Bias,
    /// transformers' default where `config.json` is silent.
    pub default_max_positions: usize,
}

/// Defaults and biases as in transformers' `configuration_*.py` and `modeling_*.py`.
pub(crate) const FAMILIES: &[Family] = &[
    Family {
        model_type: "llama",
        architecture: "LlamaForCausalLM",
        qkv_bias: Bias::Key("attention_bias"),
        output_bias: Bias::Key("attention_bias"),
        mlp_bias: Bias::Key("mlp_bias"),
        default_max_positions: 2048,
    },
    Family {
        model_type: "qwen2",
        architecture: "Qwen2ForCausalLM",
        qkv_bias: Bias::Always,
        output_bias: Bias::Never,
        mlp_bias: Bias::Never,
        default_max_positions: 32768,
    },
];

/// The supported architectures in words.
pub(crate) fn supported() -> String {
    FAMILIES.iter().map(|f| format!("{} ({})", f.architecture, f.model_type)).collect::<Vec<_>>().join(", ")
}
