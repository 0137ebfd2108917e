//! Reading a row's fields: the layers in which a setting may stand, and the types that are accepted.

use serde_json::{Map, Value, json};

use super::RowError;
use crate::bso::BsoSettings;
use crate::error::ObjectiveError;
use crate::generator::GeneratorParam;

/// The layers of a setting, the first one that has the key deciding: the row, the row's preset, the flags, the
/// flags' preset.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    row: &'a Map<String, Value>,
    row_preset: Map<String, Value>,
    flags: &'a Map<String, Value>,
    flag_preset: Map<String, Value>,
}

impl<'a> Fields<'a> {
    pub(super) fn new(row: &'a Map<String, Value>, flags: &'a Map<String, Value>) -> Result<Self, RowError> {
        Ok(Self { row, row_preset: preset(row)?, flags, flag_preset: preset(flags)? })
    }

    /// The layers, strongest first.
    pub(super) fn layers(&self) -> [&Map<String, Value>; 4] {
        [self.row, &self.row_preset, self.flags, &self.flag_preset]
    }

    /// The strongest layer's value, `null` included.
    fn find(&self, name: &str) -> Option<&Value> {
        self.layers().into_iter().find_map(|layer| layer.get(name))
    }

    /// The strongest layer's value unless it is null.
    pub(super) fn given(&self, name: &str) -> Option<&Value> {
        self.find(name).filter(|v| !v.is_null())
    }

    /// A number that may not be null.
    pub(super) fn number(&self, name: &str, default: f64) -> Result<f64, RowError> {
        self.find(name).map_or(Ok(default), |v| as_number(name, v))
    }

    /// A number for which null ("none") is 0.
    pub(super) fn number_or_none(&self, name: &str, default: f64) -> Result<f64, RowError> {
        match self.find(name) {
            None => Ok(default),
            Some(Value::Null) => Ok(0.0),
            Some(v) => as_number(name, v),
        }
    }

    /// A name; null means the default.
    pub(super) fn text(&self, name: &str, default: &str) -> Result<String, RowError> {
        match self.given(name) {
            None => Ok(default.to_owned()),
            Some(Value::String(s)) => Ok(s.clone()),
            Some(v) => Err(wrong(name, "a string", v)),
        }
    }

    /// `[low, high]`, `"low,high"`, `"none"` or null.
    pub(super) fn clamp(&self, default: Option<(f64, f64)>) -> Result<Option<(f64, f64)>, RowError> {
        const NAME: &str = "log_ratio_clamp";
        const EXPECTED: &str = "[low, high], \"low,high\" or none";
        let Some(value) = self.find(NAME) else { return Ok(default) };
        match value {
            Value::Null => Ok(None),
            Value::String(s) if s.trim() == "none" => Ok(None),
            Value::String(s) => {
                let parts: Vec<&str> =
                    s.trim().trim_start_matches('[').trim_end_matches(']').split(',').collect();
                let [low, high] = parts[..] else { return Err(wrong(NAME, EXPECTED, value)) };
                match (low.trim().parse(), high.trim().parse()) {
                    (Ok(low), Ok(high)) => Ok(Some((low, high))),
                    _ => Err(wrong(NAME, EXPECTED, value)),
                }
            }
            Value::Array(bounds) => match &bounds[..] {
                [low, high] => Ok(Some((as_number(NAME, low)?, as_number(NAME, high)?))),
                _ => Err(wrong(NAME, EXPECTED, value)),
            },
            _ => Err(wrong(NAME, EXPECTED, value)),
        }
    }

    /// SafeDPO's Delta, which may also be called `safety_penalty`; both in one layer is an error.
    pub(super) fn delta(&self, default: f64) -> Result<f64, RowError> {
        for layer in self.layers() {
            let present = ["delta", "safety_penalty"].map(|name| layer.get(name).map(|value| (name, value)));
            let mut values = present.into_iter().flatten().filter(|(_, value)| !value.is_null());
            match (values.next(), values.next()) {
                (Some(_), Some((second, _))) => {
                    return Err(RowError::Conflict { first: "delta", second: second.to_owned() });
                }
                (Some((name, value)), None) => return as_number(name, value),
                (None, _) if present.iter().any(Option::is_some) => return Ok(0.0), // null: no penalty
                (None, _) => {}
            }
        }
        Ok(default)
    }

