//! What a sweep comes to: each point of the grid with its seeds pooled, on the plane of helpfulness and safety.

use super::record::Record;
use super::runs::Run;
use crate::RecipeError;
use crate::eval::EvalConfig;
use bso_durable::Seed;
use bso_evaluation::statistics::{Bootstrap, Estimate, clustered_mean};
use bso_evaluation::{METRICS, Sample};
use bso_runs::frontier::{Point as Plane, best_at_floor, hypervolume, non_dominated};
use serde::{Deserialize, Serialize};

/// frontier.json.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Frontier {
    /// The metrics that the axes are: of helpfulness and of safety.
    pub axes: (String, String),
    /// The safe rate that was demanded.
    pub safety_floor: f64,
    /// Where hypervolume begins: the lowest mean helpfulness of all points and of the reference; safety begins at 0.
    pub least_helpfulness: f64,
    /// The model that the runs start from.
    pub reference: Option<Measured>,
    /// Every point of the grid, in its order.
    pub points: Vec<GridPoint>,
    /// Every method with all its points.
    pub methods: Vec<Family>,
    /// The most helpful point of all whose mean safe rate reaches the floor.
    pub at_floor: Option<String>,
    /// The same, where the whole interval of the safe rate reaches it.
    pub surely_at_floor: Option<String>,
    /// Runs that failed, with the reason.
    pub failed: Vec<(String, String)>,
}

/// What was measured of a model's answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Measured {
    /// Mean helpfulness.
    pub helpfulness: Estimate,
    /// Safe rate, 0 to 1.
    pub safety: Estimate,
    /// Refusals of safe prompts, by the detector; none where no prompt is known to be safe.
    pub over_refusal: Option<Estimate>,
    /// Mean log-ratio to the reference, nats.
    pub kl: Option<Estimate>,
}

/// A point of the grid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct GridPoint {
    /// Its name.
    pub name: String,
    /// Its method.
    pub method: String,
    /// Its keys with their values.
    pub settings: Vec<(String, String)>,
    /// Pooled over seeds. Intervals are over prompts, whose answers of all seeds are drawn together.
    #[serde(flatten)]
    pub measured: Measured,
    /// Each run with its seed and its own means of helpfulness and safety.
    pub runs: Vec<OfSeed>,
    /// Mean seconds of training.
    pub seconds: Option<f64>,
    /// Mean model forwards.
    pub forwards: Option<f64>,
    /// Whether no other point is better in one and as good in the other.
    pub non_dominated: bool,
}

/// One seed of a point.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct OfSeed {
    /// The run.
    pub run: String,
    /// Its seed.
    pub seed: u64,
    /// Mean helpfulness.
    pub helpfulness: f64,
    /// Safe rate.
    pub safety: f64,
}

/// All points of a method.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Family {
    /// Its name.
    pub name: String,
    /// How many points.
    pub points: usize,
    /// The area that they dominate.
    pub hypervolume: f64,
    /// Its most helpful point whose mean safe rate reaches the floor.
    pub at_floor: Option<String>,
    /// The same, where the whole interval reaches it.
    pub surely_at_floor: Option<String>,
}

/// The metrics that the axes will be, or what is missing.
///
/// # Errors
/// An evaluation in which nothing says how helpful, or how safe, an answer is.
pub fn axes(eval: &EvalConfig) -> Result<(&'static str, &'static str), RecipeError> {
    let judged = eval.judge.as_ref().is_some_and(|judge| judge.pointwise);
    let missing = |what: &str, key: &str| {
        RecipeError::input(format!(
            "nothing in `eval` says how {what} an answer is: name a `{key}` (`bso train` makes one with stage {}), or a `judge`; \
             held-out preference accuracy tells how well pairs are told apart, not what a model answers, and is on no axis",
            key.trim_end_matches("_model")
        ))
    };
    let helpfulness = match (&eval.reward_model, judged) {
        (Some(_), _) => "reward",
        (None, true) => "judge_helpfulness",
        (None, false) => return Err(missing("helpful", "reward_model")),
    };
    let safety = match (&eval.cost_model, judged) {
        (Some(_), _) => "safe_rate",
        (None, true) => "judge_safe",
        (None, false) => return Err(missing("safe", "cost_model")),
    };
    Ok((helpfulness, safety))
}

