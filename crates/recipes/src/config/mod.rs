//! The configuration: what a user writes (YAML, presets, `--key value`) becomes one checked [`TrainConfig`].
//!
//! Two stages. As written: names are known, values are raw, every one has its place. Resolved: every value is
//! typed, in range and decided (the command line wins over the file, the file over the preset, the preset over
//! the defaults). One table ([`keys`]) says all that is known about a key; ready configs and the documentation
//! are made from it.

mod advice;
mod choices;
mod command_line;
mod dataset;
mod error;
mod expand;
mod generator;
mod import;
mod init;
mod key;
mod page;
mod preset;
mod resolve;
mod schema;
mod section;
mod source;
mod table;
mod value;
mod written;
mod yaml;

#[cfg(test)]
mod tests;

pub use choices::{ClosedSet, DTypeChoice, LossType, Optim, Recipe, SaveStrategy, Stage, Strategy, Tracker};
pub use command_line::parse_overrides;
pub use dataset::DatasetSource;
pub use error::{ConfigError, Place};
pub use import::{import, import_file};
pub use init::init;
pub use key::{Applies, Category, Choice, Fallback, Key, Kind, Range, Status};
pub use page::page;
pub use preset::{PRESETS, Preset};
pub use schema::schema;
pub use section::{
    BestModel, ChatTemplate, DataSection, ModelSection, ObjectiveSection, OptimiserSection, PpoLagSection,
    RecipeSection, Resume, RunSection, ScheduleSection, Warmup,
};
pub use table::{key, keys};
pub use value::Setting;

pub(crate) use error::did_you_mean;
pub(crate) use expand::from_environment;
pub(crate) use source::place;

use bso_model::{AdapterConfig, Quantisation};
use resolve::{Resolver, Surroundings};
use std::path::{Path, PathBuf};
use written::Written;

/// Everything that a training run is told, decided.
#[derive(Clone, Debug, PartialEq)]
pub struct TrainConfig {
    /// What is trained.
    pub stage: Stage,
    /// Weights, reference, arithmetic, seed.
    pub model: ModelSection,
    /// Rows and tokens.
    pub data: DataSection,
    /// The loss.
    pub objective: ObjectiveSection,
    /// The method whose stages the other settings are for; none: one run.
    pub recipe: Option<RecipeSection>,
    /// Batches, steps, learning rate.
    pub schedule: ScheduleSection,
    /// The optimiser.
    pub optimiser: OptimiserSection,
    /// The adapter that is trained; none: all weights are.
    pub adapter: Option<AdapterConfig>,
    /// How the frozen matrices beside an adapter are kept; none: in f32.
    pub quantisation: Option<Quantisation>,
    /// Evaluation, checkpoints, logs, folders.
    pub run: RunSection,
}

/// A resolved configuration and what the user should be told about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Resolved {
    /// The configuration.
    pub config: TrainConfig,
    /// One line each: aliases taken, keys without effect, settings that do not go well together.
    pub notices: Vec<String>,
}

/// Reads, completes and checks the configuration in `path`; `overrides` (from [`parse_overrides`]) win.
/// Relative paths in the file start at its folder, those in `overrides` at the working directory.
/// Whether paths exist is for [`TrainConfig::check_paths`].
///
/// # Errors
/// What is wrong, with file, line and remedy; always wrong usage.
pub fn load(path: &Path, overrides: &[(String, String)]) -> Result<Resolved, ConfigError> {
    let working_dir = working_dir()?;
    let around = Surroundings { working_dir: &working_dir, variable: &|v| std::env::var(v).ok() };
    resolve_written(vec![from_file(path, &working_dir)?], overrides, &around)
}

/// What a file gives, and the folder that its relative paths start at.
fn from_file(path: &Path, working_dir: &Path) -> Result<(Written, PathBuf), ConfigError> {
    let text = written::read_file(path)?;
    let base = working_dir.join(path.parent().unwrap_or(Path::new("")));
    Ok((written::from_yaml(&text, path)?, base))
}

/// Settings with the words that messages call their place by.
pub(crate) type Overlay<'a> = (String, &'a [(String, serde_json::Value)]);

