//! Rows of Parquet and Arrow files: record batches, a bounded number of rows at a time, written as the JSON lines that
//! they stand for, so that every schema is read from every format in the same way.

use super::guard::guarded;
use super::position::{Counted, Position};
use super::text::parse;
use super::{Fields, Row, named};
use crate::error::DataError;
use crate::origin::Origin;
use arrow_array::RecordBatch;
use arrow_ipc::reader::{FileReader, StreamReader};
use arrow_json::WriterBuilder;
use arrow_json::writer::LineDelimited;
use arrow_schema::{ArrowError, DataType, SchemaRef};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::sync::Arc;

/// Rows decoded at a time.
const BATCH: usize = 512;

type Batches = Box<dyn Iterator<Item = Result<RecordBatch, ArrowError>> + Send>;

pub(super) struct TableRows {
    file: Arc<Path>,
    format: &'static str,
    batches: Batches,
    /// The current batch as lines.
    lines: Vec<u8>,
    /// Where the next line begins.
    at: usize,
    /// Rows given so far.
    row: usize,
    /// Rows of the file, where its end says so.
    rows: Option<i64>,
    done: bool,
}

impl TableRows {
    pub(super) fn parquet(path: &Path) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|e| DataError::io(path, e))?;
        let mut count = None;
        let opened = Self::open(path, "Parquet", || {
            let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(ArrowError::from)?;
            count = Some(builder.metadata().file_metadata().num_rows());
            let schema = builder.schema().clone();
            let reader = builder.with_batch_size(BATCH).build().map_err(ArrowError::from)?;
            Ok((schema, Box::new(reader) as Batches))
        })?;
        Ok(Self { rows: count, ..opened })
    }

    /// The share of the rows that were given, where their number is known.
    pub(super) fn share(&self) -> Option<f64> {
        self.rows.filter(|rows| *rows > 0).map(|rows| (self.row as f64 / rows as f64).min(1.0))
    }

    pub(super) fn arrow_file(path: &Path, position: &Position) -> Result<Self, DataError> {
        let file = File::open(path).map_err(|e| DataError::io(path, e))?;
        let file = Counted { file, position: position.clone() };
        Self::open(path, "Arrow", || {
            let reader = FileReader::try_new(BufReader::new(file), None)?;
            Ok((reader.schema(), Box::new(reader) as Batches))
        })
    }

    pub(super) fn arrow_stream(path: &Path, reader: Box<dyn BufRead + Send>) -> Result<Self, DataError> {
        Self::open(path, "Arrow", || {
            let reader = StreamReader::try_new(reader, None)?;
            Ok((reader.schema(), Box::new(reader) as Batches))
        })
    }

    fn open(
        path: &Path,
        format: &'static str,
        open: impl FnOnce() -> Result<(SchemaRef, Batches), ArrowError>,
    ) -> Result<Self, DataError> {
        let (schema, batches) = guarded(open).map_err(|problem| damaged(path, format, &problem, 0))?;
        let binary = schema.fields().iter().find(|field| {
            matches!(field.data_type(), DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
        });
        if let Some(column) = binary.filter(|f| ["prompt", "chosen", "rejected"].contains(&f.name().as_str()))
        {
            return Err(DataError::Schema(format!(
                "{}: the column {} holds bytes, not text; write it as a string column",
                path.display(),
                column.name()
            )));
        }
        let file = named(path);
        Ok(Self { file, format, batches, lines: Vec::new(), at: 0, row: 0, rows: None, done: false })
    }

    pub(super) fn next_row(&mut self) -> Option<Row> {
        while self.at >= self.lines.len() {
            if self.done {
                return None;
            }
            match guarded(|| self.batches.next().map(|batch| batch.and_then(|b| as_lines(&b))).transpose()) {
                Ok(None) => {
                    self.done = true;
                    return None;
                }
                Ok(Some(lines)) => (self.lines, self.at) = (lines, 0),
                Err(problem) => {
                    self.done = true;
                    return Some(Err(damaged(&self.file, self.format, &problem, self.row)));
                }
            }
        }
        let rest = &self.lines[self.at..];
        let length = rest.iter().position(|&b| b == b'\n').unwrap_or(rest.len());
        let parsed = parse(&rest[..length]);
        self.at += length + 1;
        self.row += 1;
        let origin = Origin { file: Arc::clone(&self.file), row: self.row };
        Some(match parsed {
            Ok(Value::Object(fields)) => Ok((origin, fields)),
            Ok(_) => Ok((origin, Fields::new())),
            Err((problem, remedy)) => Err(DataError::BadRow { origin, problem, remedy }),
        })
    }
}

fn as_lines(batch: &RecordBatch) -> Result<Vec<u8>, ArrowError> {
    let mut lines = Vec::new();
    let mut writer = WriterBuilder::new().with_explicit_nulls(true).build::<_, LineDelimited>(&mut lines);
    writer.write(batch)?;
    writer.finish()?;
    drop(writer);
    Ok(lines)
}

fn damaged(path: &Path, format: &str, problem: &str, after: usize) -> DataError {
    let mut problem: String = problem.chars().take(300).collect();
    if problem.contains("brotli") {
        problem.push_str("; brotli is not read here: write the file with snappy, zstd, gzip or lz4");
    }
    DataError::Table {
        path: path.to_owned(),
        format: format.to_owned(),
        place: if after == 0 { String::new() } else { format!(" after row {after}") },
        problem,
    }
}