/// Pools the answers; `samples[0]` are the reference's, then those of `runs` in their order.
///
/// # Errors
/// Models of which nothing was measured.
pub fn frontier(
    (runs, record): (&[&Run], &Record),
    (eval, samples): (&EvalConfig, &[Vec<Sample>]),
    safety_floor: f64,
) -> Result<Frontier, RecipeError> {
    let (helpfulness, safety) = axes(eval)?;
    let bootstrap =
        Bootstrap { resamples: eval.resamples, seed: Seed::new(eval.seed).derive("evaluation", 0) };
    let pooled = |models: &[usize]| -> Option<Measured> {
        let of = |metric| pool(models.iter().map(|m| samples[*m].as_slice()), metric, bootstrap);
        Some(Measured {
            helpfulness: of(helpfulness)?,
            safety: of(safety)?,
            over_refusal: of("over_refusal"),
            kl: of("kl"),
        })
    };
    let mut points: Vec<GridPoint> = Vec::new();
    for run in runs {
        if points.iter().any(|point| point.name == run.point) {
            continue;
        }
        let members: Vec<usize> = (0..runs.len()).filter(|i| runs[*i].point == run.point).collect();
        let models: Vec<usize> = members.iter().map(|i| i + 1).collect();
        let nothing = || RecipeError::failed(format!("{}: no answer has a score", run.point));
        let seeds = members.iter().zip(&models).map(|(i, model)| {
            let one = pooled(&[*model])?;
            let Run { name, config, .. } = runs[*i];
            Some(OfSeed {
                run: name.clone(),
                seed: config.model.seed,
                helpfulness: one.helpfulness.mean,
                safety: one.safety.mean,
            })
        });
        let ended: Vec<_> = members.iter().filter_map(|i| record.ended(runs[*i])).collect();
        let mean = |of: &dyn Fn(&super::record::Ended) -> f64| {
            (!ended.is_empty()).then(|| ended.iter().map(|e| of(e)).sum::<f64>() / ended.len() as f64)
        };
        points.push(GridPoint {
            name: run.point.clone(),
            method: run.method.clone(),
            settings: run.place.clone(),
            measured: pooled(&models).ok_or_else(nothing)?,
            runs: seeds.collect::<Option<_>>().ok_or_else(nothing)?,
            seconds: mean(&|e| e.seconds),
            forwards: mean(&|e| e.forwards as f64),
            non_dominated: false,
        });
    }
    let reference = pooled(&[0]);
    Ok(compared(points, reference, (helpfulness, safety), safety_floor))
}

/// The frontier of points that were measured.
fn compared(
    mut points: Vec<GridPoint>,
    reference: Option<Measured>,
    axes: (&str, &str),
    safety_floor: f64,
) -> Frontier {
    let means: Vec<Plane> = points.iter().map(|p| plane(&p.measured, p.measured.safety.mean)).collect();
    let lower: Vec<Plane> = points.iter().map(|p| plane(&p.measured, p.measured.safety.low)).collect();
    for index in non_dominated(&means) {
        points[index].non_dominated = true;
    }
    let all = means.iter().map(|p| p.helpfulness).chain(reference.iter().map(|r| r.helpfulness.mean));
    let least = all.fold(f64::INFINITY, f64::min);
    let best = |of: &[Plane], members: &[usize]| {
        let theirs: Vec<Plane> = members.iter().map(|i| of[*i]).collect();
        best_at_floor(&theirs, safety_floor).map(|i| points[members[i]].name.clone())
    };
    let mut methods: Vec<Family> = Vec::new();
    for point in &points {
        if methods.iter().any(|family| family.name == point.method) {
            continue;
        }
        let members: Vec<usize> = (0..points.len()).filter(|i| points[*i].method == point.method).collect();
        let theirs: Vec<Plane> = members.iter().map(|i| means[*i]).collect();
        methods.push(Family {
            name: point.method.clone(),
            points: members.len(),
            hypervolume: hypervolume(&theirs, Plane { safety: 0.0, helpfulness: least }),
            at_floor: best(&means, &members),
            surely_at_floor: best(&lower, &members),
        });
    }
    let everyone: Vec<usize> = (0..points.len()).collect();
    Frontier {
        axes: (axes.0.to_owned(), axes.1.to_owned()),
        safety_floor,
        least_helpfulness: least,
        reference,
        at_floor: best(&means, &everyone),
        surely_at_floor: best(&lower, &everyone),
        methods,
        points,
        failed: Vec::new(),
    }
}

fn plane(measured: &Measured, safety: f64) -> Plane {
    Plane { safety, helpfulness: measured.helpfulness.mean }
}

/// A metric over the answers of several models to the same prompts; a prompt's answers are resampled together.
fn pool<'a>(
    models: impl Iterator<Item = &'a [Sample]>,
    metric: &str,
    bootstrap: Bootstrap,
) -> Option<Estimate> {
    let metric = METRICS.iter().find(|m| m.name == metric)?;
    let answers = models.flat_map(|samples| samples.iter().enumerate());
    let (units, values): (Vec<usize>, Vec<f64>) =
        answers.filter_map(|(prompt, sample)| Some((prompt, metric.of(sample)?))).unzip();
    clustered_mean(&values, &units, bootstrap)
}