/// As [`load`], with layers of settings over the file `base`, the weakest first; their relative paths start at `folder`.
///
/// # Errors
/// As [`load`].
pub(crate) fn load_overlaid(
    base: Option<&Path>,
    (folder, layers): (&Path, &[Overlay<'_>]),
    overrides: &[(String, String)],
) -> Result<Resolved, ConfigError> {
    let working_dir = working_dir()?;
    let around = Surroundings { working_dir: &working_dir, variable: &|v| std::env::var(v).ok() };
    let mut files = Vec::from_iter(base.map(|path| from_file(path, &working_dir)).transpose()?);
    for (part, settings) in layers {
        files.push((written::from_values(settings, part)?, folder.to_owned()));
    }
    resolve_written(files, overrides, &around)
}

/// As [`load`] for YAML already in memory, such as standard input: relative paths start at the working directory,
/// and messages call it `name`.
///
/// # Errors
/// As [`load`].
pub fn load_text(text: &str, name: &str, overrides: &[(String, String)]) -> Result<Resolved, ConfigError> {
    let working_dir = working_dir()?;
    let around = Surroundings { working_dir: &working_dir, variable: &|v| std::env::var(v).ok() };
    let file = (written::from_yaml(text, Path::new(name))?, working_dir.clone());
    resolve_written(vec![file], overrides, &around)
}

fn working_dir() -> Result<PathBuf, ConfigError> {
    std::env::current_dir().map_err(|e| ConfigError::read(Path::new("."), e))
}

fn resolve_written(
    files: Vec<(Written, PathBuf)>,
    overrides: &[(String, String)],
    around: &Surroundings<'_>,
) -> Result<Resolved, ConfigError> {
    let mut r = Resolver::new(files, written::from_pairs(overrides)?, around)?;
    let config = TrainConfig {
        stage: r.stage,
        model: ModelSection::read(&r)?,
        data: DataSection::read(&r)?,
        objective: ObjectiveSection::read(&mut r)?,
        recipe: RecipeSection::read(&r)?,
        schedule: ScheduleSection::read(&r)?,
        optimiser: OptimiserSection::read(&r)?,
        adapter: section::adapter::read(&r)?,
        quantisation: section::adapter::read_quantisation(&r)?,
        run: RunSection::read(&r)?,
    };
    config.objective.check()?;
    let mut notices = std::mem::take(&mut r.notices);
    notices.extend(advice::check(&config, &r)?);
    Ok(Resolved { config, notices })
}

impl TrainConfig {
    /// The reference in words, for the start of a run.
    pub fn reference_in_words(&self) -> String {
        let same = self.model.ref_model.is_none() && self.adapter.is_some();
        let how = if same { ", in the same memory: the adapter is off or as it came" } else { "" };
        let bits = self.quantisation.filter(|_| same).map(|kind| format!(", its matrices in {kind}"));
        format!("{}{how}{}", self.model.reference_in_words(), bits.unwrap_or_default())
    }

    /// Refuses paths that cannot be read from. `output_dir` is not looked at: whoever writes there does.
    ///
    /// # Errors
    /// [`ConfigError::Path`] with the key, the path and the remedy.
    pub fn check_paths(&self) -> Result<(), ConfigError> {
        folder("model_name_or_path", &self.model.model_name_or_path)?;
        self.model.ref_model.iter().try_for_each(|path| folder("ref_model", path))?;
        if !self.trains_scorers() {
            self.objective.models().into_iter().try_for_each(|(key, path)| folder(key, path))?;
        }
        self.data.datasets.iter().try_for_each(|source| exists("dataset_name", &source.path))?;
        let (key, others) = self.objective.datasets();
        others.iter().try_for_each(|source| exists(key, &source.path))?;
        if let ChatTemplate::File(path) = &self.data.chat_template {
            exists("chat_template", path)?;
        }
        if let Resume::From(path) = &self.run.resume_from_checkpoint {
            folder("resume_from_checkpoint", path)?;
        }
        Ok(())
    }
}

impl TrainConfig {
    /// Whether the models that the objective names are trained by the recipe's own stages.
    pub(crate) fn trains_scorers(&self) -> bool {
        self.recipe.as_ref().is_some_and(|recipe| recipe.name == Recipe::SafeRlhf)
    }
}

fn exists(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    if path.exists() {
        return Ok(());
    }
    let problem = "does not exist (relative paths in a configuration start at its folder; a name on the hub is org/name)";
    Err(ConfigError::Path { key, path: path.to_owned(), problem: problem.into() })
}

fn folder(key: &'static str, path: &Path) -> Result<(), ConfigError> {
    exists(key, path)?;
    if path.is_dir() {
        return Ok(());
    }
    Err(ConfigError::Path { key, path: path.to_owned(), problem: "is not a folder".into() })
}
