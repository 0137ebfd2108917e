//! The job of the reference experiment, DPO on 30,000 pairs in one epoch of batches of 16, against TRL in its best
//! configuration. Fewer pairs are done than that; the whole is added up from the times of its parts.

use super::{Bench, job, memory_row, numbers, step, versions};
use crate::process::{Ended, Side};
use crate::row::{Ratio, Row, Target};
use crate::side::job::Settings;

const NAME: &str = "experiment";
/// Pairs of the whole job.
const PAIRS: f64 = 30_000.0;

/// Every model and way to train it, and its peer, by turns.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (mut sides, cases) = (Vec::new(), step::cases(bench));
    for case in &cases {
        let settings = Settings {
            method: case.method,
            batch: bench.sizes.experiment[1],
            peer_weights: bench.peer_weights.name().to_owned(),
            peer_pairs: bench.sizes.peer_pairs,
            ..job::settings(bench, case.shape, case.precision, true)?
        };
        sides.push(Side::ours(&format!("{NAME} {}", case.label()), "job", &settings)?);
        sides.extend(bench.peer("trl_job.py", &settings)?);
    }
    let ended = bench.by_turns(&sides)?;
    let mut rows = Vec::new();
    for (case, sides) in cases.iter().zip(ended.chunks(sides.len() / cases.len())) {
        let peer = sides.get(1).map_or(&[][..], |peer| peer);
        rows.extend(rows_of(bench, &case.label(), (&sides[0], peer))?);
    }
    Ok(rows)
}

fn rows_of(bench: &Bench, label: &str, (ours, peer): (&[Ended], &[Ended])) -> anyhow::Result<Vec<Row>> {
    let name = versions(peer).unwrap_or("TRL");
    // The pairs are the same on both sides: so are the tokens of a step, as ours counts them, whatever else is fed in.
    let tokens = numbers(ours, "step_tokens")?;
    let speed = |ended: &[Ended]| -> anyhow::Result<Vec<f64>> {
        Ok(numbers(ended, "step_seconds")?.iter().zip(&tokens).map(|(seconds, n)| n / seconds).collect())
    };
    let steps = ours.first().map_or(Ok(0.0), |end| end.number("steps"))?;
    let of_peer = peer.first().map_or(Ok(0.0), |end| end.number("steps"))?;
    let note = format!(
        "Steps of {} pairs after the first two of {steps} ({name}: {of_peer}); {PAIRS} pairs: start, reference pass and steps for so \
         many, and what was left at the end (saving).",
        bench.sizes.experiment[1]
    );
    let row = Row::new(NAME, format!("step {label}"), "tokens/s", speed(ours)?);
    let mut rows =
        vec![row.against(name, speed(peer)?, Ratio::Over).target(Target::AtLeast(1.5)).note(&note)];
    let whole = |ended: &[Ended]| -> anyhow::Result<Vec<f64>> {
        ended.iter().map(|end| extrapolated(end, bench.sizes.experiment[1])).collect()
    };
    let row = Row::new(NAME, format!("{PAIRS} pairs {label}, extrapolated"), "s", whole(ours)?);
    rows.push(row.against(name, whole(peer)?, Ratio::Under).note(&note));
    let walls = |ended: &[Ended]| ended.iter().map(|end| end.seconds).collect();
    let row = Row::new(NAME, format!("as far as it ran {label}"), "s", walls(ours));
    rows.push(row.against(name, walls(peer), Ratio::Under).note(note));
    for (what, figure) in
        [("mean reference log-prob", "mean_reference_log_prob"), ("first loss", "first_loss")]
    {
        let row = Row::new(NAME, format!("{what} {label}"), "nats", numbers(ours, figure)?);
        rows.push(row.against(name, numbers(peer, figure)?, Ratio::Over));
    }
    let memory = memory_row(NAME, format!("peak memory {label}"), name, (ours, peer));
    rows.push(memory.target(Target::AtMost(0.6)));
    for (name, figure) in [("torch, allocated", "allocated_mib"), ("torch, reserved", "reserved_mib")] {
        let said = peer.iter().filter_map(|end| end.answer[figure].as_f64()).collect::<Vec<_>>();
        if !said.is_empty() {
            rows.push(Row::new(NAME, format!("memory as {name} {label}"), "MiB", said));
        }
    }
    Ok(rows)
}

/// Seconds of the whole job.
fn extrapolated(end: &Ended, batch: usize) -> anyhow::Result<f64> {
    let [start, reference, training, step, pairs] =
        ["startup_seconds", "reference_seconds", "training_seconds", "step_seconds", "pairs"]
            .map(|name| end.number(name));
    let (start, reference) = (start?, reference?);
    let saving = end.seconds - start - reference - training?;
    Ok(start + reference * PAIRS / pairs? + step? * (PAIRS / batch as f64) + saving.max(0.0))
}
