//! Rows in, rows out: JSON objects, one a line, from a file or standard input, with the fields they came with.

use crate::RecipeError;
use bso_data::{DataError, Message, Origin, read_rows};
use serde_json::{Map, Value};
use std::io::Write;
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
    for row in read_rows(file)? {
        let checked = match row {
            Ok((origin, fields)) => match check(&origin, &fields) {
                Ok(made) => Ok(((origin, fields), made)),
                Err(problem) => Err(bad_row(&origin, problem)),
            },
            Err(error @ DataError::BadRow { .. }) => Err(error.into()),
            // A file that cannot be read is no bad row: what follows in it would be lost uncounted.
            Err(error) => return Err(error.into()),
        };
        match checked {
            Ok(row) => rows.push(row),
            Err(_) if how.skip_bad_rows => skipped += 1,
            Err(error) => return Err(error),
        }
    }
    Ok((rows, skipped))
}

/// The error for a row that a command cannot use.
pub fn bad_row(origin: &Origin, problem: impl std::fmt::Display) -> RecipeError {
    RecipeError::input(format!("{origin}: {problem}; correct the row, or use --skip_bad_rows"))
}

/// Refuses an output that could never be written, before the work whose result it is to hold.
///
/// # Errors
/// A folder in place of the file, or a path below something that is no folder.
pub fn check_output(file: &Path) -> Result<(), RecipeError> {
    let folder = file.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let problem = if file.is_dir() {
        "it is a folder".to_owned()
    } else if !folder.is_dir() {
        format!("{} is no folder", folder.display())
    } else {
        return Ok(());
    };
    Err(RecipeError::input(format!("cannot write {}: {problem}; choose another output", file.display())))
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
    if file == Path::new("-") {
        put(&mut std::io::stdout().lock())?
    } else {
        bso_durable::atomic_write(file, put)?
    }
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
            .map(|m| {
                match (m.get("role").and_then(Value::as_str), m.get("content").and_then(Value::as_str)) {
                    (Some(role), Some(content)) => Ok(Message::new(role, content)),
                    _ => Err(format!("`{name}` holds a message without text under `role` and `content`")),
                }
            })
            .collect(),
        Some((name, _)) => Err(format!("`{name}` is neither text nor a list of messages")),
        None => Err("no `prompt` and no `messages`".to_owned()),
    }
}

/// A model's answer in a row, which may be empty.
///
/// # Errors
/// When it is missing or no text.
pub fn answer<'a>(row: &'a Map<String, Value>, name: &str) -> Result<&'a str, String> {
    match row.get(name) {
        Some(Value::String(text)) => Ok(text),
        Some(_) => Err(format!("`{name}` is not text")),
        None => Err(format!("no `{name}`")),
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
