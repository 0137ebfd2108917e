//! The weight files of a model directory: `model.safetensors`, or shards with `model.safetensors.index.json`.

use super::read_small;
use super::safetensors_file::{SafetensorsFile, TensorToWrite, write_safetensors};
use crate::error::ModelError;
use bso_engine::DType;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
const LARGEST_INDEX: u64 = 256 << 20;

/// All weight files of a directory, mapped and checked, with the place of every tensor.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    files: Vec<SafetensorsFile>,
    place: BTreeMap<String, usize>,
    /// What to name when a tensor is missing from all files.
    main: PathBuf,
}

impl Checkpoint {
    /// Opens `dir/model.safetensors` or, where it is absent, the shards that the index names.
    pub(crate) fn open(dir: &Path) -> Result<Self, ModelError> {
        let (single, index) = (dir.join(SINGLE), dir.join(INDEX));
        if single.is_file() {
            return Self::from_files(single.clone(), vec![SafetensorsFile::open(&single)?]);
        }
        if index.is_file() {
            return Self::open_sharded(dir, index);
        }
        let remedy = if dir.join("pytorch_model.bin").is_file() {
            "convert pytorch_model.bin with transformers' save_pretrained"
        } else {
            "give the directory of a model in Hugging Face layout"
        };
        Err(ModelError::File {
            file: dir.to_owned(),
            problem: format!("neither {SINGLE} nor {INDEX} is there"),
            remedy: remedy.into(),
        })
    }

    fn open_sharded(dir: &Path, index: PathBuf) -> Result<Self, ModelError> {
        let wrong = |problem: String| ModelError::File {
            file: index.clone(),
            problem,
            remedy: "the index is damaged; fetch or save the model again".into(),
        };
        let value: Value = serde_json::from_slice(&read_small(&index, LARGEST_INDEX)?)
            .map_err(|e| wrong(format!("not valid JSON ({e})")))?;
        let map = value
            .get("weight_map")
            .and_then(Value::as_object)
            .ok_or_else(|| wrong("no weight_map".into()))?;
        let mut shards: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
        for (tensor, shard) in map {
            let shard =
                shard.as_str().ok_or_else(|| wrong(format!("{tensor}: the shard is not a string")))?;
            // The name comes from outside: it must not lead out of the directory.
            if Path::new(shard).file_name() != Some(shard.as_ref()) || shard.contains(['/', '\\']) {
                return Err(wrong(format!("{tensor}: {shard:?} is not a plain file name")));
            }
            shards.entry(shard).or_default().push(tensor);
        }
        let mut files = Vec::with_capacity(shards.len());
        for (shard, tensors) in shards {
            let file = SafetensorsFile::open(&dir.join(shard))?;
            if let Some(tensor) = tensors.into_iter().find(|t| file.entry(t).is_none()) {
                return Err(wrong(format!("{tensor} is said to be in {shard}, which does not hold it")));
            }
            files.push(file);
        }
        Self::from_files(index, files)
    }

