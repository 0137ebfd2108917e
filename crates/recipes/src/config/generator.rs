//! The generator with its parameters, merged over the layers: a stronger layer's name resets the parameters unless
//! it is the same name, `generator_params` replaces all of them, and a parameter by name replaces that one.

use super::error::ConfigError;
use super::key::Fallback;
use super::resolve::{Given, Layer, Resolver, lookup, parse};
use super::value::Setting;
use bso_objective::Generator;

/// What the layers say so far.
struct Merged {
    name: &'static str,
    params: Vec<f64>,
    kernel: Option<String>,
}

/// The generator that the layers give together.
///
/// # Errors
/// A parameter that the generator does not have, one said twice in a layer, a wrong count, a pole, or a kernel
/// that is not even and positive.
pub(super) fn resolve(r: &mut Resolver) -> Result<Generator, ConfigError> {
    let Setting::Choice(default) = r.default(lookup("generator")?)? else {
        return Err(ConfigError::Table("the default generator".into()));
    };
    let mut merged = fresh(default, r)?;
    for i in 0..r.layers.len() {
        if let Some(Given { setting: Setting::Choice(name), place }) = r.layers[i].get("generator")
            && *name != merged.name
        {
            // The command line changes the generator of a file that gave parameters: they no longer fit.
            if i == 2
                && r.layers[1].contains_key("generator_params")
                && !r.layers[2].contains_key("generator_params")
            {
                let notice =
                    format!("{place}: generator {name} takes its own default parameters, not the file's");
                r.notices.push(notice);
            }
            merged = fresh(name, r)?;
        }
        merge(&mut merged, &r.layers[i])?;
    }
    let conflict = |place, problem: String| ConfigError::Conflict { place, problem };
    match (merged.name, &merged.kernel) {
        ("kernel", None) => Err(ConfigError::Required { key: "kernel", example: "\"2*cosh(0.7*u)\"" }),
        ("kernel", Some(kernel)) => {
            Generator::kernel(kernel).map_err(|e| conflict(r.place("kernel"), e.to_string()))
        }
        (name, Some(_)) => {
            let problem =
                format!("`kernel` is given, but the generator is {name}; write `generator: kernel`");
            Err(conflict(r.place("kernel"), problem))
        }
        (name, None) => Generator::new(name, &merged.params).map_err(|e| {
            let named =
                ["generator_params", "generator_lambda", "generator_scale", "generator_mu", "generator"];
            let place =
                named.iter().find_map(|key| r.given(key)).map_or(r.place("generator"), |g| g.place.clone());
            let remedy = match r.given("generator") {
                None => format!(
                    " ({name} is the default; name the generator that they belong to, as generator: sba)"
                ),
                Some(_) => String::new(),
            };
            conflict(place, format!("{e}{remedy}"))
        }),
    }
}

/// A generator with its default parameters.
fn fresh(name: &'static str, r: &Resolver) -> Result<Merged, ConfigError> {
    let key = lookup("generator_params")?;
    let Fallback::By { cases, .. } = key.fallback else { return Err(ConfigError::Table(key.name.into())) };
    let text = cases.iter().find(|(case, _)| *case == name).map_or("", |(_, text)| text);
    match parse(key, text, &r.working_dir)? {
        Setting::Numbers(params) => Ok(Merged { name, params, kernel: None }),
        _ => Err(ConfigError::Table(key.name.into())),
    }
}

fn merge(merged: &mut Merged, layer: &Layer) -> Result<(), ConfigError> {
    if let Some(Given { setting: Setting::Numbers(params), .. }) = layer.get("generator_params") {
        merged.params.clone_from(params);
    }
    for part in ["generator_lambda", "generator_scale", "generator_mu"] {
        let Some(Given { setting: Setting::Real(x), place }) = layer.get(part) else { continue };
        let conflict = |problem: String| ConfigError::Conflict { place: place.clone(), problem };
        if layer.contains_key("generator_params") {
            return Err(conflict(format!("`{part}` and `generator_params` say the same thing; keep one")));
        }
        let index = match (merged.name, part) {
            ("ba" | "sba", "generator_lambda") | ("phi_mu", "generator_mu") => 0,
            ("sba", "generator_scale") => 1,
            (name, _) => return Err(conflict(format!("the generator {name} has no `{part}`"))),
        };
        match merged.params.get_mut(index) {
            Some(param) => *param = *x,
            None => {
                return Err(conflict(format!(
                    "`{part}` needs the parameters before it in `generator_params`"
                )));
            }
        }
    }
    match layer.get("kernel") {
        Some(Given { setting: Setting::Text(kernel), .. }) => merged.kernel = Some(kernel.clone()),
        Some(Given { setting: Setting::Absent, .. }) => merged.kernel = None,
        _ => {}
    }
    Ok(())
}
