//! recipe.json: which stages of a recipe are finished, from which ingredients, and what they cost.

use crate::RecipeError;
use crate::config::{Recipe, Resume, TrainConfig};
use bso_durable::{ensure_dir, write_json};
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::PathBuf;

const FILE: &str = "recipe.json";

/// A stage that is done.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finished {
    /// Its name, which is that of its folder; empty for the last.
    pub stage: String,
    /// Of its settings and of everything that it reads.
    pub fingerprint: String,
    /// Wall seconds of the call that finished it.
    pub seconds: f64,
    /// Sequences that models computed for it.
    pub forwards: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Content {
    recipe: String,
    /// Of the user's settings.
    settings: String,
    stages: Vec<Finished>,
}

/// The file with its content.
pub struct Record {
    path: PathBuf,
    content: Content,
}

impl Record {
    /// Whether the output folder has one.
    pub fn is_there(config: &TrainConfig) -> bool {
        config.run.output_dir.join(FILE).exists()
    }

    /// Takes up the record in the output folder, or begins one there.
    ///
    /// # Errors
    /// A folder in use by something else, or by the same recipe under other settings; nothing is changed then.
    pub fn open(config: &TrainConfig, recipe: Recipe) -> Result<Self, RecipeError> {
        let root = &config.run.output_dir;
        let path = root.join(FILE);
        let new = Content { recipe: recipe.to_string(), settings: config.fingerprint(), stages: Vec::new() };
        let anew = config.run.overwrite_output_dir && config.run.resume_from_checkpoint == Resume::No;
        let found = fs::read(&path).ok().filter(|_| !anew);
        let content = match found {
            Some(text) => {
                let was: Content = serde_json::from_slice(&text).map_err(|e| {
                    RecipeError::input(format!(
                        "{}: {e}; start anew with overwrite_output_dir: true",
                        path.display()
                    ))
                })?;
                if (&was.recipe, &was.settings) != (&new.recipe, &new.settings) {
                    return Err(RecipeError::input(format!(
                        "{} holds stages of {} under other settings (they are in its recipe.yaml); restore these, choose \
                         another output_dir, or start anew with overwrite_output_dir: true",
                        root.display(),
                        was.recipe
                    )));
                }
                was
            }
            None => {
                let used = fs::read_dir(root).is_ok_and(|mut entries| entries.next().is_some());
                if used && !anew {
                    return Err(RecipeError::input(format!(
                        "{} is not empty and holds no recipe; choose another output_dir, or set overwrite_output_dir: true",
                        root.display()
                    )));
                }
                new
            }
        };
        ensure_dir(root)?;
        let record = Self { path, content };
        record.write()?;
        Ok(record)
    }

    /// Whether `stage` was finished from these ingredients.
    pub fn holds(&self, stage: &str, fingerprint: &str) -> bool {
        self.content.stages.iter().any(|s| s.stage == stage && s.fingerprint == fingerprint)
    }

    /// Forgets a stage and all that came after it.
    pub fn forget_from(&mut self, stage: &str) -> Result<(), RecipeError> {
        let Some(at) = self.content.stages.iter().position(|s| s.stage == stage) else { return Ok(()) };
        self.content.stages.truncate(at);
        self.write()
    }

    /// Notes that a stage is finished.
    pub fn add(&mut self, finished: Finished) -> Result<(), RecipeError> {
        self.content.stages.push(finished);
        self.write()
    }

    /// Seconds and forwards of all stages together.
    pub fn cost(&self) -> (f64, u64) {
        let stages = &self.content.stages;
        (stages.iter().map(|s| s.seconds).sum(), stages.iter().map(|s| s.forwards).sum())
    }

    fn write(&self) -> Result<(), RecipeError> {
        Ok(write_json(&self.path, &self.content)?)
    }
}