    /// Names all of `names` that the row lacks.
    pub(super) fn require(&self, loss: &str, names: &[&str]) -> Result<(), RowError> {
        let missing: Vec<String> = names
            .iter()
            .filter_map(|name| match self.row.get(*name) {
                None => Some((*name).to_owned()),
                Some(Value::Null) => Some(format!("{name} (null)")),
                Some(_) => None,
            })
            .collect();
        if missing.is_empty() {
            Ok(())
        } else {
            Err(RowError::Missing { loss: loss.to_owned(), fields: missing.join(", ") })
        }
    }

    fn row_value(&self, name: &str) -> &Value {
        self.row.get(name).unwrap_or(&Value::Null)
    }

    pub(super) fn row_number(&self, name: &str) -> Result<f64, RowError> {
        as_number(name, self.row_value(name))
    }

    pub(super) fn row_flag(&self, name: &str) -> Result<bool, RowError> {
        as_flag(name, self.row_value(name))
    }

    pub(super) fn row_count(&self, name: &str) -> Result<usize, RowError> {
        let value = self.row_value(name);
        value
            .as_u64()
            .and_then(|n| usize::try_from(n).ok())
            .ok_or_else(|| wrong(name, "a count of tokens (a whole number)", value))
    }

    pub(super) fn row_numbers(&self, name: &str) -> Result<Vec<f64>, RowError> {
        self.row_array(name, "an array of numbers")?.iter().map(|v| as_number(name, v)).collect()
    }

    pub(super) fn row_flags(&self, name: &str) -> Result<Vec<bool>, RowError> {
        self.row_array(name, "an array of booleans")?.iter().map(|v| as_flag(name, v)).collect()
    }

    fn row_array(&self, name: &str, expected: &'static str) -> Result<&Vec<Value>, RowError> {
        let value = self.row_value(name);
        value.as_array().ok_or_else(|| wrong(name, expected, value))
    }
}

/// The settings that a layer's `preset` stands for.
fn preset(layer: &Map<String, Value>) -> Result<Map<String, Value>, RowError> {
    let mut settings = Map::new();
    match layer.get("preset") {
        None | Some(Value::Null) => {}
        Some(Value::String(name)) if name == "paper" => {
            let paper = BsoSettings::paper();
            let mut set = |name: &str, value: Value| settings.insert(name.to_owned(), value);
            set("generator", json!(paper.generator.name()));
            set("generator_params", json!(paper.generator.params()));
            set("beta", json!(paper.beta));
            set("safety_penalty", json!(paper.safety_penalty));
            set("log_ratio_clamp", json!(paper.clamp));
            set("log_ratio_tail", json!("clamp"));
            set("label_smoothing", json!(paper.label_smoothing));
        }
        Some(Value::String(name)) => {
            return Err(ObjectiveError::UnknownName {
                kind: "preset",
                name: name.clone(),
                accepted: "paper".to_owned(),
            }
            .into());
        }
        Some(v) => return Err(wrong("preset", "the name of a preset", v)),
    }
    Ok(settings)
}

/// A finite number.
pub(super) fn as_number(name: &str, value: &Value) -> Result<f64, RowError> {
    value.as_f64().filter(|x| x.is_finite()).ok_or_else(|| wrong(name, "a finite number", value))
}

/// A boolean, or s in {0, 1}.
fn as_flag(name: &str, value: &Value) -> Result<bool, RowError> {
    match (value, value.as_f64()) {
        (Value::Bool(b), _) => Ok(*b),
        (_, Some(x)) if x == 0.0 || x == 1.0 => Ok(x == 1.0),
        _ => Err(wrong(name, "true or false", value)),
    }
}

/// A number or an expression.
pub(super) fn as_param(name: &str, value: &Value) -> Result<GeneratorParam, RowError> {
    match value {
        Value::String(s) => Ok(GeneratorParam::Expression(s.clone())),
        v => as_number(name, v).map(GeneratorParam::Number),
    }
}

pub(super) fn wrong(field: &str, expected: &'static str, found: &Value) -> RowError {
    let mut found = found.to_string();
    if found.len() > 60 {
        found = found.chars().take(57).chain("...".chars()).collect();
    }
    RowError::Type { field: field.to_owned(), expected, found }
}