    fn from_files(main: PathBuf, files: Vec<SafetensorsFile>) -> Result<Self, ModelError> {
        let mut place = BTreeMap::new();
        for (i, file) in files.iter().enumerate() {
            for name in file.names() {
                if let Some(earlier) = place.insert(name.to_owned(), i) {
                    let earlier: &SafetensorsFile = &files[earlier];
                    return Err(ModelError::Tensor {
                        file: file.path().to_owned(),
                        tensor: name.to_owned(),
                        expected: "each tensor in one file".into(),
                        found: format!("it also in {}", earlier.path().display()),
                        remedy: "remove the files of another save".into(),
                    });
                }
            }
        }
        Ok(Self { files, place, main })
    }

    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.place.keys().map(String::as_str)
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.place.contains_key(name)
    }

    /// The file that holds the tensor; for an unknown one, the main file, so that an error can name it.
    pub(crate) fn file_of(&self, name: &str) -> &Path {
        self.place.get(name).map_or(self.main.as_path(), |i| self.files[*i].path())
    }

    fn holder(&self, name: &str, shape: &[usize]) -> Result<&SafetensorsFile, ModelError> {
        let place = self.place.get(name).ok_or_else(|| ModelError::Tensor {
            file: self.main.clone(),
            tensor: name.to_owned(),
            expected: format!("shape {shape:?}"),
            found: "no such tensor".into(),
            remedy: "config.json and the weights belong to different models, or a file is incomplete; fetch both again"
                .into(),
        })?;
        Ok(&self.files[*place])
    }

    /// Checks that the tensor is there with this shape and a known number type.
    pub(crate) fn check(&self, name: &str, shape: &[usize]) -> Result<(), ModelError> {
        self.holder(name, shape)?.check(name, shape)
    }

    /// Reads a tensor of one whole number.
    pub(crate) fn read_count(&self, name: &str) -> Result<u64, ModelError> {
        self.holder(name, &[1])?.read_count(name)
    }

    /// Reads the tensor as f32.
    pub(crate) fn read(&self, name: &str, shape: &[usize], out: &mut [f32]) -> Result<(), ModelError> {
        self.holder(name, shape)?.read(name, shape, out)
    }
}

/// Writes the tensors into `dir`: one file, or shards of at most `max_shard_bytes` (a larger single tensor has a
/// shard of its own) and their index. Each file appears whole or not at all; the index is written last, and what
/// an earlier save in the other layout left is removed after it.
///
/// # Errors
/// The I/O error with the path.
pub(crate) fn save_tensors(
    dir: &Path,
    tensors: Vec<TensorToWrite<'_>>,
    dtype: DType,
    max_shard_bytes: u64,
) -> Result<(), ModelError> {
    let format = [("format", "pt".to_owned())];
    let size = |t: &TensorToWrite<'_>| t.size(dtype) as u64;
    let total: u64 = tensors.iter().map(size).sum();
    let mut shards: Vec<(u64, Vec<TensorToWrite<'_>>)> = Vec::new();
    for tensor in tensors {
        let bytes = size(&tensor);
        match shards.last_mut() {
            Some((sum, shard)) if *sum + bytes <= max_shard_bytes => {
                *sum += bytes;
                shard.push(tensor);
            }
            _ => shards.push((bytes, vec![tensor])),
        }
    }
    let mut written = Vec::new();
    if let [(_, tensors)] = shards.as_slice() {
        write_safetensors(&dir.join(SINGLE), tensors, dtype, &format)?;
        written.push(SINGLE.to_owned());
    } else {
        let (count, mut map) = (shards.len(), Map::new());
        for (i, (_, tensors)) in shards.iter().enumerate() {
            let name = format!("model-{:05}-of-{count:05}.safetensors", i + 1);
            write_safetensors(&dir.join(&name), tensors, dtype, &format)?;
            for tensor in tensors {
                map.insert(tensor.name.clone(), Value::from(name.as_str()));
            }
            written.push(name);
        }
        let index = json!({"metadata": {"total_size": total}, "weight_map": map});
        bso_durable::write_json(&dir.join(INDEX), &index)?;
        written.push(INDEX.to_owned());
    }
    remove_other_weights(dir, &written)
}

/// Another reader could take the files of an earlier save for this one's.
fn remove_other_weights(dir: &Path, written: &[String]) -> Result<(), ModelError> {
    for entry in fs::read_dir(dir).map_err(|e| ModelError::reading(dir, &e))? {
        let entry = entry.map_err(|e| ModelError::reading(dir, &e))?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let weights = name == SINGLE
            || name == INDEX
            || (name.starts_with("model-") && name.contains("-of-") && name.ends_with(".safetensors"));
        if weights && !written.contains(&name) {
            fs::remove_file(entry.path()).map_err(|e| ModelError::reading(&entry.path(), &e))?;
        }
    }
    Ok(())
}
