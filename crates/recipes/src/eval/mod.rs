//! `bso eval`: models answer prompts; the answers are measured, compared and written down.

mod answers;
mod config;
mod judged;
mod results;
mod scorers;

pub use config::{EXAMPLE, EvalConfig, Named, SetEntry};
pub use judged::JudgeSettings;
pub use results::{ModelResults, Results};

use crate::RecipeError;
use crate::lines::{self, ReadRows};
use crate::location::{local_model, local_rows};
use answers::Answers;
use bso_durable::{Event, Interrupt, Observer, atomic_write, ensure_dir};
use bso_evaluation::{Prompt, PromptFormat, Sample};
use bso_model::ModelDirectory;
use std::path::Path;

/// What stops and who listens.
type Watch<'a> = (&'a Interrupt, &'a dyn Observer);

/// Answers, scores, judges, summarises; leaves config.yaml, samples.jsonl, results.json and results.md in output_dir.
///
/// # Errors
/// Prompts or models that cannot be used; an endpoint that refuses; [`RecipeError::Interrupted`] (answers that came are kept).
pub fn evaluate(
    config: &EvalConfig,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<Results, RecipeError> {
    evaluate_to_samples(config, interrupt, observer).map(|(results, _)| results)
}

/// What can be refused before any model answers: prompts, scorers, the judge's key.
///
/// # Errors
/// As [`evaluate`].
pub(crate) fn check(config: &EvalConfig, observer: &dyn Observer) -> Result<(), RecipeError> {
    read_prompts(config, observer)?;
    scorers::check(config, observer)?;
    config.judge.as_ref().map(|judge| judge.with_key(&config.output_dir)).transpose().map(drop)
}

/// As [`evaluate`]; also gives the answers, `[model][prompt]`.
pub(crate) fn evaluate_to_samples(
    config: &EvalConfig,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<(Results, Vec<Vec<Sample>>), RecipeError> {
    let watch = (interrupt, observer);
    let prompts = read_prompts(config, observer)?;
    scorers::check(config, observer)?;
    for model in &config.models {
        ModelDirectory::find(&local_model(&model.path, observer)?)?.check_weights()?;
    }
    // Before any work: a judge without its key would be found out after hours.
    let judge = config.judge.as_ref().map(|judge| judge.with_key(&config.output_dir)).transpose()?;
    ensure_dir(&config.output_dir)?;
    let yaml = serde_saphyr::to_string(config).map_err(|e| RecipeError::failed(e.to_string()))?;
    write_text(&config.output_dir.join("config.yaml"), &yaml)?;
    let file = config.output_dir.join("samples.jsonl");
    let mut answers = Answers::resume(config, &prompts, &file)?;
    answers.complete(watch)?;
    let mut samples = answers.into_samples();
    scorers::score(config, &mut samples, watch)?;
    write_samples(&file, &samples)?;
    let counts = match (&config.judge, judge) {
        (Some(settings), Some(judge)) => Some(judged::judge(config, settings, judge, &mut samples, watch)?),
        _ => None,
    };
    write_samples(&file, &samples)?;
    let results = Results::of(config, &samples, counts);
    bso_durable::write_json(&config.output_dir.join("results.json"), &results)?;
    write_text(&config.output_dir.join("results.md"), &results.to_markdown())?;
    Ok((results, samples))
}

/// The prompts of every set, in order.
fn read_prompts(config: &EvalConfig, observer: &dyn Observer) -> Result<Vec<Prompt>, RecipeError> {
    let mut prompts = Vec::new();
    for entry in &config.prompt_sets {
        let mut set = entry.prompt_set().map_err(RecipeError::input)?;
        let path = local_rows(&entry.path, &[None], observer)?;
        let (rows, _) = lines::read(&path, ReadRows::default(), |_, _| Ok(()))?;
        let Some(((_, first), ())) = rows.first() else {
            return Err(RecipeError::input(format!("{}: it holds no prompts", entry.path.display())));
        };
        let format = set.format.unwrap_or_else(|| PromptFormat::detect(first));
        set.format = Some(format);
        let rows = rows.iter().take(config.max_prompts.unwrap_or(usize::MAX));
        let before = prompts.len();
        for (number, ((origin, row), ())) in rows.enumerate() {
            let prompt = set.prompt(number + 1, row);
            prompts.push(prompt.map_err(|problem| RecipeError::input(format!("{origin}: {problem}")))?);
        }
        let text = format!("prompts     {}: {} as {}", set.name, prompts.len() - before, format.name());
        observer.event(Event::Note(text));
    }
    Ok(prompts)
}

fn write_samples(file: &Path, samples: &[Vec<Sample>]) -> Result<(), RecipeError> {
    Ok(atomic_write(file, |out| {
        for sample in samples.iter().flatten() {
            serde_json::to_writer(&mut *out, sample)?;
            out.write_all(b"\n")?;
        }
        Ok(())
    })?)
}

fn write_text(file: &Path, text: &str) -> Result<(), RecipeError> {
    Ok(atomic_write(file, |out| out.write_all(text.as_bytes()))?)
}
