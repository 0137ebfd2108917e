//! One checked value: what a key's written value means, and how a meaning is written.
//! Text is read like the YAML it would be, so that `--beta 0.1`, `beta: 0.1` and `beta: ${BETA}` are the same.

use super::dataset::{self, DatasetSource};
use super::error::did_you_mean;
use super::key::{Choice, Key, Kind};
use super::source;
use bso_model::{Device, EngineError};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A value that fits its key.
#[derive(Clone, Debug, PartialEq)]
pub enum Setting {
    /// The key's word for "no value".
    Absent,
    /// true or false.
    Bool(bool),
    /// A whole number.
    Integer(u64),
    /// A finite number.
    Real(f64),
    /// A member of the key's closed set, by its canonical name.
    Choice(&'static str),
    /// Free text.
    Text(String),
    /// An absolute path.
    Path(PathBuf),
    /// low < high.
    Interval(f64, f64),
    /// Finite numbers.
    Numbers(Vec<f64>),
    /// Words.
    Words(Vec<String>),
    /// Words to words.
    Mapping(BTreeMap<String, String>),
    /// Data sets, at least one.
    Datasets(Vec<DatasetSource>),
}

/// Why a written value does not fit.
pub(super) enum Misfit {
    /// Wrong type or range; what was expected.
    Wrong(String),
    /// Known and planned; the value's name and the reason.
    NotYet(String, String),
    /// Known, and not on this machine or in this program; the reason.
    NotHere(String),
}

/// A value and, where it was written under another name, that name.
pub(super) struct Read {
    pub setting: Setting,
    pub alias: Option<String>,
}

/// Reads the written `value` of `key`; relative paths start at `base`.
pub(super) fn read(key: &Key, value: &Value, base: &Path) -> Result<Read, Misfit> {
    if is_none(key, value) {
        return Ok(Read { setting: Setting::Absent, alias: None });
    }
    if let Kind::Choice(choices) = key.kind {
        return choose(choices, value);
    }
    let wrong = || Misfit::Wrong(key.expected());
    let setting = match key.kind {
        Kind::Choice(_) => return Err(wrong()),
        Kind::Bool => Setting::Bool(boolean(value).ok_or_else(wrong)?),
        Kind::Integer { min, max } => {
            Setting::Integer(integer(value).filter(|n| (min..=max).contains(n)).ok_or_else(wrong)?)
        }
        Kind::Real(range) => Setting::Real(real(value).filter(|x| range.contains(*x)).ok_or_else(wrong)?),
        Kind::Text => Setting::Text(text(value).ok_or_else(wrong)?),
        Kind::Source => Setting::Path(source::place(value, base).ok_or_else(wrong)?),
        Kind::Datasets => Setting::Datasets(dataset::read(value, base).ok_or_else(wrong)?),
        Kind::Path => Setting::Path(path(value, base).ok_or_else(wrong)?),
        Kind::Interval => match numbers(value).as_deref() {
            Some([low, high]) if low < high => Setting::Interval(*low, *high),
            _ => return Err(Misfit::Wrong("[low, high] with low < high, as [-30, 30], or none".into())),
        },
        Kind::Numbers => Setting::Numbers(numbers(value).ok_or_else(wrong)?),
        Kind::Words => Setting::Words(words(value).ok_or_else(wrong)?),
        Kind::Mapping => Setting::Mapping(mapping(value).ok_or_else(wrong)?),
        Kind::FlagOrPath => match boolean(value) {
            // LLaMA-Factory and transformers' scripts write `auto` for the last checkpoint.
            None if value.as_str() == Some("auto") => Setting::Bool(true),
            Some(flag) => Setting::Bool(flag),
            None => Setting::Path(path(value, base).ok_or_else(wrong)?),
        },
        Kind::Template => template(value, base).ok_or_else(wrong)?,
        Kind::Device => device(value, wrong)?,
    };
    Ok(Read { setting, alias: None })
}

/// `null` and the key's own words for it, numbers among them (`max_steps: -1`).
fn is_none(key: &Key, value: &Value) -> bool {
    let Some(_) = key.none.first() else { return false };
    match value {
        Value::Null => true,
        Value::String(text) => key.none.contains(&text.trim()),
        Value::Number(n) => {
            key.none.iter().any(|word| word.parse().ok() == n.as_f64() && n.as_f64().is_some())
        }
        _ => false,
    }
}

/// A device that is there: what is not is told before anything else is done.
fn device(value: &Value, wrong: impl Fn() -> Misfit) -> Result<Setting, Misfit> {
    let written = text(value).ok_or_else(&wrong)?.trim().to_lowercase();
    match Device::parse(&written) {
        Ok(_) => Ok(Setting::Text(written)),
        Err(EngineError::UnknownDevice(_)) => Err(wrong()),
        Err(error) => Err(Misfit::NotHere(error.to_string())),
    }
}

fn choose(choices: &'static [Choice], value: &Value) -> Result<Read, Misfit> {
    // YAML reads a bare `no` as false; transformers' report_to is a list, often of one or of none.
    let written = match value {
        Value::Bool(false) => "no".to_owned(),
        Value::Bool(true) => "yes".to_owned(),
        Value::Array(list) if list.is_empty() => "none".to_owned(),
        Value::Array(list) if list.len() == 1 => list[0].as_str().unwrap_or_default().to_owned(),
        Value::String(text) => text.trim().to_owned(),
        Value::Null => "none".to_owned(),
        _ => String::new(),
    };
    let stem = written.to_lowercase();
    let found = choices.iter().find(|c| c.name == stem || c.also.contains(&stem.as_str()));
    match found {
        Some(Choice { not_yet: Some(why), .. }) => Err(Misfit::NotYet(written, (*why).to_owned())),
        Some(c) => Ok(Read { setting: Setting::Choice(c.name), alias: (c.name != stem).then_some(written) }),
        None => {
            let supported: Vec<_> = choices.iter().filter(|c| c.not_yet.is_none()).map(|c| c.name).collect();
            let near = did_you_mean(&written, supported.iter().copied());
            Err(Misfit::Wrong(format!("one of {}.{near}", supported.join(", "))))
        }
    }
}

fn boolean(value: &Value) -> Option<bool> {
    match value {
        Value::Bool(flag) => Some(*flag),
        Value::String(text) => match text.trim().to_lowercase().as_str() {
            "true" | "yes" | "on" => Some(true),
            "false" | "no" | "off" => Some(false),
            _ => None,
        },
        _ => None,
    }
}

fn integer(value: &Value) -> Option<u64> {
    match value {
        Value::Number(n) => n.as_u64().or_else(|| n.as_f64().and_then(whole)),
        Value::String(text) => {
            let text = text.trim();
            text.parse().ok().or_else(|| text.parse().ok().and_then(whole))
        }
        _ => None,
    }
}

/// 1e3 and 3.0 are whole numbers; beyond 2^53 a float no longer says which.
fn whole(x: f64) -> Option<u64> {
    (x.fract() == 0.0 && (0.0..=9_007_199_254_740_992.0).contains(&x)).then_some(x as u64)
}

fn real(value: &Value) -> Option<f64> {
    let x = match value {
        Value::Number(n) => n.as_f64()?,
        Value::String(text) => text.trim().parse().ok()?,
        _ => return None,
    };
    x.is_finite().then_some(x)
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) if !text.is_empty() => Some(text.clone()),
        Value::Number(n) => Some(n.to_string()),
        _ => None,
    }
}

