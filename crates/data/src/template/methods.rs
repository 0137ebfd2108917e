//! Python's string methods on template values, counted in characters and with Python's idea of blanks.
//! Methods of lists and dictionaries are those of `minijinja-contrib`.

use super::is_text;
use super::python::{is_space, to_str};
use minijinja::value::{Kwargs, Value, from_args};
use minijinja::{Error, ErrorKind, State};

pub(super) fn call(state: &State, value: &Value, method: &str, args: &[Value]) -> Result<Value, Error> {
    let text = value.as_str().filter(|_| is_text(value));
    if let Some(answer) = text.map(|t| string_method(t, method, args)).transpose()?.flatten() {
        return Ok(answer);
    }
    minijinja_contrib::pycompat::unknown_method_callback(state, value, method, args)
}

fn string_method(text: &str, method: &str, args: &[Value]) -> Result<Option<Value>, Error> {
    Ok(Some(match method {
        "strip" | "lstrip" | "rstrip" => {
            let (chars,): (Option<Value>,) = from_args(args)?;
            let chars = chars.as_ref().and_then(Value::as_str);
            let gone = |c: char| chars.map_or_else(|| is_space(c), |set| set.contains(c));
            Value::from(match method {
                "strip" => text.trim_matches(gone),
                "lstrip" => text.trim_start_matches(gone),
                _ => text.trim_end_matches(gone),
            })
        }
        "split" | "rsplit" => {
            let (separator, limit) = split_arguments(args)?;
            Value::from(split(text, separator.as_deref(), limit, method == "rsplit")?)
        }
        "splitlines" => {
            let (keep,): (Option<bool>,) = from_args(args)?;
            Value::from(split_lines(text, keep.unwrap_or(false)))
        }
        "partition" | "rpartition" => {
            let (separator,): (&str,) = from_args(args)?;
            let last = method == "rpartition";
            let at = if last { text.rfind(separator) } else { text.find(separator) };
            let parts = match at {
                Some(i) => [&text[..i], separator, &text[i + separator.len()..]],
                None if last => ["", "", text],
                None => [text, "", ""],
            };
            Value::from(parts.map(str::to_owned).to_vec())
        }
        "removeprefix" => {
            let (prefix,): (&str,) = from_args(args)?;
            Value::from(text.strip_prefix(prefix).unwrap_or(text))
        }
        "removesuffix" => {
            let (suffix,): (&str,) = from_args(args)?;
            Value::from(text.strip_suffix(suffix).unwrap_or(text))
        }
        "find" | "index" | "rfind" | "rindex" => {
            let (wanted,): (&str,) = from_args(args)?;
            let at = if method.starts_with('r') { text.rfind(wanted) } else { text.find(wanted) };
            match at {
                Some(byte) => Value::from(text[..byte].chars().count()),
                None if method.ends_with("find") => Value::from(-1),
                None => return Err(Error::new(ErrorKind::InvalidOperation, "substring not found")),
            }
        }
        "count" => {
            let (wanted,): (&str,) = from_args(args)?;
            let count =
                if wanted.is_empty() { text.chars().count() + 1 } else { text.matches(wanted).count() };
            Value::from(count)
        }
        "isspace" => Value::from(!text.is_empty() && text.chars().all(is_space)),
        "isdigit" | "isnumeric" | "isdecimal" => {
            Value::from(!text.is_empty() && text.chars().all(char::is_numeric))
        }
        "isalpha" => Value::from(!text.is_empty() && text.chars().all(char::is_alphabetic)),
        "isalnum" => Value::from(!text.is_empty() && text.chars().all(char::is_alphanumeric)),
        "isupper" => Value::from(cased(text, char::is_lowercase, char::is_uppercase)),
        "islower" => Value::from(cased(text, char::is_uppercase, char::is_lowercase)),
        "capitalize" => {
            let mut chars = text.chars();
            let first: String = chars.next().map(|c| c.to_uppercase().collect()).unwrap_or_default();
            Value::from(first + &chars.as_str().to_lowercase())
        }
        "title" => Value::from(title(text)),
        "swapcase" => {
            let swap = |c: char| -> String {
                if c.is_uppercase() { c.to_lowercase().collect() } else { c.to_uppercase().collect() }
            };
            Value::from(text.chars().map(swap).collect::<String>())
        }
        "join" => {
            let (items,): (&Value,) = from_args(args)?;
            let parts: Vec<String> = items.try_iter()?.map(|item| to_str(&item)).collect();
            Value::from(parts.join(text))
        }
        _ => return Ok(None),
    }))
}

