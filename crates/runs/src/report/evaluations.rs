//! Every metric of every evaluation as tables: a row a metric, a column a model.

use super::data::{EvaluationRow, EvaluationTable, ReportData};
use super::escape::html;
use super::scale::Scale;
use super::style::{Looks, swatch};
use super::tables::{Unit, estimate_cell};
use std::fmt::Write;

/// The tables, the first open.
pub(crate) fn evaluations(data: &ReportData, looks: &Looks) -> String {
    let mut out = String::new();
    for (index, table) in data.evaluations.iter().enumerate() {
        let open = if index == 0 { " open" } else { "" };
        let _ = write!(
            out,
            "<details class=\"evaluation\"{open}><summary>{}<small>{}</small></summary>{}</details>",
            html(&table.title),
            html(&table.note),
            one(table, data, looks)
        );
    }
    out
}

fn one(table: &EvaluationTable, data: &ReportData, looks: &Looks) -> String {
    let methods: Vec<Option<usize>> =
        table.models.iter().map(|name| data.methods.iter().position(|m| m.name == *name)).collect();
    let attribute = |column: usize| {
        methods.get(column).copied().flatten().map_or(String::new(), |m| format!(" data-m=\"{m}\""))
    };
    let mut out = format!(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"{}\"><table class=\"metrics\"><thead><tr>\
         <th scope=\"col\">Metric</th>",
        html(&table.title)
    );
    for (column, name) in table.models.iter().enumerate() {
        let look = methods[column].map_or(String::new(), |m| swatch(looks.of(m)));
        let _ = write!(out, "<th scope=\"col\"{}>{look} {}</th>", attribute(column), html(name));
    }
    out.push_str("</tr></thead><tbody>");
    for row in &table.rows {
        let _ = write!(out, "<tr><th scope=\"row\">{}</th>", html(&row.metric));
        let (unit, axis) = (Unit { is_share: row.is_rate }, axis(row));
        for column in 0..table.models.len() {
            let value = row.values.get(column).copied().flatten();
            out.push_str(&estimate_cell(unit, value, &attribute(column), &axis));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}

fn axis(row: &EvaluationRow) -> Scale {
    let ends = row.values.iter().flatten().flat_map(|e| [Some(e.mean), e.low, e.high]).flatten();
    let (low, high) =
        ends.filter(|v| v.is_finite()).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)));
    Scale::linear(low, high, (4.0, 76.0))
}
