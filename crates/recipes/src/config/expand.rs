//! `${NAME}`, `${NAME:-default}` and `${NAME:?what to set}` in a configuration's text values; `$${` is a literal `${`.

use serde_json::Value;

/// Why a text could not be expanded.
#[derive(Debug, PartialEq)]
pub(super) enum Failure {
    /// The variable is not set, and the text has no default; the hint is what stands after `:?`.
    Missing { variable: String, hint: Option<String> },
    /// The text is malformed.
    Malformed(&'static str),
}

/// Expands every text inside `value`.
pub(super) fn expand(value: &Value, lookup: &dyn Fn(&str) -> Option<String>) -> Result<Value, Failure> {
    Ok(match value {
        Value::String(text) => Value::String(expand_text(text, lookup)?),
        Value::Array(list) => Value::Array(list.iter().map(|v| expand(v, lookup)).collect::<Result<_, _>>()?),
        Value::Object(map) => {
            let pairs = map.iter().map(|(k, v)| Ok((k.clone(), expand(v, lookup)?)));
            Value::Object(pairs.collect::<Result<_, Failure>>()?)
        }
        other => other.clone(),
    })
}

/// Expands every text inside `value` from the environment, or says what is missing.
pub(crate) fn from_environment(value: &Value) -> Result<Value, String> {
    expand(value, &|name| std::env::var(name).ok()).map_err(|failure| match failure {
        Failure::Malformed(problem) => format!("{problem}; write ${{NAME}} or ${{NAME:-default}}"),
        Failure::Missing { variable, hint } => {
            let remedy = hint.unwrap_or_else(|| format!("set it, or write ${{{variable}:-default}}"));
            format!("the environment variable {variable} is not set: {remedy}")
        }
    })
}

fn expand_text(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Failure> {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find("${") {
        let (before, from) = rest.split_at(at);
        if let Some(before) = before.strip_suffix('$') {
            out.push_str(before);
            out.push_str("${");
            rest = &from[2..];
            continue;
        }
        out.push_str(before);
        let Some((inside, after)) = from[2..].split_once('}') else {
            return Err(Failure::Malformed("`${` without `}`"));
        };
        out.push_str(&variable(inside, lookup)?);
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn variable(inside: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, Failure> {
    let (name, default, hint) = if let Some((name, default)) = inside.split_once(":-") {
        (name, Some(default), None)
    } else if let Some((name, hint)) = inside.split_once(":?") {
        (name, None, Some(hint.to_owned()))
    } else {
        (inside, None, None)
    };
    let valid = !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_');
    if !valid {
        return Err(Failure::Malformed("no valid variable name"));
    }
    // As in the shell, an empty variable counts as not set where a default or a hint stands.
    let value = lookup(name).filter(|v| !v.is_empty());
    match (value, default) {
        (Some(value), _) => Ok(value),
        (None, Some(default)) => Ok(default.to_owned()),
        (None, None) => Err(Failure::Missing { variable: name.to_owned(), hint }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<String, Failure> {
        expand_text(text, &|name| (name == "HOME_OF_DATA").then(|| "/data".to_owned()))
    }

    #[test]
    fn variables_defaults_and_escapes() {
        assert_eq!(of("${HOME_OF_DATA}/a/${B:-b}${C:-}").unwrap(), "/data/a/b");
        assert_eq!(of("$${HOME_OF_DATA} costs 5$").unwrap(), "${HOME_OF_DATA} costs 5$");
    }

    #[test]
    fn what_cannot_be_expanded_is_named() {
        let missing =
            |hint: Option<&str>| Failure::Missing { variable: "X".into(), hint: hint.map(Into::into) };
        assert_eq!(of("a${X}").unwrap_err(), missing(None));
        assert_eq!(of("${X:?the folder}").unwrap_err(), missing(Some("the folder")));
        assert!(matches!(of("${X").unwrap_err(), Failure::Malformed(_)));
        assert!(matches!(of("${}").unwrap_err(), Failure::Malformed(_)));
        assert!(matches!(of("${a b}").unwrap_err(), Failure::Malformed(_)));
        let said = from_environment(&Value::from("${NOT_SET_ANYWHERE_AT_ALL}")).unwrap_err();
        assert!(said.contains("NOT_SET_ANYWHERE_AT_ALL is not set: set it"), "{said}");
    }
}
