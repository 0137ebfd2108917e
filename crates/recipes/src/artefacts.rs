//! What a finished run leaves beside its log: the model in Hugging Face layout, results, the model card, the report.

use crate::RecipeError;
use crate::checkpoint::Ingredients;
use crate::config::TrainConfig;
use crate::fitting::{DIVERGED, check_finite};
use crate::policy;
use crate::session::Ending;
use bso_data::{ChatTokenizer, Ledger};
use bso_durable::{Event, Observer, atomic_write, fingerprint_bytes};
use bso_model::{Decoder, Device, Engine};
use bso_runs::report::{Estimate, run_report, write_report};
use bso_runs::{
    Environment, Fingerprinted, LedgerRow, Manifest, ModelCard, Results, RunDirectory, Status, StepMetrics,
    TrainerState, key, read_metrics,
};
use serde_json::{Map, json};
use std::time::SystemTime;

/// What is known about a run before its first step; the same for the manifest, the card and the report.
pub struct Facts {
    settings: TrainConfig,
    manifest: Manifest,
    config: String,
    method: &'static str,
    base_model: String,
    dataset: String,
    /// trainer_state.json as far as the configuration decides it.
    intervals: TrainerState,
}

/// What a run says of itself before it begins.
pub struct Told<'a> {
    /// What is minimised, in one line.
    pub objective: String,
    /// The reference in words, where there is one.
    pub reference: Option<String>,
    /// The account of the rows.
    pub ledger: &'a Ledger,
}

impl Facts {
    /// Looks at everything that the run was given.
    ///
    /// # Errors
    /// Weights that cannot be read.
    pub fn gather(
        ingredients: &Ingredients<'_>,
        told: &Told<'_>,
        tokenizer: &ChatTokenizer,
        decoder: &Decoder,
    ) -> Result<Self, RecipeError> {
        let config = ingredients.config;
        let model = &config.model.model_name_or_path;
        let named =
            |role: &str, name: String, sha256: String| (role.to_owned(), Fingerprinted { name, sha256 });
        let of_model = |key: &str| ingredients.models.get(key).cloned().unwrap_or_default();
        let mut fingerprints = vec![
            named("model", model.display().to_string(), of_model("model_name_or_path")),
            named("tokenizer", model.display().to_string(), tokenizer.fingerprint()),
            named("data", config.data.named(), ingredients.sequences.to_owned()),
            named("labels", config.data.named(), ingredients.labels.to_owned()),
            named("config", "config.yaml".to_owned(), config.fingerprint()),
        ];
        if let Some(reference) = &config.model.ref_model {
            fingerprints.push(named("reference", reference.display().to_string(), of_model("ref_model")));
        }
        for (key, dir) in config.objective.models() {
            let role = if key == "margin_model" { "margins" } else { key };
            fingerprints.push(named(role, dir.display().to_string(), of_model(key)));
        }
        if !ingredients.replay.is_empty() {
            let paths = config.objective.datasets().1.iter().map(|source| source.path.display().to_string());
            let name = paths.collect::<Vec<_>>().join(", ");
            fingerprints.push(named("replay", name, ingredients.replay.to_owned()));
        }
        let ledger = told.ledger.lines().into_iter();
        let manifest = Manifest {
            format: Manifest::FORMAT,
            status: Status::Running,
            started: humantime::format_rfc3339_seconds(SystemTime::now()).to_string(),
            environment: Environment::detect(),
            stage: config.stage.to_string(),
            objective: told.objective.clone(),
            reference: told.reference.clone(),
            device: device_in_words(decoder.engine()),
            dtype: config.model.dtype.to_string(),
            num_threads: decoder.engine().num_threads(),
            seed: config.model.seed,
            trainable_parameters: decoder.trained_count() as u64,
            fingerprints,
            ledger: ledger.map(|(what, count, note)| LedgerRow { what, count: count as u64, note }).collect(),
            more: Map::new(),
        };
        Ok(Self {
            settings: config.clone(),
            manifest,
            config: config.to_yaml(),
            method: config.method(),
            base_model: model.display().to_string(),
            dataset: config.data.named(),
            intervals: TrainerState {
                train_batch_size: config.schedule.per_device_train_batch_size as u64,
                num_train_epochs: config.schedule.num_train_epochs.ceil() as u64,
                eval_steps: config.run.eval_steps,
                logging_steps: config.run.logging_steps,
                save_steps: config.run.save_steps,
                ..TrainerState::default()
            },
        })
    }

    /// Warns of what a resumed run does not repeat although nothing refuses it, such as another number of threads.
    pub fn tell_differences(&self, run: &RunDirectory, observer: &dyn Observer) {
        // A checkpoint may be taken up in a folder that has no manifest yet; the checkpoint itself has been checked.
        let Ok(was) = Manifest::read(&run.manifest()) else { return };
        for difference in was.differences(&self.manifest) {
            observer.event(Event::Warning(format!(
                "the run goes on under other conditions, and its bytes may differ: {difference}"
            )));
        }
    }

    /// trainer_state.json without its rows. The best checkpoint is the run's own folder where only that holds its weights.
    fn trainer_state(&self, run: &RunDirectory, ending: Ending) -> Result<TrainerState, RecipeError> {
        let Some(best) = ending.best else { return Ok(self.intervals.clone()) };
        let checkpoint = run.complete_checkpoint(best.step)?.map(|checkpoint| checkpoint.path);
        let here = (best.step == ending.weights_of).then(|| run.model().to_owned());
        Ok(TrainerState {
            best_global_step: Some(best.step),
            best_metric: Some(best.value),
            best_model_checkpoint: checkpoint.or(here).map(|path| path.display().to_string()),
            ..self.intervals.clone()
        })
    }

