//! The JSON Schema of a configuration (draft 2020-12), made from the table, so that editors complete and check keys.
//!
//! It is what can be said key by key; what several keys decide together is checked when a config is resolved.

use super::key::{Applies, Fallback, Key, Kind, Range, Status};
use super::table;
use serde_json::{Map, Value, json};

/// The schema. An editor's YAML support takes it from the comment `# yaml-language-server: $schema=FILE`.
pub fn schema() -> Value {
    let mut properties = Map::new();
    for key in table::keys() {
        let described = described(key);
        for alias in key.aliases {
            let mut read_as = described.clone();
            read_as["deprecated"] = json!(true);
            read_as["description"] = json!(format!("Read as `{}`.", key.name));
            properties.insert((*alias).to_owned(), read_as);
        }
        properties.insert(key.name.to_owned(), described);
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "bso configuration",
        "type": "object",
        "properties": properties,
        "additionalProperties": false,
    })
}

fn described(key: &Key) -> Value {
    let mut description = key.doc.to_owned();
    if !key.unit.is_empty() {
        description.push_str(&format!(" Unit: {}.", key.unit));
    }
    if let Applies::To(losses) = key.applies {
        let names: Vec<_> = losses.iter().map(|loss| loss.to_string()).collect();
        description.push_str(&format!(" Read by {}.", names.join(", ")));
    }
    match key.status {
        Status::Supported => {}
        Status::NotYet(why) => description.push_str(&format!(" Not supported yet: {why}.")),
        Status::NoEffect(why) => description.push_str(&format!(" No effect: {why}.")),
    }
    let mut alternatives = alternatives(key);
    if !key.none.is_empty() {
        alternatives.push(json!({ "enum": key.none }));
        alternatives.push(json!({ "type": "null" }));
    }
    // Variables stand for values of any type.
    alternatives.push(json!({ "type": "string", "pattern": "\\$\\{[^}]+\\}" }));
    let mut property = json!({ "description": description, "anyOf": alternatives });
    match key.fallback {
        Fallback::Value(text) => property["default"] = value(key.kind, text),
        Fallback::Absent(_) => property["default"] = json!(key.none.first()),
        Fallback::By { .. } | Fallback::Required => {}
    }
    property
}

/// What a value of the key may be, apart from "no value".
fn alternatives(key: &Key) -> Vec<Value> {
    let text = || json!({ "type": "string" });
    match key.kind {
        Kind::Bool => vec![json!({ "type": "boolean" })],
        Kind::Integer { min, max } => {
            vec![json!({ "type": "integer", "minimum": min, "maximum": max })]
        }
        Kind::Real(range) => vec![real(range)],
        Kind::Choice(choices) => {
            let supported = choices.iter().filter(|choice| choice.not_yet.is_none());
            let names: Vec<_> =
                supported.flat_map(|choice| std::iter::once(&choice.name).chain(choice.also)).collect();
            let mut ways = vec![json!({ "enum": names })];
            if key.name == "generator" {
                ways.push(json!({ "type": "object", "required": ["name"] }));
            }
            if names.iter().any(|name| **name == "no") {
                ways.push(json!({ "const": false })); // `no` as YAML 1.1 reads it
            }
            ways
        }
        Kind::Text | Kind::Path | Kind::Source | Kind::Template => vec![text()],
        Kind::Device => vec![json!({ "type": "string", "pattern": "^(auto|cpu|cuda(:[0-9]+)?)$" })],
        Kind::Datasets => {
            let one = json!({ "type": "object", "additionalProperties": false, "properties": {
                "name": text(), "path": text(), "weight": { "type": "number", "exclusiveMinimum": 0 }, "split": text() } });
            vec![
                text(),
                one.clone(),
                json!({ "type": "array", "minItems": 1, "items": { "anyOf": [text(), one] } }),
            ]
        }
        Kind::FlagOrPath => vec![json!({ "type": "boolean" }), text()],
        Kind::Interval => {
            let number = json!({ "type": "number" });
            vec![json!({ "type": "array", "prefixItems": [number, number], "minItems": 2, "maxItems": 2 })]
        }
        Kind::Numbers => {
            vec![json!({ "type": "array", "items": { "type": "number" } }), json!({ "type": "number" })]
        }
        Kind::Words => vec![json!({ "type": "array", "items": text() }), text()],
        Kind::Mapping => vec![json!({ "type": "object", "additionalProperties": text() })],
    }
}

fn real(range: Range) -> Value {
    let mut number = json!({ "type": "number" });
    if range.low.is_finite() {
        number[if range.low_open { "exclusiveMinimum" } else { "minimum" }] = json!(range.low);
    }
    if range.high.is_finite() {
        number[if range.high_open { "exclusiveMaximum" } else { "maximum" }] = json!(range.high);
    }
    number
}

/// A default, written as on the command line, as JSON.
fn value(kind: Kind, text: &str) -> Value {
    match kind {
        Kind::Bool | Kind::Integer { .. } | Kind::Real(_) | Kind::FlagOrPath => {
            serde_json::from_str(text).unwrap_or_else(|_| json!(text))
        }
        Kind::Interval | Kind::Numbers => {
            let numbers: Result<Vec<f64>, _> = text.split(',').map(str::parse).collect();
            numbers.map_or_else(|_| json!(text), |numbers| json!(numbers))
        }
        _ => json!(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_and_alias_is_in_the_schema_with_its_type_and_default() {
        let schema = schema();
        let properties = schema["properties"].as_object().unwrap();
        for key in table::keys() {
            for name in std::iter::once(&key.name).chain(key.aliases) {
                assert!(properties.contains_key(*name), "{name}");
            }
        }
        assert_eq!(properties["beta"]["default"], 0.1);
        assert_eq!(properties["max_length"]["anyOf"][0]["type"], "integer");
        let losses = properties["loss_type"]["anyOf"][0]["enum"].as_array().unwrap();
        assert!(losses.contains(&json!("bso")) && losses.contains(&json!("sigmoid")));
        assert_eq!(schema["additionalProperties"], false);
    }
}
