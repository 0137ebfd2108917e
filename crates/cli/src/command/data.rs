//! `bso data check`: what a preference data set holds, and which of its tokens a loss would see.
//! Only prints; what is counted is `bso_data::check`'s.

use anyhow::Context;
use bso_data::check::{CheckOptions, CheckReport, Lengths, Piece, PreviewRow, check};
use bso_data::{ChatTokenizer, Preference, Schema, TemplateChoice};
use bso_durable::Observer;
use bso_recipes::location::{local_model, local_rows};
use clap::{Args, Subcommand};
use comfy_table::{CellAlignment, ContentArrangement, Table, TableComponent, presets};
use owo_colors::OwoColorize;
use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::Write as _;
use std::path::PathBuf;

/// Arguments of `bso data`.
#[derive(Args, Debug)]
pub struct DataArgs {
    #[command(subcommand)]
    command: DataCommand,
}

#[derive(Subcommand, Debug)]
enum DataCommand {
    /// Count safety quadrants, contradictions, duplicates and lengths; show what transforms do and what is scored
    Check(CheckArgs),
}

/// Arguments of `bso data check`.
#[derive(Args, Debug)]
struct CheckArgs {
    /// JSONL, JSON, CSV (gzip allowed), Parquet or Arrow; a file, a folder, - for standard input, or org/name or org/name@revision
    /// on the hub
    file: PathBuf,
    /// Split to check, where the data comes in splits; default: train where there are several
    #[arg(long, visible_alias = "dataset_train_split", value_name = "NAME")]
    split: Option<String>,
    /// Folder with tokenizer.json, or a model on the hub: gives lengths in tokens and the true loss mask
    #[arg(long, alias = "model", value_name = "DIR")]
    tokenizer: Option<PathBuf>,
    /// Chat template: auto, none, a name or a file
    #[arg(long, visible_alias = "chat_template", default_value = "auto")]
    template: String,
    /// Which judgement orders the pairs: better, safer or safe_better
    #[arg(long, default_value = "better")]
    preference: Preference,
    /// Count pairs with more tokens than this, prompt and response together
    #[arg(long = "max_length", alias = "max-length", value_name = "N")]
    max_length: Option<usize>,
    /// Format of the rows instead of the detected one: pku_safe_rlhf, flat, conversational or hh
    #[arg(long = "dataset_format", alias = "dataset-format", value_name = "NAME")]
    dataset_format: Option<Schema>,
    /// Columns by other names, as canonical=actual,...
    #[arg(long, value_delimiter = ',', value_parser = column, value_name = "NAME=COLUMN")]
    columns: Vec<(String, String)>,
    /// Print one JSON object instead of tables
    #[arg(long)]
    json: bool,
}

fn column(text: &str) -> Result<(String, String), String> {
    let parts = text.split_once('=').filter(|(name, actual)| !name.is_empty() && !actual.is_empty());
    parts
        .map(|(name, actual)| (name.to_owned(), actual.to_owned()))
        .ok_or_else(|| format!("{text:?} is not of the form canonical=actual, for example prompt=question"))
}

/// Runs `bso data`.
///
/// # Errors
/// Unreadable data or tokenizer, or rows that hold no preference pairs.
pub fn run(args: DataArgs, observer: &dyn Observer) -> anyhow::Result<()> {
    let DataCommand::Check(args) = args.command;
    let choice = TemplateChoice::parse(&args.template);
    let folder = args.tokenizer.as_deref().map(|dir| local_model(dir, observer)).transpose()?;
    let tokenizer = folder.as_deref().map(|dir| ChatTokenizer::load(dir, &choice)).transpose()?;
    if tokenizer.is_none() {
        anyhow::ensure!(
            args.max_length.is_none(),
            "--max_length counts tokens: name a tokenizer with --tokenizer DIR"
        );
        anyhow::ensure!(choice == TemplateChoice::Auto, "--template needs --tokenizer DIR");
    }
    let options = CheckOptions {
        format: args.dataset_format,
        columns: args.columns.into_iter().collect::<BTreeMap<_, _>>(),
        preference: args.preference,
        tokenizer: tokenizer.as_ref(),
        max_length: args.max_length,
        split: args.split,
    };
    let report = check(&local_rows(&args.file, &[options.split.as_deref()], observer)?, &options, observer)?;
    let text = if args.json {
        serde_json::to_string(&report).context("the report cannot be written as JSON")? + "\n"
    } else {
        text(&report, args.max_length)?
    };
    // Strips colours where nobody would see them (no terminal, NO_COLOR).
    let mut out = anstream::stdout().lock();
    out.write_all(text.as_bytes())?;
    out.flush()?;
    Ok(())
}