fn path(value: &Value, base: &Path) -> Option<PathBuf> {
    let text = text(value)?;
    Some(base.join(text))
}

fn template(value: &Value, base: &Path) -> Option<Setting> {
    let name = if value.is_null() { "none".to_owned() } else { text(value)? };
    let is_file = name.contains(['/', '\\']) || name.ends_with(".jinja") || name.ends_with(".json");
    Some(if is_file { Setting::Path(base.join(name)) } else { Setting::Text(name) })
}

fn numbers(value: &Value) -> Option<Vec<f64>> {
    match value {
        Value::Array(list) => list.iter().map(real).collect(),
        Value::Number(_) => Some(vec![real(value)?]),
        Value::String(text) => items(text).map(|item| real(&Value::String(item.into()))).collect(),
        _ => None,
    }
}

fn words(value: &Value) -> Option<Vec<String>> {
    match value {
        Value::Array(list) => list.iter().map(text).collect(),
        Value::String(text) => Some(items(text).map(str::to_owned).collect()),
        _ => None,
    }
}

fn mapping(value: &Value) -> Option<BTreeMap<String, String>> {
    match value {
        Value::Object(map) => map.iter().map(|(k, v)| Some((k.clone(), text(v)?))).collect(),
        Value::String(text) => items(text)
            .map(|item| item.split_once('=').map(|(k, v)| (k.trim().to_owned(), v.trim().to_owned())))
            .collect(),
        _ => None,
    }
}

/// "a, b", "[a, b]" and "" as items.
fn items(text: &str) -> impl Iterator<Item = &str> {
    let inner = text.trim().trim_start_matches('[').trim_end_matches(']').trim();
    inner.split(',').map(str::trim).filter(move |_| !inner.is_empty())
}

