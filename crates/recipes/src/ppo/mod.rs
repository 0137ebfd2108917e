//! `stage: ppo_lag`, Safe RLHF's PPO-Lagrangian (arXiv 2310.12773): a model is trained on responses that it samples itself,
//! scored by a reward and a cost model, under a multiplier that holds the mean cost to a threshold.
//!
//! The loop: [`rollout`] (sample, score, log-probs and values) -> `objective` (advantages, multiplier, losses) -> [`update`]
//! (the model's gradients and optimisers).

mod data;
mod figures;
mod models;
pub mod rollout;
mod session;
pub mod update;

use crate::RecipeError;
use crate::artefacts::{self, Facts, Told};
use crate::checkpoint::{Ingredients, load_progress};
use crate::config::{PpoLagSection, TrainConfig};
use crate::dataset::template_choice;
use crate::policy;
use crate::reference::{fingerprint_labels, fingerprint_models, fingerprint_sequences};
use crate::session::{Ending, resumed_checkpoint};
use crate::train::{Trained, Until, engine, opening};
use bso_data::ChatTokenizer;
use bso_durable::{Event, Interrupt, Observer};
use bso_runs::{RunDirectory, Status};
use data::PpoData;
use models::Models;
use session::{Inputs, PpoProgress, PpoSession};
use std::time::Instant;

/// Runs a `ppo_lag` configuration to its end, to a Ctrl-C, or to an error. Names of models and data are local paths already.
///
/// # Errors
/// Bad input before anything was written; a failed run with its last checkpoint in place.
pub fn train(
    config: &TrainConfig,
    section: &PpoLagSection,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<Trained, RecipeError> {
    let started = Instant::now();
    let engine = engine(config)?;
    let dir = policy::tokenizer_folder(&config.model.model_name_or_path)?;
    let tokenizer = ChatTokenizer::load(&dir, &template_choice(&config.data.chat_template))?;
    let models = Models::load(config, section, (&tokenizer, &engine), observer)?;
    let data = PpoData::load(config, section, (&tokenizer, models.context()), observer)?;
    let fingerprints = fingerprint_models(config)?;
    // Prompts stand for sequences without a response.
    let sequences = fingerprint_sequences(&data.as_examples(), &data.ptx);
    let labels = fingerprint_labels(&[], &[]);
    let ingredients =
        Ingredients { config, sequences: &sequences, labels: &labels, replay: "", models: &fingerprints };
    // Last of the checks: opening may replace an earlier run.
    let run = RunDirectory::open(&config.run.output_dir, &opening(config, Until::End)?)?;
    announce(config, section, (&models, &data), observer);
    if let Some(checkpoint) = resumed_checkpoint(&run, config)? {
        load_progress::<PpoProgress>(&checkpoint, &ingredients)?;
    }
    let told = Told {
        objective: section.formula(),
        reference: Some(config.reference_in_words()),
        ledger: &data.ledger,
    };
    let facts = Facts::gather(&ingredients, &told, &tokenizer, &models.actor)?;
    let inputs = Inputs { config, section, data: &data, tokenizer: &tokenizer };
    let mut session = PpoSession::begin(&run, &inputs, &ingredients, models, observer)?;
    if session.steps_done() > 0 {
        facts.tell_differences(&run, observer);
    }
    artefacts::write_config(&run, config)?;
    facts.write_manifest(&run, Status::Running)?;
    let outcome = session.run_to_end(interrupt, observer).and_then(|finished| {
        let step = session.steps_done();
        if !finished {
            facts.write_manifest(&run, Status::Interrupted { step })?;
            return Ok(None);
        }
        let ending = Ending { best: None, weights_of: step };
        let cost = (started.elapsed().as_secs_f64(), session.forwards());
        artefacts::finish(&run, &facts, (session.actor(), &tokenizer), ending, cost).map(Some)
    });
    let (steps, seconds) = (session.steps_done(), started.elapsed().as_secs_f64());
    let results = outcome.inspect_err(|error| {
        // The error itself matters more than a manifest that could not be written after it.
        let _ = facts.write_manifest(&run, Status::Failed { step: steps, reason: error.to_string() });
    })?;
    let interrupted = results.is_none();
    let results = results.unwrap_or_default();
    let (output_dir, forwards) = (run.root().to_owned(), session.forwards());
    // The diagnostics read the log-probs of pairs, and this stage has none.
    let findings = Vec::new();
    Ok(Trained { output_dir, interrupted, steps, seconds, forwards, results, findings })
}

/// What a person wants to see before the first step.
fn announce(
    config: &TrainConfig,
    section: &PpoLagSection,
    (models, data): (&Models, &PpoData),
    observer: &dyn Observer,
) {
    let note = |text: String| observer.event(Event::Note(text));
    note(format!("objective   {}", section.formula()));
    note(format!("reference   {}", config.reference_in_words()));
    note(format!("reward      {}", section.reward_model.display()));
    note(format!("cost        {}", section.cost_model.display()));
    note(format!("data        {}", data.ledger));
    let told = |what: &str| !matches!(what, "read" | "kept");
    for (what, count, _) in data.ledger.lines().iter().filter(|(what, ..)| told(what)) {
        note(format!("            {count:>7}  {what}"));
    }
    let ptx = match data.ptx.len() {
        0 => String::new(),
        rows => format!(", {rows} rows to imitate"),
    };
    note(format!("prompts     {} to sample from, {} held out{ptx}", data.prompts.len(), data.held_out));
    note(format!(
        "parameters  {} trainable: the actor's {} and those of two critics",
        models.trained_count(),
        models.actor.trained_count()
    ));
}
