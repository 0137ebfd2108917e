//! An adapter on disk: PEFT's `adapter_config.json` and `adapter_model.safetensors`.

use super::PREFIX;
use super::config::AdapterConfig;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::loading::allocate;
use crate::stored::StoredTensor;
use crate::weights::{SafetensorsFile, write_safetensors};
use bso_engine::DType;
use std::path::Path;

/// The file with the tensors.
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";

impl Decoder {
    /// Freezes the weights and puts the adapter in `dir` beside them, in place of one that is there.
    ///
    /// Names, shapes and sizes of all its tensors are checked before any memory is taken for them.
    ///
    /// # Errors
    /// A missing or damaged file; an adapter of another kind or for another model.
    pub fn load_adapter(&mut self, dir: &Path) -> Result<(), ModelError> {
        let config = AdapterConfig::from_dir(dir)?;
        let file = open(dir)?;
        self.drop_adapter();
        let plan = self.plan_adapter(&config)?;
        let stored = &plan.adapter.stored;
        for stored in stored {
            file.check(&stored.name, &stored.shape)?;
        }
        if let Some(name) = file.names().find(|name| stored.iter().all(|stored| stored.name != *name)) {
            return Err(ModelError::Tensor {
                file: file.path().to_owned(),
                tensor: name.to_owned(),
                expected: format!("only the tensors that adapter_config.json describes on a {}", self.config.model_type()),
                found: "this one besides".into(),
                remedy: "it belongs to another base model, or is of a kind that is not supported; merge it with PEFT"
                    .into(),
            });
        }
        let mut arrays: Vec<_> = plan.tensors.iter().map(allocate).collect::<Result<_, _>>()?;
        for stored in stored {
            let mut values = vec![0.0; stored.len()];
            file.read(&stored.name, &stored.shape, &mut values)?;
            stored.scatter(&values, &mut arrays);
        }
        self.adopt(plan, arrays)
    }

    /// Writes the adapter into `dir` (which must exist), rounded to `dtype`, as PEFT reads it; `base` is the model it
    /// belongs to.
    ///
    /// # Errors
    /// No adapter; the I/O error with the path.
    pub fn save_adapter(&self, dir: &Path, base: &Path, dtype: DType) -> Result<(), ModelError> {
        let Some(adapter) = &self.adapter else {
            return Err(ModelError::argument("the model has no adapter", "save the whole model"));
        };
        let arrays = &self.parameters[adapter.first..];
        let tensors: Vec<_> = adapter.stored.iter().map(|stored| stored.to_write(arrays)).collect();
        write_safetensors(&dir.join(WEIGHTS_FILE), &tensors, dtype, &[("format", "pt".to_owned())])?;
        let module = |stored: &StoredTensor| {
            let name = stored.name.strip_prefix(PREFIX)?.strip_suffix(".lora_A.weight")?;
            Some(name.to_owned())
        };
        let modules: Vec<String> = adapter.stored.iter().filter_map(module).collect();
        adapter.config.save(dir, base, (&modules, self.config.family().names.transposed))
    }
}

fn open(dir: &Path) -> Result<SafetensorsFile, ModelError> {
    let path = dir.join(WEIGHTS_FILE);
    if !path.is_file() && dir.join("adapter_model.bin").is_file() {
        return Err(ModelError::File {
            file: dir.to_owned(),
            problem: format!("adapter_model.bin is there and {WEIGHTS_FILE} is not"),
            remedy: "save the adapter again with PEFT's save_pretrained, which writes safetensors".into(),
        });
    }
    SafetensorsFile::open(&path)
}
