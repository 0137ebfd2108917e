//! What other models say of the answers: reward, cost, and the log-ratio to the reference.

use super::answers::open;
use super::{EvalConfig, Watch};
use crate::RecipeError;
use crate::example::Example;
use crate::generate::ChatModel;
use crate::location::local_model;
use crate::score::score as outputs;
use bso_data::{
    Ledger, Message, Origin, SftExample, TokenisedSequence, Truncation, TruncationMode, tokenise_sft,
};
use bso_durable::{Event, Observer};
use bso_evaluation::Sample;
use bso_model::{ModelConfig, ModelDirectory};
use std::path::Path;
use std::sync::Arc;

/// Adds `reward`, `cost` and `kl` to every sample, as far as the configuration asks for them.
pub(super) fn score(
    config: &EvalConfig,
    samples: &mut [Vec<Sample>],
    watch: Watch<'_>,
) -> Result<(), RecipeError> {
    if let Some(dir) = &config.reward_model {
        score_with(config, dir, samples, |sample, score| sample.reward = Some(score), watch)?;
    }
    if let Some(dir) = &config.cost_model {
        score_with(config, dir, samples, |sample, score| sample.cost = Some(score), watch)?;
    }
    if config.kl { log_ratios(config, samples, watch) } else { Ok(()) }
}

/// Refuses a scorer without a scalar head or with damaged weights, before anything answers.
pub(super) fn check(config: &EvalConfig, observer: &dyn Observer) -> Result<(), RecipeError> {
    for dir in config.reward_model.iter().chain(&config.cost_model) {
        let folder = ModelDirectory::find(&local_model(dir, observer)?)?;
        let found = ModelConfig::from_dir(&folder.base)?;
        if found.score.is_none() && !folder.has_score_adapter()? {
            return Err(no_head(dir, &found));
        }
        folder.check_weights()?;
    }
    Ok(())
}

fn no_head(dir: &Path, found: &ModelConfig) -> RecipeError {
    RecipeError::input(format!(
        "{}: a {} has no scalar head; name a reward or cost model",
        dir.display(),
        found.class()
    ))
}

fn score_with(
    config: &EvalConfig,
    dir: &Path,
    samples: &mut [Vec<Sample>],
    put: impl Fn(&mut Sample, f64),
    (interrupt, observer): Watch<'_>,
) -> Result<(), RecipeError> {
    let mut model = open(config, &local_model(dir, observer)?)?;
    model.tokenizer.keep_whole_turns();
    let Some(head) = model.decoder.config().score.clone() else {
        return Err(no_head(dir, model.decoder.config()));
    };
    let name = format!("scores of {}", dir.file_name().unwrap_or_default().to_string_lossy());
    for samples in samples {
        let examples = tokenise(&model, samples, observer)?;
        let places: Vec<usize> = examples.iter().map(|(place, _)| *place).collect();
        let examples: Vec<Example> = examples.into_iter().map(|(_, sequence)| example(sequence)).collect();
        let scores = outputs(&model.decoder, &examples, &name, interrupt, observer)?;
        for (place, score) in places.into_iter().zip(scores) {
            let score = head.normalise(score.first().copied().unwrap_or(f64::NAN));
            if !score.is_finite() {
                return Err(RecipeError::failed(format!(
                    "{}: an answer has the score {score}; the weights are not finite or overflow in f32",
                    dir.display()
                )));
            }
            put(&mut samples[place], score);
        }
    }
    Ok(())
}

/// log pi - log pi_ref of every sampled answer, both on the tokens of the answering model.
fn log_ratios(
    config: &EvalConfig,
    samples: &mut [Vec<Sample>],
    (interrupt, observer): Watch<'_>,
) -> Result<(), RecipeError> {
    let reference = config.ref_model.as_ref().unwrap_or(&config.models[config.baseline()].path);
    let mut tokenised: Vec<(Vec<usize>, Vec<Example>, Vec<f64>)> = Vec::new();
    let log_probs = |model: &ChatModel, examples: &[Example], name: &str| {
        let found = outputs(&model.decoder, examples, name, interrupt, observer)?;
        Ok::<_, RecipeError>(
            found.into_iter().map(|s| s.first().copied().unwrap_or(f64::NAN)).collect::<Vec<_>>(),
        )
    };
    for (named, samples) in config.models.iter().zip(samples.iter()) {
        let model = open(config, &local_model(&named.path, observer)?)?;
        let (places, examples): (Vec<usize>, Vec<Example>) = tokenise(&model, samples, observer)?
            .into_iter()
            .map(|(place, mut sequence)| {
                // The end of a turn that was never sampled is not scored.
                if samples[place].finish_reason != "stop" {
                    sequence.response.pop();
                }
                (place, sequence)
            })
            .filter(|(_, sequence)| !sequence.response.is_empty())
            .map(|(place, sequence)| (place, example(sequence)))
            .unzip();
        let found = log_probs(&model, &examples, &format!("log-probs of {}", named.name))?;
        tokenised.push((places, examples, found));
    }
    let model = open(config, &local_model(reference, observer)?)?;
    let vocabulary = model.decoder.config().vocab_size;
    for (index, (places, examples, ours)) in tokenised.into_iter().enumerate() {
        let ids = examples.iter().flat_map(|e| &e.sequences).flat_map(|s| s.prompt.iter().chain(&s.response));
        let longest = examples.iter().map(Example::tokens).max().unwrap_or(0);
        if ids.max().is_some_and(|id| *id as usize >= vocabulary)
            || longest > model.decoder.config().max_positions
        {
            observer.event(Event::Warning(format!(
                "no KL for {}: the reference {} has another vocabulary or a shorter context",
                config.models[index].name,
                reference.display()
            )));
            continue;
        }
        let theirs = log_probs(&model, &examples, "log-probs of the reference")?;
        for ((place, ours), theirs) in places.into_iter().zip(ours).zip(theirs) {
            samples[index][place].kl = Some(ours - theirs).filter(|kl| kl.is_finite());
        }
    }
    Ok(())
}

/// The prompt and the answer of every sample in tokens, cut to the model's context before the end of the turn.
fn tokenise(
    model: &ChatModel,
    samples: &[Sample],
    observer: &dyn Observer,
) -> Result<Vec<(usize, TokenisedSequence)>, RecipeError> {
    let file: Arc<Path> = Arc::from(Path::new("samples.jsonl"));
    let examples: Vec<SftExample> = samples
        .iter()
        .enumerate()
        .map(|(row, sample)| SftExample {
            prompt: vec![Message::user(sample.prompt.prompt.as_str())],
            response: sample.response.clone(),
            origin: Origin { file: Arc::clone(&file), row },
        })
        .collect();
    let max_length = Some(model.decoder.config().max_positions);
    let truncation = Truncation { max_length, mode: TruncationMode::KeepStart };
    let mut ledger = Ledger::default();
    let found = tokenise_sft(&examples, &model.tokenizer, truncation, &mut ledger, observer)?;
    let lost = samples.len() - found.len();
    if lost > 0 {
        observer.event(Event::Warning(format!("{lost} answers do not fit the context and have no score")));
    }
    Ok(found.into_iter().map(|example| (example.origin.row, example.sequence)).collect())
}

fn example(sequence: TokenisedSequence) -> Example {
    Example { sequences: vec![sequence], mismatched: None, labels: None, margins: None, desirable: true }
}
