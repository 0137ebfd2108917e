//! What a family of architectures may differ in: one value of [`Family`] describes it, `families` holds the values, and
//! the one decoder walks what they say. A family is never a model file of its own.

/// Whether a group of linear layers has biases.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Bias {
    Always,
    Never,
    /// As the boolean of this name in `config.json` says; else the default.
    Key(&'static str, bool),
}

/// The normalisation, everywhere in a model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NormKind {
    Rms,
    /// Weights are stored less one.
    RmsPlusOne,
    /// With mean and bias.
    Layer,
}

/// How queries and keys are normalised before rotary embedding.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum QkNorm {
    None,
    /// Each head by itself.
    Heads,
    /// The whole projection.
    Projection,
}

/// Which layers have a sliding window. `layer_types`, where a config gives it, decides all but the first two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Windows {
    Never,
    /// Every layer, where `sliding_window` is set.
    Every,
    /// With `use_sliding_window`: those from `max_window_layers` on.
    FromLayer,
    /// With `use_sliding_window`: those without rotary embedding.
    WithoutRope,
    /// All but every n-th, where n may have a key of its own.
    AllButEvery(Option<&'static str>, usize),
}

/// How a row learns its position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Positions {
    /// One rotary embedding, its base under this key.
    Rotary(&'static str),
    /// One for full, one for sliding attention (Gemma 3).
    RotaryByWindow,
    /// A second embedding, by position.
    Learned,
}

/// The factor on attention scores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scale {
    /// `head_dim^(-1/2)`.
    HeadDim,
    /// `query_pre_attn_scalar^(-1/2)`, and 256 where the config is silent.
    PreAttention,
    /// By `scale_attn_weights` and `scale_attn_by_inverse_layer_idx` (GPT-2).
    Switched,
}

/// Whether and how a number is soft-capped.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Cap {
    Never,
    /// As its key says; else the default.
    Key(Option<f64>),
}

/// What stands on a decoder, by the class in `architectures`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeadClass {
    LanguageModel,
    /// transformers' scalar head.
    SequenceClassification,
    /// safe-rlhf's; whether it has a bias where the config is silent.
    SafeRlhf {
        bias: bool,
    },
}

/// Names of a config's fields where families differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keys {
    pub hidden_size: &'static str,
    pub intermediate_size: &'static str,
    pub layers: &'static str,
    pub heads: &'static str,
    /// None: as many as query heads.
    pub kv_heads: Option<&'static str>,
    /// None: the hidden size shared out.
    pub head_dim: Option<&'static str>,
    pub max_positions: &'static str,
    pub norm_eps: &'static str,
    pub activation: &'static str,
    /// The share of a head that rotary embedding turns; None: the whole.
    pub rotary_share: Option<&'static str>,
}

/// transformers' values where `config.json` is silent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Defaults {
    pub max_positions: usize,
    /// None: four times the hidden size; a family whose files always say it has no use for this.
    pub kv_heads: Option<usize>,
    pub head_dim: Option<usize>,
    pub norm_eps: f64,
    pub activation: &'static str,
    pub tied: bool,
    pub rope_theta: f64,
    pub rotary_share: f64,
    pub window: Option<usize>,
}

/// How query, key and value projections are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Attention {
    Split([&'static str; 3]),
    /// One matrix: all query rows, then keys, then values.
    Stacked(&'static str),
    /// One matrix: head by head its query, key and value rows.
    Interleaved(&'static str),
}

/// How the MLP is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mlp {
    /// Gate, up, down.
    Gated([&'static str; 3]),
    /// Gate and up in one matrix, down.
    GatedStacked([&'static str; 2]),
    /// Up, down: no gate.
    Plain([&'static str; 2]),
}

/// Names of the tensors in Hugging Face's state dict, less `.weight` and `.bias`. A norm that has no name is not there,
/// so that these also say where norms stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Names {
    /// Begins all names but the head's; checkpoints of a model without head lack it.
    pub body: &'static str,
    pub embedding: &'static str,
    pub positions: &'static str,
    pub layers: &'static str,
    pub attention: Attention,
    pub output: &'static str,
    pub qk_norms: [&'static str; 2],
    pub mlp: Mlp,
    /// Before and after attention (inside its residual branch), before and after the MLP.
    pub norms: [Option<&'static str>; 4],
    pub final_norm: &'static str,
    pub head: &'static str,
    /// Matrices of layers lie `[in, out]`.
    pub transposed: bool,
}

/// One row of the table.
#[derive(Debug, PartialEq)]
pub(crate) struct Family {
    /// `model_type` in `config.json`.
    pub model_type: &'static str,
    /// `architectures[0]` in `config.json`.
    pub architecture: &'static str,
    /// The same of transformers' class with a scalar head.
    pub classifier: &'static str,
    /// The same of safe-rlhf's, where it has one: the present name, then an earlier one whose head had no bias.
    pub scorers: &'static [&'static str],
    pub keys: Keys,
    pub defaults: Defaults,
    pub names: Names,
    pub qkv_bias: Bias,
    pub output_bias: Bias,
    pub mlp_bias: Bias,
    pub norm: NormKind,
    pub qk_norm: QkNorm,
    pub windows: Windows,
    pub positions: Positions,
    /// Rotary embedding only in the layers that `no_rope_layers` marks with 1.
    pub no_rope_layers: bool,
    /// Kinds of rotary scaling that transformers gives it.
    pub rope_types: &'static [&'static str],
    pub scale: Scale,
    pub attention_cap: Cap,
    pub logit_cap: Cap,
    /// Embeddings are multiplied by the root of the hidden size.
    pub scaled_embedding: bool,
    /// Whether `use_parallel_residual` (true where absent) puts attention and MLP side by side.
    pub parallel_residual: bool,
}

impl Family {
    /// What the class puts on this family's decoder; none: it is no class of this family.
    pub(crate) fn head_of(&self, class: &str) -> Option<HeadClass> {
        if class == self.architecture {
            return Some(HeadClass::LanguageModel);
        }
        if class == self.classifier {
            return Some(HeadClass::SequenceClassification);
        }
        let place = self.scorers.iter().position(|scorer| *scorer == class)?;
        Some(HeadClass::SafeRlhf { bias: place == 0 })
    }
}
