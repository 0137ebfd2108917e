//! Which parameters a decoder has, where each lies, and under which names and in which arrangement they are stored.

use crate::config::ModelConfig;
use crate::family::{Attention, Mlp, NormKind, Positions, QkNorm};
use crate::stored::StoredTensor;
use std::collections::HashSet;

/// Name and shape of one parameter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TensorSpec {
    /// As stored, or the stored name with the part of it that this is.
    pub name: String,
    /// One or two dimensions, `[out, in]` for a linear layer.
    pub shape: Vec<usize>,
}

impl TensorSpec {
    /// Number of values.
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

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
    /// Directly after the weight.
    pub bias: Option<usize>,
}

/// Place of a norm's weight; a bias, where the model's norms have one, stands directly after it.
pub(crate) type NormPlace = usize;

/// Places of one decoder layer's parameters. What a family does not have is `None`.
#[derive(Clone, Debug)]
pub(crate) struct LayerPlace {
    pub attention_norm: Option<NormPlace>,
    pub query: LinearPlace,
    pub key: LinearPlace,
    pub value: LinearPlace,
    /// Of queries and keys.
    pub qk_norms: Option<[NormPlace; 2]>,
    pub output: LinearPlace,
    pub post_attention_norm: Option<NormPlace>,
    pub mlp_norm: Option<NormPlace>,
    pub gate: Option<LinearPlace>,
    pub up: LinearPlace,
    pub down: LinearPlace,
    pub post_mlp_norm: Option<NormPlace>,
}

/// All parameters in order, and the places of those that stand outside the layers.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    pub tensors: Vec<TensorSpec>,
    /// How they are stored.
    pub stored: Vec<StoredTensor>,
    pub embedding: usize,
    /// The embedding of positions.
    pub positions: Option<usize>,
    pub layers: Vec<LayerPlace>,
    pub norm: NormPlace,
    /// The embedding's place where the head is tied to it; the weight of a scalar head.
    pub head: usize,
    /// A scalar head.
    pub score: Option<LinearPlace>,
}

impl Layout {
    pub(crate) fn of(config: &ModelConfig) -> Self {
        let (family, hidden) = (config.family(), config.hidden_size);
        let names = &family.names;
        let mut list = TensorList { tensors: Vec::new(), stored: Vec::new(), transposed: false };
        let body = |name: &str| format!("{}{name}", names.body);
        let embedding = list.table(body(names.embedding), [config.vocab_size, hidden]);
        let positions = (family.positions == Positions::Learned)
            .then(|| list.table(body(names.positions), [config.max_positions, hidden]));
        list.transposed = names.transposed;
        let layers = (0..config.layers).map(|i| list.layer(config, &body(&format!("{}.{i}.", names.layers))));
        let layers = layers.collect();
        let norm = list.norm(body(names.final_norm), hidden, family.norm);
        list.transposed = false;
        let score = config.score.as_ref().map(|s| list.linear(s.module().into(), [1, hidden], s.bias));
        let head = match score {
            Some(score) => score.weight,
            None if config.tied_head => embedding,
            None => list.table(names.head.into(), [config.vocab_size, hidden]),
        };
        Self { tensors: list.tensors, stored: list.stored, embedding, positions, layers, norm, head, score }
    }

    /// The linear layers; the head is not among them.
    pub(crate) fn linears(&self) -> impl Iterator<Item = LinearPlace> {
        let of_layer = |layer: &LayerPlace| {
            let LayerPlace { query, key, value, output, gate, up, down, .. } = *layer;
            [query, key, value, output].into_iter().chain(gate).chain([up, down])
        };
        self.layers.iter().flat_map(of_layer)
    }

    /// The name of a scalar head, where there is one.
    pub(crate) fn head_module(&self) -> Option<&str> {
        self.tensors[self.score?.weight].name.strip_suffix(".weight")
    }

    /// Whether the tensor holds matrices of linear layers.
    pub(crate) fn is_linear(&self, stored: &StoredTensor) -> bool {
        stored.parts.iter().all(|part| self.linears().any(|linear| linear.weight == *part))
    }

    /// Places of the matrices that products read; a scalar head is in f32.
    pub(crate) fn products(&self) -> HashSet<usize> {
        let head = Some(self.head).filter(|_| self.score.is_none());
        self.linears().map(|linear| linear.weight).chain(head).collect()
    }

    /// A head of this name beside the embedding, as the last tensor.
    pub(crate) fn untie_head(&mut self, name: String) {
        let shape = self.tensors[self.embedding].shape.clone();
        self.head = self.tensors.len();
        let (parts, stored) = (vec![self.head], shape.clone());
        self.tensors.push(TensorSpec { name: name.clone(), shape });
        self.stored.push(StoredTensor { name, shape: stored, parts, turn: None, transposed: false });
    }
}

struct TensorList {
    tensors: Vec<TensorSpec>,
    stored: Vec<StoredTensor>,
    /// Whether matrices of linear layers are stored `[in, out]`.
    transposed: bool,
}

