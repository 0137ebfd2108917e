//! A configuration as it was written: keys and raw values with their places, from a YAML file or the command
//! line. Names are checked here; values are not.

use super::error::{ConfigError, Place, did_you_mean};
use super::key::Key;
use super::table;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;
use serde_saphyr::Spanned;
use std::fmt;
use std::path::Path;

/// Larger files are not configurations; most likely the data file was named.
pub(super) const LARGEST_FILE: u64 = 1 << 20;

/// One key as written.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub key: &'static Key,
    pub value: Value,
    pub place: Place,
}

/// The keys of one source, with what is worth telling about them.
#[derive(Clone, Debug, Default)]
pub(super) struct Written {
    pub entries: Vec<Entry>,
    pub notices: Vec<String>,
}

/// Reads a whole file, refusing what is no configuration by its size.
pub(super) fn read_file(path: &Path) -> Result<String, ConfigError> {
    let bytes = std::fs::metadata(path).map_err(|e| ConfigError::read(path, e))?.len();
    if bytes > LARGEST_FILE {
        return Err(ConfigError::TooLarge { path: path.to_owned(), bytes, limit: LARGEST_FILE });
    }
    std::fs::read_to_string(path).map_err(|e| ConfigError::read(path, e))
}

/// Parses the YAML `text`; `path` is for messages.
pub(super) fn from_yaml(text: &str, path: &Path) -> Result<Written, ConfigError> {
    let parsed: Pairs = serde_saphyr::from_str(text)
        .map_err(|e| ConfigError::Yaml { path: path.to_owned(), message: e.to_string() })?;
    let mut written = Written::default();
    for (key, value) in parsed.0 {
        let place = Place::File { path: path.to_owned(), line: key.referenced.line() };
        written.push(&key.value, value, place)?;
    }
    Ok(written)
}

/// Takes `--key value` pairs; the names may be snake_case or kebab-case.
pub(super) fn from_pairs(pairs: &[(String, String)]) -> Result<Written, ConfigError> {
    let mut written = Written::default();
    for (name, text) in pairs {
        written.push(name, Value::String(text.clone()), Place::CommandLine)?;
    }
    Ok(written)
}

/// Takes settings that stand in `part` of another file.
pub(super) fn from_values(settings: &[(String, Value)], part: &str) -> Result<Written, ConfigError> {
    let mut written = Written::default();
    for (name, value) in settings {
        written.push(name, value.clone(), Place::Part(part.to_owned()))?;
    }
    Ok(written)
}

impl Written {
    fn push(&mut self, name: &str, value: Value, place: Place) -> Result<(), ConfigError> {
        let Some((key, is_alias)) = table::find(name) else {
            return Err(ConfigError::UnknownKey {
                place,
                key: name.to_owned(),
                suggestion: table::suggestion(name),
            });
        };
        if is_alias {
            self.notices.push(format!("{place}: `{name}` is read as `{}`", key.name));
        }
        match (key.name, value) {
            ("generator", Value::Object(map)) => {
                for (part, value) in map {
                    self.add(generator_part(&part, &place)?, value, place.clone())?;
                }
                if !self.entries.iter().any(|e| e.key.name == "generator") {
                    // {kernel: ...} alone says which generator it is.
                    self.add("generator", Value::from("kernel"), place)?;
                }
                Ok(())
            }
            (name, value) => self.add(name, value, place),
        }
    }

    fn add(&mut self, name: &str, value: Value, place: Place) -> Result<(), ConfigError> {
        // The generator `kernel` has one parameter, an expression.
        let name = if name == "generator_params" && expression(&value).is_some() { "kernel" } else { name };
        let key = table::key(name).ok_or_else(|| ConfigError::Table(format!("no key `{name}`")))?;
        let value = if name == "kernel" { expression(&value).map_or(value, Value::from) } else { value };
        if let Some(first) = self.entries.iter().find(|e| e.key.name == name) {
            let problem = format!("`{name}` is given twice, also at {}; keep one", first.place);
            return Err(ConfigError::Conflict { place, problem });
        }
        self.entries.push(Entry { key, value, place });
        Ok(())
    }
}

/// The text of `"2*cosh(u)"` and `["2*cosh(u)"]`; numbers and lists of them are none.
fn expression(value: &Value) -> Option<String> {
    let text = match value {
        Value::String(text) => text,
        Value::Array(list) if list.len() == 1 => list[0].as_str()?,
        _ => return None,
    };
    (text.contains('u') && !text.contains("${")).then(|| text.to_owned())
}

/// The flat key of a part of `generator: {...}`.
fn generator_part(part: &str, place: &Place) -> Result<&'static str, ConfigError> {
    const PARTS: &[(&str, &str)] = &[
        ("name", "generator"),
        ("params", "generator_params"),
        ("lambda", "generator_lambda"),
        ("scale", "generator_scale"),
        ("mu", "generator_mu"),
        ("kernel", "kernel"),
    ];
    let found = PARTS.iter().find(|(name, _)| *name == part);
    found.map(|(_, key)| *key).ok_or_else(|| ConfigError::UnknownKey {
        place: place.clone(),
        key: format!("generator.{part}"),
        suggestion: did_you_mean(part, PARTS.iter().map(|(name, _)| *name)),
    })
}

/// The top-level mapping in its order, with the place of every key.
struct Pairs(Vec<(Spanned<String>, Value)>);

impl<'de> Deserialize<'de> for Pairs {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Collect;
        impl<'de> Visitor<'de> for Collect {
            type Value = Pairs;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("lines of `key: value`")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Pairs, A::Error> {
                let mut pairs = Vec::new();
                while let Some(pair) = access.next_entry()? {
                    pairs.push(pair);
                }
                Ok(Pairs(pairs))
            }
        }
        deserializer.deserialize_map(Collect)
    }
}
