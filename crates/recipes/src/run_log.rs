//! Where logged rows go: metrics.jsonl always, TensorBoard on request.

use crate::RecipeError;
use bso_runs::{MetricsLog, RunDirectory, StepMetrics, TensorBoard};

/// The open logs of a run.
pub struct RunLog {
    metrics: MetricsLog,
    board: Option<TensorBoard>,
}

impl RunLog {
    /// Starts the logs, or continues them after the step of a checkpoint.
    ///
    /// # Errors
    /// Files that cannot be written, or a metrics.jsonl that no run wrote.
    pub fn open(run: &RunDirectory, tensorboard: bool, resumed_at: Option<u64>) -> Result<Self, RecipeError> {
        let metrics = match resumed_at {
            Some(step) => MetricsLog::resume(&run.metrics(), step)?.0,
            None => MetricsLog::create(&run.metrics())?,
        };
        let board = if tensorboard { Some(TensorBoard::open(&run.tensorboard(), resumed_at)?) } else { None };
        Ok(Self { metrics, board })
    }

    /// Adds a row.
    ///
    /// # Errors
    /// A full disk.
    pub fn append(&mut self, row: &StepMetrics) -> Result<(), RecipeError> {
        self.metrics.append(row)?;
        if let Some(board) = &mut self.board {
            board.append(row)?;
        }
        Ok(())
    }

    /// Makes sure that the rows survive a power cut.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> Result<(), RecipeError> {
        Ok(self.metrics.sync()?)
    }
}
