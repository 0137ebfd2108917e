//! What can end a procedure early, and whether the input or the run is to blame.

use bso_data::DataError;
use bso_model::{EngineError, ModelError};
use bso_runs::RunsError;
use std::io;

/// An error of this crate; [`RecipeError::is_failed_run`] tells which exit code it deserves.
#[derive(Debug, thiserror::Error)]
pub enum RecipeError {
    /// A configuration that cannot be used.
    #[error(transparent)]
    Config(#[from] crate::config::ConfigError),
    /// Data, a tokenizer or a template that cannot be used.
    #[error(transparent)]
    Data(#[from] bso_data::DataError),
    /// A model or data set that is not to be had by its name.
    #[error(transparent)]
    Hub(#[from] bso_hub::HubError),
    /// Weights or a model configuration that cannot be used.
    #[error(transparent)]
    Model(#[from] bso_model::ModelError),
    /// A loss that cannot be built or evaluated.
    #[error(transparent)]
    Objective(#[from] bso_objective::ObjectiveError),
    /// The run directory.
    #[error(transparent)]
    Runs(#[from] RunsError),
    /// The synthetic world.
    #[error(transparent)]
    World(#[from] bso_world::WorldError),
    /// Reading or writing.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Input that cannot be used; the text says what and how to mend it.
    #[error("{0}")]
    Input(String),
    /// A run that went wrong; the text says what and how to mend it.
    #[error("{0}")]
    Failed(String),
    /// The user asked to stop.
    #[error("interrupted")]
    Interrupted,
}

impl RecipeError {
    /// A run that went wrong.
    pub fn failed(what: impl Into<String>) -> Self {
        Self::Failed(what.into())
    }

    /// Input that cannot be used.
    pub fn input(what: impl Into<String>) -> Self {
        Self::Input(what.into())
    }

    /// Whether the run failed while running (exit code 1), as opposed to bad input (2).
    pub fn is_failed_run(&self) -> bool {
        match self {
            Self::Failed(_)
            | Self::Objective(_)
            | Self::Runs(RunsError::TooLittleSpace { .. })
            | Self::Model(ModelError::Engine(EngineError::Device(_))) => true,
            _ => self.io_kind().is_some_and(is_full),
        }
    }

    /// What the system said, where reading or writing failed in whichever crate.
    pub fn io_kind(&self) -> Option<io::ErrorKind> {
        match self {
            Self::Io(e)
            | Self::Model(ModelError::Io(e))
            | Self::Data(DataError::Io { source: e, .. })
            | Self::Hub(bso_hub::HubError::Cache { source: e, .. })
            | Self::Runs(
                RunsError::Write(e)
                | RunsError::Io { source: e, .. }
                | RunsError::NotWritable { source: e, .. },
            ) => Some(e.kind()),
            _ => None,
        }
    }
}

/// Whether a write failed for want of room.
pub fn is_full(kind: io::ErrorKind) -> bool {
    matches!(
        kind,
        io::ErrorKind::StorageFull
            | io::ErrorKind::QuotaExceeded
            | io::ErrorKind::FileTooLarge
            | io::ErrorKind::WriteZero
    )
}
