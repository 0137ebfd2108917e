//! Weights on disk: Hugging Face's safetensors layout, single or sharded, in f32, bf16 or f16.

mod directory;
mod safetensors_file;

pub(crate) use directory::{Checkpoint, save_tensors};
pub(crate) use safetensors_file::{SafetensorsFile, TensorData, TensorToWrite, write_safetensors};

use crate::error::ModelError;
use bso_engine::DType;
use std::io::Read;
use std::path::Path;

/// The number type's name in `config.json`.
pub(crate) fn torch_name(dtype: DType) -> &'static str {
    match dtype {
        DType::F32 => "float32",
        DType::Bf16 => "bfloat16",
        DType::F16 => "float16",
    }
}

/// Reads a whole small file, refusing one larger than `limit` bytes before any memory is taken for it.
pub(crate) fn read_small(path: &Path, limit: u64) -> Result<Vec<u8>, ModelError> {
    let io = |e: std::io::Error| ModelError::reading(path, &e);
    let file = std::fs::File::open(path).map_err(io)?;
    let mut bytes = Vec::new();
    file.take(limit + 1).read_to_end(&mut bytes).map_err(io)?;
    if bytes.len() as u64 > limit {
        return Err(ModelError::File {
            file: path.to_owned(),
            problem: format!("larger than {limit} bytes"),
            remedy: "this is not the file that its name says; fetch it again".into(),
        });
    }
    Ok(bytes)
}
