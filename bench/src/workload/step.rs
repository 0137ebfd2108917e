//! W1: one preference step and one forward pass, and what share of the machine's matrix peak they reach.

use super::{Bench, memory_row, numbers, versions};
use crate::arguments::Precision;
use crate::flops;
use crate::process::{Ended, Side, by_turns};
use crate::row::{Ratio, Row, Target};
use crate::side::{peak, step::Settings};
use bso_model::ModelConfig;

const NAME: &str = "w1";

/// The step of W1.
pub fn settings(bench: &Bench, precision: Precision) -> anyhow::Result<Settings> {
    let sizes = &bench.sizes;
    Ok(Settings {
        model: bench.inputs.model(NAME)?,
        dtype: precision.name().to_owned(),
        sequences: sizes.sequences,
        tokens: sizes.tokens,
        steps: sizes.steps,
        warm_up: sizes.warm_up,
        forward: true,
        checkpointed: false,
        threads: bench.threads,
    })
}

/// All precisions and their peers by turns, the machine's peak between them.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (size, seconds) = (bench.sizes.product, bench.sizes.product_seconds);
    let machine = peak::Settings { size, seconds, threads: bench.threads };
    let mut sides = vec![Side::ours("matrix peak", "peak", &machine)?];
    sides.extend(bench.peer("peak.py", &machine)?);
    let of_machine = sides.len();
    for precision in &bench.precisions {
        let settings = settings(bench, *precision)?;
        sides.push(Side::ours(&format!("step {}", precision.name()), "step", &settings)?);
        sides.extend(bench.peer("torch_step.py", &settings)?);
    }
    let ended = by_turns(bench.repetitions, &sides)?;
    let (machine, steps) = ended.split_at(of_machine);
    let mut rows = Vec::new();
    let each = if of_machine == 2 { 2 } else { 1 };
    for (precision, sides) in bench.precisions.iter().zip(steps.chunks(each)) {
        let peer = sides.get(1).map_or(&[][..], |peer| peer);
        rows.extend(rows_of(bench, *precision, machine, (&sides[0], peer))?);
    }
    Ok(rows)
}

fn rows_of(
    bench: &Bench,
    precision: Precision,
    machine: &[Vec<Ended>],
    (ours, peer): (&[Ended], &[Ended]),
) -> anyhow::Result<Vec<Row>> {
    let (sizes, dtype) = (&bench.sizes, precision.name());
    let total = (sizes.sequences * sizes.tokens) as f64;
    let rates = |ended: &[Ended], name: &str| -> anyhow::Result<Vec<f64>> {
        Ok(numbers(ended, name)?.into_iter().map(|seconds| total / seconds).collect())
    };
    let peaks = machine.iter().map(|ended| numbers(ended, dtype)).collect::<Result<Vec<_>, _>>()?;
    let peak = peaks.iter().flatten().copied().fold(0.0, f64::max);
    let config = ModelConfig::from_dir(&bench.inputs.model(NAME)?)?;
    let scored = sizes.tokens - sizes.tokens / 2;
    let peer_name = versions(peer).map_or("PyTorch", |v| v.split(',').next().unwrap_or(v)).to_owned();

    let mut rows = Vec::new();
    for (what, figure, least, flop) in [
        ("step", "step_seconds", 1.4, flops::step_per_token(&config, sizes.tokens, scored)),
        ("forward", "forward_seconds", 1.5, flops::forward_per_token(&config, sizes.tokens, scored)),
    ] {
        let speed = rates(ours, figure)?;
        let share = speed.iter().map(|rate| rate * flop / 1e9 / peak).collect();
        let row = Row::new(NAME, format!("{what} {dtype}"), "tokens/s", speed);
        rows.push(row.against(&peer_name, rates(peer, figure)?, Ratio::Over).target(Target::AtLeast(least)));
        let note = format!(
            "{:.1} MFLOP a token forward and backward, a third of it forward, in the usual count (attention in full, \
             nothing computed twice), over the fastest large product of this run; for the f32 step 0.75 is as good \
             as the ratio.",
            flops::step_per_token(&config, sizes.tokens, scored) / 1e6
        );
        rows.push(
            Row::new(NAME, format!("{what} {dtype}, share of the matrix peak"), "of 1", share).note(note),
        );
    }
    let product = Row::new(NAME, format!("largest product {dtype}"), "GFLOP/s", peaks[0].clone());
    rows.push(match peaks.get(1) {
        None => product,
        Some(theirs) => product.against(&peer_name, theirs.clone(), Ratio::Over),
    });
    let what = format!("peak memory {dtype}");
    rows.push(memory_row(NAME, what, &peer_name, (ours, peer)).target(Target::AtMost(0.45)));
    rows.push(first_loss(dtype, &peer_name, (ours, peer)));
    Ok(rows)
}

/// Shows that both sides do the same.
fn first_loss(dtype: &str, peer_name: &str, (ours, peer): (&[Ended], &[Ended])) -> Row {
    let first = |ended: &[Ended]| ended.iter().filter_map(|end| end.answer["losses"][0].as_f64()).collect();
    Row::new(NAME, format!("first loss {dtype}"), "nats", first(ours)).against(
        peer_name,
        first(peer),
        Ratio::Over,
    )
}
