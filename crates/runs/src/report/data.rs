//! What a report shows: plain data, serialisable, gathered by whoever ran the methods. Nothing here draws.

use super::Estimate;
use crate::{Finding, LedgerRow, StepMetrics};
use serde::{Deserialize, Serialize};

/// All of a report. Every part but the title may be empty and is then left out.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReportData {
    /// Title of the page.
    pub title: String,
    /// What was done, in a sentence or two.
    pub summary: String,
    /// When and where, in a few words.
    pub made: String,
    /// Files that could not be read or are not whole, each with its reason.
    pub problems: Vec<String>,
    /// The few figures that a hasty reader should see.
    pub key_figures: Vec<KeyFigure>,
    /// The methods (or the one run) in the order in which they are shown.
    pub methods: Vec<MethodReport>,
    /// Points of orientation on the helpfulness-safety plane: the reference policy, the exact optimum.
    pub landmarks: Vec<Landmark>,
    /// What the two axes of the plane are, where they are not mean reward and safe rate.
    pub axes: Option<Axes>,
    /// A safe rate that is demanded, 0 to 1, if one is.
    pub floor: Option<f64>,
    /// Every metric of every evaluation.
    pub evaluations: Vec<EvaluationTable>,
    /// Prompts with every method's response.
    pub samples: Vec<SamplePrompt>,
    /// What happened to the data.
    pub ledgers: Vec<LedgerTable>,
    /// The machine and the program, by name.
    pub environment: Vec<(String, String)>,
    /// How figures were measured, and what to keep in mind; a paragraph each.
    pub notes: Vec<String>,
}

/// A figure shown large.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct KeyFigure {
    /// What it is.
    pub label: String,
    /// The figure with its unit.
    pub value: String,
    /// A few words of context; may be empty.
    #[serde(default)]
    pub note: String,
}

/// One method, or one run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MethodReport {
    /// Name, unique in the report.
    pub name: String,
    /// Methods of one family share a colour, a marker and a switch; empty: the method is its own.
    pub family: String,
    /// What it is, in a sentence.
    pub description: String,
    /// The resolved objective in one line.
    pub formula: String,
    /// The resolved configuration as YAML.
    pub config: String,
    /// Its evaluation, if it was evaluated.
    pub scores: Option<Scores>,
    /// Where it stands on the plane, if not at its reward and safe rate.
    pub place: Option<Place>,
    /// What its figures warn of.
    pub findings: Vec<Finding>,
    /// Seconds of training, all stages.
    pub seconds: Option<f64>,
    /// Sequences that models computed for it, all stages and the reference together; backward passes are not counted.
    pub forwards: Option<f64>,
    /// Its training curves.
    pub curves: Vec<Curve>,
}

/// Names of the plane's axes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Axes {
    /// Upwards: how helpful.
    pub helpfulness: String,
    /// To the right: how safe, a share from 0 to 1.
    pub safety: String,
}

/// A place on the plane.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Place {
    /// Upwards.
    pub helpfulness: Estimate,
    /// To the right, 0 to 1.
    pub safety: Estimate,
}

/// The metrics of one evaluation, on one prompt set or on all.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationTable {
    /// Which evaluation and set.
    pub title: String,
    /// How many answers of each model, and what else must be known; may be empty.
    #[serde(default)]
    pub note: String,
    /// Names of the columns: methods, or models that are none.
    pub models: Vec<String>,
    /// Its metrics.
    pub rows: Vec<EvaluationRow>,
}

/// One metric.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct EvaluationRow {
    /// Its name.
    pub metric: String,
    /// Whether it is a share from 0 to 1.
    pub is_rate: bool,
    /// By model; none where it does not apply.
    pub values: Vec<Option<Estimate>>,
}

/// Evaluation on held-out prompts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Scores {
    /// Mean reward.
    pub reward: Option<Estimate>,
    /// Share of safe responses, 0 to 1.
    pub safe_rate: Option<Estimate>,
    /// Share of refusals among prompts that deserve an answer, 0 to 1.
    pub over_refusal: Option<Estimate>,
    /// Total variation distance to the optimal safe policy, 0 to 1.
    pub tv_to_optimum: Option<Estimate>,
    /// KL from the optimal safe policy, nats.
    pub kl_from_optimum: Option<Estimate>,
    /// KL from the reference policy, nats.
    pub kl_from_reference: Option<Estimate>,
}

impl Scores {
    /// Nothing measured.
    pub const NONE: Self = Self {
        reward: None,
        safe_rate: None,
        over_refusal: None,
        tv_to_optimum: None,
        kl_from_optimum: None,
        kl_from_reference: None,
    };
}

/// Which way a figure is better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// More is better.
    Up,
    /// Less is better.
    Down,
    /// Neither.
    Neutral,
}

/// A figure over optimiser steps.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Curve {
    /// The metric's name in metrics.jsonl; curves of one name share a plot.
    pub key: String,
    /// Step and value, by rising step; a value that is not finite is a gap.
    pub points: Vec<(u64, Option<f64>)>,
}

impl Curve {
    /// The curve of one metric, from the rows that have it; none where no row does.
    pub fn of_metric(rows: &[StepMetrics], key: &str) -> Option<Self> {
        let points: Vec<_> = rows
            .iter()
            .filter_map(|row| Some((row.step(), Some(row.get(key)?).filter(|v| v.is_finite()))))
            .collect();
        (!points.is_empty()).then(|| Self { key: key.to_owned(), points })
    }

    /// The curves that a report shows, as far as the rows have them.
    pub fn of_metrics(rows: &[StepMetrics]) -> Vec<Self> {
        let of_quadrants = super::curves::of_quadrants().into_iter().map(|plot| plot.key);
        let shown = super::curves::SHOWN.iter().map(|(key, ..)| (*key).to_owned());
        shown.chain(of_quadrants).filter_map(|key| Self::of_metric(rows, &key)).collect()
    }
}

/// A point of orientation on the plane.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Landmark {
    /// Name.
    pub name: String,
    /// What it is, in a sentence; may be empty.
    #[serde(default)]
    pub description: String,
    /// Where it is: `reward` and `safe_rate` place it, the rest joins the table.
    pub scores: Scores,
    /// Where it stands on the plane, if not at its reward and safe rate.
    #[serde(default)]
    pub place: Option<Place>,
}

/// A prompt and what each method answers.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SamplePrompt {
    /// Kind of prompt ("benign", "looks unsafe", "unsafe"); prompts are filtered by it.
    pub kind: String,
    /// Where it comes from: set, category; may be empty.
    #[serde(default)]
    pub about: String,
    /// The prompt.
    pub prompt: String,
    /// The responses, in the order of the methods.
    pub responses: Vec<SampleResponse>,
}

/// One response.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct SampleResponse {
    /// Name of the method; one that is no method's (the reference) is allowed.
    pub method: String,
    /// The response.
    pub text: String,
    /// Its reward.
    #[serde(default)]
    pub reward: Option<f64>,
    /// Whether it is unsafe.
    #[serde(default, rename = "unsafe")]
    pub is_unsafe: Option<bool>,
    /// Whether it refuses.
    #[serde(default)]
    pub refusal: Option<bool>,
    /// What else was measured of it, a few words each.
    #[serde(default)]
    pub facts: Vec<String>,
}

/// The ledger of one data set.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LedgerTable {
    /// Which data.
    pub title: String,
    /// Its lines.
    pub rows: Vec<LedgerRow>,
}
