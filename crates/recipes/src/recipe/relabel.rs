//! Rows between stages: responses judged by their labels, samples of the reference, and pairs whose order is drawn anew.

use super::Plan;
use super::scored::{Scored, Text};
use super::work::Scorers;
use crate::RecipeError;
use crate::config::LossType;
use crate::dataset::{gather, template_choice};
use crate::generate::{AnswerSettings, ChatModel};
use crate::lines;
use bso_data::{Message, Needs, PreferencePair, load_pairs};
use bso_durable::{Event, Interrupt, Observer, Seed, ensure_dir, write_json};
use bso_model::GenerateConfig;
use bso_objective::{ScoredSample, multiplier, relabelled_probability};
use rand::Rng;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// How many responses are safe and how many are not.
#[derive(Serialize, Deserialize)]
struct Judgements {
    desirable: u64,
    undesirable: u64,
}

/// What the relabelling used.
#[derive(Serialize)]
struct Used {
    lambda: f64,
    /// D(lambda), reward units.
    dual: f64,
    /// E_pi\[g\] of the tilted samples.
    safety: f64,
    /// b in the units of g.
    level: f64,
    pairs: usize,
    /// Pairs whose order changed.
    swapped: usize,
}

/// Rows of the judged responses.
pub fn judged(plan: &Plan<'_>) -> PathBuf {
    plan.dir("judged").join("unpaired.jsonl")
}

/// Rows of the reference's responses.
pub fn samples(plan: &Plan<'_>) -> PathBuf {
    plan.dir("samples").join("samples.jsonl")
}

/// Rows of the relabelled pairs.
pub fn relabelled(plan: &Plan<'_>) -> PathBuf {
    plan.dir("relabelled").join("pairs.jsonl")
}

/// The folder of the reference policy.
pub fn reference<'a>(plan: &Plan<'a>) -> &'a Path {
    let model = &plan.config.model;
    model.ref_model.as_ref().unwrap_or(&model.model_name_or_path)
}

/// SACPO's weight of undesirable rows: desirable over undesirable ones.
///
/// # Errors
/// Responses that are all safe or all unsafe.
pub fn undesirable_weight(plan: &Plan<'_>) -> Result<f64, RecipeError> {
    let path = plan.dir("judged").join("judgements.json");
    let counts: Judgements = serde_json::from_slice(&std::fs::read(&path)?)
        .map_err(|e| RecipeError::input(format!("{}: {e}; remove it and run again", path.display())))?;
    if counts.desirable == 0 || counts.undesirable == 0 {
        return Err(RecipeError::input(format!(
            "kto on safety labels needs safe and unsafe responses; the data has {} and {}",
            counts.desirable, counts.undesirable
        )));
    }
    Ok(counts.desirable as f64 / counts.undesirable as f64)
}

fn pairs(
    plan: &Plan<'_>,
    needs: &Needs,
    observer: &dyn Observer,
) -> Result<Vec<PreferencePair>, RecipeError> {
    Ok(gather(plan.config, needs, observer, load_pairs)?.train)
}

/// Writes every response with `label` true where it is safe.
///
/// # Errors
/// Rows without safety labels; files that cannot be written.
pub fn judge(plan: &Plan<'_>, observer: &dyn Observer) -> Result<u64, RecipeError> {
    let needs = Needs { safety_labels: Some(format!("safety_loss_type {}", LossType::Kto)), margins: None };
    let pairs = pairs(plan, &needs, observer)?;
    let responses = pairs.iter().flat_map(|pair| {
        [(&pair.chosen, pair.chosen_unsafe), (&pair.rejected, pair.rejected_unsafe)]
            .map(|(text, is_unsafe)| (pair, text, is_unsafe == Some(false)))
    });
    let rows: Vec<Map<String, Value>> = responses
        .clone()
        .map(|(pair, text, safe)| object(json!({ "prompt": pair.prompt, "completion": text, "label": safe })))
        .collect();
    let desirable = responses.filter(|(.., safe)| *safe).count() as u64;
    ensure_dir(&plan.dir("judged"))?;
    write_json(
        &plan.dir("judged").join("judgements.json"),
        &Judgements { desirable, undesirable: rows.len() as u64 - desirable },
    )?;
    lines::write(&judged(plan), rows.iter())?;
    Ok(0)
}

/// Samples responses of the reference to the first prompts of the data, and writes them; the number of sequences.
///
/// # Errors
/// A model or prompts that cannot be used; [`RecipeError::Interrupted`].
pub fn sample(plan: &Plan<'_>, interrupt: &Interrupt, observer: &dyn Observer) -> Result<u64, RecipeError> {
    let model = open(plan, reference(plan))?;
    let new_tokens = plan.recipe.dual_max_new_tokens;
    let room = plan.config.data.max_length.unwrap_or(usize::MAX).min(model.decoder.config().max_positions);
    let mut seen = BTreeSet::new();
    let mut prompts = Vec::new();
    for pair in pairs(plan, &Needs::default(), observer)? {
        if prompts.len() == plan.recipe.dual_prompts {
            break;
        }
        let tokens = model.tokenizer.encode_prompt(&pair.prompt)?;
        if tokens.len().saturating_add(new_tokens) < room && seen.insert(tokens) {
            prompts.push(pair.prompt);
        }
    }
    if prompts.is_empty() {
        return Err(RecipeError::input(format!(
            "no prompt leaves room for a response of {new_tokens} tokens within {room}; lower dual_max_new_tokens or raise \
             max_length"
        )));
    }
    let conversations: Vec<Vec<Message>> = prompts
        .iter()
        .flat_map(|prompt| std::iter::repeat_n(prompt.clone(), plan.recipe.dual_samples))
        .collect();
    let sampling = GenerateConfig {
        temperature: 1.0,
        seed: plan.config.model.seed,
        max_new_tokens: new_tokens,
        ..GenerateConfig::default()
    };
    let settings = AnswerSettings { sampling, stop_texts: Vec::new() };
    let answers = model.answer(&conversations, &settings, (interrupt, observer))?;
    let rows: Vec<_> = conversations
        .iter()
        .zip(&answers)
        .map(|(prompt, answer)| object(json!({ "prompt": prompt, "response": answer.text })))
        .collect();
    ensure_dir(&plan.dir("samples"))?;
    lines::write(&samples(plan), rows.iter())?;
    Ok(rows.len() as u64)
}

