//! Greedy generation for many prompts at once, against transformers.generate on one left-padded batch: all sequences
//! to their full length, and half of them ending early.

use super::{Bench, memory_row, numbers};
use crate::inputs::PROMPTS;
use crate::process::Side;
use crate::row::{Ratio, Row, Target};
use crate::side::generate::Settings;
use crate::sizes::ModelShape;

const NAME: &str = "generate";
const PEER: &str = "transformers";

/// Every precision and case, and its peer, by turns.
pub fn run(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (mut sides, mut cases) = (Vec::new(), Vec::new());
    let every = bench.shapes.iter().flat_map(|shape| bench.precisions.iter().map(move |p| (*shape, *p)));
    for (shape, precision) in every {
        let model = bench.inputs.model(shape)?;
        let mut settings = Settings {
            prompts: model.join(PROMPTS),
            model,
            dtype: precision.name().to_owned(),
            new_tokens: bench.sizes.new_tokens,
            stop_ids: Vec::new(),
            device: bench.device.clone(),
            threads: bench.threads,
        };
        let planned = Side::ours("stop tokens", "stops", &settings)?.run()?;
        for (case, stop_ids) in [
            ("full length", Vec::new()),
            ("half end early", serde_json::from_value(planned.answer["stop_ids"].clone())?),
        ] {
            settings.stop_ids = stop_ids;
            let what = match shape {
                ModelShape::W1 => format!("{case} {}", precision.name()),
                shape => format!("{case} {} {}", precision.name(), shape.name()),
            };
            sides.push(Side::ours(&what, "generate", &settings)?);
            sides.extend(bench.peer("generate.py", &settings)?);
            cases.push(what);
        }
    }
    let ended = bench.by_turns(&sides)?;
    let mut rows = Vec::new();
    for (case, sides) in cases.iter().zip(ended.chunks(sides.len() / cases.len())) {
        let (ours, peer) = (&sides[0], sides.get(1).map_or(&[][..], |peer| peer));
        let rates = |ended: &[_]| -> anyhow::Result<Vec<f64>> {
            let (tokens, seconds) = (numbers(ended, "new_tokens")?, numbers(ended, "seconds")?);
            Ok(tokens.iter().zip(&seconds).map(|(tokens, seconds)| tokens / seconds).collect())
        };
        let row = Row::new(NAME, case, "new tokens/s", rates(ours)?).against(PEER, rates(peer)?, Ratio::Over);
        let count = |ended: &[crate::process::Ended], name: &str| -> anyhow::Result<String> {
            Ok(ended
                .first()
                .map(|end| end.number(name))
                .transpose()?
                .map_or("-".to_owned(), |n| n.to_string()))
        };
        let note = format!(
            "{case}: new tokens {} ({PEER} {}), sequences ended early {} ({}).",
            count(ours, "new_tokens")?,
            count(peer, "new_tokens")?,
            count(ours, "ended")?,
            count(peer, "ended")?
        );
        rows.push(row.target(Target::AtLeast(3.0)).note(note));
        rows.push(memory_row(NAME, format!("peak memory, {case}"), PEER, (ours, peer)));
    }
    Ok(rows)
}
