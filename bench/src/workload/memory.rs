//! Gradient checkpointing: what the forward pass leaves for the backward, and what recomputing costs. Peak memory of
//! whole processes stands with the workloads.

use super::{Bench, numbers, step};
use crate::process::{Side, by_turns};
use crate::row::{Ratio, Row, Target};
use crate::side::step::Settings;

const NAME: &str = "memory";

/// Every precision with and without, by turns.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut sides = Vec::new();
    for precision in &bench.precisions {
        for checkpointed in [true, false] {
            // Passes without gradients would take memory too, and show in the peak.
            let settings = Settings { checkpointed, forward: false, ..step::settings(bench, *precision)? };
            let how = if checkpointed { "checkpointed" } else { "kept" };
            sides.push(Side::ours(&format!("step {} {how}", precision.name()), "step", &settings)?);
        }
    }
    let ended = by_turns(bench.repetitions, &sides)?;
    let mut rows = Vec::new();
    for (precision, both) in bench.precisions.iter().zip(ended.as_chunks::<2>().0) {
        let [with, without] = both;
        let dtype = precision.name();
        let kept =
            Row::new(NAME, format!("activations kept, {dtype}"), "MiB", numbers(without, "activation_mib")?);
        let kept = kept.against("checkpointed", numbers(with, "activation_mib")?, Ratio::Over);
        let note = "Sizes of the arrays that the forward pass of a w1 step leaves for its backward.";
        rows.push(kept.target(Target::AtLeast(4.0)).note(note));
        let time = Row::new(NAME, format!("step checkpointed, {dtype}"), "s", numbers(with, "step_seconds")?);
        let time = time.against("kept", numbers(without, "step_seconds")?, Ratio::Over);
        rows.push(time.target(Target::AtMost(1.35)));
        rows.push(super::memory_row(
            NAME,
            format!("peak memory checkpointed, {dtype}"),
            "kept",
            (with, without),
        ));
    }
    Ok(rows)
}
