//! `bso train` from top to bottom: the table of contents of a training run.

use crate::RecipeError;
use crate::artefacts::{self, Facts, Told};
use crate::checkpoint::{Ingredients, Progress, load_progress};
use crate::config::{LossType, ObjectiveSection, Resume, TrainConfig};
use crate::dataset::{Dataset, template_choice};
use crate::example::Example;
use crate::fitting::{check_context, check_vocabulary, warn_of_one_sided, warn_of_padding, warn_of_template};
use crate::loaded::tell_of_model;
use crate::location::located;
use crate::objective::TrainingObjective;
use crate::policy;
use crate::ppo;
use crate::reference::{
    Dependencies, ReferenceLogProbs, fingerprint_labels, fingerprint_models, fingerprint_replay,
    fingerprint_sequences,
};
use crate::session::{Inputs, Session, resumed_checkpoint};
use crate::shared_reference::obtain_shared;
use bso_data::ChatTokenizer;
use bso_durable::{Event, Interrupt, Observer};
use bso_model::{Decoder, Engine, ModelConfig, ModelDirectory};
use bso_runs::{Evidence, Existing, Finding, Opening, RunDirectory, diagnose, read_metrics};
use std::borrow::Cow;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Instant;

/// How a run ended.
#[derive(Clone, Debug, PartialEq)]
pub struct Trained {
    /// The run directory, which holds the model if the run finished.
    pub output_dir: PathBuf,
    /// Whether the user stopped it; a checkpoint was written then.
    pub interrupted: bool,
    /// Optimiser steps done in all.
    pub steps: u64,
    /// Seconds of training in this call; of a method of several stages, of the calls that finished them.
    pub seconds: f64,
    /// Sequences that models computed: policy (training and evaluation), reference and margin model, mismatched rows of
    /// kto; for several stages those of all, with samples and scores between them.
    pub forwards: u64,
    /// The final figures, as in all_results.json.
    pub results: Vec<(String, f64)>,
    /// What the logged rows warn of; empty if the user stopped the run.
    pub findings: Vec<Finding>,
}

/// How far a run goes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Until {
    End,
    /// Before the first step, when the log-probs of frozen models are there.
    LogProbs,
}

