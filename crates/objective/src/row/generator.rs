//! Which generator a row means. `generator` and its parameters may stand in different layers (row, flags, presets);
//! parameters that another layer gave to another generator do not leak into this one.

use serde_json::{Map, Value};

use super::RowError;
use super::fields::{Fields, as_param, wrong};
use crate::generator::{Generator, GeneratorParam};

const DEFAULT: &str = "sba";

/// The parameters of a generator by name, in order, with their defaults.
fn parameters(generator: &str) -> &'static [(&'static str, Option<f64>)] {
    match generator {
        "ba" => &[("generator_lambda", None)],
        "sba" => &[("generator_lambda", Some(0.2)), ("generator_scale", Some(4.0))],
        "phi_mu" => &[("generator_mu", None)],
        "kernel" => &[("generator_kernel", None)],
        _ => &[],
    }
}

const PARAMETER_NAMES: [&str; 4] =
    ["generator_lambda", "generator_scale", "generator_mu", "generator_kernel"];

pub(super) fn read(fields: &Fields<'_>) -> Result<Generator, RowError> {
    let name = fields.text("generator", DEFAULT)?;
    let layers = fields.layers();
    let named_in = layers.iter().position(|layer| layer.get("generator").is_some_and(|g| !g.is_null()));
    let names = parameters(&name);
    let mut values: Vec<Option<GeneratorParam>> =
        names.iter().map(|(_, default)| default.map(GeneratorParam::Number)).collect();
    // weakest layer first, so that stronger ones overwrite
    for (index, layer) in layers.iter().enumerate().rev() {
        let weaker = named_in.is_some_and(|named_in| index > named_in);
        if weaker && layer.get("generator").is_some_and(|g| g.as_str() != Some(&name)) {
            continue;
        }
        if let Some(params) = list(layer)? {
            if params.len() == names.len() {
                values = params.into_iter().map(Some).collect();
            } else if !weaker {
                return Ok(Generator::parse(&name, &params)?);
            }
        }
        for parameter in PARAMETER_NAMES {
            let Some(value) = layer.get(parameter).filter(|v| !v.is_null()) else { continue };
            if layer.get("generator_params").is_some_and(|p| !p.is_null()) {
                return Err(RowError::Conflict { first: "generator_params", second: parameter.to_owned() });
            }
            match names.iter().position(|(n, _)| *n == parameter) {
                Some(slot) => values[slot] = Some(as_param(parameter, value)?),
                None if index == 0 => return Err(RowError::ForeignParameter { generator: name, parameter }),
                None => {}
            }
        }
    }
    let missing: Vec<&str> =
        names.iter().zip(&values).filter(|(_, value)| value.is_none()).map(|((name, _), _)| *name).collect();
    if !missing.is_empty() {
        let fields = format!("{} (or generator_params)", missing.join(", "));
        return Err(RowError::Missing { loss: format!("generator {name}"), fields });
    }
    Ok(Generator::parse(&name, &values.into_iter().flatten().collect::<Vec<_>>())?)
}

/// `generator_params`: an array, one bare value, or null for no parameters.
fn list(layer: &Map<String, Value>) -> Result<Option<Vec<GeneratorParam>>, RowError> {
    const NAME: &str = "generator_params";
    match layer.get(NAME) {
        None => Ok(None),
        Some(Value::Null) => Ok(Some(Vec::new())),
        Some(Value::Array(values)) => {
            values.iter().map(|v| as_param(NAME, v)).collect::<Result<_, _>>().map(Some)
        }
        Some(v @ (Value::Number(_) | Value::String(_))) => Ok(Some(vec![as_param(NAME, v)?])),
        Some(v) => Err(wrong(NAME, "an array of numbers (kernel: one expression in u)", v)),
    }
}
