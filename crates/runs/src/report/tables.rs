//! The methods table, and the plain tables: ledgers, environment.

use super::data::{Direction, LedgerTable, MethodReport, ReportData, Scores};
use super::escape::html;
use super::format::{count, duration, minus, number, percent};
use super::scale::Scale;
use super::style::{Looks, swatch};
use super::{Estimate, Landmark};
use std::fmt::Write;

/// A column of the methods table.
pub(crate) struct Column {
    pub(crate) title: &'static str,
    pub(crate) meaning: &'static str,
    pub(crate) direction: Direction,
    pub(crate) is_share: bool,
    pub(crate) of: fn(&Scores) -> Option<Estimate>,
}

/// The figures of an evaluation in the order in which they are shown.
pub(crate) const COLUMNS: [Column; 6] = [
    Column {
        title: "Mean reward",
        meaning: "helpfulness",
        direction: Direction::Up,
        is_share: false,
        of: |s| s.reward,
    },
    Column {
        title: "Safe rate",
        meaning: "no unsafe content",
        direction: Direction::Up,
        is_share: true,
        of: |s| s.safe_rate,
    },
    Column {
        title: "Over-refusal",
        meaning: "where an answer is due",
        direction: Direction::Down,
        is_share: true,
        of: |s| s.over_refusal,
    },
    Column {
        title: "TV to optimum",
        meaning: "total variation",
        direction: Direction::Down,
        is_share: false,
        of: |s| s.tv_to_optimum,
    },
    Column {
        title: "KL from optimum",
        meaning: "nats",
        direction: Direction::Down,
        is_share: false,
        of: |s| s.kl_from_optimum,
    },
    Column {
        title: "KL from reference",
        meaning: "nats",
        direction: Direction::Neutral,
        is_share: false,
        of: |s| s.kl_from_reference,
    },
];

/// How a figure is written.
#[derive(Clone, Copy)]
pub(crate) struct Unit {
    /// A share from 0 to 1, written in per cent.
    pub(crate) is_share: bool,
}

impl Unit {
    /// A value.
    pub(crate) fn show(self, value: f64) -> String {
        minus(&if self.is_share { percent(value) } else { number(value) })
    }

    fn show_interval(self, (low, high): (f64, f64)) -> String {
        let low = self.show(low);
        format!("{} to {}", low.trim_end_matches(" %"), self.show(high))
    }

    /// The value with its interval in words.
    pub(crate) fn say(self, e: &Estimate) -> String {
        match e.interval() {
            Some(interval) => format!("{} ({})", self.show(e.mean), self.show_interval(interval)),
            None => self.show(e.mean),
        }
    }
}

impl Column {
    pub(crate) fn unit(&self) -> Unit {
        Unit { is_share: self.is_share }
    }

    fn best(&self, methods: &[MethodReport]) -> Option<Estimate> {
        let key = |e: &Estimate| if self.direction == Direction::Down { -e.mean } else { e.mean };
        let all = methods.iter().filter_map(|m| (self.of)(m.scores.as_ref()?)).filter(|e| e.mean.is_finite());
        let best = all.max_by(|a, b| key(a).total_cmp(&key(b)))?;
        (self.direction != Direction::Neutral && methods.len() > 1).then_some(best)
    }

    /// The axis of the little bars: all means and intervals of the column.
    fn axis(&self, data: &ReportData) -> Scale {
        let ends: Vec<f64> = rows(data)
            .filter_map(|scores| (self.of)(scores))
            .flat_map(|e| [Some(e.mean), e.low, e.high])
            .flatten()
            .filter(|v| v.is_finite())
            .collect();
        let (low, high) = ends.iter().fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(*v), h.max(*v)));
        Scale::linear(low, high, (4.0, 76.0))
    }
}

fn rows(data: &ReportData) -> impl Iterator<Item = &Scores> {
    let methods = data.methods.iter().filter_map(|m| m.scores.as_ref());
    methods.chain(data.landmarks.iter().map(|l| &l.scores))
}

