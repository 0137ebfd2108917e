//! Random weights of a model as it is published: one safetensors file in bf16 beside a `config.json`. Uniform numbers of
//! the config's `initializer_range`, made on all cores; billions take seconds.

use anyhow::Context;
use serde_json::{Map, Value, json};
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::Path;
use std::thread;

/// Numbers that are made and written at a time.
const BLOCK: usize = 1 << 26;

/// A tensor to be written.
struct Tensor {
    name: String,
    shape: Vec<usize>,
}

/// Writes `config.json` and `model.safetensors` of a Llama or Qwen2 of this config; the number of parameters.
///
/// # Errors
/// A config without a width; no room.
pub fn write(dir: &Path, config: &Value) -> anyhow::Result<usize> {
    let tensors = tensors(config)?;
    let mut stored = config.clone();
    stored["torch_dtype"] = json!("bfloat16");
    bso_durable::write_json(&dir.join("config.json"), &stored)?;

    let (mut header, mut end) = (Map::new(), 0);
    for tensor in &tensors {
        let begin = end;
        end += 2 * tensor.len();
        let entry = json!({"dtype": "BF16", "shape": tensor.shape, "data_offsets": [begin, end]});
        header.insert(tensor.name.clone(), entry);
    }
    let mut header = Value::from(header).to_string();
    // Tensors begin at a multiple of 8.
    header.extend(std::iter::repeat_n(' ', header.len().next_multiple_of(8) - header.len()));
    let path = dir.join("model.safetensors");
    let file = File::create(&path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = BufWriter::new(file);
    file.write_all(&(header.len() as u64).to_le_bytes())?;
    file.write_all(header.as_bytes())?;
    let range = config["initializer_range"].as_f64().context("no initializer_range")? as f32;
    for (index, tensor) in tensors.iter().enumerate() {
        tensor.write(index as u64, range, &mut file)?;
    }
    file.flush()?;
    Ok(end / 2)
}

impl Tensor {
    fn len(&self) -> usize {
        self.shape.iter().product()
    }

    fn write(&self, index: u64, range: f32, file: &mut impl Write) -> anyhow::Result<()> {
        let constant = match self.name.as_str() {
            name if name.ends_with("bias") => Some(0.0),
            name if name.ends_with("norm.weight") => Some(1.0),
            _ => None,
        };
        let mut bytes = vec![0; 2 * self.len().min(BLOCK)];
        for first in (0..self.len()).step_by(BLOCK) {
            let block = &mut bytes[..2 * (self.len() - first).min(BLOCK)];
            match constant {
                Some(value) => block.as_chunks_mut::<2>().0.fill(bf16(value)),
                None => fill(block, (index << 40) + first as u64, range),
            }
            file.write_all(block)?;
        }
        Ok(())
    }
}

/// Uniform numbers of standard deviation `range`, on all cores.
fn fill(bytes: &mut [u8], first: u64, range: f32) {
    let cores = thread::available_parallelism().map_or(1, |n| n.get());
    let each = bytes.len().div_ceil(2 * cores).max(1);
    let scale = 2.0 * 3f32.sqrt() * range;
    thread::scope(|scope| {
        for (part, bytes) in bytes.chunks_mut(2 * each).enumerate() {
            scope.spawn(move || {
                for (i, number) in bytes.as_chunks_mut::<2>().0.iter_mut().enumerate() {
                    let random = mixed(first + (part * each + i) as u64);
                    *number = bf16(((random >> 40) as f32 / (1 << 24) as f32 - 0.5) * scale);
                }
            });
        }
    });
}

/// The upper half of an f32.
fn bf16(value: f32) -> [u8; 2] {
    ((value.to_bits() >> 16) as u16).to_le_bytes()
}

/// Steele, Lea and Flood, "Fast Splittable Pseudorandom Number Generators" (OOPSLA 2014): the mixing step.
fn mixed(index: u64) -> u64 {
    let mut z = index.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

fn tensors(config: &Value) -> anyhow::Result<Vec<Tensor>> {
    let number = |name: &str| -> anyhow::Result<usize> {
        let found = config[name].as_u64().with_context(|| format!("no {name} in the config"))?;
        Ok(found as usize)
    };
    let (hidden, inner, vocabulary) =
        (number("hidden_size")?, number("intermediate_size")?, number("vocab_size")?);
    let (heads, kv_heads) = (number("num_attention_heads")?, number("num_key_value_heads")?);
    let narrow = hidden / heads * kv_heads;
    let biases = config["model_type"] == "qwen2";
    let mut all = Vec::new();
    let mut push = |name: String, shape: &[usize]| all.push(Tensor { name, shape: shape.to_vec() });
    push("model.embed_tokens.weight".to_owned(), &[vocabulary, hidden]);
    for layer in 0..number("num_hidden_layers")? {
        let name = |part: &str| format!("model.layers.{layer}.{part}");
        push(name("input_layernorm.weight"), &[hidden]);
        for (part, rows) in [("q", hidden), ("k", narrow), ("v", narrow)] {
            push(name(&format!("self_attn.{part}_proj.weight")), &[rows, hidden]);
            if biases {
                push(name(&format!("self_attn.{part}_proj.bias")), &[rows]);
            }
        }
        push(name("self_attn.o_proj.weight"), &[hidden, hidden]);
        push(name("post_attention_layernorm.weight"), &[hidden]);
        for (part, rows, cols) in [("gate", inner, hidden), ("up", inner, hidden), ("down", hidden, inner)] {
            push(name(&format!("mlp.{part}_proj.weight")), &[rows, cols]);
        }
    }
    push("model.norm.weight".to_owned(), &[hidden]);
    if config["tie_word_embeddings"] == false {
        push("lm_head.weight".to_owned(), &[vocabulary, hidden]);
    }
    Ok(all)
}