fn text(report: &CheckReport, max_length: Option<usize>) -> Result<String, std::fmt::Error> {
    let mut out = String::new();
    writeln!(
        out,
        "{}: format {} ({}), pairs ordered by {}\n",
        clean(&report.path.display().to_string()),
        report.detected.schema.name(),
        report.detected.because,
        report.preference
    )?;
    writeln!(out, "{}\n", ledger(report))?;
    writeln!(out, "Safety labels\n{}\n", quadrants(report))?;
    writeln!(out, "What a safety_transform would do\n{}\n", transforms(report))?;
    writeln!(out, "Judgements\n{}\n", judgements(report))?;
    writeln!(out, "Lengths in characters\n{}\n", lengths(&report.characters))?;
    if let Some(tokens) = &report.tokens {
        writeln!(out, "Lengths in tokens, template included\n{}\n", lengths(tokens))?;
    }
    if let (Some(longer), Some(limit)) = (report.longer_than_max, max_length) {
        writeln!(out, "{longer} pairs are longer than max_length {limit}\n")?;
    }
    if let Some((count, refusal)) = &report.template_refusals {
        let said = format!("The template refuses {count} pairs: {}", clean(refusal));
        writeln!(out, "{}\n", said.yellow())?;
    }
    for oddity in &report.template_oddities {
        writeln!(out, "{}\n", clean(oddity).yellow())?;
    }
    if report.double_bos.rows > 0 {
        let said = format!(
            "The prompt begins with the beginning-of-sequence token twice in {} pairs: the rows already hold it; remove it \
             from them, or the template that was applied to them",
            report.double_bos
        );
        writeln!(out, "{}\n", clean(&said).yellow())?;
    }
    preview(&mut out, &report.preview)?;
    Ok(out)
}

