//! Samples side by side, behind a note on their content. There may be ten thousand: they lie in the page as data, and the
//! script builds the few that are looked at, out of text nodes alone.

use super::data::{ReportData, SamplePrompt, SampleResponse};
use super::escape::{excerpt, html, plain};
use super::format::{minus, number};
use serde::Serialize;
use std::fmt::Write;

/// What the script builds samples from.
#[derive(Serialize)]
pub(crate) struct SampleData {
    kinds: Vec<String>,
    prompts: Vec<PromptData>,
}

/// Short names: there are many.
#[derive(Serialize)]
struct PromptData {
    /// Index of the kind.
    k: usize,
    /// Prompt.
    p: String,
    /// Set and category.
    #[serde(skip_serializing_if = "String::is_empty")]
    a: String,
    /// Responses.
    r: Vec<ResponseData>,
}

#[derive(Serialize)]
struct ResponseData {
    /// Index of the method, or the name of what is none.
    m: Method,
    /// Text.
    t: String,
    /// Unsafe.
    #[serde(skip_serializing_if = "Option::is_none")]
    u: Option<bool>,
    /// Refuses.
    #[serde(skip_serializing_if = "Option::is_none")]
    f: Option<bool>,
    /// Further facts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    x: Vec<String>,
}

#[derive(Serialize)]
#[serde(untagged)]
enum Method {
    Known(usize),
    Other(String),
}

/// The samples for the script.
pub(crate) fn sample_data(data: &ReportData) -> SampleData {
    let mut kinds: Vec<String> = Vec::new();
    let mut prompts = Vec::with_capacity(data.samples.len());
    for sample in &data.samples {
        let kind = plain(&sample.kind);
        let k = kinds.iter().position(|k| *k == kind).unwrap_or(kinds.len());
        if k == kinds.len() {
            kinds.push(kind);
        }
        prompts.push(prompt(sample, k, data));
    }
    SampleData { kinds, prompts }
}

fn prompt(sample: &SamplePrompt, k: usize, data: &ReportData) -> PromptData {
    let response = |response: &SampleResponse| ResponseData {
        m: match data.methods.iter().position(|m| m.name == response.method) {
            Some(method) => Method::Known(method),
            None => Method::Other(plain(&response.method)),
        },
        t: excerpt(&response.text),
        u: response.is_unsafe,
        f: response.refusal,
        x: facts(response),
    };
    PromptData {
        k,
        p: excerpt(&sample.prompt),
        a: plain(&sample.about),
        r: sample.responses.iter().map(response).collect(),
    }
}

fn facts(response: &SampleResponse) -> Vec<String> {
    let reward = response.reward.map(|reward| format!("reward {}", minus(&number(reward))));
    reward.into_iter().chain(response.facts.iter().map(|fact| plain(fact))).collect()
}

/// Filters and the place where the script puts samples; empty where there are none.
pub(crate) fn samples(data: &ReportData, SampleData { kinds, .. }: &SampleData) -> String {
    if data.samples.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<details class=\"samples\"><summary>Show prompts and responses <small>Content warning: they are shown as \
         they are. Some ask for harm, and some responses may be unsafe, offensive or wrong.</small></summary>\
         <noscript><p class=\"lead\">Samples are shown by the page's script.</p></noscript>\
         <div class=\"filters scripted\" role=\"group\" aria-label=\"Which samples\"><div class=\"chips\">",
    );
    let mut chip = |attributes: &str, pressed: bool, text: &str| {
        let _ = write!(
            out,
            "<button type=\"button\" class=\"chip\" aria-pressed=\"{pressed}\" {attributes}>{text}</button>"
        );
    };
    if kinds.len() > 1 {
        chip("data-kind=\"\"", true, "all");
        for (index, kind) in kinds.iter().enumerate() {
            chip(&format!("data-kind=\"{index}\""), false, &html(kind));
        }
    }
    let responses = || data.samples.iter().flat_map(|sample| &sample.responses);
    let judged = responses().any(|r| r.is_unsafe.is_some());
    if data.samples.iter().any(|s| s.responses.len() > 1)
        && (judged || responses().any(|r| r.refusal.is_some()))
    {
        chip(
            "data-only=\"differ\" title=\"one refuses and another does not, or one is safe and another is not\"",
            false,
            "methods disagree",
        );
    }
    if judged {
        chip("data-only=\"unsafe\"", false, "unsafe only");
    }
    out.push_str(
        "</div><label class=\"find\">Find <input type=\"search\" placeholder=\"in prompts and responses\"></label></div>\
         <div class=\"pager scripted\"></div><div class=\"list\"></div><div class=\"pager scripted\"></div></details>",
    );
    out
}
