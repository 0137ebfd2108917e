//! A decoder as llama.cpp knows it: its names of tensors and settings, and its order of rotary rows.

use super::{GgufMetadata, GgufType, GgufValue, Tensor, quantise, write};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::layout::{LayerPlace, LinearPlace};
use crate::rope::{Rope, RopeScaling, inverse_frequencies};
use bso_engine::Array;
use std::borrow::Cow;
use std::path::Path;

/// How the rows of query and key lie: which pairs the rotation turns.
#[derive(Clone, Copy, PartialEq, Eq)]
enum RotaryRows {
    /// Halves of a head, as here.
    Halves,
    /// Neighbours: llama.cpp's `llama` turns these.
    Neighbours,
}

impl Decoder {
    /// Writes the model as a GGUF file, matrices in `kind`; `tokenizer` follows the model's own metadata.
    ///
    /// # Errors
    /// A family or rotary scaling without a GGUF architecture, by name; an adapter that is not merged; the I/O error with
    /// the path.
    pub fn save_gguf(
        &self,
        file: &Path,
        kind: GgufType,
        name: &str,
        tokenizer: GgufMetadata,
    ) -> Result<(), ModelError> {
        if self.adapter.is_some() {
            return Err(ModelError::argument("the model has an adapter", "merge it first"));
        }
        self.refuse_quantised("export the whole model")?;
        if self.config.score.is_some() {
            return Err(ModelError::argument(
                format!("a {} has a scalar head, which GGUF cannot hold", self.config.class()),
                "export it as safetensors (--dtype f32, bf16 or f16)",
            ));
        }
        let (architecture, rows) = match self.config.model_type() {
            "llama" => ("llama", RotaryRows::Neighbours),
            "qwen2" => ("qwen2", RotaryRows::Halves),
            other => {
                return Err(ModelError::argument(
                    format!("models of type {other} cannot be written as GGUF"),
                    "supported: llama, qwen2; convert others with llama.cpp's convert_hf_to_gguf.py",
                ));
            }
        };
        if self.config.layer_kinds.iter().any(|kind| kind.window.is_some()) {
            return Err(ModelError::argument(
                format!("sliding windows have no counterpart in GGUF's {architecture}"),
                "set use_sliding_window to false in config.json if full attention suffices",
            ));
        }
        // Both families have one rotary embedding.
        let Some(rope) = self.config.ropes.first() else {
            return Err(ModelError::argument("the model has no rotary embedding", "correct config.json"));
        };
        let mut metadata = self.gguf_metadata((architecture, kind, name), rope)?;
        metadata.extend(tokenizer);
        let arrays = self.parameters.iter().map(Array::on_host).collect::<Result<Vec<_>, _>>()?;
        write(file, &metadata, &self.gguf_tensors(&arrays, (kind, rows), rope))
            .map_err(|error| ModelError::Io(std::io::Error::new(error.kind(), error)))
    }

    fn gguf_metadata(
        &self,
        (architecture, kind, name): (&str, GgufType, &str),
        rope: &Rope,
    ) -> Result<GgufMetadata, ModelError> {
        use GgufValue::{F32, Text, U32};
        let c = &self.config;
        let mut list: GgufMetadata = vec![
            ("general.architecture".into(), Text(architecture.into())),
            ("general.name".into(), Text(name.into())),
            ("general.file_type".into(), U32(kind.file_type())),
            ("general.quantization_version".into(), U32(2)),
        ];
        let mut put = |key: &str, value| list.push((format!("{architecture}.{key}"), value));
        put("block_count", U32(c.layers as u32));
        put("context_length", U32(c.max_positions as u32));
        put("embedding_length", U32(c.hidden_size as u32));
        put("feed_forward_length", U32(c.intermediate_size as u32));
        put("attention.head_count", U32(c.heads as u32));
        put("attention.head_count_kv", U32(c.kv_heads as u32));
        put("attention.key_length", U32(c.head_dim as u32));
        put("attention.value_length", U32(c.head_dim as u32));
        put("attention.layer_norm_rms_epsilon", F32(c.norm_eps));
        put("rope.freq_base", F32(rope.theta as f32));
        put("rope.dimension_count", U32(c.rotary_dim as u32));
        put("vocab_size", U32(c.vocab_size as u32));
        match rope.scaling {
            // Llama 3's factors are a tensor.
            RopeScaling::None | RopeScaling::Llama3 { .. } => {}
            RopeScaling::Linear { factor } => {
                put("rope.scaling.type", Text("linear".into()));
                put("rope.scaling.factor", F32(factor as f32));
            }
            RopeScaling::Yarn { factor, original_max_position_embeddings: original, .. } => {
                put("rope.scaling.type", Text("yarn".into()));
                put("rope.scaling.factor", F32(factor as f32));
                put("rope.scaling.original_context_length", U32(original as u32));
            }
            RopeScaling::Dynamic { .. } => {
                return Err(ModelError::argument(
                    "rope_type dynamic has no counterpart in GGUF",
                    "remove the scaling from config.json if the plain context suffices",
                ));
            }
        }
        Ok(list)
    }