impl TensorList {
    /// One layer, in the order of transformers' state dict for most families.
    fn layer(&mut self, config: &ModelConfig, prefix: &str) -> LayerPlace {
        let (family, hidden, inner) = (config.family(), config.hidden_size, config.intermediate_size);
        let (wide, narrow) = (config.heads * config.head_dim, config.kv_heads * config.head_dim);
        let names = &family.names;
        let name = |name: &str| format!("{prefix}{name}");
        let outputs = [wide, narrow, narrow];
        let [query, key, value] = match names.attention {
            Attention::Split(each) => {
                let mut outputs = outputs.into_iter();
                each.map(|part| {
                    let rows = outputs.next().unwrap_or_default();
                    self.linear(name(part), [rows, hidden], config.qkv_bias)
                })
            }
            Attention::Stacked(whole) => {
                let parts = ["query", "key", "value"];
                self.fused(name(whole), (parts, outputs, hidden), None, config.qkv_bias)
            }
            Attention::Interleaved(whole) => {
                let parts = ["query", "key", "value"];
                let turn = Some(config.head_dim);
                self.fused(name(whole), (parts, outputs, hidden), turn, config.qkv_bias)
            }
        };
        let qk_norms = (family.qk_norm != QkNorm::None).then(|| {
            let widths = match family.qk_norm {
                QkNorm::Projection => [wide, narrow],
                _ => [config.head_dim; 2],
            };
            [0, 1].map(|i| self.norm(name(names.qk_norms[i]), widths[i], family.norm))
        });
        let output = self.linear(name(names.output), [hidden, wide], config.output_bias);
        let (gate, up, down) = match names.mlp {
            Mlp::Gated([gate, up, down]) => (
                Some(self.linear(name(gate), [inner, hidden], config.mlp_bias)),
                self.linear(name(up), [inner, hidden], config.mlp_bias),
                self.linear(name(down), [hidden, inner], config.mlp_bias),
            ),
            Mlp::GatedStacked([whole, down]) => {
                let parts = (["gate", "up"], [inner; 2], hidden);
                let [gate, up] = self.fused(name(whole), parts, None, config.mlp_bias);
                (Some(gate), up, self.linear(name(down), [hidden, inner], config.mlp_bias))
            }
            Mlp::Plain([up, down]) => (
                None,
                self.linear(name(up), [inner, hidden], config.mlp_bias),
                self.linear(name(down), [hidden, inner], config.mlp_bias),
            ),
        };
        let [attention_norm, post_attention_norm, mlp_norm, post_mlp_norm] =
            names.norms.map(|norm| norm.map(|norm| self.norm(name(norm), hidden, family.norm)));
        LayerPlace {
            attention_norm,
            query,
            key,
            value,
            qk_norms,
            output,
            post_attention_norm,
            mlp_norm,
            gate,
            up,
            down,
            post_mlp_norm,
        }
    }

    fn push(&mut self, name: String, shape: &[usize]) -> usize {
        self.tensors.push(TensorSpec { name, shape: shape.to_vec() });
        self.tensors.len() - 1
    }

    /// A parameter stored as it is, or turned round.
    fn stored_alone(&mut self, name: String, shape: &[usize], transposed: bool) -> usize {
        let place = self.push(name.clone(), shape);
        let mut shape = shape.to_vec();
        if transposed {
            shape.reverse();
        }
        self.stored.push(StoredTensor { name, shape, parts: vec![place], turn: None, transposed });
        place
    }

    fn table(&mut self, name: String, shape: [usize; 2]) -> usize {
        self.stored_alone(format!("{name}.weight"), &shape, false)
    }

    fn norm(&mut self, name: String, width: usize, kind: NormKind) -> NormPlace {
        let place = self.stored_alone(format!("{name}.weight"), &[width], false);
        if kind == NormKind::Layer {
            self.stored_alone(format!("{name}.bias"), &[width], false);
        }
        place
    }

    fn linear(&mut self, name: String, shape: [usize; 2], bias: bool) -> LinearPlace {
        let weight = self.stored_alone(format!("{name}.weight"), &shape, self.transposed);
        let bias = bias.then(|| self.stored_alone(format!("{name}.bias"), &shape[..1], false));
        LinearPlace { weight, bias }
    }

    /// Several linear layers of the same inputs that are stored as one, `turn` rows of each at a time (None: all).
    fn fused<const N: usize>(
        &mut self,
        name: String,
        (parts, outputs, inputs): ([&str; N], [usize; N], usize),
        turn: Option<usize>,
        bias: bool,
    ) -> [LinearPlace; N] {
        let mut index = 0..N;
        let places = parts.map(|part| {
            let rows = index.next().map_or(0, |i| outputs[i]);
            let weight = self.push(format!("{name}.{part}.weight"), &[rows, inputs]);
            LinearPlace { weight, bias: bias.then(|| self.push(format!("{name}.{part}.bias"), &[rows])) }
        });
        let (rows, transposed) = (outputs.iter().sum(), self.transposed);
        let shape = if transposed { vec![inputs, rows] } else { vec![rows, inputs] };
        let parts = places.iter().map(|place| place.weight).collect();
        let weight = StoredTensor { name: format!("{name}.weight"), shape, parts, turn, transposed };
        self.stored.push(weight);
        let parts: Vec<usize> = places.iter().filter_map(|place| place.bias).collect();
        if !parts.is_empty() {
            let (name, shape) = (format!("{name}.bias"), vec![rows]);
            self.stored.push(StoredTensor { name, shape, parts, turn, transposed: false });
        }
        places
    }
}
