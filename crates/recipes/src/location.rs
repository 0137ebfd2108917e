//! Names on the hub become local folders before anything reads them; paths stay as they are.

use crate::RecipeError;
use crate::config::TrainConfig;
use bso_data::files_of_splits;
use bso_durable::Observer;
use bso_hub::{RepoKind, everything, locate};
use std::path::{Path, PathBuf};

/// The folder of a model that is named by a path or by `org/name or org/name@revision`.
///
/// # Errors
/// It is neither here nor to be had.
pub fn local_model(named: &Path, observer: &dyn Observer) -> Result<PathBuf, RecipeError> {
    Ok(locate(named, RepoKind::Model, &everything, observer)?)
}

/// The file or folder of rows that is named by a path or by `org/name or org/name@revision`. Of a data set on the hub only
/// the files of `splits` are fetched; none means `train`, or the whole where there are no splits.
///
/// # Errors
/// It is neither here nor to be had.
pub fn local_rows(
    named: &Path,
    splits: &[Option<&str>],
    observer: &dyn Observer,
) -> Result<PathBuf, RecipeError> {
    let of_splits =
        |files| files_of_splits(Path::new("the repository"), files, splits).map_err(|e| e.to_string());
    Ok(locate(named, RepoKind::Dataset, &of_splits, observer)?)
}

/// The configuration with local paths in place of names.
///
/// # Errors
/// A model or data set that is neither here nor to be had.
pub fn located(config: &TrainConfig, observer: &dyn Observer) -> Result<TrainConfig, RecipeError> {
    let mut config = config.clone();
    let trains_scorers = config.trains_scorers();
    let model = &mut config.model;
    model.model_name_or_path = local_model(&model.model_name_or_path, observer)?;
    let named = if trains_scorers { Vec::new() } else { config.objective.models_mut() };
    for frozen in model.ref_model.iter_mut().chain(named) {
        *frozen = local_model(frozen, observer)?;
    }
    let data = &mut config.data;
    for source in &mut data.datasets {
        let mut splits = vec![source.split.as_deref().or(data.train_split.as_deref())];
        splits.extend(data.test_split.as_deref().map(Some));
        source.path = local_rows(&source.path, &splits, observer)?;
    }
    for source in config.objective.datasets_mut() {
        source.path = local_rows(&source.path, &[source.split.as_deref()], observer)?;
    }
    Ok(config)
}