    fn gguf_tensors<'a>(
        &self,
        arrays: &'a [Cow<'_, Array>],
        (kind, rows): (GgufType, RotaryRows),
        rope: &Rope,
    ) -> Vec<Tensor<'a>> {
        let (c, mut list) = (&self.config, Vec::new());
        let mut put = |name: String, place: usize, heads: Option<usize>| {
            let (spec, array) = (&self.layout.tensors[place], &arrays[place]);
            let (shape, is_vector) = ((array.rows(), array.cols()), spec.shape.len() == 1);
            let kind = match kind {
                _ if is_vector => GgufType::F32,
                GgufType::Q8_0 if array.cols() % quantise::BLOCK != 0 => GgufType::F16,
                kind => kind,
            };
            let values = match heads.filter(|_| rows == RotaryRows::Neighbours) {
                None => Cow::Borrowed(array.as_slice()),
                Some(heads) => {
                    let width = if is_vector { 1 } else { array.cols() };
                    Cow::Owned(neighbours(array.as_slice(), heads, width))
                }
            };
            list.push(Tensor { name, shape, is_vector, kind, values });
        };
        put("token_embd.weight".into(), self.layout.embedding, None);
        for (i, layer) in self.layout.layers.iter().enumerate() {
            let LayerPlace { attention_norm, query, key, value, output, mlp_norm, gate, up, down, .. } =
                *layer;
            for (name, norm) in [("attn_norm", attention_norm), ("ffn_norm", mlp_norm)] {
                norm.into_iter().for_each(|norm| put(format!("blk.{i}.{name}.weight"), norm, None));
            }
            let linears: [(&str, Option<LinearPlace>, Option<usize>); 7] = [
                ("attn_q", Some(query), Some(c.heads)),
                ("attn_k", Some(key), Some(c.kv_heads)),
                ("attn_v", Some(value), None),
                ("attn_output", Some(output), None),
                ("ffn_gate", gate, None),
                ("ffn_up", Some(up), None),
                ("ffn_down", Some(down), None),
            ];
            for (name, place, heads) in linears {
                let Some(place) = place else { continue };
                put(format!("blk.{i}.{name}.weight"), place.weight, heads);
                if let Some(bias) = place.bias {
                    put(format!("blk.{i}.{name}.bias"), bias, heads);
                }
            }
        }
        put("output_norm.weight".into(), self.layout.norm, None);
        if self.layout.head != self.layout.embedding {
            put("output.weight".into(), self.layout.head, None);
        }
        if let RopeScaling::Llama3 { .. } = rope.scaling {
            let (plain, _) = inverse_frequencies(c.rotary_dim, rope.theta, &RopeScaling::None);
            let (scaled, _) = inverse_frequencies(c.rotary_dim, rope.theta, &rope.scaling);
            let factors: Vec<f32> = plain.iter().zip(&scaled).map(|(plain, scaled)| plain / scaled).collect();
            list.push(Tensor {
                name: "rope_freqs.weight".into(),
                shape: (1, factors.len()),
                is_vector: true,
                kind: GgufType::F32,
                values: Cow::Owned(factors),
            });
        }
        list
    }
}

/// Row `j` of each half of a head becomes rows `2j` and `2j + 1`.
fn neighbours(values: &[f32], heads: usize, width: usize) -> Vec<f32> {
    let rows = values.len() / width / heads;
    let mut turned = Vec::with_capacity(values.len());
    for head in values.chunks_exact(rows * width) {
        for j in 0..rows / 2 {
            for row in [j, j + rows / 2] {
                turned.extend_from_slice(&head[row * width..][..width]);
            }
        }
    }
    turned
}