/// Runs a training configuration to its end, to a Ctrl-C, or to an error.
///
/// # Errors
/// Bad input before anything was written; a failed run with its last checkpoint in place.
pub fn train(
    config: &TrainConfig,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<Trained, RecipeError> {
    match &config.recipe {
        Some(recipe) => crate::recipe::run(config, recipe, interrupt, observer),
        None => run_until(Until::End, config, interrupt, observer),
    }
}

/// Computes the log-probs that a run needs of frozen models, or checks those in its folder against what they are made from;
/// gives the folder. The run itself reads them.
///
/// # Errors
/// A loss without reference, a method whose stages have references of their own; otherwise as [`train`].
pub fn reference_log_probs(
    config: &TrainConfig,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<PathBuf, RecipeError> {
    let of_stages = config.recipe.as_ref().map(|recipe| format!("recipe {}", recipe.name));
    let online = matches!(config.objective, ObjectiveSection::PpoLag(_)).then(|| "stage ppo_lag".to_owned());
    if let Some(what) = of_stages.or(online) {
        return Err(RecipeError::input(format!(
            "{what} takes the reference's log-probs as it goes along; nothing can be computed beforehand"
        )));
    }
    Ok(run_until(Until::LogProbs, config, interrupt, observer)?.output_dir)
}

fn run_until(
    until: Until,
    config: &TrainConfig,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<Trained, RecipeError> {
    let started = Instant::now();
    let config = &located(config, observer)?;
    config.check_paths()?;
    if let ObjectiveSection::PpoLag(section) = &config.objective {
        return ppo::train(config, section, interrupt, observer);
    }
    let engine = engine(config)?;
    let objective = config.objective.build()?;
    if until == Until::LogProbs && !objective.needs_reference() {
        return Err(RecipeError::input(format!(
            "{} has no reference: nothing is to be computed",
            objective.formula()
        )));
    }
    let model_dir = &config.model.model_name_or_path;
    let tokenizer_dir = policy::tokenizer_folder(model_dir)?;
    let mut tokenizer = ChatTokenizer::load(&tokenizer_dir, &template_choice(&config.data.chat_template))?;
    if config.objective.score_head().is_some() {
        tokenizer.keep_whole_turns();
    }
    for dir in
        std::iter::once(model_dir).chain(&config.model.ref_model).chain(config.objective.margin_model())
    {
        check_vocabulary(&tokenizer, &ModelConfig::from_dir(dir)?, dir)?;
    }
    let mut dataset = Dataset::load(config, &tokenizer, objective.pair_loss(), observer)?;
    let sequences = fingerprint_sequences(&dataset.train, &dataset.eval);
    let labels = fingerprint_labels(&dataset.train, &dataset.eval);
    let replay = fingerprint_replay(&dataset.replay);
    let models = fingerprint_models(config)?;
    let loading = Instant::now();
    let mut decoder = policy::load(config, &engine, observer)?;
    tell_of_model(&decoder, model_dir, loading, observer);
    check_context(dataset.all(), decoder.config(), model_dir)?;
    // Last of the checks: opening may replace an earlier run.
    let run = RunDirectory::open(&config.run.output_dir, &opening(config, until)?)?;
    announce(config, &objective, &dataset, &decoder, observer);
    warn_of_template(&tokenizer, dataset.all(), observer);
    warn_of_padding(&decoder, dataset.all(), observer);
    warn_of_one_sided(config, dataset.all(), observer);

    let ingredients =
        Ingredients { config, sequences: &sequences, labels: &labels, replay: &replay, models: &models };
    if let Some(checkpoint) = resumed_checkpoint(&run, config)? {
        // Before anything is computed for a run that this is not.
        load_progress::<Progress>(&checkpoint, &ingredients)?;
    }
    let told = Told {
        objective: objective.formula(),
        reference: objective.needs_reference().then(|| config.reference_in_words()),
        ledger: &dataset.ledger,
    };
    let facts = Facts::gather(&ingredients, &told, &tokenizer, &decoder)?;
    // None: the policy before its first step, which needs no second copy of the weights.
    let frozen =
        |other: Option<(&str, &Path)>, file: PathBuf, data: (&[Example], &[Example]), sequences: &str| {
            let key = other.map_or("model_name_or_path", |(key, _)| key);
            let mut depends_on = dependencies(config, &models[key], &tokenizer, sequences);
            if let (None, Some(kind)) = (other, config.quantisation) {
                depends_on.insert("weights in few bits".to_owned(), kind.to_string());
            }
            let load = || {
                let Some((_, dir)) = other else { return Ok(Cow::Borrowed(&decoder)) };
                let loading = Instant::now();
                let mut model = Decoder::load(dir, engine.clone())?;
                tell_of_model(&model, dir, loading, observer);
                model.compute_in(config.model.compute_dtype(), false)?;
                Ok(Cow::Owned(model))
            };
            match &config.run.ref_cache_dir {
                Some(dir) => obtain_shared(dir, &depends_on, data, load, (interrupt, observer)),
                None => ReferenceLogProbs::obtain(&file, &depends_on, data, load, (interrupt, observer)),
            }
        };
    let (mut reference, mut of_replay) = (ReferenceLogProbs::default(), ReferenceLogProbs::default());
    if objective.needs_reference() {
        let model = config.model.ref_model.as_deref().map(|dir| ("ref_model", dir));
        reference = frozen(model, run.reference_log_probs(), (&dataset.train, &dataset.eval), &sequences)?;
        if !dataset.replay.is_empty() {
            of_replay = frozen(model, run.replay_log_probs(), (&dataset.replay, &[]), &replay)?;
        }
    }
    if let Some(dir) = config.objective.margin_model() {
        let data = (dataset.train.as_slice(), dataset.eval.as_slice());
        let margin = frozen(Some(("margin_model", dir)), run.margin_log_probs(), data, &sequences)?;
        dataset.set_margins(&margin, &reference, config.objective.beta());
    }
    let of_frozen = (u64::from(objective.needs_reference())
        + u64::from(config.objective.margin_model().is_some()))
        * dataset.sequences();
    if until == Until::LogProbs {
        let (output_dir, seconds) = (run.root().to_owned(), started.elapsed().as_secs_f64());
        return Ok(Trained {
            output_dir,
            interrupted: false,
            steps: 0,
            seconds,
            forwards: of_frozen,
            results: Vec::new(),
            findings: Vec::new(),
        });
    }

    let inputs = Inputs {
        config,
        objective: &objective,
        dataset: &dataset,
        reference: &reference,
        replay: &of_replay,
        tokenizer: &tokenizer,
    };
    let mut session = Session::begin(&run, &inputs, &ingredients, &mut decoder, observer)?;
    if session.steps_done() > 0 {
        facts.tell_differences(&run, observer);
    }
    // Only now is it certain that this run and not another is in the folder: a refused resume changes no record.
    artefacts::write_config(&run, config)?;
    facts.write_manifest(&run, bso_runs::Status::Running)?;
    let outcome = session.run_to_end(&mut decoder, interrupt, observer).and_then(|ending| {
        let Some(ending) = ending else {
            facts.write_manifest(&run, bso_runs::Status::Interrupted { step: session.steps_done() })?;
            return Ok(None);
        };
        let seconds = started.elapsed().as_secs_f64();
        let cost = (seconds, session.sequences() + of_frozen);
        artefacts::finish(&run, &facts, (&decoder, &tokenizer), ending, cost).map(Some)
    });
    let (steps, seconds) = (session.steps_done(), started.elapsed().as_secs_f64());
    let forwards = session.sequences() + of_frozen;
    let results = outcome.inspect_err(|error| {
        let status = bso_runs::Status::Failed { step: steps, reason: error.to_string() };
        // The error itself matters more than a manifest that could not be written after it.
        let _ = facts.write_manifest(&run, status);
    })?;
    let interrupted = results.is_none();
    let results = results.unwrap_or_default();
    let findings = if interrupted {
        Vec::new()
    } else {
        diagnose(&Evidence { rows: &read_metrics(&run.metrics())?.rows, ..Evidence::default() })
    };
    Ok(Trained {
        output_dir: run.root().to_owned(),
        interrupted,
        steps,
        seconds,
        forwards,
        results,
        findings,
    })
}

/// The engine that the configuration asks for.
///
/// # Errors
/// A device that is not there; threads that cannot be started.
pub fn engine(config: &TrainConfig) -> Result<Arc<Engine>, RecipeError> {
    let engine = config.model.device().and_then(|device| Engine::on(device, config.model.num_threads));
    let engine = engine.map_err(bso_model::ModelError::from)?;
    engine.allow_tf32(config.model.tf32);
    Ok(Arc::new(engine))
}

pub(crate) fn opening(config: &TrainConfig, until: Until) -> Result<Opening, RecipeError> {
    let base = ModelDirectory::find(&config.model.model_name_or_path)?.base;
    let models = [&config.model.model_name_or_path, &base].into_iter().chain(&config.model.ref_model);
    let frozen = config.objective.models().into_iter().map(|(_, dir)| dir);
    let rows = config.data.datasets.iter().chain(config.objective.datasets().1).map(|source| &source.path);
    let inputs = models.chain(frozen).chain(rows);
    let holds_run = || RunDirectory::at(&config.run.output_dir).record().is_ok_and(|found| found.is_some());
    Ok(Opening {
        existing: match &config.run.resume_from_checkpoint {
            // Nothing of a run that is there already is changed.
            _ if until == Until::LogProbs && holds_run() => Existing::Resume,
            Resume::Last | Resume::From(_) => Existing::Resume,
            Resume::No if config.run.overwrite_output_dir => Existing::Overwrite,
            Resume::No => Existing::Refuse,
        },
        needed_bytes: None,
        inputs: inputs.cloned().collect(),
    })
}

/// What the log-probs of a frozen model depend on, by role; `weights` is its fingerprint.
fn dependencies(
    config: &TrainConfig,
    weights: &str,
    tokenizer: &ChatTokenizer,
    sequences: &str,
) -> Dependencies {
    let truncation = format!("{:?} {:?}", config.data.max_length, config.data.truncation_mode);
    [
        ("weights", weights.to_owned()),
        ("tokenizer and template", tokenizer.fingerprint()),
        ("truncation", truncation),
        ("data in tokens", sequences.to_owned()),
        ("dtype", config.model.dtype.to_string()),
    ]
    .map(|(role, value)| (role.to_owned(), value))
    .into()
}

/// What a person wants to see before the first step.
fn announce(
    config: &TrainConfig,
    objective: &TrainingObjective,
    dataset: &Dataset,
    decoder: &Decoder,
    observer: &dyn Observer,
) {
    let note = |text: String| observer.event(Event::Note(text));
    note(format!("objective   {}", objective.formula()));
    if objective.needs_reference() {
        note(format!("reference   {}", config.reference_in_words()));
    }
    if let Some(dir) = config.objective.margin_model() {
        note(format!("margins     of the frozen model in {} against the reference", dir.display()));
    }
    note(format!("data        {}", dataset.ledger));
    for (what, count, _) in
        dataset.ledger.lines().iter().filter(|(what, ..)| what != "read" && what != "kept")
    {
        note(format!("            {count:>7}  {what}"));
    }
    note(format!(
        "examples    {} to train on, {} held out ({})",
        dataset.train.len(),
        dataset.eval.len(),
        match &config.data.test_split {
            Some(split) => format!("split {split}"),
            None => "split by prompt".to_owned(),
        }
    ));
    if config.objective.loss_type() == LossType::Bfpo {
        note(match dataset.replay.len() {
            0 => "replay      none: replay_dataset_name would add the loss of general pairs".to_owned(),
            pairs => format!(
                "replay      {pairs} general pairs that count as safe, as many as examples in every step"
            ),
        });
    }
    note(format!("parameters  {} trainable, of {}", decoder.trained_count(), decoder.parameter_count()));
}
