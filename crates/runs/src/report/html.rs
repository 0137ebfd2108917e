//! The page: a skeleton with named places, filled section by section. Style and script are files of their own,
//! put inline; the page's policy lets nothing else run or load.

use super::data::{MethodReport, ReportData};
use super::escape::{html, json_in_script, plain};
use super::format::duration;
use super::style::{Looks, swatch};
use super::{curves, evaluations, findings, frontier_table, plane, samples, settings, tables};
use bso_durable::fingerprint_bytes;
use serde_json::json;
use std::fmt::Write;

const SKELETON: &str = include_str!("assets/report.html");
const STYLE: &str = include_str!("assets/report.css");
const SCRIPT: &str = concat!(
    "'use strict';\n",
    include_str!("assets/cursor.js"),
    include_str!("assets/samples.js"),
    include_str!("assets/live.js"),
    include_str!("assets/report.js")
);

/// How a page that is served while a run goes on looks for news.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Polling {
    /// Milliseconds between two looks.
    pub every_ms: u32,
    /// Which state of the files this page shows; the server's answer names the present one.
    pub version: u64,
}

/// Renders the whole page. Equal data gives equal bytes.
pub fn render_report(data: &ReportData) -> String {
    render(data, None)
}

/// The same page, which asks the server that it came from, and no other, for news at the path `state`.
pub fn render_live(data: &ReportData, polling: Polling) -> String {
    render(data, Some(polling))
}

fn render(data: &ReportData, polling: Option<Polling>) -> String {
    let looks = Looks::new(&data.methods);
    let of_samples = samples::sample_data(data);
    let (figures, plots) = curves::curves(&data.methods, &looks);
    let names: Vec<String> = data.methods.iter().map(|m| plain(&m.name)).collect();
    let of_methods: Vec<usize> = (0..names.len()).map(|method| looks.of(method)).collect();
    let title = if data.title.is_empty() { "Report" } else { &data.title };
    fill(
        SKELETON,
        &[
            ("script_hash", &script_hash()),
            ("style", STYLE),
            ("script", SCRIPT),
            ("connect", polling.map_or("", |_| "connect-src 'self'; ")),
            (
                "live",
                &polling.map_or(String::new(), |p| {
                    format!(" data-live=\"{}\" data-version=\"{}\"", p.every_ms, p.version)
                }),
            ),
            ("data", &json_in_script(&json!({ "methods": names, "looks": of_methods, "plots": plots }))),
            ("samples", &json_in_script(&of_samples)),
            ("title", &html(title)),
            ("main", &main(data, &looks, (&figures, &of_samples))),
        ],
    )
}

/// Replaces `{{name}}` in one pass, so that a value that contains such text stays text.
fn fill(skeleton: &str, values: &[(&str, &str)]) -> String {
    let mut out = String::new();
    let mut rest = skeleton;
    while let Some((before, after)) = rest.split_once("{{") {
        let Some((name, after)) = after.split_once("}}") else { break };
        out.push_str(before);
        out.push_str(values.iter().find(|(n, _)| *n == name).map_or("", |(_, value)| value));
        rest = after;
    }
    out + rest
}

fn main(data: &ReportData, looks: &Looks, (figures, of_samples): (&str, &samples::SampleData)) -> String {
    let mut out = String::new();
    header(&mut out, data);
    if data.methods.len() > 1 {
        legend(&mut out, data, looks);
    }
    section(&mut out, "findings", "What to look at", "", &findings::findings(data, looks));
    section(&mut out, "results", "Results", "", &tables::methods_table(data, looks));
    section(
        &mut out,
        "plane-section",
        "Helpfulness and safety",
        "Right is safer, up is more helpful. Whiskers are 95 % intervals; a whisker without an end cap continues \
         beyond the plot. Dashed: what no method beats.",
        &(plane::plane(data, looks) + &frontier_table::frontier(data, looks)),
    );
    section(&mut out, "evaluations", "Every metric", "", &evaluations::evaluations(data, looks));
    section(&mut out, "curves", "Training", "", figures);
    section(&mut out, "samples", "Samples", "", &samples::samples(data, of_samples));
    let objectives = settings::differences(&data.methods, looks) + &objectives(&data.methods, looks);
    section(&mut out, "objectives", "Objectives and settings", "", &objectives);
    section(&mut out, "data", "Data", "", &tables::ledgers(&data.ledgers));
    let notes: String = data.notes.iter().map(|n| format!("<li>{}</li>", html(n))).collect();
    let notes = if notes.is_empty() { notes } else { format!("<ul class=\"notes\">{notes}</ul>") };
    section(&mut out, "notes", "Notes", "", &notes);
    let environment = &data.environment;
    let facts = if environment.is_empty() { String::new() } else { tables::definitions(environment) };
    section(&mut out, "environment", "Environment", "", &facts);
    out
}

fn section(out: &mut String, id: &str, title: &str, lead: &str, content: &str) {
    if content.is_empty() {
        return;
    }
    let lead = if lead.is_empty() { String::new() } else { format!("<p class=\"lead\">{lead}</p>") };
    let _ = writeln!(
        out,
        "<section id=\"{id}\" aria-labelledby=\"{id}-h\"><h2 id=\"{id}-h\">{title}</h2>{lead}{content}</section>"
    );
}

