//! GGUF files, which llama.cpp and its relatives read: typed metadata, then tensors in ggml's number types. Layout as in the
//! format's specification, version 3: <https://github.com/ggml-org/ggml/blob/master/docs/gguf.md>.

mod decoder;
mod quantise;

use std::io;
use std::path::Path;

const MAGIC: &[u8; 4] = b"GGUF";
const VERSION: u32 = 3;
/// Tensors begin at multiples of this many bytes.
const ALIGNMENT: usize = 32;

/// Number type of a file's matrices; vectors are always in f32.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GgufType {
    /// 32-bit floats.
    F32,
    /// IEEE half precision.
    F16,
    /// Blocks of 32 numbers of 8 bits with a scale in half precision; rows that 32 does not divide are in f16.
    Q8_0,
}

impl GgufType {
    /// Every type.
    pub const ALL: [Self; 3] = [Self::F32, Self::F16, Self::Q8_0];

    /// The name on the command line: f32, f16, q8_0.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Q8_0 => "q8_0",
        }
    }

    /// `ggml_type`.
    fn code(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 8,
        }
    }

    /// `general.file_type`: what most of the tensors are in.
    fn file_type(self) -> u32 {
        match self {
            Self::F32 => 0,
            Self::F16 => 1,
            Self::Q8_0 => 7,
        }
    }

    fn bytes(self, values: usize) -> usize {
        match self {
            Self::F32 => 4 * values,
            Self::F16 => 2 * values,
            Self::Q8_0 => values / quantise::BLOCK * (quantise::BLOCK + 2),
        }
    }
}

/// A value of the metadata.
#[derive(Clone, Debug, PartialEq)]
pub enum GgufValue {
    /// Unsigned 32 bits.
    U32(u32),
    /// 32-bit float.
    F32(f32),
    /// Truth value.
    Bool(bool),
    /// UTF-8.
    Text(String),
    /// An array of texts.
    Texts(Vec<String>),
    /// An array of floats.
    F32s(Vec<f32>),
    /// An array of signed 32-bit numbers.
    I32s(Vec<i32>),
}

/// Metadata in the order of writing.
pub type GgufMetadata = Vec<(String, GgufValue)>;

/// A tensor to be written; `values` row by row.
struct Tensor<'a> {
    name: String,
    /// Rows, columns; one row for a vector.
    shape: (usize, usize),
    is_vector: bool,
    kind: GgufType,
    values: std::borrow::Cow<'a, [f32]>,
}

/// Writes the file atomically.
fn write(path: &Path, metadata: &GgufMetadata, tensors: &[Tensor<'_>]) -> io::Result<()> {
    let mut head = Vec::new();
    head.extend_from_slice(MAGIC);
    head.extend_from_slice(&VERSION.to_le_bytes());
    head.extend_from_slice(&(tensors.len() as u64).to_le_bytes());
    head.extend_from_slice(&(metadata.len() as u64).to_le_bytes());
    for (key, value) in metadata {
        put_text(&mut head, key);
        put_value(&mut head, value);
    }
    let mut offset = 0;
    for tensor in tensors {
        let (rows, cols) = tensor.shape;
        put_text(&mut head, &tensor.name);
        // ggml counts dimensions from the one that lies together in memory.
        let dimensions: &[usize] = if tensor.is_vector { &[cols] } else { &[cols, rows] };
        head.extend_from_slice(&(dimensions.len() as u32).to_le_bytes());
        dimensions.iter().for_each(|d| head.extend_from_slice(&(*d as u64).to_le_bytes()));
        head.extend_from_slice(&tensor.kind.code().to_le_bytes());
        head.extend_from_slice(&(offset as u64).to_le_bytes());
        offset += tensor.kind.bytes(rows * cols).next_multiple_of(ALIGNMENT);
    }
    head.resize(head.len().next_multiple_of(ALIGNMENT), 0);
    bso_durable::atomic_write(path, |out| {
        out.write_all(&head)?;
        tensors.iter().try_for_each(|tensor| {
            quantise::write(out, &tensor.values, tensor.kind)?;
            let bytes = tensor.kind.bytes(tensor.values.len());
            out.write_all(&[0; ALIGNMENT][..bytes.next_multiple_of(ALIGNMENT) - bytes])
        })
    })
}

fn put_text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(&(text.len() as u64).to_le_bytes());
    out.extend_from_slice(text.as_bytes());
}

fn put_value(out: &mut Vec<u8>, value: &GgufValue) {
    const ARRAY: u32 = 9;
    let array = |out: &mut Vec<u8>, kind: u32, len: usize| {
        out.extend_from_slice(&ARRAY.to_le_bytes());
        out.extend_from_slice(&kind.to_le_bytes());
        out.extend_from_slice(&(len as u64).to_le_bytes());
    };
    let kind = |out: &mut Vec<u8>, kind: u32| out.extend_from_slice(&kind.to_le_bytes());
    match value {
        GgufValue::U32(n) => {
            kind(out, 4);
            out.extend_from_slice(&n.to_le_bytes());
        }
        GgufValue::F32(x) => {
            kind(out, 6);
            out.extend_from_slice(&x.to_le_bytes());
        }
        GgufValue::Bool(flag) => {
            kind(out, 7);
            out.push(u8::from(*flag));
        }
        GgufValue::Text(text) => {
            kind(out, 8);
            put_text(out, text);
        }
        GgufValue::Texts(texts) => {
            array(out, 8, texts.len());
            texts.iter().for_each(|text| put_text(out, text));
        }
        GgufValue::F32s(values) => {
            array(out, 6, values.len());
            values.iter().for_each(|x| out.extend_from_slice(&x.to_le_bytes()));
        }
        GgufValue::I32s(values) => {
            array(out, 5, values.len());
            values.iter().for_each(|n| out.extend_from_slice(&n.to_le_bytes()));
        }
    }
}
