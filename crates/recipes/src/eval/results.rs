//! What the samples come to: `results.json`, and the same as tables.

use super::EvalConfig;
use crate::RecipeError;
use bso_durable::Seed;
use bso_evaluation::judge::JudgeCounts;
use bso_evaluation::statistics::{Bootstrap, Estimate};
use bso_evaluation::{METRICS, Sample, Summary, summarise};
use serde::{Deserialize, Serialize};
use std::fmt::Write as _;
use std::path::Path;

/// Everything measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// The baseline's name.
    pub baseline: String,
    /// Resamples of the bootstrap.
    pub resamples: usize,
    /// In the order of the configuration.
    pub models: Vec<ModelResults>,
    /// What became of the questions to the judge.
    pub judge: Option<JudgeCounts>,
}

/// What one model's answers come to.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ModelResults {
    /// Its name.
    pub name: String,
    /// Its path.
    pub path: String,
    /// Over all prompts.
    pub all: Summary,
    /// By prompt set, in the order of the configuration.
    pub sets: Vec<(String, Summary)>,
}

impl Results {
    /// Reads a results.json.
    ///
    /// # Errors
    /// What is wrong with the file, with its name.
    pub fn read(path: &Path) -> Result<Self, RecipeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| RecipeError::input(format!("cannot read {}: {e}", path.display())))?;
        serde_json::from_str(&text).map_err(|e| {
            RecipeError::input(format!("{} is not as an evaluation writes it: {e}", path.display()))
        })
    }

    /// Summarises `samples[model]`, each in the order of the prompts.
    pub(super) fn of(config: &EvalConfig, samples: &[Vec<Sample>], judge: Option<JudgeCounts>) -> Self {
        let baseline = config.baseline();
        let seed = Seed::new(config.seed).derive("evaluation", 0);
        let bootstrap = Bootstrap { resamples: config.resamples, seed };
        let of_set = |model: usize, set: Option<&str>| -> Vec<&Sample> {
            samples[model].iter().filter(|s| set.is_none_or(|set| s.prompt.set == set)).collect()
        };
        let summary = |model: usize, set: Option<&str>| {
            let theirs = of_set(baseline, set);
            summarise(&of_set(model, set), (model != baseline).then_some(theirs.as_slice()), bootstrap)
        };
        let models = config.models.iter().enumerate().map(|(model, named)| ModelResults {
            name: named.name.clone(),
            path: named.path.display().to_string(),
            all: summary(model, None),
            sets: config
                .prompt_sets
                .iter()
                .map(|set| (set.name.clone(), summary(model, Some(&set.name))))
                .collect(),
        });
        Self {
            baseline: config.models[baseline].name.clone(),
            resamples: config.resamples,
            models: models.collect(),
            judge,
        }
    }

    /// Rows of a table of one set, or of all prompts: metric, then a cell for every model. The first row names the columns.
    pub fn table(&self, set: Option<&str>) -> Vec<Vec<String>> {
        let summaries: Vec<&Summary> = self.models.iter().filter_map(|m| of(m, set)).collect();
        let mut rows = vec![header("metric", self.models.iter().map(|m| m.name.as_str()))];
        for metric in &METRICS {
            let cells: Vec<Option<&Estimate>> =
                summaries.iter().map(|s| s.metrics.get(metric.name)).collect();
            if cells.iter().any(Option::is_some) {
                let shown =
                    cells.into_iter().map(|cell| cell.map_or("-".to_owned(), |e| shown(e, metric.is_rate)));
                rows.push(std::iter::once(metric.name.to_owned()).chain(shown).collect());
            }
        }
        rows
    }

    /// Rows of win rates against the baseline, or none.
    pub fn wins(&self, set: Option<&str>) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for model in self.models.iter().filter(|m| m.name != self.baseline) {
            let Some(summary) = of(model, set) else { continue };
            for (name, wins) in &summary.versus_baseline.win_rates {
                let counts = format!("{} / {} / {}", wins.wins, wins.ties, wins.losses);
                rows.push(vec![model.name.clone(), name.clone(), shown(&wins.rate, true), counts]);
            }
        }
        if !rows.is_empty() {
            rows.insert(
                0,
                ["model", "win rate", "value", "wins / ties / losses"].map(str::to_owned).to_vec(),
            );
        }
        rows
    }

    /// Rows of differences from the baseline with their p-values, or none.
    pub fn differences(&self, set: Option<&str>) -> Vec<Vec<String>> {
        let mut rows = Vec::new();
        for model in self.models.iter().filter(|m| m.name != self.baseline) {
            let Some(summary) = of(model, set) else { continue };
            let versus = &summary.versus_baseline;
            for metric in &METRICS {
                let Some(difference) = versus.differences.get(metric.name) else { continue };
                let exact = versus.mcnemar.get(metric.name).map(|test| test.p_value);
                let p = |p: f64| format!("{p:.4}");
                rows.push(vec![
                    model.name.clone(),
                    metric.name.to_owned(),
                    shown(&difference.estimate, metric.is_rate),
                    p(difference.p_value),
                    exact.map_or("-".to_owned(), p),
                ]);
            }
        }
        if !rows.is_empty() {
            let names = ["model", "metric", "difference", "p (bootstrap)", "p (McNemar)"];
            rows.insert(0, names.map(str::to_owned).to_vec());
        }
        rows
    }

    /// All tables as Markdown.
    pub fn to_markdown(&self) -> String {
        let mut text = format!(
            "# Evaluation\n\nMeans with 95 % intervals (bootstrap over prompts, {} resamples). Baseline: {}. Refusals are told \
             by a detector, which is no judge.\n",
            self.resamples,
            cell(&self.baseline)
        );
        let sets = self.models.first().map(|m| m.sets.as_slice()).unwrap_or_default();
        // One set is all prompts.
        let of_sets = sets.iter().filter(|_| sets.len() > 1).map(|(name, _)| Some(name.as_str()));
        for set in std::iter::once(None).chain(of_sets) {
            let answers = self.models.first().and_then(|m| of(m, set)).map_or(0, |s| s.answers);
            // Writing to a String cannot fail.
            let _ = writeln!(text, "\n## {} ({answers} prompts)", cell(set.unwrap_or("All prompts")));
            for rows in [self.table(set), self.wins(set), self.differences(set)] {
                text.push_str(&markdown(&rows));
            }
        }
        if let Some(counts) = &self.judge {
            let _ = writeln!(
                text,
                "\n## Judge\n\n{} questions, {} from the cache; {} without a verdict, {} failed, {} over the budget; {} \
                 requests, {} tokens",
                counts.questions,
                counts.cached,
                counts.unparsed,
                counts.failed,
                counts.over_budget,
                counts.requests,
                counts.tokens
            );
        }
        text
    }
}

