//! What a stage may do: a run, an average of weights, or rows made from rows.

use super::{Plan, relabel};
use crate::RecipeError;
use crate::config::{Resume, TrainConfig};
use crate::merge::average_into;
use crate::reference::{fingerprint_model, fingerprint_models};
use crate::train::{Trained, train};
use bso_durable::{Fingerprint, Interrupt, Observer, fingerprint_file};
use bso_runs::{Manifest, RunDirectory, Status};
use std::path::{Path, PathBuf};

/// The work of a stage.
pub enum Work {
    /// A run.
    Train(Box<TrainConfig>),
    /// A linear combination of two models' weights.
    Interpolate {
        /// The models.
        models: [PathBuf; 2],
        /// Their weights.
        weights: [f64; 2],
    },
    /// Rows for a later stage.
    Rows(Between),
}

/// Rows from rows.
pub enum Between {
    /// Every response with its safety label as the judgement.
    Judge,
    /// Responses of the reference.
    Sample,
    /// Pairs in an order drawn by scores.
    Relabel(Scorers),
}

/// What tells helpful from safe.
pub enum Scorers {
    /// A reward and a cost model.
    Scores {
        /// r.
        reward: PathBuf,
        /// c = -g.
        cost: PathBuf,
    },
    /// The log-ratios of two policies against the reference.
    Policies {
        /// r.
        helpful: PathBuf,
        /// g.
        safe: PathBuf,
    },
}

impl Scorers {
    /// Both models.
    pub fn models(&self) -> [&PathBuf; 2] {
        match self {
            Self::Scores { reward, cost } => [reward, cost],
            Self::Policies { helpful, safe } => [helpful, safe],
        }
    }
}

/// How work ended.
pub enum Outcome {
    /// The user stopped it; a checkpoint is there.
    Stopped(Trained),
    /// It is done.
    Done {
        /// Sequences that models computed.
        forwards: u64,
        /// The run, where it was one.
        trained: Option<Trained>,
    },
}

impl Work {
    /// Of the settings, and of everything that is read.
    ///
    /// # Errors
    /// What cannot be read.
    pub fn fingerprint(&self, plan: &Plan<'_>) -> Result<String, RecipeError> {
        let mut fingerprint = Fingerprint::new();
        match self {
            Self::Train(config) => {
                fingerprint.part("train").part(config.fingerprint());
                for (key, model) in fingerprint_models(config)? {
                    fingerprint.part(key).part(model);
                }
                config.data.datasets.iter().try_for_each(|d| add_files(&mut fingerprint, &d.path))?;
            }
            Self::Interpolate { models, weights } => {
                fingerprint.part("interpolate").part(format!("{weights:?}"));
                for model in models {
                    fingerprint.part(fingerprint_model(model)?);
                }
            }
            Self::Rows(between) => {
                fingerprint.part("rows").part(plan.config.fingerprint());
                plan.config.data.datasets.iter().try_for_each(|d| add_files(&mut fingerprint, &d.path))?;
                fingerprint.part(fingerprint_model(relabel::reference(plan))?);
                match between {
                    Between::Judge => {}
                    Between::Sample => {}
                    Between::Relabel(scorers) => {
                        add_files(&mut fingerprint, &relabel::samples(plan))?;
                        for model in scorers.models() {
                            fingerprint.part(fingerprint_model(model)?);
                        }
                    }
                }
            }
        }
        Ok(fingerprint.finish())
    }

    /// Whether its results are still there.
    pub fn is_finished(&self, plan: &Plan<'_>, stage: &str) -> bool {
        let dir = plan.dir(stage);
        match self {
            Self::Train(_) => Manifest::read(&RunDirectory::at(dir).manifest())
                .is_ok_and(|manifest| matches!(manifest.status, Status::Finished { .. })),
            Self::Interpolate { .. } => dir.join("config.json").is_file(),
            Self::Rows(Between::Judge) => relabel::judged(plan).is_file(),
            Self::Rows(Between::Sample) => relabel::samples(plan).is_file(),
            Self::Rows(Between::Relabel(_)) => relabel::relabelled(plan).is_file(),
        }
    }

    /// Does it.
    ///
    /// # Errors
    /// What the run refuses; a run that was stopped and is not to be resumed; files that cannot be written.
    pub fn run(
        self,
        plan: &Plan<'_>,
        stage: &str,
        interrupt: &Interrupt,
        observer: &dyn Observer,
    ) -> Result<Outcome, RecipeError> {
        let forwards = match self {
            Self::Train(mut config) => {
                settle_opening(&mut config)?;
                let trained = train(&config, interrupt, observer)?;
                return Ok(if trained.interrupted {
                    Outcome::Stopped(trained)
                } else {
                    Outcome::Done { forwards: trained.forwards, trained: Some(trained) }
                });
            }
            Self::Interpolate { models, weights } => {
                average_into(&models, &weights, &plan.dir(stage))?;
                0
            }
            Self::Rows(Between::Judge) => relabel::judge(plan, observer)?,
            Self::Rows(Between::Sample) => relabel::sample(plan, interrupt, observer)?,
            Self::Rows(Between::Relabel(by)) => relabel::relabel(plan, &by, interrupt, observer)?,
        };
        Ok(Outcome::Done { forwards, trained: None })
    }
}

/// A run that was stopped goes on only where the user says so. The record says that the folder is the recipe's.
fn settle_opening(config: &mut TrainConfig) -> Result<(), RecipeError> {
    if config.run.overwrite_output_dir || config.run.resume_from_checkpoint == Resume::Last {
        return Ok(());
    }
    let run = RunDirectory::at(&config.run.output_dir);
    if run.root().is_dir()
        && let Some(found) = run.record()?
    {
        return Err(RecipeError::input(format!(
            "{} holds a stage that is not finished, or was finished from other inputs ({found}); go on with \
             --resume_from_checkpoint auto, or start anew with overwrite_output_dir: true",
            run.root().display()
        )));
    }
    config.run.resume_from_checkpoint = Resume::Last;
    Ok(())
}

fn add_files(fingerprint: &mut Fingerprint, path: &Path) -> Result<(), RecipeError> {
    if path.is_file() {
        fingerprint.part(fingerprint_file(path)?);
        return Ok(());
    }
    let entries =
        std::fs::read_dir(path)?.map(|entry| Ok(entry?.path())).collect::<std::io::Result<Vec<_>>>();
    let mut entries = entries?;
    entries.sort();
    entries.iter().try_for_each(|entry| {
        fingerprint.part(entry.file_name().unwrap_or_default().to_string_lossy().as_bytes());
        add_files(fingerprint, entry)
    })
}
