//! Rows of JSON: one object per line, a top-level array, one document around an array; gzip of each.

use super::{MAX_ROW_BYTES, Row, array, kind, lines, named, sources};
use crate::error::DataError;
use crate::origin::Origin;
use serde_json::Value;
use std::io::{BufRead, Read};
use std::path::Path;
use std::sync::Arc;

/// The largest document read whole (an indented object around an array); larger ones must be JSON lines.
const MAX_DOCUMENT_BYTES: u64 = 1 << 30;

/// How the rest of a file is to be read.
enum Layout {
    /// One object per line.
    Lines,
    /// The elements of a top-level array, not yet finished.
    Array,
    /// The top-level array is closed: nothing but blanks may follow.
    Closed,
    /// Rows already in memory (the array inside a document read whole).
    Held(std::vec::IntoIter<Value>),
    /// Nothing more.
    Done,
}

/// The rows of one file.
pub(super) struct TextRows {
    file: Arc<Path>,
    reader: Box<dyn BufRead + Send>,
    layout: Layout,
    /// Lines or elements consumed so far.
    row: usize,
    buffer: Vec<u8>,
}

impl TextRows {
    pub(super) fn open(path: &Path, reader: Box<dyn BufRead + Send>) -> Result<Self, DataError> {
        let mut rows = Self { file: named(path), reader, layout: Layout::Lines, row: 0, buffer: Vec::new() };
        rows.skip_byte_order_mark().map_err(|e| DataError::io(path, e))?;
        match rows.first_byte().map_err(|e| DataError::io(path, e))? {
            None => rows.layout = Layout::Done,
            Some(b'[') => {
                rows.reader.consume(1);
                rows.layout = Layout::Array;
                rows.row = 0;
            }
            Some(b'{') if !sources::says_lines(path) => rows.open_object()?,
            Some(_) => {}
        }
        Ok(rows)
    }

    pub(super) fn next_row(&mut self) -> Option<Row> {
        let parsed = match &mut self.layout {
            Layout::Done => return None,
            Layout::Closed => return self.refuse_what_follows(),
            Layout::Held(values) => {
                let value = values.next()?;
                self.row += 1;
                Ok(value)
            }
            Layout::Lines => loop {
                match lines::read_line(&mut self.reader, &mut self.buffer) {
                    Ok(lines::Line::End) => return None,
                    Ok(lines::Line::Blank) => self.row += 1,
                    Ok(lines::Line::Text) => {
                        self.row += 1;
                        break parse(&self.buffer);
                    }
                    Ok(lines::Line::TooLong) => {
                        self.row += 1;
                        break Err(too_long());
                    }
                    Err(e) => return Some(Err(self.broken_off(e))),
                }
            },
            Layout::Array => match array::next_element(&mut self.reader, &mut self.buffer) {
                Ok(array::Element::End) => return self.refuse_what_follows(),
                Ok(element @ (array::Element::Text | array::Element::Last)) => {
                    self.row += 1;
                    if matches!(element, array::Element::Last) {
                        self.layout = Layout::Closed;
                    }
                    parse(&self.buffer)
                }
                Ok(array::Element::Bad(problem)) => {
                    self.row += 1;
                    self.layout = Layout::Done;
                    Err((problem, "the JSON array must be closed by ] and its elements parted by commas"))
                }
                Err(e) => return Some(Err(self.broken_off(e))),
            },
        };
        let origin = Origin { file: Arc::clone(&self.file), row: self.row };
        Some(match parsed {
            Ok(Value::Object(fields)) => Ok((origin, fields)),
            Ok(other) => Err(DataError::BadRow {
                origin,
                problem: format!("expected a JSON object, found {}", kind(&other)),
                remedy: "every row must be an object with named fields",
            }),
            Err((problem, remedy)) => Err(DataError::BadRow { origin, problem, remedy }),
        })
    }

    /// Rows behind a closed array, such as a second array, must not be lost unnoticed.
    fn refuse_what_follows(&mut self) -> Option<Row> {
        self.layout = Layout::Done;
        let row = self.row + 1;
        match self.first_byte() {
            Ok(None) => None,
            Ok(Some(_)) => Some(Err(DataError::BadRow {
                origin: Origin { file: Arc::clone(&self.file), row },
                problem: "something follows the closing ] of the JSON array".to_owned(),
                remedy: "a file holds one array: join the arrays, or write one object per line",
            })),
            Err(e) => Some(Err(self.broken_off(e))),
        }
    }

