//! What the figures warn of, method by method, and the files that could not be read.

use super::data::{MethodReport, ReportData};
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
    for (title, advice, cases) in &by_advice(&data.methods) {
        match cases.as_slice() {
            [(index, seen)] => {
                let of = of_method(*index, data, looks);
                let _ = write!(
                    out,
                    "<li data-m=\"{index}\"><b>{title}</b> {of}<br>{seen} <em>{advice}</em></li>"
                );
            }
            cases => {
                let lines = cases.iter().map(|(index, seen)| {
                    format!("<li data-m=\"{index}\">{} {seen}</li>", of_method(*index, data, looks))
                });
                let _ = write!(
                    out,
                    "<li><b>{title}</b> <em>{advice}</em><details><summary>Seen {} times</summary><ul>{}</ul></details></li>",
                    cases.len(),
                    lines.collect::<String>()
                );
            }
        }
    }
    out.push_str("</ul>");
    out
}

/// What is seen of a method, by its place among them.
type Cases = Vec<(usize, String)>;

/// Findings of one kind with the same advice stand together: a title, the advice, and each case; all of it escaped.
fn by_advice(methods: &[MethodReport]) -> Vec<(String, String, Cases)> {
    let mut groups: Vec<(String, String, Cases)> = Vec::new();
    for (index, method) in methods.iter().enumerate() {
        for finding in &method.findings {
            let title = html(&capital(finding.symptom.title()));
            let advice = html(&finding.advice);
            let case = (index, html(&capital(&finding.seen)));
            match groups.iter_mut().find(|(t, a, _)| (t, a) == (&title, &advice)) {
                Some((.., cases)) => cases.push(case),
                None => groups.push((title, advice, vec![case])),
            }
        }
    }
    groups
}

fn of_method(index: usize, data: &ReportData, looks: &Looks) -> String {
    let name = data.methods.get(index).map_or("", |method| &method.name);
    format!("<span class=\"of\">{}{}</span>", swatch(looks.of(index)), html(name))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diagnostics::{Finding, Symptom};

    #[test]
    fn what_is_seen_of_several_methods_has_its_advice_once() {
        let finding = |symptom, seen: &str| Finding {
            symptom,
            quadrant: None,
            value: 1.0,
            threshold: 0.5,
            seen: seen.to_owned(),
            advice: "<raise> beta".to_owned(),
        };
        let method =
            |name: &str, findings| MethodReport { name: name.to_owned(), findings, ..Default::default() };
        let data = ReportData {
            methods: vec![
                method("a", vec![finding(Symptom::Saturation, "one"), finding(Symptom::Clamping, "three")]),
                method("b", vec![finding(Symptom::Saturation, "two")]),
            ],
            ..ReportData::default()
        };
        let page = findings(&data, &Looks::new(&data.methods));
        assert_eq!(page.matches("&lt;raise&gt; beta").count(), 2, "{page}");
        assert!(page.contains("Seen 2 times") && page.contains("One") && page.contains("Two"), "{page}");
        assert!(page.contains("<li data-m=\"0\"><b>Clamping"), "{page}");
    }
}
