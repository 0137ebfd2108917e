//! Rows in, rows out: JSON objects, one a line, from a file or standard input, with the fields they came with.

use crate::RecipeError;
use bso_data::{Message, Origin, read_rows};
use serde_json::{Map, Value};
use std::io::{BufRead, Write};
use std::path::Path;

/// A row with its place.
pub type Row = (Origin, Map<String, Value>);

/// How a command reads rows.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadRows {
    /// Count rows that cannot be used instead of stopping at the first.
    pub skip_bad_rows: bool,
}

/// Reads every row of `file`, or of standard input for `-`, through `check`; returns the good ones with what `check` made
/// of them, and how many were skipped.
///
/// # Errors
/// An unreadable file; the first row that is not JSON or that `check` refuses, by file and line.
pub fn read<T>(
    file: &Path,
    how: ReadRows,
    check: impl Fn(&Origin, &Map<String, Value>) -> Result<T, String>,
) -> Result<(Vec<(Row, T)>, usize), RecipeError> {
    let (mut rows, mut skipped) = (Vec::new(), 0);
    let mut take = |row: Result<Row, RecipeError>| {
        let checked = row.and_then(|(origin, fields)| match check(&origin, &fields) {
            Ok(made) => Ok(((origin, fields), made)),
            Err(problem) => Err(RecipeError::input(format!("{origin}: {problem}"))),
        });
        match checked {
            Ok(row) => rows.push(row),
            Err(_) if how.skip_bad_rows => skipped += 1,
            Err(error) => return Err(error),
        }
        Ok(())
    };
    if file == Path::new("-") {
        for (i, line) in std::io::stdin().lock().lines().enumerate() {
            let line = line?;
            if line.trim().is_empty() {
                continue;
            }
            let origin = Origin::new("standard input", i + 1);
            let row = serde_json::from_str(&line).map_err(|e| {
                RecipeError::input(format!("{origin}: not a JSON object ({e}); correct the line or use --skip_bad_rows"))
            });
            take(row.map(|fields| (origin, fields)))?;
        }
    } else {
        for row in read_rows(file)? {
            take(row.map_err(RecipeError::from))?;
        }
    }
    Ok((rows, skipped))
}

/// Writes rows to `file` whole, or to standard output for `-`.
///
/// # Errors
/// When they cannot be written.
pub fn write<'a>(file: &Path, rows: impl Iterator<Item = &'a Map<String, Value>>) -> Result<(), RecipeError> {
    let put = |out: &mut dyn Write| {
        for row in rows {
            serde_json::to_writer(&mut *out, row)?;
            out.write_all(b"\n")?;
        }
        out.flush()
    };
    if file == Path::new("-") { put(&mut std::io::stdout().lock())? } else { bso_durable::atomic_write(file, put)? }
    Ok(())
}

/// The conversation of a row with `prompt` (text or messages) or `messages`.
///
/// # Errors
/// What is missing or of another type.
pub fn conversation(row: &Map<String, Value>) -> Result<Vec<Message>, String> {
    let field = ["prompt", "messages"].into_iter().find_map(|name| row.get(name).map(|value| (name, value)));
    match field {
        Some((_, Value::String(text))) => Ok(vec![Message::user(text.as_str())]),
        Some((name, Value::Array(messages))) if !messages.is_empty() => messages
            .iter()
            .map(|m| match (m.get("role").and_then(Value::as_str), m.get("content").and_then(Value::as_str)) {
                (Some(role), Some(content)) => Ok(Message::new(role, content)),
                _ => Err(format!("`{name}` holds a message without text under `role` and `content`")),
            })
            .collect(),
        Some((name, _)) => Err(format!("`{name}` is neither text nor a list of messages")),
        None => Err("no `prompt` and no `messages`".to_owned()),
    }
}

/// A text field of a row.
///
/// # Errors
/// When it is missing, empty or no text.
pub fn text<'a>(row: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match row.get(name) {
        Some(Value::String(text)) if !text.is_empty() => Ok(text),
        Some(Value::String(_)) => Err(format!("`{name}` is empty")),
        Some(_) => Err(format!("`{name}` is not text")),
        None => Err(format!("no `{name}`")),
    }
}