fn cased(text: &str, forbidden: fn(char) -> bool, needed: fn(char) -> bool) -> bool {
    !text.chars().any(forbidden) && text.chars().any(needed)
}

fn title(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut inside = false;
    for c in text.chars() {
        if inside {
            out.extend(c.to_lowercase());
        } else {
            out.extend(c.to_uppercase());
        }
        inside = c.is_alphabetic();
    }
    out
}

/// `split(sep=None, maxsplit=-1)`, by position or by name.
fn split_arguments(args: &[Value]) -> Result<(Option<String>, Option<usize>), Error> {
    let (separator, limit, kwargs): (Option<Value>, Option<Value>, Kwargs) = from_args(args)?;
    let named = |name: &str| if kwargs.has(name) { kwargs.get::<Value>(name).map(Some) } else { Ok(None) };
    let separator = separator.or(named("sep")?).filter(|v| !v.is_none());
    let limit = limit.or(named("maxsplit")?).filter(|v| !v.is_none());
    kwargs.assert_all_used()?;
    let limit = limit.map(i64::try_from).transpose()?.and_then(|n| usize::try_from(n).ok());
    Ok((separator.map(|s| to_str(&s)), limit))
}

fn split(
    text: &str,
    separator: Option<&str>,
    limit: Option<usize>,
    from_right: bool,
) -> Result<Vec<String>, Error> {
    let mut parts: Vec<String> = match separator {
        Some("") => return Err(Error::new(ErrorKind::InvalidOperation, "empty separator")),
        Some(separator) => match (limit, from_right) {
            (None, _) => text.split(separator).map(str::to_owned).collect(),
            (Some(n), false) => text.splitn(n.saturating_add(1), separator).map(str::to_owned).collect(),
            (Some(n), true) => {
                let mut parts: Vec<String> =
                    text.rsplitn(n.saturating_add(1), separator).map(str::to_owned).collect();
                parts.reverse();
                parts
            }
        },
        None => return Ok(split_blanks(text, limit, from_right)),
    };
    parts.shrink_to_fit();
    Ok(parts)
}

/// Splitting at runs of blanks. What a limit leaves over keeps its blanks on the far side.
fn split_blanks(text: &str, limit: Option<usize>, from_right: bool) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    loop {
        rest = if from_right { rest.trim_end_matches(is_space) } else { rest.trim_start_matches(is_space) };
        if rest.is_empty() {
            break;
        }
        let found = if from_right { rest.rfind(is_space) } else { rest.find(is_space) };
        let Some(at) = found.filter(|_| limit.is_none_or(|n| parts.len() < n)) else {
            parts.push(rest.to_owned());
            break;
        };
        let after = at + rest[at..].chars().next().map_or(1, char::len_utf8);
        if from_right {
            parts.push(rest[after..].to_owned());
            rest = &rest[..at];
        } else {
            parts.push(rest[..at].to_owned());
            rest = &rest[after..];
        }
    }
    if from_right {
        parts.reverse();
    }
    parts
}

/// Python's line boundaries: more characters than the line feed end a line.
fn split_lines(text: &str, keep_ends: bool) -> Vec<String> {
    let is_end = |c: char| {
        matches!(
            c,
            '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}'
        )
    };
    let mut lines = Vec::new();
    let mut rest = text;
    while let Some(at) = rest.find(is_end) {
        let mut after = at + rest[at..].chars().next().map_or(1, char::len_utf8);
        if rest[at..].starts_with("\r\n") {
            after += 1;
        }
        lines.push(rest[..if keep_ends { after } else { at }].to_owned());
        rest = &rest[after..];
    }
    if !rest.is_empty() {
        lines.push(rest.to_owned());
    }
    lines
}
