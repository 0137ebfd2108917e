//! W3: prompts computed once for both responses, against packing alone.

use super::{Bench, numbers};
use crate::arguments::Precision;
use crate::process::Side;
use crate::row::{Ratio, Row, Target};
use crate::side::shared_prompts::Settings;
use crate::sizes::ModelShape;

const NAME: &str = "w3";

/// Every precision by turns.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let mut sides = Vec::new();
    for precision in &bench.precisions {
        let settings = Settings {
            model: bench.inputs.model(ModelShape::W2)?,
            pairs: bench.inputs.long_pairs()?,
            dtype: precision.name().to_owned(),
            count: bench.sizes.pairs[1],
            batch: bench.sizes.batch,
            max_length: bench.sizes.long,
            device: bench.device.clone(),
            threads: bench.threads,
        };
        sides.push(Side::ours(&format!("w3 {}", precision.name()), "shared_prompts", &settings)?);
    }
    let ended = bench.by_turns(&sides)?;
    let mut rows = Vec::new();
    for (precision, ended) in bench.precisions.iter().zip(&ended) {
        let dtype = precision.name();
        let lengths: Vec<f64> = ["prompt_tokens", "response_tokens"]
            .map(|name| ended[0].number(name))
            .into_iter()
            .collect::<Result<_, _>>()?;
        let note = format!("Mean prompt {:.0} tokens, mean response {:.0}.", lengths[0], lengths[1]);
        let speed =
            Row::new(NAME, format!("steps over all pairs {dtype}"), "s", numbers(ended, "shared_seconds")?);
        let speed = speed.against("packing alone", numbers(ended, "packed_seconds")?, Ratio::Under);
        rows.push(speed.target(Target::AtLeast(1.25)).note(note));
        for (what, figure) in
            [("difference of values", "value_difference"), ("difference of gradients", "gradient_difference")]
        {
            let row = Row::new(NAME, format!("{what} {dtype}"), "relative, largest", numbers(ended, figure)?);
            rows.push(if *precision == Precision::F32 { row.target(Target::AtMost(1e-5)) } else { row });
        }
    }
    Ok(rows)
}
