//! Gradient checkpointing: what the forward pass leaves for the backward, and what recomputing costs. Peak memory of
//! whole processes stands with the workloads.

use super::{Bench, numbers, step, step::Case};
use crate::arguments::Method;
use crate::process::Side;
use crate::row::{Ratio, Row, Target};
use crate::side::step::Settings;

const NAME: &str = "memory";

/// Every precision with and without, by turns.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (mut sides, mut cases) = (Vec::new(), Vec::new());
    for shape in &bench.shapes {
        for precision in &bench.precisions {
            for method in [Method::Checkpointed, Method::Full] {
                // Passes without gradients would take memory too, and show in the peak.
                let case = Case { shape: *shape, method, precision: *precision };
                let settings = Settings { forward: false, ..step::settings(bench, case)? };
                let name = format!("step {} {} {}", precision.name(), shape.name(), method.name());
                sides.push(Side::ours(&name, "step", &settings)?);
            }
            cases.push(Case { shape: *shape, method: Method::Full, precision: *precision }.label());
        }
    }
    let ended = bench.by_turns(&sides)?;
    let mut rows = Vec::new();
    for (label, both) in cases.iter().zip(ended.as_chunks::<2>().0) {
        let [with, without] = both;
        let kept =
            Row::new(NAME, format!("activations kept, {label}"), "MiB", numbers(without, "activation_mib")?);
        let kept = kept.against("checkpointed", numbers(with, "activation_mib")?, Ratio::Over);
        let note = "Sizes of the arrays that the forward pass of a w1 step leaves for its backward.";
        rows.push(kept.target(Target::AtLeast(4.0)).note(note));
        let time = Row::new(NAME, format!("step checkpointed, {label}"), "s", numbers(with, "step_seconds")?);
        let time = time.against("kept", numbers(without, "step_seconds")?, Ratio::Over);
        rows.push(time.target(Target::AtMost(1.35)));
        rows.push(super::memory_row(
            NAME,
            format!("peak memory checkpointed, {label}"),
            "kept",
            (with, without),
        ));
    }
    Ok(rows)
}
