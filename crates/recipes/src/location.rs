//! Names on the hub become local folders before anything reads them; paths stay as they are.

use crate::RecipeError;
use crate::config::TrainConfig;
use bso_durable::Observer;
use bso_hub::{RepoKind, locate};
use std::path::{Path, PathBuf};

/// The folder of a model that is named by a path or by `org/name or org/name@revision`.
///
/// # Errors
/// It is neither here nor to be had.
pub fn local_model(named: &Path, observer: &dyn Observer) -> Result<PathBuf, RecipeError> {
    Ok(locate(named, RepoKind::Model, observer)?)
}

/// The file or folder of rows that is named by a path or by `org/name or org/name@revision`.
///
/// # Errors
/// It is neither here nor to be had.
pub fn local_rows(named: &Path, observer: &dyn Observer) -> Result<PathBuf, RecipeError> {
    Ok(locate(named, RepoKind::Dataset, observer)?)
}

/// The configuration with local paths in place of names.
///
/// # Errors
/// A model or data set that is neither here nor to be had.
pub fn located(config: &TrainConfig, observer: &dyn Observer) -> Result<TrainConfig, RecipeError> {
    let mut config = config.clone();
    let model = &mut config.model;
    model.model_name_or_path = local_model(&model.model_name_or_path, observer)?;
    for frozen in model.ref_model.iter_mut().chain(config.objective.margin_model_mut()) {
        *frozen = local_model(frozen, observer)?;
    }
    for source in &mut config.data.datasets {
        source.path = local_rows(&source.path, observer)?;
    }
    Ok(config)
}
