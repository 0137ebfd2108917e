//! Samples side by side, grouped by kind of prompt, behind a note on their content.

use super::data::{ReportData, SamplePrompt, SampleResponse};
use super::escape::{html, html_excerpt};
use super::format::{minus, number};
use super::style::swatch;
use std::fmt::Write;

/// The samples; empty where there are none.
pub(crate) fn samples(data: &ReportData) -> String {
    if data.samples.is_empty() {
        return String::new();
    }
    let mut kinds: Vec<&str> = Vec::new();
    for sample in &data.samples {
        if !kinds.contains(&sample.kind.as_str()) {
            kinds.push(&sample.kind);
        }
    }
    let mut out = String::from(
        "<details class=\"samples\"><summary>Show prompts and responses <small>Content note: they are shown as \
         they are, unsafe ones included.</small></summary>",
    );
    if kinds.len() > 1 {
        out.push_str("<div class=\"chips scripted\" role=\"group\" aria-label=\"Kinds of prompts\">");
        out.push_str(
            "<button type=\"button\" class=\"chip\" aria-pressed=\"true\" data-kind=\"\">all</button>",
        );
        for (index, kind) in kinds.iter().enumerate() {
            let _ = write!(
                out,
                "<button type=\"button\" class=\"chip\" aria-pressed=\"false\" data-kind=\"{index}\">{}</button>",
                html(kind)
            );
        }
        out.push_str("</div>");
    }
    for sample in &data.samples {
        let kind = kinds.iter().position(|k| *k == sample.kind).unwrap_or(0);
        article(&mut out, sample, kind, data);
    }
    out.push_str("</details>");
    out
}

fn article(out: &mut String, sample: &SamplePrompt, kind: usize, data: &ReportData) {
    let _ = write!(
        out,
        "<article class=\"sample\" data-k=\"{kind}\"><header><span class=\"pill\">{}</span>\
         <p class=\"text\" dir=\"auto\">{}</p></header><div class=\"responses\">",
        html(&sample.kind),
        html_excerpt(&sample.prompt)
    );
    for response in &sample.responses {
        let method = data.methods.iter().position(|m| m.name == response.method);
        let attribute = method.map_or(String::new(), |m| format!(" data-m=\"{m}\""));
        let _ = write!(
            out,
            "<section{attribute}><h4>{}{}</h4><p class=\"text\" dir=\"auto\">{}</p><p class=\"pills\">{}</p></section>",
            method.map_or(String::new(), swatch),
            html(&response.method),
            if response.text.is_empty() {
                "<em>(empty)</em>".to_owned()
            } else {
                html_excerpt(&response.text)
            },
            pills(response)
        );
    }
    out.push_str("</div></article>");
}

fn pills(response: &SampleResponse) -> String {
    let mut out = String::new();
    match response.is_unsafe {
        Some(true) => out.push_str("<span class=\"pill bad\">unsafe</span>"),
        Some(false) => out.push_str("<span class=\"pill good\">safe</span>"),
        None => {}
    }
    if response.refusal == Some(true) {
        out.push_str("<span class=\"pill\">refuses</span>");
    }
    if let Some(reward) = response.reward {
        let _ = write!(out, "<span class=\"pill\">reward {}</span>", minus(&number(reward)));
    }
    out
}
