//! Ready, commented configurations: what a method needs as live lines, every other key it reads as a comment
//! with its default and the default's source.

use super::choices::{ClosedSet, LossType, Recipe, Stage};
use super::error::ConfigError;
use super::key::{Category, Fallback, Key, Status};
use super::preset::{self, Preset};
use super::resolve::parse;
use super::table;
use super::value::to_yaml;
use std::path::Path;

/// Lines of comments are wrapped at this width.
const WIDTH: usize = 110;

/// The ready configuration of `method` (a preset's name).
///
/// # Errors
/// [`ConfigError::UnknownName`] for a method that does not exist; it lists those that do.
pub fn init(method: &str) -> Result<String, ConfigError> {
    let preset = preset::find(method, "method")?;
    let values = preset.values();
    let stage = named(&values, "stage", Stage::Preference);
    // A stage with one loss of its own has the loss of its name.
    let loss = named(&values, "loss_type", LossType::from_name(stage.name()).unwrap_or(LossType::Nll));
    let trains_scorers = values.contains(&("recipe", Recipe::SafeRlhf.name()));
    let mut text = header(preset);
    for category in Category::ALL {
        let blocks: Vec<_> = table::keys()
            .filter(|key| key.category == *category && shown(key, loss))
            .filter(|key| !(trains_scorers && matches!(key.name, "reward_model" | "cost_model")))
            .filter(|key| *category != Category::Stages || values.iter().any(|(name, _)| *name == key.name))
            .map(|key| block(key, &Method { values: &values, stage, loss }))
            .collect::<Result<_, _>>()?;
        if !blocks.is_empty() {
            text.push_str(&format!("\n# ---- {} ----\n\n{}", category.title(), blocks.join("\n")));
        }
    }
    Ok(text)
}

struct Method<'a> {
    values: &'a [(&'static str, &'static str)],
    stage: Stage,
    loss: LossType,
}

fn named<E: ClosedSet>(values: &[(&str, &str)], key: &str, otherwise: E) -> E {
    values
        .iter()
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| E::from_name(value))
        .unwrap_or(otherwise)
}

fn shown(key: &Key, loss: LossType) -> bool {
    matches!(key.status, Status::Supported)
        && key.applies.to(loss)
        && key.name != "preset"
        && !is_second_spelling(key, loss)
}

/// Keys that say what another key in the same file says already.
fn is_second_spelling(key: &Key, loss: LossType) -> bool {
    match key.name {
        "generator_lambda" | "generator_scale" | "generator_mu" | "warmup_steps" => true,
        "safety_penalty" => loss == LossType::SafeDpo,
        _ => false,
    }
}

fn header(preset: &Preset) -> String {
    let mut text = comment(&format!("{}: {}", preset.name, preset.doc));
    text.push_str(&comment(&format!("Source: {}.", preset.source)));
    text.push_str("#\n");
    text.push_str(&comment(
        "Train with `bso train THIS_FILE`; any key can be overridden as `--key value`. Relative paths start at this \
         file's folder; ${VARIABLE} and ${VARIABLE:-default} are expanded. A line that is commented out shows the default.",
    ));
    text
}

/// A key's comment and its line.
fn block(key: &'static Key, method: &Method<'_>) -> Result<String, ConfigError> {
    let own = method.values.iter().find(|(name, _)| *name == key.name).map(|(_, text)| *text);
    let default = default_text(key, method);
    let mut text = comment(&format!("{} {}", key.doc, facts(key, default, own)?));
    let live = own.or(if key.prominent { default.or(Some(key.example)) } else { None });
    let (mark, value) = match (live, default) {
        (Some(value), _) => ("", Some(value)),
        (None, default) => ("# ", default),
    };
    let value = match value {
        Some(value) => to_yaml_text(key, value)?,
        None => key.none.first().copied().unwrap_or("null").to_owned(),
    };
    text.push_str(&format!("{mark}{}: {value}\n", key.name));
    Ok(text)
}

/// "(number > 0; reward units per nat; default 0.1 \[TRL\])".
fn facts(key: &'static Key, default: Option<&str>, own: Option<&str>) -> Result<String, ConfigError> {
    let mut facts = vec![key.expected()];
    if !key.unit.is_empty() {
        facts.push(key.unit.to_owned());
    }
    facts.push(match (default, key.fallback) {
        (Some(default), _) => format!("default {} [{}]", to_yaml_text(key, default)?, key.source),
        (None, Fallback::Absent(meaning)) => {
            format!("default {}: {meaning}", key.none.first().copied().unwrap_or("none"))
        }
        (None, _) => "no default".to_owned(),
    });
    if own.is_some() && own != default {
        facts.push("set by this method".to_owned());
    }
    Ok(format!("({})", facts.join("; ")))
}

/// The default under this method, written as on the command line.
fn default_text(key: &Key, method: &Method<'_>) -> Option<&'static str> {
    match key.fallback {
        Fallback::Value(text) => Some(text),
        Fallback::Absent(_) | Fallback::Required => None,
        Fallback::By { key: other, cases, otherwise } => {
            let decided = match other {
                "stage" => method.stage.name(),
                "loss_type" => method.loss.name(),
                other => method.values.iter().find(|(name, _)| *name == other).map_or("", |(_, value)| value),
            };
            cases.iter().find(|(case, _)| *case == decided).map(|(_, text)| *text).or(otherwise)
        }
    }
}

/// A table's text as YAML. Paths stay as they are written: the file is for another place.
fn to_yaml_text(key: &'static Key, text: &str) -> Result<String, ConfigError> {
    if matches!(key.kind, super::Kind::Path | super::Kind::Source | super::Kind::Datasets) {
        return Ok(text.to_owned());
    }
    Ok(to_yaml(key, &parse(key, text, Path::new(""))?))
}

/// Wrapped `# ` lines.
fn comment(text: &str) -> String {
    let mut lines = vec![String::from("#")];
    for word in text.split_whitespace() {
        let last = lines.len() - 1;
        if lines[last].chars().count() + 1 + word.chars().count() > WIDTH {
            lines.push(format!("# {word}"));
        } else {
            lines[last].push(' ');
            lines[last].push_str(word);
        }
    }
    lines.join("\n") + "\n"
}
