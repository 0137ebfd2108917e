//! The sweep's page: that of its runs and their evaluation, with the seeds of a point as one.

use super::REFERENCE;
use super::frontier::{Frontier, Measured};
use super::runs::Run;
use crate::RecipeError;
use crate::report::gather;
use bso_evaluation::statistics::Estimate as Interval;
use bso_runs::report::{Axes, Estimate, Place, ReportData, Scores};
use std::path::{Path, PathBuf};

/// Gathers the page of `runs` in `root`, of which `frontier` was measured.
///
/// # Errors
/// As [`gather`].
pub fn page(root: &Path, runs: &[&Run], frontier: &Frontier) -> Result<ReportData, RecipeError> {
    let dirs: Vec<PathBuf> = runs.iter().map(|run| run.config.run.output_dir.clone()).collect();
    let mut data = gather(&[dirs.as_slice(), &[root.join("eval")]].concat())?;
    let mut methods = Vec::new();
    for point in &frontier.points {
        // Curves and settings are those of the first seed.
        let Some(first) = point.runs.first() else { continue };
        let Some(mut method) = data.methods.iter().find(|m| m.name == first.run).cloned() else { continue };
        let run = runs.iter().find(|run| run.name == first.run);
        method.name.clone_from(&point.name);
        method.family.clone_from(&point.method);
        let about = run.map(|run| run.about.as_str()).filter(|about| !about.is_empty());
        method.description = [about.unwrap_or_default(), &method.description].join(" ").trim().to_owned();
        method.scores = Some(scores(&point.measured, &frontier.axes, method.scores));
        method.place = Some(place(&point.measured));
        method.seconds = point.seconds;
        methods.push(method);
        for sample in data.samples.iter_mut().flat_map(|prompt| &mut prompt.responses) {
            if sample.method == first.run {
                sample.method.clone_from(&point.name);
            }
        }
        for ledger in &mut data.ledgers {
            ledger.title = ledger
                .title
                .split(", ")
                .map(|name| if name == first.run { &point.name } else { name })
                .collect::<Vec<_>>()
                .join(", ");
        }
    }
    let others: Vec<&str> =
        frontier.points.iter().flat_map(|p| p.runs.iter().skip(1)).map(|of| of.run.as_str()).collect();
    for prompt in &mut data.samples {
        prompt.responses.retain(|response| !others.contains(&response.method.as_str()));
    }
    data.methods = methods;
    for landmark in data.landmarks.iter_mut().filter(|landmark| landmark.name == REFERENCE) {
        "the model that every run starts from".clone_into(&mut landmark.description);
    }
    let seeds = frontier.points.iter().map(|point| point.runs.len()).max().unwrap_or(1);
    data.title = format!("Sweep: {}", root.file_name().unwrap_or_default().to_string_lossy());
    data.summary = format!(
        "{} runs, {} points, {} {}.",
        runs.len(),
        frontier.points.len(),
        frontier.methods.len(),
        if frontier.methods.len() == 1 { "method" } else { "methods" }
    );
    data.made.clear();
    data.key_figures.clear();
    data.axes = (frontier.axes != ("reward".to_owned(), "safe_rate".to_owned())).then(|| Axes {
        helpfulness: frontier.axes.0.replace('_', " "),
        safety: frontier.axes.1.replace('_', " "),
    });
    data.floor = Some(frontier.safety_floor);
    data.notes.push(format!(
        "Up to {seeds} seed{} a point, pooled: results and plane show the mean over all answers, with intervals over prompts, \
         whose answers of all seeds are resampled together. Curves, samples and settings are those of the first seed; the tables of \
         metrics show every run.",
        if seeds == 1 { "" } else { "s" }
    ));
    for (run, reason) in &frontier.failed {
        data.problems.push(format!("{run} failed and is on no table: {reason}"));
    }
    Ok(data)
}

fn shown(interval: &Interval) -> Estimate {
    Estimate::between(interval.mean, interval.low, interval.high)
}

fn place(measured: &Measured) -> Place {
    Place { helpfulness: shown(&measured.helpfulness), safety: shown(&measured.safety) }
}

/// The pooled figures, where the run's own have them.
fn scores(measured: &Measured, axes: &(String, String), own: Option<Scores>) -> Scores {
    let own = own.unwrap_or_default();
    Scores {
        reward: if axes.0 == "reward" { Some(shown(&measured.helpfulness)) } else { own.reward },
        safe_rate: if axes.1 == "safe_rate" { Some(shown(&measured.safety)) } else { own.safe_rate },
        over_refusal: measured.over_refusal.as_ref().map(shown),
        kl_from_reference: measured.kl.as_ref().map(shown),
        ..own
    }
}
