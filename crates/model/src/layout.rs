//! Which parameters a decoder has: names, shapes and order as in Hugging Face's state dict, and where each lies.

use crate::config::ModelConfig;
use std::collections::HashSet;

/// Name and shape of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    pub name: String,
    /// One or two dimensions, `[out, in]` for a linear layer.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// As a matrix; a vector is one row.
    pub(crate) fn rows_cols(&self) -> (usize, usize) {
        match *self.shape.as_slice() {
            [cols] => (1, cols),
            [rows, cols] => (rows, cols),
            _ => (0, 0),
        }
    }
}

/// Places of a linear layer's parameters.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LinearPlace {
    pub weight: usize,
    pub bias: Option<usize>,
}

/// Places of one decoder layer's parameters.
#[derive(Clone, Debug)]
pub(crate) struct LayerPlace {
    pub input_norm: usize,
    pub query: LinearPlace,
    pub key: LinearPlace,
    pub value: LinearPlace,
    pub output: LinearPlace,
    pub post_attention_norm: usize,
    pub gate: LinearPlace,
    pub up: LinearPlace,
    pub down: LinearPlace,
}

/// All parameters in order, and the places of those that stand outside the layers.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub tensors: Vec<TensorSpec>,
    pub embedding: usize,
    pub layers: Vec<LayerPlace>,
    pub norm: usize,
    /// The embedding's place where the head is tied to it.
    pub head: usize,
}

const HEAD: &str = "lm_head.weight";

impl Layout {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        let mut list = TensorList(Vec::new());
        let hidden = config.hidden_size;
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let embedding = list.push("model.embed_tokens.weight".into(), &[config.vocab_size, hidden]);
        let layers = (0..config.layers).map(|i| {
            let attention = |name: &str| format!("model.layers.{i}.self_attn.{name}_proj");
            let mlp = |name: &str| format!("model.layers.{i}.mlp.{name}_proj");
            let norm = |name: &str| format!("model.layers.{i}.{name}_layernorm.weight");
            // In the order of transformers' state dict.
            let query = list.linear(attention("q"), wide, hidden, config.qkv_bias);
            let key = list.linear(attention("k"), narrow, hidden, config.qkv_bias);
            let value = list.linear(attention("v"), narrow, hidden, config.qkv_bias);
            let output = list.linear(attention("o"), hidden, wide, config.output_bias);
            let gate = list.linear(mlp("gate"), config.intermediate_size, hidden, config.mlp_bias);
            let up = list.linear(mlp("up"), config.intermediate_size, hidden, config.mlp_bias);
            let down = list.linear(mlp("down"), hidden, config.intermediate_size, config.mlp_bias);
            let input_norm = list.push(norm("input"), &[hidden]);
            let post_attention_norm = list.push(norm("post_attention"), &[hidden]);
            LayerPlace { input_norm, query, key, value, output, post_attention_norm, gate, up, down }
        });
        let layers = layers.collect();
        let norm = list.push("model.norm.weight".into(), &[hidden]);
        let head =
            if config.tied_head { embedding } else { list.push(HEAD.into(), &[config.vocab_size, hidden]) };
        Self { tensors: list.0, embedding, layers, norm, head }
    }

    /// The linear layers; the head is not among them.
    pub(crate) fn linears(&self) -> impl Iterator<Item = LinearPlace> {
        let of_layer = |layer: &LayerPlace| {
            [layer.query, layer.key, layer.value, layer.output, layer.gate, layer.up, layer.down]
        };
        self.layers.iter().flat_map(of_layer)
    }

    /// Places of the matrices that products read.
    pub(crate) fn products(&self) -> HashSet<usize> {
        self.linears().map(|linear| linear.weight).chain([self.head]).collect()
    }

    /// A head beside the embedding, as the last tensor.
    pub(crate) fn untie_head(&mut self) {
        let shape = self.tensors[self.embedding].shape.clone();
        self.head = self.tensors.len();
        self.tensors.push(TensorSpec { name: HEAD.into(), shape });
    }
}

struct TensorList(Vec<TensorSpec>);

impl TensorList {
    fn push(&mut self, name: String, shape: &[usize]) -> usize {
        self.0.push(TensorSpec { name, shape: shape.to_vec() });
        self.0.len() - 1
    }

    fn linear(&mut self, name: String, outputs: usize, inputs: usize, bias: bool) -> LinearPlace {
        let weight = self.push(format!("{name}.weight"), &[outputs, inputs]);
        LinearPlace { weight, bias: bias.then(|| self.push(format!("{name}.bias"), &[outputs])) }
    }
}
