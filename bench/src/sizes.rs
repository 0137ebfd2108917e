//! How large the workloads are: in full, and tiny to see that everything runs.

use crate::arguments::Arguments;
use anyhow::Context;
use bso_model::ModelConfig;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;

/// Sizes of every workload.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sizes {
    quick: bool,
    /// Sequences of W1.
    pub sequences: usize,
    /// Tokens of each, half of them scored.
    pub tokens: usize,
    /// Steps measured within one process, and before them those that warm it up.
    pub steps: usize,
    /// See [`Sizes::steps`].
    pub warm_up: usize,
    /// Pairs of W2, W3 and W4.
    pub pairs: [usize; 3],
    /// Pairs of a batch.
    pub batch: usize,
    /// Pairs of the experiment, and of a batch of it.
    pub experiment: [usize; 2],
    /// Most pairs of the experiment that a peer does.
    pub peer_pairs: usize,
    /// Longest prompt with response of W2 and W4, tokens.
    pub max_length: usize,
    /// The same of W3.
    pub long: usize,
    /// Prompts continued.
    pub prompts: usize,
    /// Their lengths, from and to, tokens.
    pub prompt_tokens: [usize; 2],
    /// Tokens generated for each.
    pub new_tokens: usize,
    /// Pairs to tokenise.
    pub tokenised: usize,
    /// Width of the products that measure the machine.
    pub product: usize,
    /// How long each of them is repeated, seconds.
    pub product_seconds: f64,
}

/// The models of the workloads.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
pub enum ModelShape {
    /// A Llama of 12.6 M parameters
    #[value(name = "w1")]
    W1,
    /// The same with a vocabulary of 6,400
    #[value(name = "w2")]
    W2,
    /// A Qwen2 of 42 M, most of them the vocabulary's 151,936 rows
    #[value(name = "w4")]
    W4,
    /// 494 M
    #[value(name = "qwen2.5-0.5b")]
    Qwen05,
    /// 1.54 B
    #[value(name = "qwen2.5-1.5b")]
    Qwen15,
    /// 3.21 B
    #[value(name = "llama-3.2-3b")]
    Llama3,
    /// 7.62 B
    #[value(name = "qwen2.5-7b")]
    Qwen7,
}

impl Sizes {
    /// What docs/performance.md shows.
    pub fn full() -> Self {
        Self {
            quick: false,
            sequences: 16,
            tokens: 256,
            steps: 7,
            warm_up: 2,
            pairs: [96, 64, 32],
            batch: 8,
            experiment: [192, 16],
            peer_pairs: 192,
            max_length: 512,
            long: 1024,
            prompts: 64,
            prompt_tokens: [16, 256],
            new_tokens: 128,
            tokenised: 100_000,
            product: 2048,
            product_seconds: 1.0,
        }
    }

    /// Of a GPU: batches of 16,384 tokens.
    pub fn gpu() -> Self {
        Self { sequences: 32, tokens: 512, steps: 5, product: 8192, product_seconds: 0.3, ..Self::full() }
    }

    /// What is asked for.
    pub fn of(arguments: &Arguments) -> Self {
        let own = match (arguments.quick, arguments.on_gpu()) {
            (true, _) => Self::quick(),
            (false, true) => Self::gpu(),
            (false, false) => Self::full(),
        };
        let [pairs, batch] = own.experiment;
        Self {
            sequences: arguments.sequences.unwrap_or(own.sequences),
            experiment: [arguments.pairs.unwrap_or(pairs), batch],
            peer_pairs: pairs,
            ..own
        }
    }

    /// Seconds in all.
    pub fn quick() -> Self {
        Self {
            quick: true,
            sequences: 2,
            tokens: 32,
            steps: 1,
            warm_up: 1,
            pairs: [4, 4, 4],
            batch: 2,
            experiment: [8, 2],
            peer_pairs: 8,
            max_length: 64,
            long: 96,
            prompts: 4,
            prompt_tokens: [4, 16],
            new_tokens: 8,
            tokenised: 200,
            product: 128,
            product_seconds: 0.01,
        }
    }
}

/// What sets a shape apart.
struct Widths {
    hidden: usize,
    inner: usize,
    layers: usize,
    heads: usize,
    kv_heads: usize,
    vocabulary: usize,
}

impl ModelShape {
    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// Rows of the embedding.
    pub fn vocabulary(self, sizes: &Sizes) -> usize {
        self.widths(sizes).vocabulary
    }

    /// Whether it is one that people train: its weights are written in bf16, as such models are published.
    pub fn is_published(self) -> bool {
        matches!(self, Self::Qwen05 | Self::Qwen15 | Self::Llama3 | Self::Qwen7)
    }

    fn is_qwen(self) -> bool {
        matches!(self, Self::W4 | Self::Qwen05 | Self::Qwen15 | Self::Qwen7)
    }

    fn widths(self, sizes: &Sizes) -> Widths {
        let [hidden, inner, layers, heads, kv_heads, vocabulary] = match self {
            _ if sizes.quick => [32, 64, 2, 2, 2, 512],
            Self::W1 => [384, 1024, 6, 6, 2, 8192],
            Self::W2 => [384, 1024, 6, 6, 2, 6400],
            Self::W4 => [256, 704, 4, 4, 2, 151_936],
            Self::Qwen05 => [896, 4864, 24, 14, 2, 151_936],
            Self::Qwen15 => [1536, 8960, 28, 12, 2, 151_936],
            Self::Llama3 => [3072, 8192, 28, 24, 8, 128_256],
            Self::Qwen7 => [3584, 18_944, 28, 28, 4, 152_064],
        };
        Widths { hidden, inner, layers, heads, kv_heads, vocabulary }
    }

    /// The shape, in transformers' names.
    pub fn value(self, sizes: &Sizes) -> Value {
        let family = if self.is_qwen() { "qwen2" } else { "llama" };
        let architecture = if self.is_qwen() { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" };
        let w = self.widths(sizes);
        json!({
            "architectures": [architecture], "model_type": family, "hidden_size": w.hidden,
            "intermediate_size": w.inner, "num_hidden_layers": w.layers, "num_attention_heads": w.heads,
            "num_key_value_heads": w.kv_heads, "vocab_size": w.vocabulary, "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu",
            "tie_word_embeddings": self != Self::Qwen7,
            "initializer_range": if self == Self::W1 || self.is_published() { 0.02 } else { 0.05 },
        })
    }

    /// The shape, checked.
    ///
    /// # Errors
    /// None in practice: the config is our own.
    pub fn config(self, sizes: &Sizes) -> anyhow::Result<ModelConfig> {
        ModelConfig::from_value(self.value(sizes), Path::new("config.json"))
            .context("a model of the benchmark")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn published_shapes_have_their_parameters() {
        let parameters = |shape: ModelShape| {
            let w = shape.widths(&Sizes::gpu());
            let head = w.hidden / w.heads;
            let layer = w.hidden * (2 * w.hidden + 2 * w.kv_heads * head + 3 * w.inner);
            let heads = if shape == ModelShape::Qwen7 { 2 } else { 1 };
            (w.layers * layer + heads * w.vocabulary * w.hidden) as f64 / 1e9
        };
        for (shape, billions) in [
            (ModelShape::Qwen05, 0.494),
            (ModelShape::Qwen15, 1.543),
            (ModelShape::Llama3, 3.213),
            (ModelShape::Qwen7, 7.615),
        ] {
            assert!((parameters(shape) - billions).abs() < 0.002, "{shape:?}: {}", parameters(shape));
        }
    }
}
