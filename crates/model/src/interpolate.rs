//! A linear combination of several models' weights, tensor by tensor: never more than one tensor in memory.

use crate::config::ModelConfig;
use crate::error::ModelError;
use crate::layout::Layout;
use crate::loading::name_in;
use crate::model_directory::ModelDirectory;
use crate::score_head::ScoreLayout;
use crate::stored::StoredTensor;
use crate::weights::{Checkpoint, TensorData, TensorToWrite, save_tensors};
use bso_engine::DType;
use std::borrow::Cow;
use std::io;
use std::path::{Path, PathBuf};

/// Largest shard that is written, bytes; transformers' default.
const SHARD_BYTES: u64 = 5_000_000_000;

/// Writes `sum_i weights[i] * models[i]`, summed in f64 and rounded to `dtype`, into `dir` (which must exist), with the first
/// model's `config.json`.
///
/// # Errors
/// Another number of weights than models, or weights that do not add up to 1; models of different shape, named by the field
/// of `config.json` that differs; a damaged model.
pub fn interpolate_models(
    models: &[PathBuf],
    weights: &[f64],
    dir: &Path,
    dtype: DType,
) -> Result<(), ModelError> {
    if models.len() < 2 || models.len() != weights.len() {
        return Err(ModelError::argument(
            format!("{} weights for {} models", weights.len(), models.len()),
            "give at least two models and one weight for each",
        ));
    }
    let sum: f64 = weights.iter().sum();
    if sum.is_nan() || (sum - 1.0).abs() > 1e-6 {
        return Err(ModelError::argument(
            format!("the weights {weights:?} add up to {sum}"),
            "give weights that add up to 1, as 0.3,0.7",
        ));
    }
    let configs = models.iter().map(|dir| whole_model(dir)).collect::<Result<Vec<_>, _>>()?;
    let (first, others) = configs.split_at(1);
    for (config, model) in others.iter().zip(&models[1..]) {
        if let Some(field) = first[0].difference(config) {
            return Err(ModelError::Config {
                file: model.join("config.json"),
                problem: format!("{field} is not as in {}", models[0].display()),
                remedy: "only models of the same architecture and shape can be combined".into(),
            });
        }
    }
    let (config, layout) = (&first[0], Layout::of(&first[0]));
    let checkpoints = models.iter().map(|dir| Checkpoint::open(dir)).collect::<Result<Vec<_>, _>>()?;
    for (checkpoint, stored) in checkpoints.iter().flat_map(|c| layout.stored.iter().map(move |s| (c, s))) {
        checkpoint.check(name_in(checkpoint, config, stored), &stored.shape)?;
    }
    let mixed = |stored: &StoredTensor| -> io::Result<Cow<'_, [f32]>> {
        let (mut sum, mut values) = (vec![0.0_f64; stored.len()], vec![0.0_f32; stored.len()]);
        for (checkpoint, weight) in checkpoints.iter().zip(weights) {
            let name = name_in(checkpoint, config, stored);
            checkpoint.read(name, &stored.shape, &mut values).map_err(io::Error::other)?;
            sum.iter_mut().zip(&values).for_each(|(sum, x)| *sum += weight * f64::from(*x));
        }
        Ok(Cow::Owned(sum.into_iter().map(|x| x as f32).collect()))
    };
    let mixed = &mixed;
    let tensors = layout.stored.iter().map(|stored| TensorToWrite {
        name: stored.name.clone(),
        shape: stored.shape.clone(),
        data: TensorData::Made(Box::new(move || mixed(stored))),
    });
    save_tensors(dir, tensors.collect(), dtype, SHARD_BYTES)?;
    config.save(dir, dtype)
}

fn whole_model(dir: &Path) -> Result<ModelConfig, ModelError> {
    if ModelDirectory::find(dir)?.adapter.is_some() {
        return Err(ModelError::argument(
            format!("{} holds an adapter", dir.display()),
            "merge it into its base first (bso merge --model) and combine the merged model",
        ));
    }
    let config = ModelConfig::from_dir(dir)?;
    if config.score.as_ref().is_some_and(|head| head.layout == ScoreLayout::SafeRlhf) {
        return Err(ModelError::argument(
            format!("{} is a {}, whose normaliser belongs to its own scores", dir.display(), config.class()),
            "combine models in transformers' layout (...ForSequenceClassification)",
        ));
    }
    Ok(config)
}
