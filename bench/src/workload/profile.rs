//! The share of each operation in a w1 step, with its speed beside the machine's bound.

use super::{Bench, step, step::Case};
use crate::arguments::{Method, Precision};
use crate::process::{Ended, Side};
use crate::row::{Ratio, Row};
use crate::side::step::Settings;
use anyhow::Context;
use serde_json::Value;

const NAME: &str = "profile";

/// Every precision by turns.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (mut sides, cases) = (Vec::new(), cases(bench));
    for case in &cases {
        let settings = Settings { forward: false, ..step::settings(bench, *case)? };
        sides.push(Side::ours(&format!("profile {}", case.label()), "profile", &settings)?);
    }
    let ended = bench.by_turns(&sides)?;
    let mut rows = Vec::new();
    for (case, ended) in cases.iter().zip(&ended) {
        rows.extend(rows_of(&case.label(), ended)?);
    }
    Ok(rows)
}

/// All weights are trained and activations kept: what else there is, the operations do not show.
fn cases(bench: &Bench) -> Vec<Case> {
    let case =
        |shape| move |precision: &Precision| Case { shape, method: Method::Full, precision: *precision };
    bench.shapes.iter().flat_map(|shape| bench.precisions.iter().map(case(*shape))).collect()
}

fn rows_of(dtype: &str, ended: &[Ended]) -> anyhow::Result<Vec<Row>> {
    let operations = ended[0].answer["operations"].as_array().context("no operations")?;
    let mut rows = Vec::new();
    let (mut explained, mut bound_seconds) = (vec![0.0; ended.len()], vec![0.0; ended.len()]);
    for (i, operation) in operations.iter().enumerate() {
        let name = operation["name"].as_str().unwrap_or_default();
        let (mut shares, mut speeds, mut bounds) = (Vec::new(), Vec::new(), Vec::new());
        let compute = figure(operation, "flops")? > 0.0;
        for (repetition, end) in ended.iter().enumerate() {
            let operation = &end.answer["operations"][i];
            let (seconds, calls) = (figure(operation, "seconds")?, figure(operation, "calls")?);
            let share = calls * seconds / end.number("step_seconds")?;
            explained[repetition] += share;
            shares.push(100.0 * share);
            speeds.push(figure(operation, if compute { "flops" } else { "bytes" })? / seconds / 1e9);
            bounds.push(end.number(if compute { "peak" } else { "memory" })?);
            let least = [("flops", "peak"), ("bytes", "memory")].map(|(work, rate)| -> anyhow::Result<f64> {
                Ok(figure(operation, work)? / end.number(rate)? / 1e9)
            });
            let [arithmetic, traffic] = least;
            bound_seconds[repetition] += calls * arithmetic?.max(traffic?);
        }
        let (unit, bound) = if compute { ("GFLOP/s", "product") } else { ("GB/s", "memory") };
        rows.push(Row::new(NAME, format!("{dtype} {name}"), "% of the step", shares));
        let speed = Row::new(NAME, format!("{dtype} {name}"), unit, speeds);
        rows.push(speed.against(bound, bounds, Ratio::Over).note(NOTE));
    }
    let rest = explained.iter().map(|share| 100.0 * (1.0 - share)).collect();
    rows.push(Row::new(NAME, format!("{dtype} unexplained"), "% of the step", rest).note(NOTE));
    let steps = ended.iter().map(|end| end.number("step_seconds")).collect::<Result<_, _>>()?;
    let bound = Row::new(NAME, format!("{dtype} step, every operation at its bound"), "s", bound_seconds);
    rows.push(bound.against("the step", steps, Ratio::Over).note(NOTE));
    Ok(rows)
}

const NOTE: &str = "Each operation by itself, median of five, times its calls in a step; beside it the fastest large \
                    product, or a sum of long vectors, of the same process. What lies in a cache may be faster than \
                    memory. The rest (unexplained) is what the step spends between operations, or gains from warm \
                    caches.";

fn figure(operation: &Value, name: &str) -> anyhow::Result<f64> {
    operation[name].as_f64().with_context(|| format!("no {name} in {operation}"))
}