/// The table of all evaluated methods; empty where none was evaluated.
pub(crate) fn methods_table(data: &ReportData, looks: &Looks) -> String {
    if !data.methods.iter().any(|m| m.scores.is_some()) {
        return String::new();
    }
    let columns: Vec<(&Column, Option<Estimate>, Scale)> = COLUMNS
        .iter()
        .filter(|c| rows(data).any(|s| (c.of)(s).is_some()))
        .map(|c| (c, c.best(&data.methods), c.axis(data)))
        .collect();
    let timed = data.methods.iter().any(|m| m.seconds.is_some());
    let counted = data.methods.iter().any(|m| m.forwards.is_some());
    let mut out = String::from(
        "<div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Results\"><table class=\"results\"><thead><tr><th scope=\"col\">Method</th>",
    );
    for (column, ..) in &columns {
        let better = match column.direction {
            Direction::Up => "\u{a0}<abbr title=\"higher is better\">↑</abbr>",
            Direction::Down => "\u{a0}<abbr title=\"lower is better\">↓</abbr>",
            Direction::Neutral => "",
        };
        let _ =
            write!(out, "<th scope=\"col\">{}{better}<small>{}</small></th>", column.title, column.meaning);
    }
    if timed {
        out.push_str("<th scope=\"col\">Time<small>training</small></th>");
    }
    if counted {
        out.push_str("<th scope=\"col\">Forwards<small>sequences computed by any model</small></th>");
    }
    out.push_str("</tr></thead><tbody>");
    for (index, method) in data.methods.iter().enumerate() {
        let _ = write!(
            out,
            "<tr data-m=\"{index}\"><th scope=\"row\">{}{}</th>",
            swatch(looks.of(index)),
            html(&method.name)
        );
        for (column, best, axis) in &columns {
            let value = method.scores.as_ref().and_then(|s| (column.of)(s));
            out.push_str(&cell(column, value, best.as_ref(), axis));
        }
        if timed {
            let _ = write!(out, "<td>{}</td>", method.seconds.map_or("–".to_owned(), duration));
        }
        if counted {
            let _ = write!(out, "<td>{}</td>", method.forwards.map_or("–".to_owned(), count));
        }
        out.push_str("</tr>");
    }
    for Landmark { name, scores, .. } in &data.landmarks {
        let star = super::style::landmark(11.0, 7.0, 4.5);
        let _ = write!(
            out,
            "<tr class=\"landmark\"><th scope=\"row\"><svg class=\"swatch\" viewBox=\"0 0 22 14\" width=\"22\" \
             height=\"14\" aria-hidden=\"true\">{star}</svg>{}</th>",
            html(name)
        );
        for (column, _, axis) in &columns {
            out.push_str(&cell(column, (column.of)(scores), None, axis));
        }
        out.push_str(&"<td></td>".repeat(usize::from(timed) + usize::from(counted)));
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    let marked = columns.iter().any(|(_, best, _)| best.is_some());
    let intervals =
        rows(data).any(|s| COLUMNS.iter().any(|c| (c.of)(s).is_some_and(|e| e.interval().is_some())));
    if marked {
        out.push_str(
            "<p class=\"key\"><b class=\"best\">Bold</b>: best mean of the column among the methods.",
        );
        if intervals {
            out.push_str(
                " <span class=\"tied\">Dotted</span>: its 95 % interval meets that of the best, so the order of \
                 the two is not settled. Small figures and bars: 95 % intervals.",
            );
        }
        out.push_str("</p>");
    }
    out
}

fn cell(column: &Column, value: Option<Estimate>, best: Option<&Estimate>, axis: &Scale) -> String {
    let class = match (best, value) {
        (Some(best), Some(e)) if best.mean == e.mean => " class=\"best\"",
        (Some(best), Some(e)) if e.interval().is_some() && best.overlaps(&e) => " class=\"tied\"",
        _ => "",
    };
    marked_cell(column.unit(), value, ("", class), axis)
}

/// A figure with its interval in small and as a bar.
pub(crate) fn estimate_cell(unit: Unit, value: Option<Estimate>, attribute: &str, axis: &Scale) -> String {
    marked_cell(unit, value, (attribute, ""), axis)
}

fn marked_cell(unit: Unit, value: Option<Estimate>, (of_cell, class): (&str, &str), axis: &Scale) -> String {
    let Some(e) = value.filter(|e| e.mean.is_finite()) else { return format!("<td{of_cell}>–</td>") };
    let mut out = format!("<td{of_cell}><span{class}>{}</span>", unit.show(e.mean));
    if let Some((low, high)) = e.interval() {
        let _ = write!(
            out,
            "<small>{}</small><svg class=\"bar\" viewBox=\"0 0 80 8\" width=\"80\" height=\"8\" aria-hidden=\"true\">\
             <line class=\"rail\" x1=\"4\" y1=\"4\" x2=\"76\" y2=\"4\"/>\
             <line class=\"span\" x1=\"{:.1}\" y1=\"4\" x2=\"{:.1}\" y2=\"4\"/><circle cx=\"{:.1}\" cy=\"4\" r=\"3\"/></svg>",
            unit.show_interval((low, high)),
            axis.position(low),
            axis.position(high),
            axis.position(e.mean)
        );
    }
    out.push_str("</td>");
    out
}

/// The ledgers side by side.
pub(crate) fn ledgers(ledgers: &[LedgerTable]) -> String {
    let mut out = String::new();
    for ledger in ledgers {
        let noted = ledger.rows.iter().any(|row| !row.note.is_empty());
        let _ = write!(
            out,
            "<div class=\"scroll\"><table class=\"ledger\"><caption>{}</caption><thead><tr><th scope=\"col\">What</th>\
             <th scope=\"col\">Rows</th>{}</tr></thead><tbody>",
            html(&ledger.title),
            if noted { "<th scope=\"col\" class=\"note\">Note</th>" } else { "" }
        );
        for row in &ledger.rows {
            let note = format!("<td class=\"note\">{}</td>", html(&row.note));
            let _ = write!(
                out,
                "<tr><th scope=\"row\">{}</th><td>{}</td>{}</tr>",
                html(&row.what),
                row.count,
                if noted { note.as_str() } else { "" }
            );
        }
        out.push_str("</tbody></table></div>");
    }
    out
}

/// Names and values.
pub(crate) fn definitions(entries: &[(String, String)]) -> String {
    let mut out = String::from("<dl class=\"facts\">");
    for (name, value) in entries {
        let _ = write!(out, "<div><dt>{}</dt><dd>{}</dd></div>", html(name), html(value));
    }
    out.push_str("</dl>");
    out
}
