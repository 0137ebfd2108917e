//! Arithmetic of a training step from the model's shape alone, in the usual convention, so that a share of the
//! machine's peak means the same for every engine.

use crate::arguments::Method;
use bso_model::ModelConfig;

/// FLOP a token of a forward pass over sequences of `length` tokens, `scored` of which meet the head (response-only
/// logits): two for each weight that a token passes, and `4 length` for each query value, the products with keys and
/// with values. Attention counts in full, as is usual, although a causal engine may leave out half of it; so may it
/// leave out rows of the last layer that no head reads. What an engine computes twice does not count.
pub fn forward_per_token(config: &ModelConfig, length: usize, scored: usize) -> f64 {
    weights_per_token(config, length, scored) + attention_per_token(config, length)
}

/// FLOP a token of forward and backward pass: the backward computes two gradients for each product, but one for that with
/// a weight that is not trained. An adapter's own products, about a hundredth, do not count.
pub fn step_per_token(config: &ModelConfig, length: usize, scored: usize, method: Method) -> f64 {
    let of_weights = if method.is_lora() { 2.0 } else { 3.0 };
    of_weights * weights_per_token(config, length, scored) + 3.0 * attention_per_token(config, length)
}

fn weights_per_token(config: &ModelConfig, length: usize, scored: usize) -> f64 {
    let (hidden, inner) = (config.hidden_size, config.intermediate_size);
    let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
    let layer = 2 * hidden * (2 * wide + 2 * narrow + 3 * inner);
    let head = 2 * hidden * config.vocab_size;
    (config.layers * layer) as f64 + head as f64 * scored as f64 / length as f64
}

fn attention_per_token(config: &ModelConfig, length: usize) -> f64 {
    (config.layers * 4 * length * config.heads * config.head_dim) as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sizes::{ModelShape, Sizes};

    #[test]
    fn the_12_million_model_takes_73_million_a_token_and_82_with_all_logits() {
        let config = ModelShape::W1.config(&Sizes::full()).unwrap();
        let [response_only, all] =
            [128, 256].map(|scored| step_per_token(&config, 256, scored, Method::Full) / 1e6);
        assert!((response_only - 73.2).abs() < 0.1, "{response_only}");
        assert!((all - 82.5).abs() < 0.1, "{all}");
    }

    #[test]
    fn an_adapter_saves_the_gradients_of_weights() {
        let config = ModelShape::Qwen05.config(&Sizes::gpu()).unwrap();
        let [full, lora] =
            [Method::Full, Method::Lora].map(|method| step_per_token(&config, 512, 256, method) / 1e9);
        // 6 for each of 358 M weights, half the head of 136 M, and attention.
        assert!((full - 2.69).abs() < 0.01, "{full}");
        assert!((lora - 1.84).abs() < 0.01, "{lora}");
    }
}
