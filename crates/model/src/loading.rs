//! A decoder from a folder in Hugging Face layout: which tensor is which, what must not be there, and no memory before
//! all of it is checked.

use crate::config::ModelConfig;
use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::layout::{Layout, TensorSpec};
use crate::model_directory::ModelDirectory;
use crate::scores::STATISTICS;
use crate::stored::StoredTensor;
use crate::weights::Checkpoint;
use bso_engine::{Array, Engine, Quantisation};
use std::path::Path;
use std::sync::Arc;

impl Decoder {
    /// Loads a model directory in Hugging Face layout; bf16 and f16 become f32. An adapter's directory gives its base model
    /// with the adapter merged in.
    ///
    /// Names, shapes and sizes of all tensors are checked before any memory is taken for them.
    ///
    /// # Errors
    /// A missing, damaged or unsupported config or weight file; a missing, superfluous or misshapen tensor.
    pub fn load(dir: &Path, engine: Arc<Engine>) -> Result<Self, ModelError> {
        let ModelDirectory { base, adapter } = ModelDirectory::find(dir)?;
        let mut decoder = Self::read(&base, engine, None)?;
        if let Some(adapter) = adapter {
            decoder.fit_adapters_head(&adapter)?;
            decoder.load_adapter(&adapter)?;
            decoder.merge_adapter()?;
        }
        decoder.place()?;
        Ok(decoder)
    }

    /// As [`Decoder::load`] of a base model for an adapter, on the host: [`Decoder::freeze_base_in`] brings to a device what
    /// is needed there.
    ///
    /// # Errors
    /// As [`Decoder::load`]; an adapter's directory.
    pub fn load_base(dir: &Path, engine: Arc<Engine>) -> Result<Self, ModelError> {
        if ModelDirectory::find(dir)?.adapter.is_some() {
            return Err(ModelError::argument(format!("{} is an adapter", dir.display()), "name its base"));
        }
        Self::read(dir, engine, None)
    }

    /// A base model, its matrices in few bits where `quantisation` says so.
    pub(crate) fn read(
        dir: &Path,
        engine: Arc<Engine>,
        quantisation: Option<Quantisation>,
    ) -> Result<Self, ModelError> {
        let config = ModelConfig::from_dir(dir)?;
        let layout = Layout::of(&config);
        let checkpoint = Checkpoint::open(dir)?;
        for stored in &layout.stored {
            checkpoint.check(name_in(&checkpoint, &config, stored), &stored.shape)?;
        }
        refuse_superfluous(&checkpoint, &config, &layout)?;
        let mut decoder = Self::zeros(config, layout, engine, quantisation)?;
        let Self { config, layout, parameters, quantised, engine, .. } = &mut decoder;
        for stored in &layout.stored {
            let name = name_in(&checkpoint, config, stored);
            let quantised = quantised.as_mut().filter(|_| layout.is_linear(stored));
            if quantised.is_some() {
                for part in &stored.parts {
                    parameters[*part] = allocate(&layout.tensors[*part])?;
                }
            }
            if stored.is_plain() {
                let values = parameters[stored.parts[0]].as_mut_slice();
                checkpoint.read(name, &stored.shape, values)?;
            } else {
                let mut values = reserve(&stored.name, stored.len())?;
                checkpoint.read(name, &stored.shape, &mut values)?;
                stored.scatter(&values, parameters);
            }
            if let Some(quantised) = quantised {
                for part in &stored.parts {
                    quantised.take((name, *part), &mut parameters[*part], engine)?;
                }
            }
        }
        decoder.refuse_untied_head(&checkpoint)?;
        decoder.read_normaliser(&checkpoint)?;
        Ok(decoder)
    }

    /// transformers ignores a stored head where the config ties it; a different one would be lost silently.
    fn refuse_untied_head(&self, checkpoint: &Checkpoint) -> Result<(), ModelError> {
        let Some(name) = HEADS.into_iter().find(|name| checkpoint.has(name)).filter(|_| self.tied_head())
        else {
            return Ok(());
        };
        let spec = &self.layout.tensors[self.layout.embedding];
        checkpoint.check(name, &spec.shape)?;
        let mut head = allocate(spec)?;
        checkpoint.read(name, &spec.shape, head.as_mut_slice())?;
        if head.as_slice() == self.parameters[self.layout.embedding].as_slice() {
            return Ok(());
        }
        Err(ModelError::Tensor {
            file: checkpoint.file_of(name).to_owned(),
            tensor: name.into(),
            expected: format!("the values of {} (tie_word_embeddings is true)", spec.name),
            found: "others".into(),
            remedy: "set tie_word_embeddings to false in config.json, or remove the tensor".into(),
        })
    }
}

/// The names that families give the output head.
const HEADS: [&str; 2] = ["lm_head.weight", "embed_out.weight"];

/// The tensor's name in this checkpoint: one of a model without head lacks the name of the body, and GPT-NeoX's head
/// has had two names.
pub(crate) fn name_in<'a>(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    stored: &'a StoredTensor,
) -> &'a str {
    let bare = stored.name.strip_prefix(config.family().names.body);
    let heads = HEADS.iter().copied().filter(|_| HEADS.contains(&stored.name.as_str()));
    let mut others = bare.into_iter().chain(heads);
    let found = if checkpoint.has(&stored.name) { None } else { others.find(|name| checkpoint.has(name)) };
    found.unwrap_or(&stored.name)
}

/// Tensors that the model would not use: a sign of another architecture, except for masks and frequencies that older
/// versions of transformers wrote, and a head that is tied.
fn refuse_superfluous(
    checkpoint: &Checkpoint,
    config: &ModelConfig,
    layout: &Layout,
) -> Result<(), ModelError> {
    let known = layout.stored.iter().map(|stored| name_in(checkpoint, config, stored));
    let known: std::collections::HashSet<&str> = known.collect();
    let harmless = |name: &str| {
        let mask = [".attn.bias", ".attn.masked_bias", ".attention.bias", ".attention.masked_bias"];
        name.ends_with(".rotary_emb.inv_freq")
            || mask.iter().any(|end| name.ends_with(end))
            || (HEADS.contains(&name) && (config.tied_head || config.score.is_some()))
            || (STATISTICS.contains(&name) && config.score.is_some())
    };
    match checkpoint.names().find(|name| !known.contains(name) && !harmless(name)) {
        None => Ok(()),
        Some(name) => Err(ModelError::Tensor {
            file: checkpoint.file_of(name).to_owned(),
            tensor: name.into(),
            expected: format!("only the tensors of a {} of {} layers", config.model_type(), config.layers),
            found: "this one besides".into(),
            remedy: "config.json and the weights belong to different models; fetch both again".into(),
        }),
    }
}

pub(crate) fn allocate(spec: &TensorSpec) -> Result<Array, ModelError> {
    let (rows, cols) = spec.rows_cols();
    let data = reserve(&spec.name, rows.saturating_mul(cols))?;
    Ok(Array::from_vec(rows, cols, data)?)
}

/// Zeros, or the error that says what there is no memory for.
fn reserve(name: &str, count: usize) -> Result<Vec<f32>, ModelError> {
    let mut data = Vec::new();
    if data.try_reserve_exact(count).is_err() {
        return Err(ModelError::argument(
            format!("no memory for {name} of {count} numbers"),
            "use a smaller model or a machine with more memory",
        ));
    }
    data.resize(count, 0.0);
    Ok(data)
}
