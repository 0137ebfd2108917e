//! `bso loss`: rows with log-probs in, the same rows with loss and derivatives out. The contract of a row is
//! `bso_objective::row`; here are only the flags, the reading and the writing.

use std::fs::File;
use std::io::{self, BufRead, BufReader, BufWriter, Write};
use std::path::Path;

use crate::terminal::Terminal;
use anyhow::{Context, Result, bail};
use bso_durable::{Event, Observer};
use bso_objective::row::{RowDefaults, evaluate_row};
use clap::Args;
use serde_json::{Map, Value, json};

/// A longer line is no row.
const MAX_LINE_BYTES: u64 = 64 << 20;

/// Flags of `bso loss`. A row's own keys win over flags of the same name; `none` stands for null.
#[derive(Args, Debug)]
pub struct LossArgs {
    /// Rows, one JSON object per line (`-` is standard input)
    #[arg(default_value = "-", value_name = "FILE")]
    pub file: String,
    /// The same as FILE
    #[arg(long, allow_hyphen_values = true, conflicts_with = "file", value_name = "FILE")]
    pub input: Option<String>,
    /// Where the rows go (`-` is standard output)
    #[arg(long, default_value = "-", allow_hyphen_values = true, value_name = "FILE")]
    pub output: String,
    /// Count bad rows and go on, instead of stopping at the first
    #[arg(long = "skip_bad_rows", alias = "skip-bad-rows")]
    pub skip_bad_rows: bool,
    /// bso, dpo (sigmoid), cdpo, ipo, ipo_mean, hinge, safedpo, bfpo, modpo, kto, reward or cost [default: bso]
    #[arg(long = "loss_type", alias = "loss-type")]
    pub loss_type: Option<String>,
    /// Settings by name: paper = sba [0.2, 4], safety_penalty 30, beta 0.1, clamp [-30, 30]
    #[arg(long)]
    pub preset: Option<String>,
    /// KL strength, reward units per nat [default: 0.1]
    #[arg(long, aliases = ["pref_beta", "pref-beta", "rl_beta", "rl-beta", "scale_coeff", "scale-coeff"], allow_hyphen_values = true)]
    pub beta: Option<String>,
    /// C, reward units (bso; safedpo's delta) [default: 10]
    #[arg(long = "safety_penalty", alias = "safety-penalty", allow_hyphen_values = true)]
    pub safety_penalty: Option<String>,
    /// logistic, kliep, lsif, ba, sba, phi_mu or kernel [default: sba]
    #[arg(long)]
    pub generator: Option<String>,
    /// Its parameters in order, as in 0.2,4; for kernel the expression [default: 0.2,4]
    #[arg(long = "generator_params", alias = "generator-params", allow_hyphen_values = true)]
    pub generator_params: Option<String>,
    /// lambda of ba and sba
    #[arg(long = "generator_lambda", alias = "generator-lambda", allow_hyphen_values = true)]
    pub generator_lambda: Option<String>,
    /// s of sba
    #[arg(long = "generator_scale", alias = "generator-scale", allow_hyphen_values = true)]
    pub generator_scale: Option<String>,
    /// mu of phi_mu
    #[arg(long = "generator_mu", alias = "generator-mu", allow_hyphen_values = true)]
    pub generator_mu: Option<String>,
    /// Even positive kernel k(u) of the generator `kernel`, as in 1/(2*cosh(u/2))
    #[arg(long = "generator_kernel", alias = "generator-kernel", allow_hyphen_values = true)]
    pub generator_kernel: Option<String>,
    /// Closed interval for log R, nats: -30,30 or none [default: -30,30]
    #[arg(long = "log_ratio_clamp", alias = "log-ratio-clamp", allow_hyphen_values = true)]
    pub log_ratio_clamp: Option<String>,
    /// Beyond the interval: clamp (no gradient) or linear [default: clamp]
    #[arg(long = "log_ratio_tail", alias = "log-ratio-tail")]
    pub log_ratio_tail: Option<String>,
    /// e in [0, 1/2) (bso, cdpo) [default: 0]
    #[arg(long = "label_smoothing", aliases = ["label-smoothing", "dpo_label_smoothing", "dpo-label-smoothing"], allow_hyphen_values = true)]
    pub label_smoothing: Option<String>,
    /// SafeDPO's Delta [default: 10]
    #[arg(long, allow_hyphen_values = true)]
    pub delta: Option<String>,
    /// BFPO's b1 [default: 3]
    #[arg(long, allow_hyphen_values = true)]
    pub b1: Option<String>,
    /// BFPO's alpha [default: 0.5]
    #[arg(long, allow_hyphen_values = true)]
    pub alpha: Option<String>,
    /// MODPO's weight of the trained objective [default: 0.5]
    #[arg(long, allow_hyphen_values = true)]
    pub w0: Option<String>,
    /// KTO's batch KL estimate z, nats
    #[arg(long, allow_hyphen_values = true)]
    pub kl: Option<String>,
    /// KTO's weight of desirable rows [default: 1]
    #[arg(long = "desirable_weight", alias = "desirable-weight", allow_hyphen_values = true)]
    pub desirable_weight: Option<String>,
    /// KTO's weight of undesirable rows [default: 1]
    #[arg(long = "undesirable_weight", alias = "undesirable-weight", allow_hyphen_values = true)]
    pub undesirable_weight: Option<String>,
    /// Weight of the mean squared score (reward, cost) [default: 0.001]
    #[arg(long, allow_hyphen_values = true)]
    pub regularization: Option<String>,
}

