//! What the figures warn of, method by method, and the files that could not be read.

use super::data::ReportData;
use super::escape::html;
use super::style::{Looks, swatch};
use std::fmt::Write;

/// The findings of all methods; where there are none, a line says what was looked for, if there was something to look at.
pub(crate) fn findings(data: &ReportData, looks: &Looks) -> String {
    let looked = data.methods.iter().any(|m| !m.curves.is_empty());
    if data.methods.iter().all(|m| m.findings.is_empty()) {
        let nothing = "<p class=\"lead\">Nothing found: no collapse of the chosen log-prob, no saturation, little clamped.</p>";
        return if looked { nothing.to_owned() } else { String::new() };
    }
    let mut out = String::from("<ul class=\"findings\">");
    for (index, method) in data.methods.iter().enumerate() {
        for finding in &method.findings {
            let _ = write!(
                out,
                "<li data-m=\"{index}\"><b>{}</b> <span class=\"of\">{}{}</span><br>{} <em>{}</em></li>",
                html(&capital(finding.symptom.title())),
                swatch(looks.of(index)),
                html(&method.name),
                html(&capital(&finding.seen)),
                html(&finding.advice)
            );
        }
    }
    out.push_str("</ul>");
    out
}

/// Files that are missing from the page, and why.
pub(crate) fn problems(problems: &[String]) -> String {
    if problems.is_empty() {
        return String::new();
    }
    let lines: String = problems.iter().map(|p| format!("<li>{}</li>", html(p))).collect();
    format!("<aside class=\"problems\" role=\"note\"><b>Not on this page</b><ul>{lines}</ul></aside>")
}

fn capital(text: &str) -> String {
    let mut letters = text.chars();
    letters.next().map_or(String::new(), |first| first.to_uppercase().chain(letters).collect())
}
