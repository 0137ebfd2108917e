//! From process start to the first training step, the reference pass aside; and the speed of tokenising.

use super::{Bench, job, numbers};
use crate::process::{Ended, Side};
use crate::row::{Ratio, Row, Target};
use crate::side::tokenise::Settings;
use crate::sizes::ModelShape;

const NAME: &str = "startup";

/// Both, by turns.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut sides = Vec::new();
    for precision in &bench.precisions {
        let settings = job::settings(bench, ModelShape::W2, *precision, false)?;
        sides.push(Side::ours(&format!("first step {}", precision.name()), "job", &settings)?);
        sides.extend(bench.peer("trl_job.py", &settings)?);
    }
    let each = sides.len() / bench.precisions.len();
    let (count, max_length) = (bench.sizes.tokenised, bench.sizes.max_length);
    let (model, pairs) = (bench.inputs.model(ModelShape::W2)?, bench.inputs.many_pairs()?);
    let settings = Settings { model, pairs, count, max_length };
    for threads in [1, bench.threads] {
        let side = Side::ours(&format!("tokenising, {threads} threads"), "tokenise", &settings)?;
        sides.push(side.with("RAYON_NUM_THREADS", threads));
    }
    let ended = bench.by_turns(&sides)?;
    let (jobs, tokenising) = ended.split_at(ended.len() - 2);
    let mut rows = Vec::new();
    for (precision, sides) in bench.precisions.iter().zip(jobs.chunks(each)) {
        let measured = numbers(&sides[0], "startup_seconds")?;
        let note = "From process start to the beginning of w2's first step, the reference pass aside.";
        let row = Row::new(NAME, format!("to the first step {}", precision.name()), "s", measured);
        rows.push(row.target(Target::AtMost(1.0)).note(note));
        if let Some(peer) = sides.get(1) {
            let theirs = numbers(peer, "startup_seconds")?;
            rows.push(
                Row::new(NAME, format!("the same in TRL {}", precision.name()), "s", theirs).note(note),
            );
        }
    }
    let rates = |ended: &[Ended]| -> anyhow::Result<Vec<f64>> {
        Ok(numbers(ended, "seconds")?.iter().map(|seconds| count as f64 / seconds).collect())
    };
    let what = format!("tokenising {count} pairs, {} threads", bench.threads);
    let note = format!("{} events of progress.", tokenising[1][0].number("events")?);
    let row = Row::new(NAME, what, "pairs/s", rates(&tokenising[1])?);
    rows.push(row.against("1 thread", rates(&tokenising[0])?, Ratio::Over).note(note));
    Ok(rows)
}
