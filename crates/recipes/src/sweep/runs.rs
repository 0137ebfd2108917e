//! The grid multiplied out: every run with its name and its whole configuration, refused here if anything in it is wrong.

use super::config::{Grid, MethodEntry, Settings, SweepConfig};
use crate::RecipeError;
use crate::config::{self, Overlay, Resolved, Resume, Stage, TrainConfig};
use bso_durable::fingerprint_bytes;
use serde_json::Value;
use std::path::Path;

/// Keys that make another method, not another strength of the same one.
const KINDS: [&str; 7] =
    ["loss_type", "preset", "recipe", "generator", "preference", "safety_transform", "stage"];
/// Longer names end in a hash instead.
const LONGEST: usize = 120;

/// One run.
#[derive(Clone, Debug, PartialEq)]
pub struct Run {
    /// Its folder's name.
    pub name: String,
    /// The point of the grid that it is a seed of.
    pub point: String,
    /// The method that the point belongs to.
    pub method: String,
    /// Where the point stands in the grid: keys with values.
    pub place: Vec<(String, String)>,
    /// What the method is, in a sentence; may be empty.
    pub about: String,
    /// All that `bso train` would be told.
    pub config: TrainConfig,
}

/// Every run in the order of methods, grid and seeds; and what the user should be told, a line each.
///
/// # Errors
/// The first setting that cannot be, with the method; runs whose names cannot be told apart.
pub fn expand(sweep: &SweepConfig) -> Result<(Vec<Run>, Vec<String>), RecipeError> {
    let (mut runs, mut notices): (Vec<Run>, Vec<String>) = (Vec::new(), Vec::new());
    for method in &sweep.methods {
        for point in points(method.grid.as_ref().unwrap_or(&sweep.grid)) {
            let (place, resolved) = settled(sweep, method, point)?;
            notices.extend(resolved.notices);
            let of_seeds = of_point(sweep, (method, &place), &resolved.config)?;
            // What differs in keys alone that its loss does not read is the same point.
            if runs.iter().any(|run| run.point == of_seeds[0].point && run.place == of_seeds[0].place) {
                continue;
            }
            runs.extend(of_seeds);
        }
    }
    let mut seen = std::collections::BTreeSet::new();
    notices.retain(|notice| seen.insert(notice.clone()));
    if let Some(twice) =
        runs.iter().enumerate().find(|(i, run)| runs[..*i].iter().any(|r| r.name == run.name))
    {
        return Err(RecipeError::input(format!(
            "{}: two different runs would be called {}; give methods or values that can be told apart",
            sweep.name, twice.1.name
        )));
    }
    Ok((runs, notices))
}

/// All combinations, the last key varying fastest.
fn points(grid: &Grid) -> Vec<Settings> {
    grid.iter().fold(vec![Settings::new()], |points, (key, values)| {
        points
            .iter()
            .flat_map(|point| {
                values
                    .iter()
                    .map(move |value| point.iter().cloned().chain([(key.clone(), value.clone())]).collect())
            })
            .collect()
    })
}

/// The point without the keys that its loss does not read, and its configuration.
fn settled(
    sweep: &SweepConfig,
    method: &MethodEntry,
    point: Settings,
) -> Result<(Settings, Resolved), RecipeError> {
    let resolved = resolve(sweep, (method, &point), None, &sweep.output_dir)?;
    let loss = resolved.config.objective.loss_type();
    let read: Settings = point
        .iter()
        .filter(|(key, _)| config::key(key).is_none_or(|key| key.applies.to(loss)))
        .cloned()
        .collect();
    let resolved = if read.len() < point.len() {
        resolve(sweep, (method, &read), None, &sweep.output_dir)?
    } else {
        resolved
    };
    // Its loss is on sampled responses, and is built when they are there.
    if resolved.config.stage != Stage::PpoLag {
        resolved.config.objective.build()?;
    }
    if matches!(resolved.config.stage, Stage::Reward | Stage::Cost) {
        return Err(RecipeError::input(format!(
            "{}: stage {} trains a scalar head, which answers no prompts; a sweep compares language models",
            sweep.name, resolved.config.stage
        )));
    }
    Ok((read, resolved))
}

fn resolve(
    sweep: &SweepConfig,
    (method, point): (&MethodEntry, &Settings),
    seed: Option<u64>,
    output_dir: &Path,
) -> Result<Resolved, RecipeError> {
    let of_method = match method.name.as_str() {
        "" => sweep.name.clone(),
        name => format!("{}, method {name}", sweep.name),
    };
    let layers: [Overlay<'_>; 3] = [
        (sweep.name.clone(), &sweep.settings),
        (of_method.clone(), &method.settings),
        (format!("{of_method}, grid"), point),
    ];
    let mut overrides = sweep.overrides.clone();
    overrides.extend(seed.map(|seed| ("seed".to_owned(), seed.to_string())));
    overrides.push(("output_dir".to_owned(), output_dir.to_string_lossy().into_owned()));
    Ok(config::load_overlaid(sweep.base.as_deref(), (&sweep.folder, &layers), &overrides)?)
}

/// The runs of a point, one a seed.
fn of_point(
    sweep: &SweepConfig,
    (method, point): (&MethodEntry, &Settings),
    resolved: &TrainConfig,
) -> Result<Vec<Run>, RecipeError> {
    let place: Vec<(String, String)> = point.iter().map(|(key, value)| (key.clone(), plain(value))).collect();
    let first = if method.name.is_empty() { resolved.method() } else { &method.name };
    let named = |parts: &mut dyn Iterator<Item = &(String, String)>| {
        parts.fold(first.to_owned(), |name, (key, value)| format!("{name}-{key}={}", file_name(value)))
    };
    let of_method = named(&mut place.iter().filter(|(key, _)| KINDS.contains(&key.as_str())));
    let of_point = shortened(named(&mut place.iter()));
    let seeds =
        if sweep.seeds.is_empty() { vec![None] } else { sweep.seeds.iter().map(|s| Some(*s)).collect() };
    let of_seed = |seed: Option<u64>| {
        let name = seed.map_or(of_point.clone(), |seed| format!("{of_point}-seed={seed}"));
        // What else a configuration derives from its folder follows it.
        let folder = sweep.output_dir.join("runs").join(&name);
        let mut config = resolve(sweep, (method, point), seed, &folder)?.config;
        config.run.overwrite_output_dir = false;
        config.run.resume_from_checkpoint = Resume::Last;
        config.run.ref_cache_dir = Some(sweep.output_dir.join("reference"));
        let (point, method_name, place) = (of_point.clone(), of_method.clone(), place.clone());
        Ok(Run { name, point, method: method_name, place, about: method.about.clone(), config })
    };
    seeds.into_iter().map(of_seed).collect()
}

/// A value in one word: text as it is, lists and mappings by their values.
fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(plain).collect::<Vec<_>>().join(","),
        Value::Object(map) => map.values().map(plain).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

/// As part of a folder's name.
fn file_name(value: &str) -> String {
    let last = Path::new(value)
        .file_name()
        .map_or_else(|| value.to_owned(), |name| name.to_string_lossy().into_owned());
    last.chars().map(|c| if c.is_ascii_alphanumeric() || "._+-".contains(c) { c } else { '_' }).collect()
}

fn shortened(name: String) -> String {
    if name.len() <= LONGEST {
        return name;
    }
    // Every character is ASCII.
    format!("{}-{:.8}", &name[..LONGEST - 9], fingerprint_bytes(name.as_bytes()))
}
