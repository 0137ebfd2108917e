//! Checkpoints: everything that the rest of a run depends on, so that a resumed run ends in the same bytes as an
//! uninterrupted one. Batches need no saved state: they follow from the seed and the step.

use crate::RecipeError;
use crate::config::TrainConfig;
use crate::fitting::{DIVERGED, check_finite};
use crate::objective::Observation;
use crate::policy;
use crate::reference::ModelFingerprints;
use bso_data::ChatTokenizer;
use bso_durable::write_json;
use bso_model::{DType, Decoder, Optimiser, OptimiserKind};
use bso_runs::{Checkpoint, RunDirectory};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

const STATE: &str = "training_state.json";
const OPTIMISER: &str = "optimizer.safetensors";

/// Where a run stands between two steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Progress {
    /// Optimiser steps done.
    pub step: u64,
    /// Tokens that entered the model.
    pub tokens: u64,
    /// Sequences that the policy computed, evaluations included.
    #[serde(default)]
    pub sequences: u64,
    /// Observations since the last logged row.
    pub pending: Vec<Observation>,
    /// Losses of replayed pairs since then.
    #[serde(default)]
    pub replay: Vec<f64>,
    /// Gradient norm of the last step.
    pub grad_norm: f64,
}

#[derive(Serialize, Deserialize)]
struct State<P> {
    progress: P,
    /// Every setting that decides results, as text.
    settings: BTreeMap<String, String>,
    /// Fingerprint of the training and held-out token sequences.
    sequences: String,
    /// Fingerprint of their labels, margins and judgements.
    labels: String,
    /// Fingerprint of the replayed pairs; empty without any.
    #[serde(default)]
    replay: String,
    /// Fingerprints of the models that the run reads and does not train.
    #[serde(default)]
    models: ModelFingerprints,
}

/// What a checkpoint must agree with.
pub struct Ingredients<'a> {
    /// The configuration.
    pub config: &'a TrainConfig,
    /// [`crate::reference::fingerprint_sequences`].
    pub sequences: &'a str,
    /// [`crate::reference::fingerprint_labels`].
    pub labels: &'a str,
    /// [`crate::reference::fingerprint_sequences`] of the replayed pairs; empty without any.
    pub replay: &'a str,
    /// [`crate::reference::fingerprint_models`].
    pub models: &'a ModelFingerprints,
}

impl Ingredients<'_> {
    fn settings(&self) -> BTreeMap<String, String> {
        let decides = |(key, _): &(&'static crate::config::Key, _)| key.decides_result;
        let written = self.config.settings().into_iter().filter(decides);
        written.map(|(key, setting)| (key.name.to_owned(), format!("{setting:?}"))).collect()
    }
}

/// The trained models with their optimisers, and the tokenizer beside the first.
pub struct Parts<'a> {
    /// What the run trains, in the checkpoint's own folder.
    pub decoder: &'a Decoder,
    /// Its optimiser.
    pub optimiser: &'a Optimiser,
    /// Its tokenizer.
    pub tokenizer: &'a ChatTokenizer,
    /// Models that are trained beside it, each whole in a folder of this name.
    pub beside: Vec<(&'static str, &'a Decoder, &'a Optimiser)>,
}

/// Writes the checkpoint of the present step, whole or not at all.
///
/// # Errors
/// Weights that are not finite; a checkpoint that cannot be written. Earlier checkpoints are untouched.
pub fn save<P: Serialize + Clone>(
    run: &RunDirectory,
    (step, progress): (u64, &P),
    ingredients: &Ingredients<'_>,
    parts: &Parts<'_>,
) -> Result<Checkpoint, RecipeError> {
    let Parts { decoder, optimiser, tokenizer, beside } = parts;
    for decoder in std::iter::once(decoder).chain(beside.iter().map(|(_, decoder, _)| decoder)) {
        check_finite(decoder, &format!("after step {step}"), DIVERGED)?;
    }
    let building = run.begin_checkpoint(step)?;
    // In f32 whatever the run's dtype: the next step continues from these very bits.
    policy::save(decoder, building.path(), ingredients.config)?;
    tokenizer.save(building.path())?;
    optimiser.save(&building.path().join(OPTIMISER), decoder)?;
    for (name, decoder, optimiser) in beside {
        let dir = building.path().join(name);
        fs::create_dir(&dir)?;
        decoder.save(&dir, DType::F32)?;
        optimiser.save(&dir.join(OPTIMISER), decoder)?;
    }
    let state = State {
        progress: progress.clone(),
        settings: ingredients.settings(),
        sequences: ingredients.sequences.to_owned(),
        labels: ingredients.labels.to_owned(),
        replay: ingredients.replay.to_owned(),
        models: ingredients.models.clone(),
    };
    write_json(&building.path().join(STATE), &state)?;
    Ok(building.commit()?)
}

/// Reads the state of the checkpoint in `dir` and checks that it belongs to this run.
///
/// # Errors
/// A damaged state, or one of other settings or data; the differences are named.
pub fn load_progress<P: DeserializeOwned>(
    dir: &Path,
    ingredients: &Ingredients<'_>,
) -> Result<P, RecipeError> {
    let path = dir.join(STATE);
    let damaged = |why: &dyn std::fmt::Display| {
        RecipeError::input(format!("{}: {why}; resume from another checkpoint", path.display()))
    };
    let text = fs::read(&path).map_err(|e| damaged(&e))?;
    let state: State<P> = serde_json::from_slice(&text).map_err(|e| damaged(&e))?;
    let now = ingredients.settings();
    let absent = "absent".to_owned();
    let mut differences: Vec<String> = state
        .settings
        .keys()
        .chain(now.keys())
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .filter(|key| state.settings.get(*key) != now.get(*key))
        .map(|key| {
            let [then, now] = [&state.settings, &now].map(|s| s.get(key).unwrap_or(&absent));
            format!("{key} was {then} and is {now}")
        })
        .collect();
    if state.sequences != ingredients.sequences {
        differences.push("the token sequences of the data differ".to_owned());
    }
    if state.labels != ingredients.labels {
        differences.push("the labels or margins of the data differ".to_owned());
    }
    if state.replay != ingredients.replay {
        differences.push("the token sequences of replay_dataset_name differ".to_owned());
    }
    // Their log-probs are read from files beside the checkpoint, and computed anew where such a file is gone.
    for (key, was) in &state.models {
        if ingredients.models.get(key).is_some_and(|is| is != was) {
            differences.push(format!("the weights or config.json in {key} are no longer the same"));
        }
    }
    if differences.is_empty() {
        return Ok(state.progress);
    }
    Err(RecipeError::input(format!(
        "the checkpoint in {} was made under other settings: {}; restore them, or start anew with \
         overwrite_output_dir: true",
        dir.display(),
        differences.join("; ")
    )))
}

/// Reads the optimiser's state of the checkpoint in `dir`.
///
/// # Errors
/// A damaged file, or the state of another optimiser or model.
pub fn load_optimiser(
    dir: &Path,
    kind: OptimiserKind,
    weight_decay: f64,
    decoder: &Decoder,
) -> Result<Optimiser, RecipeError> {
    Ok(Optimiser::load(&dir.join(OPTIMISER), kind, weight_decay, decoder)?)
}
