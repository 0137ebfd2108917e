//! `bso verify`: is every generator's optimum the safe optimum? Solves tabular worlds in which it is known.

use std::io::{self, BufWriter, Write};

use anyhow::{Context, Result, ensure};
use bso_objective::tabular::{Verification, VerificationLine, VerifyOptions, World, verify};
use clap::Args;
use comfy_table::{Table, presets};
use serde_json::json;

/// A larger file is no set of tabular worlds.
const MAX_WORLDS_BYTES: u64 = 16 << 20;

/// Flags of `bso verify`.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// One JSON object per line instead of the table
    #[arg(long)]
    pub json: bool,
    /// Random worlds beside the embedded ones
    #[arg(long = "generated_worlds", alias = "generated-worlds", default_value_t = 8)]
    pub generated_worlds: u16,
    /// Seed of the random worlds
    #[arg(long, default_value_t = 0)]
    pub seed: u64,
    /// Also solve the worlds of this file: {"worlds": [{reference, reward, unsafe, beta, safety_penalty}, ...]}
    #[arg(long, value_name = "FILE")]
    pub worlds: Option<String>,
}

/// Runs the command; `false` when a line without transform fails.
pub fn run(args: VerifyArgs) -> Result<bool> {
    let mut options = VerifyOptions::standard(usize::from(args.generated_worlds), args.seed)?;
    if let Some(path) = &args.worlds {
        let size = std::fs::metadata(path).with_context(|| format!("cannot open {path}"))?.len();
        ensure!(size <= MAX_WORLDS_BYTES, "{path}: {size} bytes are too many for tabular worlds");
        let text = std::fs::read_to_string(path).with_context(|| format!("cannot read {path}"))?;
        options.worlds.splice(0..0, World::read_all("file", &text).with_context(|| path.clone())?);
    }
    let outcome = verify(&options)?;
    let mut out = BufWriter::new(anstream::stdout().lock());
    if args.json { write_lines(&outcome, &mut out) } else { write_table(&outcome, &mut out) }
        .and_then(|()| out.flush())
        .or_else(|e| if e.kind() == io::ErrorKind::BrokenPipe { Ok(()) } else { Err(e) })
        .context("cannot write to standard output")?;
    Ok(outcome.passed())
}

fn write_lines(outcome: &Verification, out: &mut dyn Write) -> io::Result<()> {
    for line in &outcome.lines {
        writeln!(out, "{}", json!(line))?;
    }
    writeln!(out, "{}", json!({ "conclusion": outcome.conclusion }))
}

/// One row per generator, transform and clamp: over how many worlds, and the worst of them.
fn write_table(outcome: &Verification, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING);
    table.set_header(["generator", "transform", "clamp", "worlds", "worst total variation", "in world", ""]);
    let mut groups: Vec<Vec<&VerificationLine>> = Vec::new();
    for line in &outcome.lines {
        let same = |g: &Vec<&VerificationLine>| {
            g.iter().all(|l| {
                (&l.generator, l.transform, l.clamp) == (&line.generator, line.transform, line.clamp)
            })
        };
        match groups.iter_mut().find(|g| same(g)) {
            Some(group) => group.push(line),
            None => groups.push(vec![line]),
        }
    }
    for group in &groups {
        let Some(worst) = group.iter().max_by(|a, b| a.total_variation.total_cmp(&b.total_variation)) else {
            continue;
        };
        let verdict = match (worst.pass, worst.transform) {
            (true, _) => "ok",
            (false, "none") => "FAILED",
            (false, _) => "off",
        };
        table.add_row([
            worst.generator.clone(),
            worst.transform.to_owned(),
            worst.clamp.map_or_else(|| "none".to_owned(), |(low, high)| format!("[{low}, {high}]")),
            group.len().to_string(),
            format!("{:.1e}", worst.total_variation),
            worst.world.clone(),
            verdict.to_owned(),
        ]);
    }
    writeln!(out, "{table}\n\n{}", outcome.conclusion)
}