/// Runs the command.
pub fn run(args: LossArgs, terminal: &Terminal) -> Result<()> {
    let defaults = defaults(&args);
    let source = args.input.as_deref().unwrap_or(&args.file);
    let name = if source == "-" { "standard input" } else { source };
    let reader: Box<dyn BufRead> = if source == "-" {
        Box::new(io::stdin().lock())
    } else {
        Box::new(BufReader::new(File::open(source).with_context(|| format!("cannot open {source}"))?))
    };
    let mut rows = Rows { reader, name, line: 0, defaults, skip: args.skip_bad_rows, skipped: 0, terminal };
    if args.output == "-" {
        let mut out = BufWriter::new(io::stdout().lock());
        let written = rows.write_all(&mut out);
        // the rows before a bad one are results; a reader that has gone is no failure
        match out.flush() {
            Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
            flushed => flushed.context("cannot write to standard output")?,
        }
        written?;
    } else {
        let mut failure = None;
        bso_durable::atomic_write(Path::new(&args.output), |out| {
            rows.write_all(out).map_err(|e| {
                let kind = e.downcast_ref::<io::Error>().map_or(io::ErrorKind::InvalidData, io::Error::kind);
                failure = Some(e);
                io::Error::from(kind)
            })
        })
        .map_err(|e| failure.unwrap_or_else(|| e.into()))?;
    }
    if rows.skipped > 0 {
        let note = format!("{name}: {} bad rows skipped of {}", rows.skipped, rows.line);
        terminal.event(Event::Note(note));
    }
    Ok(())
}

struct Rows<'a> {
    reader: Box<dyn BufRead>,
    name: &'a str,
    line: usize,
    defaults: RowDefaults,
    skip: bool,
    skipped: usize,
    terminal: &'a Terminal,
}

impl Rows<'_> {
    fn write_all(&mut self, out: &mut dyn Write) -> Result<()> {
        while let Some(text) = self.next_line()? {
            if text.trim().is_empty() {
                continue;
            }
            match self.evaluate(&text) {
                Ok(row) => match writeln!(out, "{}", Value::Object(row)) {
                    Err(e) if e.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                    written => written.context("cannot write the rows")?,
                },
                Err(e) if self.skip => {
                    self.skipped += 1;
                    self.terminal.event(Event::Note(format!("skipped: {e:#}")));
                }
                Err(e) => bail!("{e:#}; correct the row, or use --skip_bad_rows"),
            }
        }
        Ok(())
    }

    /// The next line as text; a line that is no text or too long is an error, not a bad row.
    fn next_line(&mut self) -> Result<Option<String>> {
        let mut bytes = Vec::new();
        let read = io::Read::take(&mut self.reader, MAX_LINE_BYTES).read_until(b'\n', &mut bytes);
        let count = read.with_context(|| format!("cannot read {}", self.name))?;
        if count == 0 {
            return Ok(None);
        }
        self.line += 1;
        if count as u64 == MAX_LINE_BYTES && bytes.last() != Some(&b'\n') {
            bail!(
                "{}, line {}: longer than {} MiB; is this JSON lines?",
                self.name,
                self.line,
                MAX_LINE_BYTES >> 20
            );
        }
        Ok(Some(String::from_utf8_lossy(&bytes).into_owned()))
    }

    fn evaluate(&self, text: &str) -> Result<Map<String, Value>> {
        let place = || format!("{}, line {}", self.name, self.line);
        // Editors on some systems begin a file with a byte order mark.
        let text = if self.line == 1 { text.trim_start_matches('\u{feff}') } else { text };
        let row: Value = serde_json::from_str(text).map_err(|e| {
            // The parser counts lines within the row, which is always its first.
            anyhow::anyhow!(
                "{}: no JSON: {}",
                place(),
                e.to_string().replace(" at line 1 column", ", at column")
            )
        })?;
        let Value::Object(row) = row else { bail!("{}: a row is a JSON object", place()) };
        evaluate_row(&row, &self.defaults).with_context(place)
    }
}

fn defaults(args: &LossArgs) -> RowDefaults {
    let mut defaults = RowDefaults::default();
    let flags: [(&str, &Option<String>); 21] = [
        ("loss_type", &args.loss_type),
        ("preset", &args.preset),
        ("beta", &args.beta),
        ("safety_penalty", &args.safety_penalty),
        ("generator", &args.generator),
        ("generator_params", &args.generator_params),
        ("generator_lambda", &args.generator_lambda),
        ("generator_scale", &args.generator_scale),
        ("generator_mu", &args.generator_mu),
        ("generator_kernel", &args.generator_kernel),
        ("log_ratio_clamp", &args.log_ratio_clamp),
        ("log_ratio_tail", &args.log_ratio_tail),
        ("label_smoothing", &args.label_smoothing),
        ("delta", &args.delta),
        ("b1", &args.b1),
        ("alpha", &args.alpha),
        ("w0", &args.w0),
        ("kl", &args.kl),
        ("desirable_weight", &args.desirable_weight),
        ("undesirable_weight", &args.undesirable_weight),
        ("regularization", &args.regularization),
    ];
    for (name, given) in flags {
        if let Some(text) = given {
            defaults.set(name, if name == "generator_params" { list(text) } else { scalar(text) });
        }
    }
    defaults
}

/// `none` is null, a number a number, anything else text.
fn scalar(text: &str) -> Value {
    match (text.trim(), text.trim().parse::<f64>()) {
        ("none", _) => Value::Null,
        (_, Ok(number)) if number.is_finite() => json!(number),
        (text, _) => Value::String(text.to_owned()),
    }
}

/// `0.2,4` or `[0.2, 4]`; what is no list of numbers is one expression.
fn list(text: &str) -> Value {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']').trim();
    if inner.is_empty() {
        return json!([]);
    }
    let values: Vec<Value> = inner.split(',').map(scalar).collect();
    if values.iter().all(Value::is_number) { Value::Array(values) } else { scalar(text) }
}