fn table<const N: usize>(head: [&str; N]) -> Table {
    let mut table = Table::new();
    table.load_preset(presets::NOTHING).set_style(TableComponent::HeaderLines, '─');
    table.set_header(head);
    // Numbers are read by their last digit; the first column is words.
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

/// Long notes are wrapped, also where no terminal says how wide it is.
fn wrap(table: &mut Table) {
    table.set_content_arrangement(ContentArrangement::Dynamic);
    // Some terminals say that they have no columns; a table in so few is unreadable.
    if table.width().is_none_or(|columns| columns < 40) {
        table.set_width(120);
    }
}

fn ledger(report: &CheckReport) -> Table {
    let mut table = table(["rows", "number", "first rows"]);
    wrap(&mut table);
    for (label, number, note) in report.ledger.lines() {
        table.add_row([clean(&label), number.to_string(), clean(&note)]);
    }
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table
}

fn quadrants(report: &CheckReport) -> Table {
    let q = &report.quadrants;
    let all = report.ledger.kept;
    let mut table = table(["responses", "pairs", "share"]);
    for (label, number) in [
        ("both safe", q.both_safe),
        ("chosen unsafe, rejected safe", q.chosen_unsafe),
        ("chosen safe, rejected unsafe", q.rejected_unsafe),
        ("both unsafe", q.both_unsafe),
        ("a label is missing", q.unlabelled),
    ] {
        table.add_row([label.to_owned(), number.to_string(), share(number, all)]);
    }
    table
}

fn share(part: usize, of: usize) -> String {
    if of == 0 { "-".to_owned() } else { format!("{:.1} %", 100.0 * part as f64 / of as f64) }
}

fn transforms(report: &CheckReport) -> Table {
    let mut table = table(["safety_transform", "keeps", "swaps", "drops", "lacks labels (an error)"]);
    for t in &report.transforms {
        let numbers = [t.kept, t.swapped, t.dropped, t.unlabelled].map(|n| n.to_string());
        table.add_row(std::iter::once(t.transform.to_owned()).chain(numbers));
    }
    table
}

fn judgements(report: &CheckReport) -> Table {
    let found = &report.contradictions;
    let mut table = table(["", "rows", "first rows"]);
    wrap(&mut table);
    let twice = report.disagreement.judged_twice;
    table.add_row(["judged both better and safer", &twice.to_string(), ""]);
    for (label, count) in [
        ("of these, better is not safer", &report.disagreement.differ),
        ("contradiction: opposite better response", &found.opposite_better),
        ("contradiction: opposite safer response", &found.opposite_safer),
        ("contradiction: same response, other safety label", &found.different_label),
        ("contradiction: the safer response is the unsafe one", &found.safer_is_unsafe),
        ("duplicates of an earlier row", &found.duplicates),
    ] {
        let first: Vec<String> = count.first.iter().take(5).map(|o| o.row.to_string()).collect();
        let more = if count.rows > first.len() { ", ..." } else { "" };
        table.add_row([label.to_owned(), count.rows.to_string(), first.join(", ") + more]);
    }
    if found.remembered < report.ledger.read - report.ledger.rejected_rows() {
        table.add_row(["rows that the others were compared with", &found.remembered.to_string(), ""]);
    }
    table.add_row(["distinct prompts", &found.distinct_prompts.to_string(), ""]);
    if let Some(column) = table.column_mut(2) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table
}

fn lengths(lengths: &Lengths) -> Table {
    let mut table = table(["", "least", "median", "90 %", "99 %", "most", "mean"]);
    for (label, s) in [
        ("prompt", &lengths.prompt),
        ("chosen", &lengths.chosen),
        ("rejected", &lengths.rejected),
        ("prompt and longer response", &lengths.whole),
    ] {
        let numbers = [s.min, s.p50, s.p90, s.p99, s.max].map(|n| n.to_string());
        table.add_row(std::iter::once(label.to_owned()).chain(numbers).chain([format!("{:.1}", s.mean)]));
    }
    table
}

fn preview(out: &mut String, rows: &[PreviewRow]) -> std::fmt::Result {
    let Some(first) = rows.first() else { return Ok(()) };
    writeln!(out, "What is scored: {} against {}", "[scored]".green(), "not scored".dimmed())?;
    writeln!(
        out,
        "{}",
        if first.unit == "text" {
            "(by text; --tokenizer DIR shows tokens, the template and the end-of-turn that is scored with them)"
        } else {
            "(tokens parted by |)"
        }
    )?;
    for row in rows {
        let counts =
            row.scored_tokens.map(|(c, r)| [format!(", {c} tokens scored"), format!(", {r} tokens scored")]);
        let [chosen, rejected] = counts.unwrap_or_default();
        writeln!(out, "\n{}", clean(&row.origin.to_string()).bold())?;
        writeln!(out, "  chosen{chosen}\n    {}", mask(&row.chosen))?;
        writeln!(out, "  rejected{rejected}\n    {}", mask(&row.rejected))?;
    }
    Ok(())
}

/// Characters of unscored text, and of one scored piece, that are shown.
const SHOWN: usize = 400;

/// The pieces in colour; brackets and bars carry the same to a screen without colour.
fn mask(pieces: &[Piece]) -> String {
    let mut line = String::new();
    let mut inside = false;
    for piece in pieces {
        let text = shorten(&clean(&piece.text));
        if piece.scored {
            line.push_str(if inside { "|" } else { "[" });
            line.push_str(&text.green().to_string());
        } else {
            line.push_str(&text.dimmed().to_string());
        }
        inside = piece.scored;
    }
    if inside {
        line.push(']');
    }
    line
}

fn shorten(text: &str) -> String {
    let count = text.chars().count();
    if count <= SHOWN {
        return text.to_owned();
    }
    let start: String = text.chars().take(SHOWN / 2).collect();
    let end: String = text.chars().skip(count - SHOWN / 2).collect();
    format!("{start} ... {end}")
}

/// Text from data may not steer the terminal: line ends and tabs are shown, other control and direction-changing
/// characters replaced.
fn clean(text: &str) -> String {
    text.chars()
        .map(|c| match c {
            '\n' => '⏎',
            '\t' => '→',
            '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => '�',
            c if c.is_control() => '�',
            c => c,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_data_cannot_steer_the_terminal() {
        assert_eq!(clean("a\u{1b}[2Jb\nc\u{202e}d\u{9b}e"), "a�[2Jb⏎c�d�e");
    }

    #[test]
    fn the_mask_is_readable_without_colour() {
        let piece = |text: &str, scored| Piece { text: text.to_owned(), scored };
        let line = mask(&[piece("ask", false), piece("yes", true), piece("<end>", true)]);
        assert_eq!(anstream::adapter::strip_str(&line).to_string(), "ask[yes|<end>]");
    }

    #[test]
    fn columns_are_pairs() {
        assert_eq!(column("prompt=question"), Ok(("prompt".to_owned(), "question".to_owned())));
        assert!(column("prompt").is_err() && column("=x").is_err());
    }
}
