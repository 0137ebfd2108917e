//! What an evaluation's files come to: its figures from results.json, or from the answers where it has not ended.

use crate::RecipeError;
use crate::eval::{EvalConfig, Results};
use bso_evaluation::statistics::{Bootstrap, Estimate as Interval};
use bso_evaluation::{METRICS, Sample, Summary, summarise};
use bso_runs::report::{Estimate, EvaluationRow, EvaluationTable};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// An evaluation as far as its files tell.
pub(super) struct Evaluation {
    pub(super) title: String,
    pub(super) baseline: String,
    /// In the order of the configuration.
    pub(super) models: Vec<Model>,
    pub(super) samples: Vec<Sample>,
    /// Whether results.json is there.
    pub(super) ended: bool,
}

/// A model of an evaluation.
pub(super) struct Model {
    pub(super) name: String,
    /// Its folder, if known.
    pub(super) path: Option<PathBuf>,
    pub(super) all: Summary,
    pub(super) sets: Vec<(String, Summary)>,
}

impl Evaluation {
    /// Reads the folder; what is wrong goes to `problems`. None where nothing can be told.
    pub(super) fn read(dir: &Path, problems: &mut Vec<String>) -> Option<Self> {
        let title =
            dir.canonicalize().ok().and_then(|dir| Some(dir.file_name()?.to_string_lossy().into_owned()));
        let title = title.unwrap_or_else(|| dir.display().to_string());
        let samples = samples(&dir.join("samples.jsonl"), problems);
        let file = dir.join("results.json");
        let results = if file.exists() {
            Results::read(&file).map_err(|error| problems.push(error.to_string())).ok()
        } else {
            None
        };
        let (baseline, models, ended) = match results {
            Some(results) => (results.baseline.clone(), of_results(results), true),
            None => {
                let (baseline, models) = of_samples(dir, &samples)?;
                (baseline, models, false)
            }
        };
        Some(Self { title, baseline, models, samples, ended })
    }

    /// Its tables: all prompts, then each set if there are several. `name_of` gives the page's names of models.
    pub(super) fn tables(&self, name_of: impl Fn(usize) -> String) -> Vec<EvaluationTable> {
        let sets = self.models.first().map(|m| m.sets.as_slice()).unwrap_or_default();
        let of_sets = sets.iter().filter(|_| sets.len() > 1).map(|(name, _)| Some(name.as_str()));
        let mut tables = Vec::new();
        for set in std::iter::once(None).chain(of_sets) {
            let summaries: Vec<Option<&Summary>> = self.models.iter().map(|m| m.summary(set)).collect();
            let answers = summaries.iter().flatten().map(|s| s.answers).max().unwrap_or(0);
            let unfinished = if self.ended { "" } else { "; not ended when this page was made" };
            tables.push(EvaluationTable {
                title: format!("{}: {}", self.title, set.unwrap_or("all prompts")),
                note: format!("{answers} answers a model, baseline {}{unfinished}", self.baseline),
                models: (0..self.models.len()).map(&name_of).collect(),
                rows: rows(&summaries),
            });
        }
        tables
    }
}

impl Model {
    fn summary(&self, set: Option<&str>) -> Option<&Summary> {
        match set {
            None => Some(&self.all),
            Some(set) => self.sets.iter().find(|(name, _)| name == set).map(|(_, summary)| summary),
        }
    }

    /// A metric over all prompts.
    pub(super) fn metric(&self, name: &str) -> Option<Estimate> {
        self.all.metrics.get(name).map(shown)
    }

    /// Its difference from the baseline.
    pub(super) fn difference(&self, name: &str) -> Option<Estimate> {
        self.all.versus_baseline.differences.get(name).map(|d| shown(&d.estimate))
    }
}

fn shown(interval: &Interval) -> Estimate {
    Estimate::between(interval.mean, interval.low, interval.high)
}

