//! Where a model's weights lie: a model directory, or an adapter's, whose base model is found through it.

use crate::adapter::{AdapterConfig, CONFIG_FILE, open_weights};
use crate::error::ModelError;
use crate::weights::Checkpoint;
use std::path::{Path, PathBuf};

/// A model directory, with an adapter's where there is one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ModelDirectory {
    /// Holds `config.json` and whole weights.
    pub base: PathBuf,
    /// Holds `adapter_config.json` and an adapter's weights.
    pub adapter: Option<PathBuf>,
}

impl ModelDirectory {
    /// Whether it holds an adapter beside a scalar head.
    ///
    /// # Errors
    /// A broken `adapter_config.json`.
    pub fn has_score_adapter(&self) -> Result<bool, ModelError> {
        self.adapter.as_deref().map_or(Ok(false), AdapterConfig::is_of_score)
    }

    /// Whether every weight file is there with a sound header and as long as that says; no weight is read.
    ///
    /// # Errors
    /// The first file that is missing, truncated or damaged.
    pub fn check_weights(&self) -> Result<(), ModelError> {
        Checkpoint::open(&self.base)?;
        self.adapter.as_deref().map_or(Ok(()), |dir| open_weights(dir).map(drop))
    }

    /// Looks at `dir`: where it holds an adapter, the base is the folder in its `base_model_name_or_path`, relative to the
    /// adapter or absolute. Whether anything else is in order, whoever reads it finds out.
    ///
    /// # Errors
    /// A base that is not there, or that is an adapter itself; a folder with an adapter and whole weights.
    pub fn find(dir: &Path) -> Result<Self, ModelError> {
        if !dir.join(CONFIG_FILE).is_file() {
            return Ok(Self { base: dir.to_owned(), adapter: None });
        }
        let wrong = |problem: String, remedy: &str| {
            Err(ModelError::Config { file: dir.join(CONFIG_FILE), problem, remedy: remedy.into() })
        };
        let weights = ["model.safetensors", "model.safetensors.index.json"];
        if let Some(weights) = weights.iter().find(|name| dir.join(name).is_file()) {
            return wrong(
                format!("the folder holds an adapter and {weights}"),
                "move one of them to a folder of its own",
            );
        }
        let name = AdapterConfig::base_of(dir)?;
        let base = dir.join(&name);
        if name.is_empty() || !base.is_dir() {
            return wrong(
                format!("base_model_name_or_path = {name:?} is not a folder"),
                "fetch the base model and write its path there, absolute or relative to the adapter's folder",
            );
        }
        if base.join(CONFIG_FILE).is_file() {
            return wrong(
                format!("the base {} is an adapter itself", base.display()),
                "merge that one into its base (bso merge) and name the merged model",
            );
        }
        Ok(Self { base, adapter: Some(dir.to_owned()) })
    }
}
