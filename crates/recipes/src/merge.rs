//! `bso merge` and `bso export`: an adapter folded into its base, several models combined, a model in another number type
//! or file format. The output appears whole or not at all.

use crate::RecipeError;
use crate::gguf;
use crate::loaded::tell_of_model;
use crate::policy::tokenizer_folder;
use bso_durable::{AtomicDir, Event, Observer, atomic_write};
use bso_model::{DType, Decoder, Engine, GgufType, ModelError, interpolate_models};
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// What stands beside the weights of a model and belongs to it.
const BESIDE: [&str; 9] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "chat_template.jinja",
    "generation_config.json",
];

/// A folder in Hugging Face layout.
#[derive(Clone, Debug)]
pub struct ModelOutput {
    /// The folder; it must not hold anything yet.
    pub dir: PathBuf,
    /// Number type on disk.
    pub dtype: DType,
    /// Largest shard, bytes.
    pub max_shard_bytes: u64,
}

/// Writes the model in `model` (an adapter's folder gives its base with the adapter merged in) as whole weights.
///
/// # Errors
/// A model that cannot be used; an output folder that is in use; a full disk.
pub fn export_model(
    model: &Path,
    output: &ModelOutput,
    num_threads: Option<usize>,
    observer: &dyn Observer,
) -> Result<(), RecipeError> {
    refuse_used(&output.dir)?;
    let decoder = load(model, num_threads, observer)?;
    let building = AtomicDir::begin(&output.dir)?;
    decoder.save_sharded(building.path(), output.dtype, output.max_shard_bytes)?;
    copy_beside(model, building.path())?;
    building.commit()?;
    Ok(())
}

/// Writes `sum_i weights[i] * models[i]` with what stands beside the first model's weights.
///
/// # Errors
/// Models that do not fit each other, by the field that differs; as [`export_model`].
pub fn combine_models(models: &[PathBuf], weights: &[f64], output: &ModelOutput) -> Result<(), RecipeError> {
    refuse_used(&output.dir)?;
    let building = AtomicDir::begin(&output.dir)?;
    interpolate_models(models, weights, building.path(), output.dtype)?;
    if let Some(first) = models.first() {
        copy_beside(first, building.path())?;
    }
    building.commit()?;
    Ok(())
}

/// Writes `sum_i weights[i] * models[i]` in f32 into a folder that may hold other files, with what stands beside the first.
///
/// # Errors
/// As [`combine_models`].
pub fn average_into(models: &[PathBuf], weights: &[f64], dir: &Path) -> Result<(), RecipeError> {
    interpolate_models(models, weights, dir, DType::F32)?;
    models.first().map_or(Ok(()), |first| copy_beside(first, dir))
}

/// Writes the model with its tokenizer as one GGUF file.
///
/// # Errors
/// A family, a rotary scaling or a tokenizer that GGUF's readers do not know, by name; a file that is there already; a full
/// disk.
pub fn export_gguf(
    model: &Path,
    file: &Path,
    kind: GgufType,
    num_threads: Option<usize>,
    observer: &dyn Observer,
) -> Result<(), RecipeError> {
    if file.exists() {
        return Err(RecipeError::input(format!(
            "{} is there already; choose another --output",
            file.display()
        )));
    }
    let folder = tokenizer_folder(model)?;
    let vocabulary = bso_model::ModelConfig::from_dir(model)?.vocab_size;
    let tokenizer = gguf::tokenizer(&folder, vocabulary, observer)?;
    let decoder = load(model, num_threads, observer)?;
    let name = model.file_name().map_or_else(|| "model".into(), |name| name.to_string_lossy().into_owned());
    Ok(decoder.save_gguf(file, kind, &name, tokenizer)?)
}

fn load(model: &Path, num_threads: Option<usize>, observer: &dyn Observer) -> Result<Decoder, RecipeError> {
    let found = bso_model::ModelDirectory::find(model)?;
    if found.adapter.is_some() {
        observer.event(Event::Note(format!("the adapter is merged into its base {}", found.base.display())));
    }
    let engine = Arc::new(Engine::cpu(num_threads).map_err(ModelError::from)?);
    let started = Instant::now();
    let decoder = Decoder::load(model, engine)?;
    tell_of_model(&decoder, model, started, observer);
    Ok(decoder)
}

fn refuse_used(dir: &Path) -> Result<(), RecipeError> {
    let used = fs::read_dir(dir).is_ok_and(|mut entries| entries.next().is_some());
    if used || dir.is_file() {
        return Err(RecipeError::input(format!(
            "{} is not an empty folder; choose another --output",
            dir.display()
        )));
    }
    Ok(())
}

fn copy_beside(model: &Path, to: &Path) -> Result<(), RecipeError> {
    let from = tokenizer_folder(model)?;
    for name in BESIDE.into_iter().filter(|name| from.join(name).is_file()) {
        let content = fs::read(from.join(name))?;
        atomic_write(&to.join(name), |out| out.write_all(&content))?;
    }
    Ok(())
}
