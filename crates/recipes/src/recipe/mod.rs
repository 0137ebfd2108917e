//! Methods of several stages: an ordered list of runs and of steps between them. Every run is an ordinary one in a folder
//! of its own; the last one's folder is `output_dir`. What is finished is recorded there and not done again.

mod record;
mod relabel;
mod scored;
mod stages;
mod work;

use crate::RecipeError;
use crate::config::{RecipeSection, Resume, Stage, TrainConfig};
use crate::dataset;
use crate::location::located;
use crate::train::Trained;
use bso_durable::{Event, Interrupt, Observer, atomic_write};
use bso_runs::{Results, RunDirectory};
use record::{Finished, Record};
use stages::StageOf;
use std::path::PathBuf;
use std::time::Instant;
use work::{Outcome, Work};

/// A recipe under way: the user's configuration and where each stage's results are.
struct Plan<'a> {
    config: &'a TrainConfig,
    recipe: &'a RecipeSection,
}

impl Plan<'_> {
    /// The folder of a stage; the last one has no name and is the recipe's own.
    fn dir(&self, stage: &str) -> PathBuf {
        self.config.run.output_dir.join(stage)
    }

    /// A run in the folder of `stage` under the user's settings, but for what `change` does.
    fn training(&self, stage: &str, change: impl FnOnce(&mut TrainConfig)) -> Work {
        let mut config = TrainConfig { recipe: None, ..self.config.clone() };
        config.run.output_dir = self.dir(stage);
        change(&mut config);
        Work::Train(Box::new(config))
    }
}

/// Runs the stages of `config`'s recipe in their order, as far as they are not finished already.
///
/// # Errors
/// An output folder that holds something else; whatever a stage refuses; [`RecipeError::Interrupted`] between steps of work
/// that has no checkpoints.
pub fn run(
    config: &TrainConfig,
    recipe: &RecipeSection,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<Trained, RecipeError> {
    if let Resume::From(_) = &config.run.resume_from_checkpoint {
        return Err(RecipeError::input(
            "resume_from_checkpoint: a method of several stages finds its checkpoints itself; write auto",
        ));
    }
    let config = &located(config, observer)?;
    config.check_paths()?;
    let plan = Plan { config, recipe };
    let stages = stages::of(config, recipe);
    if !Record::is_there(config) {
        check_rows(&plan, &stages, observer)?;
    }
    let mut record = Record::open(config, recipe.name)?;
    let root = RunDirectory::at(&config.run.output_dir);
    atomic_write(&root.root().join("recipe.yaml"), |out| out.write_all(config.to_yaml().as_bytes()))?;
    let mut last = None;
    for (index, stage) in stages.iter().enumerate() {
        let title = format!("{} of {}, {}", index + 1, stages.len(), stage.about);
        let work = (stage.work)(&plan)?;
        let fingerprint = work.fingerprint(&plan)?;
        if record.holds(stage.name, &fingerprint) && work.is_finished(&plan, stage.name) {
            observer.event(Event::Note(format!("stage       {title}: finished before")));
            continue;
        }
        record.forget_from(stage.name)?;
        observer.event(Event::Note(format!("stage       {title}")));
        let started = Instant::now();
        match work.run(&plan, stage.name, interrupt, observer)? {
            Outcome::Stopped(trained) => return Ok(trained),
            Outcome::Done { forwards, trained } => {
                let seconds = started.elapsed().as_secs_f64();
                record.add(Finished { stage: stage.name.to_owned(), fingerprint, seconds, forwards })?;
                last = trained;
            }
        }
    }
    finished(&root, &record, last)
}

/// What a later stage would refuse of the user's rows is refused before the first one trains, which looks at them itself.
fn check_rows(plan: &Plan<'_>, stages: &[StageOf], observer: &dyn Observer) -> Result<(), RecipeError> {
    for stage in stages.iter().skip(1) {
        // A stage that needs the results of those before cannot be checked yet, nor can rows that are still to be made.
        let Ok(Work::Train(config)) = (stage.work)(plan) else { continue };
        if config.data.datasets == plan.config.data.datasets && config.stage != Stage::PpoLag {
            dataset::check_rows(&config, config.objective.build()?.pair_loss(), observer)?;
        }
    }
    Ok(())
}

/// The costs of all stages go into the results of the whole.
fn finished(root: &RunDirectory, record: &Record, last: Option<Trained>) -> Result<Trained, RecipeError> {
    let (seconds, forwards) = record.cost();
    let mut own = Results::new();
    own.put("recipe_seconds", seconds);
    own.put_count("recipe_forwards", forwards);
    own.merge_into(&root.all_results())?;
    let (steps, results, findings) =
        last.map(|trained| (trained.steps, trained.results, trained.findings)).unwrap_or_default();
    let output_dir = root.root().to_owned();
    Ok(Trained { output_dir, interrupted: false, steps, seconds, forwards, results, findings })
}