    /// Writes manifest.json with the run's present status.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn write_manifest(&self, run: &RunDirectory, status: Status) -> Result<(), RecipeError> {
        let manifest = Manifest { status, ..self.manifest.clone() };
        Ok(manifest.write(&run.manifest())?)
    }
}

/// Writes the resolved configuration.
///
/// # Errors
/// When it cannot be written.
pub fn write_config(run: &RunDirectory, config: &TrainConfig) -> Result<(), RecipeError> {
    Ok(atomic_write(&run.config(), |out| out.write_all(config.to_yaml().as_bytes()))?)
}

/// Writes the model and everything beside it, the manifest of a finished run included; returns the final figures.
///
/// # Errors
/// Weights that are not finite; something that cannot be written. Checkpoints are untouched.
pub fn finish(
    run: &RunDirectory,
    facts: &Facts,
    (decoder, tokenizer): (&Decoder, &ChatTokenizer),
    ending: Ending,
    (seconds, forwards): (f64, u64),
) -> Result<Vec<(String, f64)>, RecipeError> {
    check_finite(decoder, "after the last step", DIVERGED)?;
    let rows = read_metrics(&run.metrics())?.rows;
    policy::save(decoder, run.model(), &facts.settings)?;
    tokenizer.save(run.model())?;
    write_generation_config(run, decoder, tokenizer)?;
    facts.trainer_state(run, ending)?.after(rows.clone()).write(&run.trainer_state())?;
    let mut results = results(&rows, ending.weights_of, seconds);
    results.put_count("train_forwards", forwards);
    results.merge_into(&run.all_results())?;
    card(facts, &results).write(&run.model_card())?;
    // The report tells the manifest's status, so it comes last.
    facts.write_manifest(run, Status::Finished { step: rows.last().map_or(0, StepMetrics::step) })?;
    write_report(&run.report(), &run_report(run)?)?;
    Ok(results.iter().map(|(name, value)| (name.to_owned(), value)).collect())
}

/// transformers stops generation at the ids in generation_config.json: the end of a turn belongs to them.
fn write_generation_config(
    run: &RunDirectory,
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
) -> Result<(), RecipeError> {
    if decoder.config().score.is_some() {
        return Ok(());
    }
    let mut config = Map::new();
    if let Some((_, bos)) = tokenizer.bos() {
        config.insert("bos_token_id".to_owned(), json!(bos));
    }
    let stops = tokenizer.end_of_turn_ids();
    let stops: Vec<u32> =
        stops.into_iter().filter(|id| (*id as usize) < decoder.config().vocab_size).collect();
    config.insert("eos_token_id".to_owned(), if stops.len() == 1 { json!(stops[0]) } else { json!(stops) });
    Ok(bso_durable::write_json(&run.root().join("generation_config.json"), &config)?)
}

/// The last training row, and the evaluation of the weights that the run ends with, those after step `weights_of`.
fn results(rows: &[StepMetrics], weights_of: u64, seconds: f64) -> Results {
    let mut results = Results::new();
    let last = |evaluation: bool| rows.iter().rev().find(|r| r.is_evaluation() == evaluation);
    if let Some(row) = last(false) {
        for (name, value) in
            row.iter().filter(|(name, _)| *name != key::STEP && !name.starts_with("quadrant/"))
        {
            let name = if name == key::EPOCH { name.to_owned() } else { format!("train_{name}") };
            results.put(name, value);
        }
        results.put_count("total_steps", row.step());
    }
    let of_weights = rows.iter().find(|r| r.is_evaluation() && r.step() == weights_of);
    if let Some(row) = of_weights.or(last(true)) {
        for (name, value) in row.iter().filter(|(name, _)| name.starts_with(key::EVAL_PREFIX)) {
            results.put(name, value);
        }
    }
    results.put("train_runtime", seconds);
    results
}

fn card(facts: &Facts, results: &Results) -> ModelCard {
    let manifest = &facts.manifest;
    let shown = ["eval_loss", "eval_rewards/accuracies", "eval_rewards/margins", "train_loss"];
    ModelCard {
        name: format!("{} ({})", file_name(&facts.base_model), facts.method),
        base_model: facts.base_model.clone(),
        scores: facts.settings.objective.score_head().is_some(),
        datasets: vec![facts.dataset.clone()],
        method: facts.method.to_owned(),
        objective: manifest.objective.clone(),
        reference: manifest.reference.clone(),
        settings: vec![
            ("seed".to_owned(), manifest.seed.to_string()),
            ("trainable parameters".to_owned(), manifest.trainable_parameters.to_string()),
            ("configuration (SHA-256)".to_owned(), fingerprint_bytes(facts.config.as_bytes())),
        ],
        ledger: manifest.ledger.clone(),
        evaluation: shown
            .into_iter()
            .filter_map(|name| Some((name.to_owned(), Estimate::exact(results.get(name)?))))
            .collect(),
        ..ModelCard::default()
    }
}

fn file_name(path: &str) -> String {
    std::path::Path::new(path)
        .file_name()
        .map_or_else(|| path.to_owned(), |n| n.to_string_lossy().into_owned())
}

/// The device as a run remembers it: on a GPU with its name, because another chip gives other bytes.
fn device_in_words(engine: &Engine) -> String {
    match engine.device() {
        Device::Cpu => Device::Cpu.to_string(),
        device => format!("{device}: {}", engine.description()),
    }
}
