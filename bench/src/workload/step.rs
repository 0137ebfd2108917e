//! W1: one preference step and one forward pass, and what share of the machine's matrix peak they reach.

use super::{Bench, memory_row, numbers, versions};
use crate::arguments::{Method, Precision};
use crate::flops;
use crate::process::{Ended, Side};
use crate::row::{Ratio, Row, Target};
use crate::side::{peak, step::Settings};
use crate::sizes::ModelShape;
use bso_model::ModelConfig;

const NAME: &str = "w1";

/// A step of some model.
#[derive(Clone, Copy, Debug)]
pub struct Case {
    pub shape: ModelShape,
    pub method: Method,
    pub precision: Precision,
}

impl Case {
    /// What stands after a figure's name.
    pub fn label(self) -> String {
        let dtype = self.precision.name();
        match (self.shape, self.method) {
            (ModelShape::W1, Method::Full) => dtype.to_owned(),
            (shape, method) => format!("{dtype} {} {}", shape.name(), method.name()),
        }
    }
}

/// Every model, way to train it and precision that is asked for.
pub fn cases(bench: &Bench) -> Vec<Case> {
    let mut cases = Vec::new();
    for shape in &bench.shapes {
        for method in &bench.methods {
            let case = |precision| Case { shape: *shape, method: *method, precision };
            cases.extend(bench.precisions.iter().copied().map(case));
        }
    }
    cases
}

/// The step of W1.
pub fn settings(bench: &Bench, case: Case) -> anyhow::Result<Settings> {
    let sizes = &bench.sizes;
    Ok(Settings {
        model: bench.inputs.model(case.shape)?,
        dtype: case.precision.name().to_owned(),
        sequences: sizes.sequences,
        tokens: sizes.tokens,
        steps: sizes.steps,
        warm_up: sizes.warm_up,
        forward: true,
        method: case.method,
        optimiser: bench.optimiser.clone(),
        peer_weights: bench.peer_weights.name().to_owned(),
        product: sizes.product,
        device: bench.device.clone(),
        threads: bench.threads,
    })
}

/// All cases and their peers by turns, the machine's peak between them.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (size, seconds) = (bench.sizes.product, bench.sizes.product_seconds);
    let machine = peak::Settings { size, seconds, device: bench.device.clone(), threads: bench.threads };
    let mut sides = vec![Side::ours("matrix peak", "peak", &machine)?];
    sides.extend(bench.peer("peak.py", &machine)?);
    let of_machine = sides.len();
    let cases = cases(bench);
    for case in &cases {
        let settings = settings(bench, *case)?;
        sides.push(Side::ours(&format!("step {}", case.label()), "step", &settings)?);
        sides.extend(bench.peer("torch_step.py", &settings)?);
    }
    let ended = bench.by_turns(&sides)?;
    let (machine, steps) = ended.split_at(of_machine);
    let mut rows = Vec::new();
    for (case, sides) in cases.iter().zip(steps.chunks(of_machine)) {
        let peer = sides.get(1).map_or(&[][..], |peer| peer);
        rows.extend(rows_of(bench, *case, machine, (&sides[0], peer))?);
    }
    Ok(rows)
}

fn rows_of(
    bench: &Bench,
    case: Case,
    machine: &[Vec<Ended>],
    (ours, peer): (&[Ended], &[Ended]),
) -> anyhow::Result<Vec<Row>> {
    let (sizes, dtype, label) = (&bench.sizes, case.precision.name(), case.label());
    let total = (sizes.sequences * sizes.tokens) as f64;
    let rates = |ended: &[Ended], name: &str| -> anyhow::Result<Vec<f64>> {
        Ok(numbers(ended, name)?.into_iter().map(|seconds| total / seconds).collect())
    };
    let peaks = machine.iter().map(|ended| numbers(ended, dtype)).collect::<Result<Vec<_>, _>>()?;
    let peak = peaks.iter().flatten().copied().fold(0.0, f64::max);
    let config = ModelConfig::from_dir(&bench.inputs.model(case.shape)?)?;
    let scored = sizes.tokens - sizes.tokens / 2;
    let peer_name = versions(peer).map_or("PyTorch", |v| v.split(',').next().unwrap_or(v)).to_owned();
    let step = flops::step_per_token(&config, sizes.tokens, scored, case.method);
    let forward = flops::forward_per_token(&config, sizes.tokens, scored);
    // A step on a GPU is asked to be 1.5 times as fast, and from 1.5 B up to reach 0.45 of the matrix rate.
    let (least_step, least_share) = match (bench.on_gpu(), case.shape) {
        (false, _) => (1.4, None),
        (true, ModelShape::Qwen15 | ModelShape::Llama3 | ModelShape::Qwen7) => (1.5, Some(0.45)),
        (true, _) => (1.5, None),
    };

    let mut rows = Vec::new();
    for (what, figure, least, flop, least_share) in [
        ("step", "step_seconds", least_step, step, least_share),
        ("forward", "forward_seconds", 1.5, forward, None),
    ] {
        let speed = rates(ours, figure)?;
        let share = speed.iter().map(|rate| rate * flop / 1e9 / peak).collect();
        let row = Row::new(NAME, format!("{what} {label}"), "tokens/s", speed);
        rows.push(row.against(&peer_name, rates(peer, figure)?, Ratio::Over).target(Target::AtLeast(least)));
        let note = format!(
            "{:.1} MFLOP a token forward and backward, {:.1} of them forward, in the usual count (attention in full, \
             nothing computed twice), over the fastest large product of this run.",
            step / 1e6,
            forward / 1e6
        );
        let share = Row::new(NAME, format!("{what} {label}, share of the matrix peak"), "of 1", share);
        let share = share.note(note);
        rows.push(match least_share {
            Some(least) => share.target(Target::AtLeast(least)),
            None => share,
        });
    }
    let product = Row::new(NAME, format!("largest product {dtype}"), "GFLOP/s", peaks[0].clone());
    rows.push(match peaks.get(1) {
        None => product,
        Some(theirs) => product.against(&peer_name, theirs.clone(), Ratio::Over),
    });
    let most = Target::AtMost(if bench.on_gpu() { 0.6 } else { 0.45 });
    rows.push(memory_row(NAME, format!("peak memory {label}"), &peer_name, (ours, peer)).target(most));
    if bench.on_gpu() {
        rows.extend(memory_of_gpu(&label, (ours, peer))?);
    }
    rows.push(first_loss(&label, &peer_name, (ours, peer)));
    Ok(rows)
}

/// What each side says itself of the memory that it took.
fn memory_of_gpu(label: &str, (ours, peer): (&[Ended], &[Ended])) -> anyhow::Result<Vec<Row>> {
    let own = numbers(ours, "device_mib")?;
    let mut rows = Vec::new();
    for (name, figure) in [("torch, allocated", "allocated_mib"), ("torch, reserved", "reserved_mib")] {
        let row = Row::new(NAME, format!("memory without the context {label}"), "MiB", own.clone());
        let note =
            "The peak memory above is what the driver counts for the whole process, its context with it.";
        rows.push(row.against(name, numbers(peer, figure)?, Ratio::Over).note(note));
    }
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
