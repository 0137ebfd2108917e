//! Metrics and parameters in MLflow's file store: `mlruns/0/RUN/` with `meta.yaml`, `params/NAME`, `metrics/NAME` (lines of
//! time in milliseconds, value and step) and `tags/NAME`. The layout is frozen: MLflow keeps it readable (from version 3.7 on with
//! `MLFLOW_ALLOW_FILE_STORE=true`) and moves it into a database with `mlflow migrate-filestore`.
//! Source: mlflow/store/tracking/file_store.py.

use crate::{RunsError, StepMetrics, key};
use bso_durable::{atomic_write, ensure_dir, fingerprint_bytes};
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

/// The only experiment of a run's store; MLflow calls it so.
const EXPERIMENT: &str = "0";
/// A parameter's longest value, characters.
const LONGEST_VALUE: usize = 6000;

/// How a run stands, by MLflow's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MlflowStatus {
    /// It goes on, or was stopped and may.
    Running = 1,
    /// It came to its end.
    Finished = 3,
}

/// A run in the store `folder`.
#[derive(Debug)]
pub struct Mlflow {
    run: PathBuf,
    name: String,
    started: u64,
}

impl Mlflow {
    /// Begins the run `name` with its parameters, or takes it up again: its metrics are then those of `rows` and no others.
    ///
    /// # Errors
    /// When something cannot be written.
    pub fn open(
        folder: &Path,
        name: &str,
        parameters: &[(String, String)],
        rows: &[StepMetrics],
    ) -> Result<Self, RunsError> {
        let experiment = folder.join(EXPERIMENT);
        ensure_dir(&experiment)?;
        let started = now();
        let place = experiment.join("meta.yaml");
        if !place.exists() {
            let meta = format!(
                "artifact_location: {}\ncreation_time: {started}\nexperiment_id: '{EXPERIMENT}'\nlast_update_time: {started}\n\
                 lifecycle_stage: active\nname: Default\n",
                uri(&experiment)
            );
            atomic_write(&place, |out| out.write_all(meta.as_bytes()))?;
        }
        // One run a store: the same folder gives the same id.
        let id = fingerprint_bytes(uri(&experiment).as_bytes())[..32].to_owned();
        let mut mlflow = Self { run: experiment.join(&id), name: name.to_owned(), started };
        let metrics = mlflow.run.join("metrics");
        if metrics.exists() {
            fs::remove_dir_all(&metrics).map_err(RunsError::io("remove", &metrics))?;
        }
        for part in ["metrics", "params", "tags", "artifacts"] {
            ensure_dir(&mlflow.run.join(part))?;
        }
        mlflow.put("tags/mlflow.runName", name)?;
        for (parameter, value) in parameters {
            let value: String = value.chars().take(LONGEST_VALUE).collect();
            mlflow.put(&format!("params/{parameter}"), &value)?;
        }
        mlflow.end(MlflowStatus::Running)?;
        rows.iter().try_for_each(|row| mlflow.append(row))?;
        Ok(mlflow)
    }

    /// Adds the finite figures of a row.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn append(&mut self, row: &StepMetrics) -> Result<(), RunsError> {
        let (time, step) = (now(), row.step());
        for (name, value) in row.iter().filter(|(name, v)| *name != key::STEP && v.is_finite()) {
            let path = self.run.join("metrics").join(name);
            ensure_dir(path.parent().unwrap_or(&self.run))?;
            let file = OpenOptions::new().append(true).create(true).open(&path);
            let line = format!("{time} {value:?} {step}\n");
            file.and_then(|mut file| file.write_all(line.as_bytes()))
                .map_err(RunsError::io("append to", &path))?;
        }
        Ok(())
    }

    /// Writes how the run stands.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn end(&mut self, status: MlflowStatus) -> Result<(), RunsError> {
        let ended = if status == MlflowStatus::Running { "null".to_owned() } else { now().to_string() };
        let id = self.run.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let name = serde_json::Value::from(self.name.as_str());
        let meta = format!(
            "artifact_uri: {}\nend_time: {ended}\nentry_point_name: ''\nexperiment_id: '{EXPERIMENT}'\n\
             lifecycle_stage: active\nrun_id: {id}\nrun_name: {name}\nsource_name: ''\nsource_type: 4\nsource_version: ''\n\
             start_time: {}\nstatus: {}\ntags: []\nuser_id: ''\n",
            uri(&self.run.join("artifacts")),
            self.started,
            status as u8
        );
        self.put("meta.yaml", &meta)
    }

    fn put(&self, file: &str, text: &str) -> Result<(), RunsError> {
        Ok(atomic_write(&self.run.join(file), |out| out.write_all(text.as_bytes()))?)
    }
}

/// The folder as a URI, written as a YAML string.
fn uri(folder: &Path) -> String {
    let whole = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    serde_json::Value::from(format!("file://{}", whole.display())).to_string()
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis() as u64)
}
