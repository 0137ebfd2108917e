//! An adapter on disk: PEFT's `adapter_config.json` and `adapter_model.safetensors`.

use super::config::AdapterConfig;
use super::plan::SCORE;
use super::{AdapterPlan, PREFIX};
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::loading::allocate;
use crate::score_head::ScoreHead;
use crate::stored::StoredTensor;
use crate::weights::{SafetensorsFile, write_safetensors};
use bso_durable::Seed;
use bso_engine::DType;
use std::path::Path;

/// The file with the tensors.
pub(crate) const WEIGHTS_FILE: &str = "adapter_model.safetensors";

impl Decoder {
    /// Makes room for the scalar head that the adapter in `dir` brings to a language model, if it brings one: due before
    /// [`Decoder::load_adapter`].
    ///
    /// # Errors
    /// A missing or broken config; an adapter beside a scalar head that neither it nor the model has.
    pub fn fit_adapters_head(&mut self, dir: &Path) -> Result<(), ModelError> {
        if self.config.score.is_some() || !AdapterConfig::is_of_score(dir)? {
            return Ok(());
        }
        if !AdapterConfig::from_dir(dir)?.modules_to_save.iter().any(|module| module == SCORE) {
            return Err(ModelError::File {
                file: dir.to_owned(),
                problem: format!("the adapter stands beside a scalar head, and neither it nor its base holds one ({SCORE})"),
                remedy: "name the classifier that it was trained on in base_model_name_or_path, or save it with modules_to_save: \
                         [score]"
                    .into(),
            });
        }
        self.replace_head(ScoreHead::sequence_classification(), Seed::new(0))
    }

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
        let frozen = self.frozen_head(&file, &plan)?;
        let known =
            |name: &str| frozen.as_deref() == Some(name) || stored.iter().any(|stored| stored.name == name);
        if let Some(name) = file.names().find(|name| !known(name)) {
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

    /// PEFT writes the base's head beside an adapter of it; one that is not this base's would be lost silently. Its name, where
    /// it is there.
    fn frozen_head(&self, file: &SafetensorsFile, plan: &AdapterPlan) -> Result<Option<String>, ModelError> {
        let Some(update) = plan.adapter.low_rank.get(&self.layout.head) else { return Ok(None) };
        let a = &plan.tensors[update.a - plan.adapter.first].name;
        let name = a.replace(".lora_A.weight", ".base_layer.weight");
        if !file.names().any(|there| there == name) {
            return Ok(None);
        }
        let head = &self.parameters[self.layout.head];
        let shape = [head.rows(), head.cols()];
        file.check(&name, &shape)?;
        let mut values = vec![0.0; head.len()];
        file.read(&name, &shape, &mut values)?;
        if values == head.on_host()?.as_slice() {
            return Ok(Some(name));
        }
        Err(ModelError::Tensor {
            file: file.path().to_owned(),
            tensor: name,
            expected: "the head of the base model".into(),
            found: "other numbers".into(),
            remedy: "its head was changed before the adapter was trained: merge the adapter with PEFT and give the merged model"
                .into(),
        })
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
        adapter.config.save(dir, base, (&modules, &self.config))
    }
}

/// The weights of the adapter in `dir`, mapped and checked.
pub(crate) fn open(dir: &Path) -> Result<SafetensorsFile, ModelError> {
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
