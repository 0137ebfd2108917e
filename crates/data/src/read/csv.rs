//! Rows of CSV: the first line names the columns. CSV has no types: every cell is text, and whoever wants a number or a
//! truth value reads it from the text. An empty cell is no value.

use super::{Fields, MAX_ROW_BYTES, Row, named};
use crate::error::DataError;
use crate::origin::Origin;
use csv::{ReaderBuilder, StringRecord};
use serde_json::Value;
use std::io::BufRead;
use std::path::Path;
use std::sync::Arc;

pub(super) struct CsvRows {
    file: Arc<Path>,
    reader: csv::Reader<Box<dyn BufRead + Send>>,
    columns: Vec<String>,
    /// Records consumed so far.
    row: usize,
    done: bool,
}

impl CsvRows {
    pub(super) fn open(
        path: &Path,
        reader: Box<dyn BufRead + Send>,
        delimiter: u8,
    ) -> Result<Self, DataError> {
        let file = named(path);
        let mut reader = ReaderBuilder::new().delimiter(delimiter).from_reader(reader);
        let refuse = |problem: String| DataError::BadRow {
            origin: Origin { file: Arc::clone(&file), row: 1 },
            problem,
            remedy: "the first line of a CSV file names its columns, each once",
        };
        let mut columns: Vec<String> =
            reader.headers().map_err(|e| refuse(e.to_string()))?.iter().map(str::to_owned).collect();
        if let Some(first) = columns.first_mut() {
            *first = first.trim_start_matches('\u{feff}').to_owned();
        }
        if let Some(twice) = columns.iter().enumerate().find(|(i, c)| columns[..*i].contains(c)) {
            return Err(refuse(format!("two columns are called {:?}", twice.1)));
        }
        Ok(Self { file, reader, columns, row: 0, done: false })
    }

    pub(super) fn next_row(&mut self) -> Option<Row> {
        if self.done {
            return None;
        }
        let mut record = StringRecord::new();
        let read = self.reader.read_record(&mut record);
        self.row += 1;
        let origin = Origin { file: Arc::clone(&self.file), row: self.row };
        let bad = |problem: String, remedy: &'static str| {
            Some(Err(DataError::BadRow { origin: origin.clone(), problem, remedy }))
        };
        match read {
            Ok(false) => None,
            Ok(true) if record.as_slice().len() > MAX_ROW_BYTES => {
                bad(format!("the record is longer than {} MiB", MAX_ROW_BYTES >> 20), "is a quote left open?")
            }
            Ok(true) => Some(Ok((origin, self.fields(&record)))),
            Err(error) => match error.into_kind() {
                csv::ErrorKind::Io(error) => {
                    self.done = true;
                    Some(Err(DataError::io(&*self.file, error)))
                }
                csv::ErrorKind::UnequalLengths { expected_len, len, .. } => bad(
                    format!("the record has {len} cells instead of {expected_len}"),
                    "a cell with a comma, quote or line break stands in double quotes, with quotes doubled",
                ),
                csv::ErrorKind::Utf8 { .. } => bad("invalid UTF-8".to_owned(), "save the file as UTF-8"),
                other => bad(format!("{other:?}"), "correct the record or remove it"),
            },
        }
    }

    /// An empty cell is no value.
    fn fields(&self, record: &StringRecord) -> Fields {
        let cells = self.columns.iter().zip(record);
        cells.map(|(name, cell)| (name.clone(), value(cell))).collect()
    }
}

fn value(cell: &str) -> Value {
    if cell.is_empty() {
        return Value::Null;
    }
    // A conversation is written as JSON in its cell.
    let list = cell.starts_with("[{") && cell.ends_with("}]");
    let parsed = if list { serde_json::from_str(cell).ok() } else { None };
    parsed.unwrap_or_else(|| Value::from(cell))
}