/// The value as YAML that reads back as itself.
pub(super) fn to_yaml(key: &Key, setting: &Setting) -> String {
    match setting {
        Setting::Absent => key.none.first().copied().unwrap_or("null").to_owned(),
        Setting::Bool(flag) => flag.to_string(),
        Setting::Integer(n) => n.to_string(),
        Setting::Real(x) => number(*x),
        // YAML 1.1 readers take a bare `no` for false.
        Setting::Choice(name) if *name == "no" => "\"no\"".to_owned(),
        Setting::Choice(name) => (*name).to_owned(),
        Setting::Text(text) => quoted(text),
        Setting::Path(path) => quoted(&path.to_string_lossy()),
        Setting::Interval(low, high) => format!("[{}, {}]", number(*low), number(*high)),
        Setting::Numbers(list) => {
            format!("[{}]", list.iter().map(|x| number(*x)).collect::<Vec<_>>().join(", "))
        }
        Setting::Words(list) => {
            format!("[{}]", list.iter().map(|w| quoted(w)).collect::<Vec<_>>().join(", "))
        }
        Setting::Mapping(map) => {
            let pairs: Vec<_> = map.iter().map(|(k, v)| format!("{}: {}", quoted(k), quoted(v))).collect();
            format!("{{{}}}", pairs.join(", "))
        }
        Setting::Datasets(sources) => dataset::to_yaml(sources),
    }
}

/// The shortest text that reads back as the same f64, also in YAML 1.1, where an exponent needs a point before it and a sign.
pub(super) fn number(x: f64) -> String {
    let size = x.abs();
    if size == 0.0 || (1e-4..1e15).contains(&size) {
        return x.to_string();
    }
    let text = format!("{x:e}");
    let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    let point = if digits.contains('.') { "" } else { ".0" };
    let sign = if exponent.starts_with('-') { "" } else { "+" };
    format!("{digits}{point}e{sign}{exponent}")
}

/// Plain where YAML takes it for nothing but text, else in double quotes (JSON's escapes are YAML's); `${` stays literal.
pub(super) fn quoted(text: &str) -> String {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/');
    let special = ["true", "false", "yes", "no", "on", "off", "null", "none", "y", "n", "auto"];
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text.chars().all(word)
        && (text == "auto" || text == "none" || !special.contains(&text.to_lowercase().as_str()));
    if plain {
        return text.to_owned();
    }
    Value::String(text.replace("${", "$${")).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::table::key;

    fn of(name: &str, value: Value) -> Option<Setting> {
        read(key(name).unwrap(), &value, Path::new("/base")).ok().map(|r| r.setting)
    }

    #[test]
    fn text_means_what_the_same_yaml_means() {
        for (name, yaml, text) in [
            ("beta", Value::from(0.5), "0.5"),
            ("log_ratio_clamp", serde_json::json!([-30, 30]), "-30,30"),
            ("log_ratio_clamp", serde_json::json!([-30, 30]), "[-30, 30]"),
            ("log_ratio_clamp", Value::Null, "none"),
            ("generator_params", serde_json::json!([0.2, 4]), "0.2,4"),
            ("max_steps", Value::from(-1), "-1"),
            ("max_grad_norm", Value::from(0), "0.0"),
            ("eval_strategy", Value::Bool(false), "no"),
            ("num_train_epochs", Value::from(3), "3"),
            ("save_steps", Value::from(1000.0), "1e3"),
            ("columns", serde_json::json!({"prompt": "question"}), "prompt=question"),
        ] {
            let from_yaml = of(name, yaml.clone());
            assert!(from_yaml.is_some(), "{name}: {yaml}");
            if name != "max_grad_norm" {
                assert_eq!(from_yaml, of(name, Value::from(text)), "{name}: {text}");
            }
        }
        assert_eq!(of("generator_params", Value::from("")), Some(Setting::Numbers(vec![])));
    }

    #[test]
    fn values_out_of_range_or_of_another_type_are_refused() {
        for (name, value) in [
            ("beta", serde_json::json!(0)),
            ("beta", serde_json::json!("nan")),
            ("beta", serde_json::json!("much")),
            ("beta", serde_json::json!([0.1])),
            ("label_smoothing", serde_json::json!(0.5)),
            ("log_ratio_clamp", serde_json::json!([30, -30])),
            ("log_ratio_clamp", serde_json::json!([1, 2, 3])),
            ("save_steps", serde_json::json!(0)),
            ("save_steps", serde_json::json!(1.5)),
            ("save_steps", serde_json::json!(-3)),
            ("use_peft", serde_json::json!(1)),
            ("model_name_or_path", serde_json::json!("")),
            ("model_name_or_path", Value::Null),
            ("generator", serde_json::json!("sbba")),
        ] {
            assert_eq!(of(name, value.clone()), None, "{name}: {value}");
        }
    }

    #[test]
    fn numbers_read_back_as_themselves() {
        for x in [0.1, 1e-6, 2e-5, 3.0, 1e300, 123_456_789.125, -0.0, f64::MIN_POSITIVE, 0.1 + 0.2] {
            let text = number(x);
            assert_eq!(text.parse::<f64>().unwrap().to_bits(), x.to_bits(), "{text}");
        }
        assert_eq!(number(1e-6), "1.0e-6");
    }
}