    /// A file whose name does not say that it holds lines, and which begins with an object: lines after all,
    /// one row alone, or a document whose one array holds the rows.
    fn open_object(&mut self) -> Result<(), DataError> {
        let io = |file: &Path, e| DataError::io(file, e);
        let line = lines::read_line(&mut self.reader, &mut self.buffer).map_err(|e| io(&self.file, e))?;
        let whole_line = matches!(line, lines::Line::Text).then(|| parse(&self.buffer).ok()).flatten();
        if let Some(value) = whole_line {
            let before = self.row;
            if self.first_byte().map_err(|e| io(&self.file, e))?.is_none() {
                self.layout = Layout::Held(rows_of_document(value).into_iter());
                return Ok(());
            }
            // Lines after all: what was looked at is put back, the blank lines passed over included.
            let mut looked_at = std::mem::take(&mut self.buffer);
            looked_at.resize(looked_at.len() + 1 + self.row - before, b'\n');
            self.row = before;
            let rest = std::mem::replace(&mut self.reader, Box::new(std::io::empty()));
            self.reader = Box::new(std::io::Cursor::new(looked_at).chain(rest));
            self.layout = Layout::Lines;
            return Ok(());
        }
        let mut text = std::mem::take(&mut self.buffer);
        text.push(b'\n');
        let mut rest =
            std::mem::replace(&mut self.reader, Box::new(std::io::empty())).take(MAX_DOCUMENT_BYTES);
        rest.read_to_end(&mut text).map_err(|e| io(&self.file, e))?;
        let origin = Origin { file: Arc::clone(&self.file), row: 1 };
        if text.len() as u64 >= MAX_DOCUMENT_BYTES {
            return Err(DataError::BadRow {
                origin,
                problem: format!("the document is larger than {} MiB", MAX_DOCUMENT_BYTES >> 20),
                remedy: "write it as JSON lines, one object per line",
            });
        }
        match parse(&text) {
            Ok(value) => self.layout = Layout::Held(rows_of_document(value).into_iter()),
            Err((problem, _)) => {
                return Err(DataError::BadRow {
                    origin,
                    problem,
                    remedy: "neither one JSON document nor JSON lines: correct the line, or name a file of lines .jsonl",
                });
            }
        }
        Ok(())
    }

    fn first_byte(&mut self) -> std::io::Result<Option<u8>> {
        loop {
            let available = self.reader.fill_buf()?;
            let Some(&byte) = available.first() else { return Ok(None) };
            if !byte.is_ascii_whitespace() {
                return Ok(Some(byte));
            }
            // Lines passed here count, so that the line numbers of errors stay those of the file.
            self.row += usize::from(byte == b'\n');
            self.reader.consume(1);
        }
    }

    fn skip_byte_order_mark(&mut self) -> std::io::Result<()> {
        if self.reader.fill_buf()?.starts_with(b"\xef\xbb\xbf") {
            self.reader.consume(3);
        }
        Ok(())
    }

    /// An I/O error ends the file.
    fn broken_off(&mut self, error: std::io::Error) -> DataError {
        self.layout = Layout::Done;
        let after = std::io::Error::new(error.kind(), format!("{error} after row {}", self.row));
        DataError::io(&*self.file, after)
    }
}

pub(super) type Problem = (String, &'static str);

fn too_long() -> Problem {
    (
        format!("the line is longer than {} MiB", MAX_ROW_BYTES >> 20),
        "is this a file of JSON lines? Write one object per line",
    )
}

pub(super) fn parse(text: &[u8]) -> Result<Value, Problem> {
    let text = std::str::from_utf8(text).map_err(|e| {
        (format!("invalid UTF-8 at byte {} of the row", e.valid_up_to() + 1), "save the file as UTF-8")
    })?;
    serde_json::from_str(text).map_err(|e| {
        let place =
            if e.line() <= 1 { format!("column {}", e.column()) } else { format!("line {} of it", e.line()) };
        let mut said = e.to_string();
        // serde_json repeats the place in words that count from the row, not the file.
        if let Some(at) = said.rfind(" at line ") {
            said.truncate(at);
        }
        (
            format!("invalid JSON at {place}: {said}"),
            "correct the line or remove it (commands that have --skip_bad_rows count it instead)",
        )
    })
}

/// `{"data": [{...}, ...]}` stands for its array; any other object is itself a row.
fn rows_of_document(value: Value) -> Vec<Value> {
    // Fields that hold a list of objects in a row of its own.
    const ROW_FIELDS: [&str; 6] = ["messages", "prompt", "chosen", "rejected", "conversations", "completion"];
    let Value::Object(mut fields) = value else { return vec![value] };
    let mut arrays = fields.iter().filter(|(key, value)| {
        !ROW_FIELDS.contains(&key.as_str())
            && matches!(value, Value::Array(items) if items.first().is_some_and(Value::is_object))
    });
    match (arrays.next().map(|(key, _)| key.clone()), arrays.next().is_none()) {
        (Some(key), true) => match fields.remove(&key) {
            Some(Value::Array(items)) => items,
            _ => vec![Value::Object(fields)],
        },
        _ => vec![Value::Object(fields)],
    }
}
