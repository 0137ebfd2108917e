//! Configurations beside one another: what differs between methods, and the family that a method's settings put it in.

use super::data::MethodReport;
use super::escape::html;
use super::style::{Looks, swatch};
use std::fmt::Write;

/// Differ in every run and say nothing of the method.
const OWN: [&str; 3] = ["output_dir", "overwrite_output_dir", "resume_from_checkpoint"];

/// Keys and values of a resolved configuration: top-level YAML, a value of several lines joined. Comments are no part of it.
pub(crate) fn entries(config: &str) -> Vec<(String, String)> {
    let mut found: Vec<(String, String)> = Vec::new();
    for line in config.lines().filter(|line| !line.trim_start().starts_with('#') && !line.trim().is_empty()) {
        let key =
            line.split_once(':').filter(|(key, _)| !key.is_empty() && !key.starts_with([' ', '-', '\t']));
        match (key, found.last_mut()) {
            (Some((key, value)), _) => found.push((key.to_owned(), value.trim().to_owned())),
            (None, Some((_, value))) => *value = format!("{value} {}", line.trim()).trim().to_owned(),
            (None, None) => {}
        }
    }
    found
}

/// What a method is apart from its strengths and seeds: the loss, and for ratio matching its generator and transform. Empty
/// where the configuration names no loss.
pub(crate) fn family(config: &str) -> String {
    let entries = entries(config);
    let get = |name: &str| entries.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
    let stage = get("stage").unwrap_or_default();
    let Some(loss) = get("loss_type").filter(|_| stage == "preference" || stage.is_empty()) else {
        return stage.to_owned();
    };
    let mut parts = vec![loss];
    parts.extend(get("generator").filter(|_| loss == "bso"));
    parts.extend(get("preference").filter(|preference| *preference != "better"));
    if loss == "bso" {
        parts.extend(get("safety_transform").filter(|transform| *transform != "none"));
    }
    parts.join(" ")
}

/// The keys in which the methods differ, as a table; empty where fewer than two have a configuration or none differs.
pub(crate) fn differences(methods: &[MethodReport], looks: &Looks) -> String {
    let told: Vec<(usize, Vec<(String, String)>)> = methods
        .iter()
        .enumerate()
        .filter(|(_, m)| !m.config.is_empty())
        .map(|(i, m)| (i, entries(&m.config)))
        .collect();
    let mut keys: Vec<&str> = Vec::new();
    for (key, _) in told.iter().flat_map(|(_, entries)| entries) {
        if !keys.contains(&key.as_str()) && !OWN.contains(&key.as_str()) {
            keys.push(key);
        }
    }
    let value = |entries: &[(String, String)], key: &str| -> Option<String> {
        entries.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone())
    };
    keys.retain(|key| {
        let mut values = told.iter().map(|(_, entries)| value(entries, key));
        let first = values.next();
        values.any(|other| Some(other) != first)
    });
    if told.len() < 2 || keys.is_empty() {
        return String::new();
    }
    let mut out = String::from(
        "<h3 class=\"sub\">Settings that differ</h3><div class=\"scroll\" tabindex=\"0\" role=\"region\" aria-label=\"Settings \
         that differ\"><table class=\"settings\"><thead><tr><th scope=\"col\">Method</th>",
    );
    for key in &keys {
        let _ = write!(out, "<th scope=\"col\">{}</th>", html(key));
    }
    out.push_str("</tr></thead><tbody>");
    for (index, entries) in &told {
        let _ = write!(
            out,
            "<tr data-m=\"{index}\"><th scope=\"row\">{}{}</th>",
            swatch(looks.of(*index)),
            html(&methods[*index].name)
        );
        for key in &keys {
            let value = value(entries, key);
            let _ = write!(out, "<td>{}</td>", value.map_or("–".to_owned(), |value| html(&value)));
        }
        out.push_str("</tr>");
    }
    out.push_str("</tbody></table></div>");
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "# Start\nstage: preference\nloss_type: bso\ngenerator: sba\npreference: better\n\
                          safety_transform: swap_drop\ndataset_name:\n  - path: a\n    weight: 2\nbeta: 0.1\n";

    #[test]
    fn values_of_several_lines_stay_with_their_key() {
        let entries = entries(CONFIG);
        assert_eq!(entries.len(), 7);
        assert_eq!(entries[5], ("dataset_name".to_owned(), "- path: a weight: 2".to_owned()));
    }

    #[test]
    fn a_family_is_what_the_strengths_leave() {
        assert_eq!(family(CONFIG), "bso sba swap_drop");
        assert_eq!(
            family("stage: preference\nloss_type: dpo\npreference: safer\ngenerator: sba\n"),
            "dpo safer"
        );
        assert_eq!((family("stage: sft\nbeta: 1\n"), family("")), ("sft".to_owned(), String::new()));
    }

    #[test]
    fn only_keys_that_differ_are_in_the_table() {
        let method = |name: &str, config: &str| MethodReport {
            name: name.into(),
            config: config.into(),
            ..MethodReport::default()
        };
        let both = [
            method("a", "beta: 0.1\nseed: 0\noutput_dir: x\n"),
            method("b", "beta: 0.5\nseed: 0\noutput_dir: y\nlora_r: 8\n"),
        ];
        let table = differences(&both, &Looks::new(&both));
        assert!(table.contains("beta") && table.contains("lora_r") && table.contains("<td>–</td>"));
        assert!(!table.contains("seed") && !table.contains("output_dir"));
        assert_eq!(differences(&both[..1], &Looks::new(&both)), "");
    }
}
