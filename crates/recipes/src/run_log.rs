//! Where logged rows go: metrics.jsonl always, TensorBoard or MLflow on request.

use crate::RecipeError;
use crate::config::{Tracker, TrainConfig};
use bso_runs::{MetricsLog, Mlflow, MlflowStatus, RunDirectory, StepMetrics, TensorBoard, read_metrics};

/// The open logs of a run.
pub struct RunLog {
    metrics: MetricsLog,
    board: Option<TensorBoard>,
    mlflow: Option<Mlflow>,
}

impl RunLog {
    /// Starts the logs, or continues them after the step of a checkpoint.
    ///
    /// # Errors
    /// Files that cannot be written, or a metrics.jsonl that no run wrote.
    pub fn open(
        run: &RunDirectory,
        config: &TrainConfig,
        resumed_at: Option<u64>,
    ) -> Result<Self, RecipeError> {
        let metrics = match resumed_at {
            Some(step) => MetricsLog::resume(&run.metrics(), step)?.0,
            None => MetricsLog::create(&run.metrics())?,
        };
        let (mut board, mut mlflow) = (None, None);
        match config.run.report_to {
            Tracker::None => {}
            Tracker::TensorBoard => board = Some(TensorBoard::open(&run.tensorboard(), resumed_at)?),
            Tracker::MlFlow => {
                let name = run.root().file_name().unwrap_or_default().to_string_lossy();
                let rows = read_metrics(&run.metrics())?.rows;
                mlflow = Some(Mlflow::open(&run.mlruns(), &name, &config.parameters(), &rows)?);
            }
        }
        Ok(Self { metrics, board, mlflow })
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
        if let Some(mlflow) = &mut self.mlflow {
            mlflow.append(row)?;
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

    /// The last row is there.
    ///
    /// # Errors
    /// As [`RunLog::sync`].
    pub fn finish(&mut self) -> Result<(), RecipeError> {
        if let Some(mlflow) = &mut self.mlflow {
            mlflow.end(MlflowStatus::Finished)?;
        }
        self.sync()
    }
}
