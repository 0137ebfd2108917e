//! The report of a single run, gathered from its files alone.

use super::data::{Curve, KeyFigure, LedgerTable, MethodReport, ReportData};
use super::format::{duration, minus, number, percent};
use super::settings::family;
use crate::json::read_text;
use crate::{
    Evidence, Manifest, Results, RunDirectory, RunsError, Status, StepMetrics, diagnose, key, read_metrics,
};
use std::path::Path;

/// A configuration is a page of YAML; what is longer is none.
const MAX_CONFIG: u64 = 1 << 20;

/// Gathers what the files of `run` tell. Only metrics.jsonl must be there.
///
/// # Errors
/// When a file that is there cannot be read or understood.
pub fn run_report(run: &RunDirectory) -> Result<ReportData, RunsError> {
    let (data, errors) = gathered(run);
    errors.into_iter().next().map_or(Ok(data), Err)
}

/// The same of a run that may be half written, killed or damaged: what cannot be read is left out and named under `problems`.
pub fn salvaged_report(run: &RunDirectory) -> ReportData {
    let (mut data, errors) = gathered(run);
    data.problems = errors.iter().map(ToString::to_string).collect();
    data
}

fn gathered(run: &RunDirectory) -> (ReportData, Vec<RunsError>) {
    let mut errors = Vec::new();
    let rows = kept(read_metrics(&run.metrics()), &mut errors).map_or_else(Vec::new, |file| file.rows);
    let manifest = if_there(&run.manifest(), Manifest::read, &mut errors);
    let results = if_there(&run.all_results(), Results::read, &mut errors);
    let config = if_there(&run.config(), |path| read_text(path, MAX_CONFIG), &mut errors).unwrap_or_default();
    let name = run.root().canonicalize().ok();
    let name = name.as_deref().unwrap_or(run.root()).file_name().map(|n| n.to_string_lossy().into_owned());
    let name = name.unwrap_or_else(|| "run".to_owned());
    // Of all stages, where there are several.
    let figure = |names: [&str; 2]| names.iter().find_map(|name| results.as_ref()?.get(name));
    let mut data = ReportData {
        title: name.clone(),
        key_figures: key_figures(&rows, results.as_ref()),
        methods: vec![MethodReport {
            name,
            family: family(&config),
            findings: diagnose(&Evidence { rows: &rows, ..Evidence::default() }),
            config,
            seconds: figure(["recipe_seconds", "train_runtime"]),
            forwards: figure(["recipe_forwards", "train_forwards"]),
            curves: Curve::of_metrics(&rows),
            ..MethodReport::default()
        }],
        ..ReportData::default()
    };
    if let Some(manifest) = manifest {
        describe(&mut data, &manifest);
    }
    (data, errors)
}

fn if_there<T>(
    path: &Path,
    read: impl FnOnce(&Path) -> Result<T, RunsError>,
    errors: &mut Vec<RunsError>,
) -> Option<T> {
    if path.exists() { kept(read(path), errors) } else { None }
}

fn kept<T>(read: Result<T, RunsError>, errors: &mut Vec<RunsError>) -> Option<T> {
    read.map_err(|error| errors.push(error)).ok()
}

fn describe(data: &mut ReportData, manifest: &Manifest) {
    let state = match &manifest.status {
        Status::Running => "Not finished when this report was made.".to_owned(),
        Status::Interrupted { step } => format!("Interrupted by the user after step {step}."),
        Status::Failed { step, reason } => format!("Failed after step {step}: {reason}"),
        Status::Finished { step } => format!("Finished after {step} steps."),
    };
    data.summary = format!("Training run, stage {}. {state}", manifest.stage);
    data.made = format!("{}, started {}", manifest.environment.program, manifest.started);
    data.methods[0].formula.clone_from(&manifest.objective);
    data.methods[0].description =
        manifest.reference.as_ref().map_or(String::new(), |r| format!("Reference: {r}"));
    if !manifest.ledger.is_empty() {
        data.ledgers = vec![LedgerTable { title: "Training data".to_owned(), rows: manifest.ledger.clone() }];
    }
    let e = &manifest.environment;
    let mut entry = |name: &str, value: String| data.environment.push((name.to_owned(), value));
    entry("Program", e.program.clone());
    entry("System", format!("{} {}", e.os, e.arch));
    entry("Processor", format!("{}, {} available", e.cpu.as_deref().unwrap_or("unknown"), e.processors));
    entry("Device", format!("{}, {}, {} threads", manifest.device, manifest.dtype, manifest.num_threads));
    entry("Seed", manifest.seed.to_string());
    entry("Trained parameters", manifest.trainable_parameters.to_string());
    for (role, print) in &manifest.fingerprints {
        entry(role, format!("{} ({:.12})", print.name, print.sha256));
    }
}

fn key_figures(rows: &[StepMetrics], results: Option<&Results>) -> Vec<KeyFigure> {
    let range = |name: &str| {
        let mut values = rows.iter().filter_map(|row| row.get(name)).filter(|v| v.is_finite());
        let first = values.next()?;
        Some((first, values.next_back()))
    };
    let mut figures = Vec::new();
    let mut add = |label: &str, value: String, note: String| {
        figures.push(KeyFigure { label: label.to_owned(), value: minus(&value), note: minus(&note) });
    };
    if let Some(last) = rows.last() {
        let epoch = last.get(key::EPOCH).map_or(String::new(), |e| format!("{} epochs", number(e)));
        add("Steps", last.step().to_string(), epoch);
    }
    for (label, name, share) in [
        ("Loss", key::LOSS, false),
        ("Held-out loss", "eval_loss", false),
        ("Accuracy", key::REWARDS_ACCURACIES, true),
        ("Held-out accuracy", "eval_rewards/accuracies", true),
    ] {
        if let Some((first, last)) = range(name) {
            let show = if share { percent } else { number };
            let note = last.map_or(String::new(), |_| format!("from {}", show(first)));
            add(label, show(last.unwrap_or(first)), note);
        }
    }
    if let Some(seconds) = results.and_then(|r| r.get("train_runtime")) {
        add("Time", duration(seconds), "training".to_owned());
    }
    figures
}
