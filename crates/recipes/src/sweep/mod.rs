//! `bso sweep`: a grid of runs side by side, one evaluation of them all, and the frontier that they reach. Every run is an
//! ordinary one in a folder of its own; what has ended is recorded and not done again.

mod config;
mod frontier;
mod page;
mod record;
mod runs;
mod schedule;
mod side_by_side;

pub use config::{EXAMPLE, Grid, MethodEntry, Settings, SweepConfig};
pub use frontier::{Family, Frontier, GridPoint, Measured, OfSeed};
pub use runs::Run;
pub use schedule::{Cost, Schedule};

use crate::RecipeError;
use crate::eval::{self, EvalConfig, Named};
use crate::location::located;
use bso_durable::{Event, Interrupt, Observer, Silent, atomic_write, ensure_dir};
use bso_runs::lock_folder;
use record::Record;
use serde_json::{Map, Value, json};
use std::path::PathBuf;

/// What the evaluation calls the model that the runs start from.
pub const REFERENCE: &str = "reference";

/// A sweep in which nothing is left that could be refused by its settings alone.
#[derive(Debug)]
pub struct Sweep {
    config: SweepConfig,
    runs: Vec<Run>,
    eval: EvalConfig,
    record: Record,
    /// What the user should be told of the settings, a line each.
    pub notices: Vec<String>,
}

impl Sweep {
    /// Makes every run and checks its settings and paths, the evaluation with its prompts and scorers, and what an earlier call
    /// left. Nothing is written.
    ///
    /// # Errors
    /// The first thing that cannot be used.
    pub fn prepare(config: SweepConfig, observer: &dyn Observer) -> Result<Self, RecipeError> {
        let (mut runs, notices) = runs::expand(&config)?;
        for run in &mut runs {
            run.config = located(&run.config, observer)?;
            run.config.check_paths().map_err(|error| of_run(run, error.into()))?;
        }
        let eval = evaluation(&config, &runs)?;
        frontier::axes(&eval)?;
        eval::check(&eval, &Silent)?;
        let record = Record::open(&config.output_dir)?;
        Ok(Self { config, runs, eval, record, notices })
    }

    /// Every run.
    pub fn runs(&self) -> &[Run] {
        &self.runs
    }

    /// Those that have not ended yet.
    pub fn to_do(&self) -> Vec<&Run> {
        to_do(&self.runs, &self.record)
    }

    /// How the runs that have not ended would go on.
    ///
    /// # Errors
    /// What in their data or models cannot be used.
    pub fn schedule(&self) -> Result<Schedule, RecipeError> {
        Schedule::of(&self.to_do(), (self.config.jobs, self.record.num_threads()))
    }

    /// Trains what has not ended, evaluates all, and leaves frontier.json, report.json and report.html.
    ///
    /// # Errors
    /// Runs that were begun under other settings; [`RecipeError::Interrupted`]; every run failed; what evaluation refuses.
    pub fn run(mut self, interrupt: &Interrupt, observer: &dyn Observer) -> Result<Frontier, RecipeError> {
        let note = |text: String| observer.event(Event::Note(text));
        let schedule = self.schedule()?;
        for run in &mut self.runs {
            run.config.model.num_threads.get_or_insert(schedule.num_threads);
        }
        ensure_dir(&self.config.output_dir)?;
        let _lock = lock_folder(&self.config.output_dir)?;
        // Another call may have gone on until the lock was free.
        self.record = Record::open(&self.config.output_dir)?;
        self.record.begin(&self.runs, schedule.num_threads)?;
        self.write_configs()?;
        let to_do = to_do(&self.runs, &self.record);
        note(format!(
            "sweep       {} runs, {} ended before; {} at a time",
            self.runs.len(),
            self.runs.len() - to_do.len(),
            schedule.jobs
        ));
        if let others @ 1.. = self.record.others(&self.runs) {
            note(format!(
                "            {others} recorded runs are not part of it any more and are left alone"
            ));
        }
        if !to_do.is_empty() {
            side_by_side::train_all(&to_do, schedule.jobs, &mut self.record, (interrupt, observer))?;
        }
        self.measure(interrupt, observer)
    }

    /// The configuration of each run, for people: `bso train` takes it as well.
    fn write_configs(&self) -> Result<(), RecipeError> {
        let dir = self.config.output_dir.join("configs");
        ensure_dir(&dir)?;
        self.runs.iter().try_for_each(|run| {
            let text = run.config.to_yaml();
            Ok(atomic_write(&dir.join(format!("{}.yaml", run.name)), |out| out.write_all(text.as_bytes()))?)
        })
    }

    fn measure(&self, interrupt: &Interrupt, observer: &dyn Observer) -> Result<Frontier, RecipeError> {
        let (ended, failed): (Vec<&Run>, Vec<&Run>) =
            self.runs.iter().partition(|run| self.record.ended(run).is_some());
        let failed: Vec<(String, String)> = failed
            .iter()
            .map(|run| {
                let reason = self.record.of(&run.name).and_then(|begun| begun.failed.clone());
                (run.name.clone(), reason.unwrap_or_default())
            })
            .collect();
        if ended.is_empty() {
            let first = failed.first().map(|(name, reason)| format!("{name}: {reason}")).unwrap_or_default();
            return Err(RecipeError::failed(format!("every run failed; {first}")));
        }
        let mut eval = self.eval.clone();
        eval.models.retain(|model| !failed.iter().any(|(name, _)| *name == model.name));
        let (_, samples) = eval::evaluate_to_samples(&eval, interrupt, observer)?;
        let mut found =
            frontier::frontier((&ended, &self.record), (&eval, &samples), self.config.safety_floor)?;
        found.failed = failed;
        let root = &self.config.output_dir;
        bso_durable::write_json(&root.join("frontier.json"), &found)?;
        let page = page::page(root, &ended, &found)?;
        bso_durable::write_json(&root.join("report.json"), &page)?;
        bso_runs::report::write_report(&self.report(), &page)?;
        Ok(found)
    }

    /// The page.
    pub fn report(&self) -> PathBuf {
        self.config.output_dir.join("report.html")
    }
}

fn to_do<'a>(runs: &'a [Run], record: &Record) -> Vec<&'a Run> {
    runs.iter().filter(|run| record.ended(run).is_none()).collect()
}

/// The error with the run that it is of, unless it is no matter of the run's settings.
fn of_run(run: &Run, error: RecipeError) -> RecipeError {
    match error {
        RecipeError::Interrupted => error,
        error if error.is_failed_run() => error,
        error => RecipeError::input(format!("{}: {error}", run.name)),
    }
}

/// The evaluation of all runs against the model that they start from.
fn evaluation(config: &SweepConfig, runs: &[Run]) -> Result<EvalConfig, RecipeError> {
    let (keys, folder) = &config.eval;
    let first = runs.first().map(|run| run.config.model.model_name_or_path.clone()).unwrap_or_default();
    let mut map: Map<String, Value> = keys.clone();
    map.insert("models".to_owned(), json!([{"path": first, "name": REFERENCE}]));
    map.insert("output_dir".to_owned(), json!(config.output_dir.join("eval")));
    // JSON is YAML.
    let mut eval = EvalConfig::read(&Value::Object(map).to_string(), folder, &config.eval_overrides)?;
    eval.models.extend(
        runs.iter().map(|run| Named { path: run.config.run.output_dir.clone(), name: run.name.clone() }),
    );
    Ok(eval)
}
