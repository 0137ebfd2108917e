//! The value of `dataset_name`: one data set, or a list of them with weights.

use super::source::{named, place};
use serde_json::{Map, Value, json};
use std::path::{Path, PathBuf};

/// One data set.
#[derive(Clone, Debug, PartialEq)]
pub struct DatasetSource {
    /// File or folder of rows, absolute; or a name on the hub.
    pub path: PathBuf,
    /// Its share in a mixture, above 0; `None`: 1 where another data set has a weight.
    pub weight: Option<f64>,
    /// Its split; `None`: what `dataset_train_split` says.
    pub split: Option<String>,
}

/// Reads text, a mapping `{name, weight, split}`, or a list of both.
pub(super) fn read(value: &Value, base: &Path) -> Option<Vec<DatasetSource>> {
    match value {
        Value::Array(items) if !items.is_empty() => items.iter().map(|item| one(item, base)).collect(),
        Value::Array(_) => None,
        // On the command line a list is written as YAML writes it.
        Value::String(text) if text.trim_start().starts_with(['[', '{']) => {
            let parsed: Value = serde_saphyr::from_str(text).ok()?;
            if parsed.is_string() { None } else { read(&parsed, base) }
        }
        other => Some(vec![one(other, base)?]),
    }
}

fn one(value: &Value, base: &Path) -> Option<DatasetSource> {
    let Value::Object(fields) = value else {
        return Some(DatasetSource { path: place(value, base)?, weight: None, split: None });
    };
    let known = |key: &String| ["name", "path", "weight", "split"].contains(&key.as_str());
    if !fields.keys().all(known) || fields.contains_key("name") == fields.contains_key("path") {
        return None;
    }
    let weight = match fields.get("weight") {
        None => None,
        Some(weight) => {
            let number = weight.as_f64().or_else(|| weight.as_str()?.trim().parse().ok());
            Some(number.filter(|w| w.is_finite() && *w > 0.0)?)
        }
    };
    let split = match fields.get("split") {
        None | Some(Value::Null) => None,
        Some(split) => Some(split.as_str().filter(|s| !s.is_empty())?.to_owned()),
    };
    Some(DatasetSource { path: place(fields.get("name").or(fields.get("path"))?, base)?, weight, split })
}

/// The value as YAML that reads back as itself.
pub(super) fn to_yaml(sources: &[DatasetSource]) -> String {
    let plain = |source: &DatasetSource| source.weight.is_none() && source.split.is_none();
    if let [only] = sources
        && plain(only)
    {
        return named(&only.path);
    }
    let list = sources.iter().map(|source| {
        if plain(source) {
            return named(&source.path);
        }
        let mut fields = Map::new();
        fields.insert("name".to_owned(), json!(source.path.to_string_lossy().replace("${", "$${")));
        fields.extend(source.weight.map(|weight| ("weight".to_owned(), json!(weight))));
        fields.extend(source.split.as_ref().map(|split| ("split".to_owned(), json!(split))));
        Value::Object(fields).to_string()
    });
    format!("[{}]", list.collect::<Vec<_>>().join(", "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_lists_and_mappings_read_back_as_themselves() {
        for value in [
            json!("a.jsonl"),
            json!(["a.jsonl", "/b: x"]),
            json!([{"name": "a", "weight": 2.5}, {"path": "c", "split": "train_prefs"}, "org/name@v1"]),
            json!("[{name: a, weight: 3}, b]"),
        ] {
            let sources = read(&value, Path::new("/base")).unwrap();
            let yaml = to_yaml(&sources);
            let again: Value = serde_saphyr::from_str(&yaml).unwrap();
            assert_eq!(read(&again, Path::new("/other")).unwrap(), sources, "{yaml}");
        }
        for value in [
            json!([]),
            json!({"weight": 1}),
            json!({"name": "a", "path": "b"}),
            json!({"name": "a", "weight": 0}),
            json!({"name": "a", "wieght": 1}),
            json!([7.5, null]),
        ] {
            assert_eq!(read(&value, Path::new("/base")), None, "{value}");
        }
    }
}