/// Every metric, its difference from the baseline, and win rates.
fn rows(summaries: &[Option<&Summary>]) -> Vec<EvaluationRow> {
    let row = |metric: String, is_rate: bool, of: &dyn Fn(&Summary) -> Option<Estimate>| EvaluationRow {
        metric,
        is_rate,
        values: summaries.iter().map(|summary| of((*summary)?)).collect(),
    };
    let metrics =
        METRICS.iter().map(|m| row(m.name.to_owned(), m.is_rate, &|s| s.metrics.get(m.name).map(shown)));
    let wins =
        ["helpfulness", "harmlessness", "both", "judge_helpfulness", "judge_harmlessness", "judge_both"];
    let wins = wins.iter().map(|name| {
        row(format!("win rate against the baseline: {name}"), true, &|s| {
            s.versus_baseline.win_rates.get(*name).map(|wins| shown(&wins.rate))
        })
    });
    let differences = METRICS.iter().map(|m| {
        row(format!("{}, less the baseline's", m.name), m.is_rate, &|s| {
            s.versus_baseline.differences.get(m.name).map(|d| shown(&d.estimate))
        })
    });
    metrics.chain(wins).chain(differences).filter(|row| row.values.iter().any(Option::is_some)).collect()
}

fn of_results(results: Results) -> Vec<Model> {
    let model = |m: crate::eval::ModelResults| Model {
        path: Some(PathBuf::from(m.path)),
        name: m.name,
        all: m.all,
        sets: m.sets,
    };
    results.models.into_iter().map(model).collect()
}

/// Figures of the answers that there are so far; none without answers.
fn of_samples(dir: &Path, samples: &[Sample]) -> Option<(String, Vec<Model>)> {
    let mut names: Vec<&str> = Vec::new();
    let mut sets: Vec<&str> = Vec::new();
    for sample in samples {
        if !names.contains(&sample.model.as_str()) {
            names.push(&sample.model);
        }
        if !sets.contains(&sample.prompt.set.as_str()) {
            sets.push(&sample.prompt.set);
        }
    }
    let text = std::fs::read_to_string(dir.join("config.yaml")).ok();
    let config = text.and_then(|text| EvalConfig::read(&text, dir, &[]).ok());
    let baseline = match &config {
        Some(config) => config.models[config.baseline()].name.clone(),
        None => (*names.first()?).to_owned(),
    };
    let of = |name: &str, set: Option<&str>| -> Vec<&Sample> {
        let is = |s: &&Sample| s.model == name && set.is_none_or(|set| s.prompt.set == set);
        samples.iter().filter(is).collect()
    };
    let summary = |name: &str, set: Option<&str>| {
        let theirs = of(&baseline, set);
        let ours = of(name, set);
        // Only answers to the same prompts can be compared.
        let paired =
            ours.len() == theirs.len() && ours.iter().zip(&theirs).all(|(a, b)| a.prompt == b.prompt);
        let versus = (name != baseline && paired).then_some(theirs.as_slice());
        summarise(&ours, versus, Bootstrap::default())
    };
    let path = |name: &str| {
        let models = config.iter().flat_map(|config| &config.models);
        models.into_iter().find(|model| model.name == name).map(|model| model.path.clone())
    };
    let models = names.iter().map(|name| Model {
        name: (*name).to_owned(),
        path: path(name),
        all: summary(name, None),
        sets: sets.iter().map(|set| ((*set).to_owned(), summary(name, Some(set)))).collect(),
    });
    let models: Vec<Model> = models.collect();
    (!models.is_empty()).then_some((baseline, models))
}

/// The answers of a samples.jsonl; lines that are none are counted. A torn last line is what a killed writer leaves.
fn samples(file: &Path, problems: &mut Vec<String>) -> Vec<Sample> {
    let opened = match std::fs::File::open(file) {
        Ok(opened) => opened,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Vec::new(),
        Err(error) => {
            problems.push(format!("cannot read {}: {error}", file.display()));
            return Vec::new();
        }
    };
    let (mut found, mut broken) = (Vec::new(), None);
    for (number, line) in BufReader::new(opened).split(b'\n').enumerate() {
        let line = match line {
            Ok(line) => line,
            Err(error) => {
                problems.push(format!("cannot read {}: {error}", file.display()));
                break;
            }
        };
        if line.iter().all(u8::is_ascii_whitespace) {
            continue;
        }
        match serde_json::from_slice::<Sample>(&line) {
            Ok(sample) => found.push(sample),
            Err(error) => {
                let (count, _) = broken.get_or_insert((0_usize, (number + 1, error)));
                *count += 1;
            }
        }
    }
    if let Some((count, (line, error))) = broken {
        problems.push(
            RecipeError::input(format!(
                "{}: {count} lines are no answers and left out, the first is line {line}: {error}",
                file.display()
            ))
            .to_string(),
        );
    }
    found
}