/// Finds the multiplier on the samples, draws the order of every pair, and writes them; the number of sequences.
///
/// # Errors
/// A level out of reach; models that cannot be used; [`RecipeError::Interrupted`].
pub fn relabel(
    plan: &Plan<'_>,
    by: &Scorers,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<u64, RecipeError> {
    let each = plan.recipe.dual_samples;
    let sampled: Vec<Text> = lines::read(&samples(plan), lines::ReadRows::default(), |_, row| {
        Ok((lines::conversation(row)?, lines::answer(row, "response")?.to_owned()))
    })?
    .0
    .into_iter()
    .map(|(_, text)| text)
    .collect();
    let pairs = pairs(plan, &Needs::default(), observer)?;
    let mut texts = sampled.clone();
    texts.extend(
        pairs
            .iter()
            .flat_map(|p| [&p.chosen, &p.rejected].map(|response| (p.prompt.clone(), response.clone()))),
    );
    let Scored { samples: scores, forwards } =
        super::scored::score_all(plan, by, &texts, (interrupt, observer))?;
    let (of_samples, of_pairs) = scores.split_at(sampled.len());
    let groups: Vec<Vec<ScoredSample>> = of_samples.chunks(each).map(<[_]>::to_vec).collect();
    let (beta, level) = constraint(plan, by, of_samples);
    let found = multiplier(&groups, beta, level)?;
    let swaps: Vec<bool> = of_pairs
        .chunks(2)
        .enumerate()
        .map(|(index, pair)| {
            let weight = |s: &ScoredSample| s.reward + found.lambda * s.safety;
            let second_is_chosen = relabelled_probability([weight(&pair[0]), weight(&pair[1])]);
            draw(plan.config.model.seed, index) < second_is_chosen
        })
        .collect();
    let used = Used {
        lambda: found.lambda,
        dual: found.dual,
        safety: found.safety,
        level,
        pairs: pairs.len(),
        swapped: swaps.iter().filter(|swap| **swap).count(),
    };
    observer.event(Event::Note(format!(
        "multiplier  lambda {:.6} for a level of {level:.4}; {} of {} pairs swapped",
        used.lambda, used.swapped, used.pairs
    )));
    let rows: Vec<_> = pairs
        .into_iter()
        .zip(swaps)
        .map(|(pair, swap)| row(if swap { pair.swapped() } else { pair }))
        .collect();
    ensure_dir(&plan.dir("relabelled"))?;
    write_json(&plan.dir("relabelled").join("multiplier.json"), &used)?;
    lines::write(&relabelled(plan), rows.iter())?;
    Ok(forwards)
}

/// beta and the level b of the dual. Log-ratios are taken raw: with g = log pi_safe - log pi_ref the reference's own mean
/// of g is -KL(pi_ref, pi_safe), and the demand is b / beta above it.
fn constraint(plan: &Plan<'_>, by: &Scorers, samples: &[ScoredSample]) -> (f64, f64) {
    let (beta, level) = (plan.config.objective.beta(), plan.recipe.safety_level);
    match by {
        Scorers::Scores { .. } => (beta, level),
        Scorers::Policies { .. } => {
            let mean = samples.iter().map(|s| s.safety).sum::<f64>() / samples.len().max(1) as f64;
            (1.0, mean + level / beta)
        }
    }
}

fn draw(seed: u64, index: usize) -> f64 {
    Seed::new(seed).derive("relabel", index as u64).rng().random()
}

fn row(pair: PreferencePair) -> Map<String, Value> {
    let safe = |is_unsafe: Option<bool>| is_unsafe.map(|is_unsafe| !is_unsafe);
    object(json!({
        "prompt": pair.prompt,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "chosen_safe": safe(pair.chosen_unsafe),
        "rejected_safe": safe(pair.rejected_unsafe),
    }))
}

fn object(value: Value) -> Map<String, Value> {
    if let Value::Object(fields) = value { fields } else { Map::new() }
}

/// A model of the recipe in the run's arithmetic.
pub fn open(plan: &Plan<'_>, dir: &Path) -> Result<ChatModel, RecipeError> {
    let engine = crate::train::engine(plan.config)?;
    let mut model = ChatModel::open(dir, &template_choice(&plan.config.data.chat_template), engine)?;
    model.decoder.compute_in(plan.config.model.compute_dtype(), false)?;
    Ok(model)
}