fn header(out: &mut String, data: &ReportData) {
    let _ = write!(out, "<header class=\"top\"><h1>{}</h1>", html(&data.title));
    if !data.summary.is_empty() {
        let _ = write!(out, "<p class=\"summary\">{}</p>", html(&data.summary));
    }
    if !data.made.is_empty() {
        let _ = write!(out, "<p class=\"made\">{}</p>", html(&data.made));
    }
    out.push_str(&findings::problems(&data.problems));
    if !data.key_figures.is_empty() {
        out.push_str("<dl class=\"tiles\">");
        for figure in &data.key_figures {
            let _ = write!(
                out,
                "<div><dt>{}</dt><dd>{}<small>{}</small></dd></div>",
                html(&figure.label),
                html(&figure.value),
                html(&figure.note)
            );
        }
        out.push_str("</dl>");
    }
    out.push_str("</header>\n");
}

/// A legend that the script turns into a filter; without it the buttons stay what they look like, a legend.
fn legend(out: &mut String, data: &ReportData, looks: &Looks) {
    out.push_str("<div class=\"legend chips\" role=\"group\" aria-label=\"Methods shown\">");
    for (family, name) in looks.families.iter().enumerate() {
        let members = looks.members(family);
        let (title, count) = match members.as_slice() {
            [only] => (data.methods[*only].description.clone(), String::new()),
            several => {
                let names: Vec<&str> = several.iter().map(|m| data.methods[*m].name.as_str()).collect();
                (names.join(", "), format!(" <small>{}</small>", several.len()))
            }
        };
        let name = match members.as_slice() {
            [only] => &data.methods[*only].name,
            _ => name,
        };
        let _ = write!(
            out,
            "<button type=\"button\" class=\"chip\" aria-pressed=\"true\" data-family=\"{family}\" title=\"{}\" disabled>{}{}{count}</button>",
            html(&title),
            swatch(family),
            html(name)
        );
    }
    out.push_str(
        "<button type=\"button\" class=\"chip all scripted\" data-all hidden>show all</button></div>\n",
    );
}

fn objectives(methods: &[MethodReport], looks: &Looks) -> String {
    let mut out = String::new();
    let told = |m: &&(usize, &MethodReport)| {
        let m = m.1;
        !(m.formula.is_empty() && m.config.is_empty() && m.description.is_empty())
    };
    let methods: Vec<(usize, &MethodReport)> = methods.iter().enumerate().collect();
    for (index, method) in methods.iter().filter(told) {
        let _ = write!(
            out,
            "<article class=\"objective\" data-m=\"{index}\"><h3>{}{}</h3>",
            swatch(looks.of(*index)),
            html(&method.name)
        );
        if !method.description.is_empty() {
            let _ = write!(out, "<p>{}</p>", html(&method.description));
        }
        if !method.formula.is_empty() {
            let _ = write!(out, "<pre class=\"formula\" tabindex=\"0\">{}</pre>", html(&method.formula));
        }
        if let Some(seconds) = method.seconds {
            let _ = write!(out, "<p class=\"made\">Trained in {}.</p>", duration(seconds));
        }
        if !method.config.is_empty() {
            let _ = write!(
                out,
                "<details class=\"data\"><summary>Resolved configuration</summary><pre tabindex=\"0\">{}</pre></details>",
                html(&method.config)
            );
        }
        out.push_str("</article>");
    }
    out
}

/// The script's hash in the form of a content security policy: no other script may run in the page.
fn script_hash() -> String {
    let hex = fingerprint_bytes(SCRIPT.as_bytes());
    let bytes: Vec<u8> =
        (0..hex.len() / 2).filter_map(|i| u8::from_str_radix(&hex[2 * i..2 * i + 2], 16).ok()).collect();
    format!("sha256-{}", base64(&bytes))
}

/// Base64 with padding (RFC 4648).
fn base64(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::new();
    for three in bytes.chunks(3) {
        let word = three.iter().chain([&0, &0]).take(3).fold(0usize, |w, b| w << 8 | usize::from(*b));
        for i in 0..4 {
            out.push(if i <= three.len() { char::from(DIGITS[word >> (18 - 6 * i) & 63]) } else { '=' });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_of_rfc_4648() {
        let shown = ["", "f", "fo", "foo", "foob"].map(|s| base64(s.as_bytes()));
        assert_eq!(shown, ["", "Zg==", "Zm8=", "Zm9v", "Zm9vYg=="]);
    }

    #[test]
    fn values_are_not_searched_for_places() {
        assert_eq!(fill("<{{a}}|{{b}}>", &[("a", "{{b}}"), ("b", "x")]), "<{{b}}|x>");
    }

    #[test]
    fn style_and_script_cannot_end_their_elements() {
        assert!(!SCRIPT.to_lowercase().contains("</script") && !SCRIPT.contains("<!--"));
        assert!(!STYLE.to_lowercase().contains("</style"));
    }
}