fn of<'a>(model: &'a ModelResults, set: Option<&str>) -> Option<&'a Summary> {
    match set {
        None => Some(&model.all),
        Some(set) => model.sets.iter().find(|(name, _)| name == set).map(|(_, summary)| summary),
    }
}

fn header<'a>(first: &'a str, names: impl Iterator<Item = &'a str>) -> Vec<String> {
    std::iter::once(first).chain(names).map(str::to_owned).collect()
}

fn shown(estimate: &Estimate, is_rate: bool) -> String {
    let Estimate { mean, low, high, .. } = *estimate;
    if is_rate {
        format!("{:.1} % [{:.1}, {:.1}]", 100.0 * mean, 100.0 * low, 100.0 * high)
    } else {
        format!("{mean:.3} [{low:.3}, {high:.3}]")
    }
}

fn markdown(rows: &[Vec<String>]) -> String {
    let line = |row: &Vec<String>| {
        let cells: Vec<String> = row.iter().map(|text| cell(text)).collect();
        format!("| {} |\n", cells.join(" | "))
    };
    let Some((first, rest)) = rows.split_first() else { return String::new() };
    let rule = format!("|{}\n", "---|".repeat(first.len()));
    format!("\n{}{rule}{}", line(first), rest.iter().map(line).collect::<String>())
}

/// Names come from outside: nothing in them ends a cell or a line.
fn cell(text: &str) -> String {
    text.replace(['\n', '\r'], " ").replace('|', "\\|")
}
