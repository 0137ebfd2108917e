//! Rows as a Markdown table, for the terminal and for docs/performance.md.

use crate::row::{Ratio, Row, Spread, Target};
use anyhow::Context;
use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde_json::Value;
use std::path::PathBuf;

const HEADER: [&str; 7] = ["workload", "what", "bso", "beside it", "ratio (least to most)", "target", "met"];

/// One table a workload would hide how they compare: one for all, and the remarks under it.
pub fn markdown(rows: &[Row]) -> String {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(HEADER);
    let (mut notes, mut last) = (Vec::new(), "");
    for row in rows {
        let first = if row.workload == last { "" } else { &row.workload };
        last = &row.workload;
        let mark = row.note.as_ref().map(|note| {
            let place = notes.iter().position(|known| known == note).unwrap_or_else(|| {
                notes.push(note.clone());
                notes.len() - 1
            });
            format!(" [{}]", place + 1)
        });
        let what = format!("{}, {}{}", row.what, row.unit, mark.unwrap_or_default());
        table.add_row([
            first.to_owned(),
            what,
            values(&row.measured),
            beside(row),
            ratio(row),
            target(row),
            verdict(row).to_owned(),
        ]);
    }
    for column in 2..=4 {
        if let Some(column) = table.column_mut(column) {
            column.set_cell_alignment(CellAlignment::Right);
        }
    }
    let notes: Vec<String> = notes.iter().enumerate().map(|(i, note)| format!("{}. {note}", i + 1)).collect();
    format!("{table}\n\n{}\n", notes.join("\n"))
}

/// Machine, settings and table of every file, in their order.
///
/// # Errors
/// A file that cannot be read, or that `--json` did not write.
pub fn markdown_of_files(files: &[PathBuf]) -> anyhow::Result<String> {
    let mut text = String::new();
    for file in files {
        let name = file.display();
        let bytes = std::fs::read(file).with_context(|| format!("cannot read {name}"))?;
        let result: Value = serde_json::from_slice(&bytes).with_context(|| format!("{name} is not JSON"))?;
        let rows: Vec<Row> = serde_json::from_value(result["rows"].clone())
            .with_context(|| format!("{name} was not written by --json"))?;
        let facts = |name: &str| {
            let facts = result[name].as_object().into_iter().flatten();
            let fact = |(key, value): (&String, &Value)| match value {
                Value::String(text) => format!("{key} {text}"),
                other => format!("{key} {other}"),
            };
            facts.map(fact).collect::<Vec<_>>().join("; ")
        };
        text += &format!(
            "Machine: {}.\nSettings: {}.\n\n{}\n",
            facts("machine"),
            facts("settings"),
            markdown(&rows)
        );
    }
    Ok(text)
}

fn values(values: &[f64]) -> String {
    Spread::of(values).map_or_else(|| "-".to_owned(), |spread| number(spread.median))
}

fn beside(row: &Row) -> String {
    row.against.as_ref().map_or_else(String::new, |against| match Spread::of(&against.values) {
        Some(spread) => format!("{} {}", against.name, number(spread.median)),
        None => format!("{} not measured", against.name),
    })
}

fn ratio(row: &Row) -> String {
    match Spread::of(&row.ratios()) {
        None => String::new(),
        Some(s) => format!("{:.2} ({:.2} to {:.2})", s.median, s.min, s.max),
    }
}

fn target(row: &Row) -> String {
    let of = match row.against.as_ref().map(|a| a.ratio) {
        None => "",
        Some(Ratio::Over | Ratio::Under) => " times",
    };
    match row.target {
        None => String::new(),
        Some(Target::AtLeast(least)) => format!("at least {least}{of}"),
        Some(Target::AtMost(most)) => format!("at most {most}{of}"),
    }
}

fn verdict(row: &Row) -> &'static str {
    match row.passes() {
        None => "",
        Some(true) => "yes",
        Some(false) => "no",
    }
}

/// Four figures that matter, thousands parted.
fn number(x: f64) -> String {
    if x != 0.0 && x.abs() < 0.001 {
        return format!("{x:.1e}");
    }
    let digits = (3 - x.abs().max(1e-9).log10().floor() as i32).clamp(0, 4) as usize;
    let text = format!("{x:.digits$}");
    let (whole, rest) = text.split_at(text.find('.').unwrap_or(text.len()));
    let mut parted = String::new();
    for (i, digit) in whole.chars().enumerate() {
        if i > 0
            && (whole.len() - i).is_multiple_of(3)
            && digit.is_ascii_digit()
            && whole.as_bytes()[i - 1] != b'-'
        {
            parted.push(',');
        }
        parted.push(digit);
    }
    parted + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_show_four_figures() {
        let shown = [12_345.6, 999.94, 1.23456, 0.012_345, 0.000_001_2, 0.0, -2_000.0].map(number);
        assert_eq!(shown, ["12,346", "999.9", "1.235", "0.0123", "1.2e-6", "0.0000", "-2,000"]);
    }

    #[test]
    fn a_row_shows_medians_ratio_target_and_verdict_and_its_remark_below() {
        let row = Row::new("w1", "step f32", "tokens/s", vec![300.0])
            .against("torch", vec![200.0], Ratio::Over)
            .target(Target::AtLeast(1.4))
            .note("a remark");
        let text = markdown(&[row.clone(), row]);
        let cells: Vec<&str> = text.lines().nth(2).unwrap_or_default().split('|').map(str::trim).collect();
        let expected = [
            "",
            "w1",
            "step f32, tokens/s [1]",
            "300.0",
            "torch 200.0",
            "1.50 (1.50 to 1.50)",
            "at least 1.4 times",
            "yes",
            "",
        ];
        assert_eq!(cells, expected);
        assert!(text.ends_with("1. a remark\n"), "{text}");
    }
}
