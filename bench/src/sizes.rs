//! How large the workloads are: in full, and tiny to see that everything runs.

use anyhow::Context;
use bso_model::ModelConfig;
use serde_json::json;
use std::path::Path;

/// Sizes of every workload.
#[derive(Clone, Copy, Debug)]
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
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelShape {
    /// A Llama of 12.6 M parameters.
    W1,
    /// The same with a vocabulary of 6,400.
    W2,
    /// A Qwen2 of 42 M, most of them the vocabulary's 151,936 rows.
    W4,
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

impl ModelShape {
    /// Rows of the embedding.
    pub fn vocabulary(self, sizes: &Sizes) -> usize {
        match (sizes.quick, self) {
            (true, _) => 512,
            (false, Self::W1) => 8192,
            (false, Self::W2) => 6400,
            (false, Self::W4) => 151_936,
        }
    }

    /// The shape, in transformers' names.
    ///
    /// # Errors
    /// None in practice: the config is our own.
    pub fn config(self, sizes: &Sizes) -> anyhow::Result<ModelConfig> {
        let family = if self == Self::W4 { "qwen2" } else { "llama" };
        let [hidden, inner, layers, heads] = match (sizes.quick, self) {
            (true, _) => [32, 64, 2, 2],
            (false, Self::W1 | Self::W2) => [384, 1024, 6, 6],
            (false, Self::W4) => [256, 704, 4, 4],
        };
        let architecture = if self == Self::W4 { "Qwen2ForCausalLM" } else { "LlamaForCausalLM" };
        let value = json!({
            "architectures": [architecture], "model_type": family, "hidden_size": hidden,
            "intermediate_size": inner, "num_hidden_layers": layers, "num_attention_heads": heads,
            "num_key_value_heads": 2, "vocab_size": self.vocabulary(sizes), "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true,
            "initializer_range": if self == Self::W1 { 0.02 } else { 0.05 },
        });
        ModelConfig::from_value(value, Path::new("config.json")).context("a model of the benchmark")
    }
}
