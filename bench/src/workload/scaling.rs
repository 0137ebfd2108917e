//! A step on 1, 4 and 16 times as many tokens, and on one thread and all.

use super::{Bench, numbers, step, step::Case};
use crate::arguments::Method;
use crate::process::Side;
use crate::row::{Ratio, Row, Target};
use crate::side::step::Settings;
use crate::sizes::ModelShape;

const NAME: &str = "scaling";
const TIMES: [usize; 3] = [1, 4, 16];

/// Every precision and size by turns.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let smallest = bench.sizes.sequences.div_ceil(4).next_multiple_of(2);
    let mut sides = Vec::new();
    for precision in &bench.precisions {
        let case = Case { shape: ModelShape::W1, method: Method::Full, precision: *precision };
        let base = Settings { forward: false, ..step::settings(bench, case)? };
        let mut push = |sequences, threads| -> anyhow::Result<()> {
            let name = format!("step {} of {sequences} sequences, {threads} threads", base.dtype);
            let settings = Settings { sequences, threads, ..base.clone() };
            sides.push(Side::ours(&name, "step", &settings)?);
            Ok(())
        };
        for times in TIMES {
            push(smallest * times, bench.threads)?;
        }
        push(smallest * TIMES[1], 1)?;
    }
    let ended = bench.by_turns(&sides)?;
    let mut rows = Vec::new();
    for (precision, sides) in bench.precisions.iter().zip(ended.as_chunks::<4>().0) {
        let dtype = precision.name();
        let per_token = |i: usize| -> anyhow::Result<Vec<f64>> {
            let tokens = (smallest * TIMES[i.min(2)] * bench.sizes.tokens) as f64;
            Ok(numbers(&sides[i], "step_seconds")?.iter().map(|seconds| seconds / tokens * 1e6).collect())
        };
        let first = per_token(0)?;
        for (i, times) in TIMES.iter().enumerate() {
            let row =
                Row::new(NAME, format!("step {dtype}, tokens times {times}"), "us/token", per_token(i)?);
            rows.push(if i == 0 { row } else { row.against("times 1", first.clone(), Ratio::Over) });
        }
        let one = numbers(&sides[3], "step_seconds")?;
        let all = Row::new(
            NAME,
            format!("step {dtype}, {} threads", bench.threads),
            "s",
            numbers(&sides[1], "step_seconds")?,
        );
        let all = all.against("1 thread", one, Ratio::Under);
        // The target is that of two threads.
        rows.push(if bench.threads == 2 { all.target(Target::AtLeast(1.8)) } else { all });
    }
    Ok(rows)
}
