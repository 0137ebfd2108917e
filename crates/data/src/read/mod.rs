//! Rows from files, one at a time, with their place: JSON lines, JSON arrays, JSON objects that hold one array, CSV,
//! gzip of each; Parquet and Arrow; a file, a folder of files, or `-` for standard input. Knows nothing of any schema.

mod ahead;
mod array;
mod csv;
mod guard;
mod lines;
mod position;
mod sources;
mod split;
mod table;
mod text;

use crate::error::DataError;
use crate::origin::Origin;
pub(crate) use ahead::for_each_row;
pub(crate) use position::Position;
use serde_json::{Map, Value};
use sources::Format;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The longest row accepted: beyond it a file is taken for damaged rather than memory filled with it.
const MAX_ROW_BYTES: usize = 64 << 20;

type Fields = Map<String, Value>;
type Row = Result<(Origin, Fields), DataError>;

/// Opens `path` for reading row by row. Nothing but the file list is read before the first `next`.
///
/// # Errors
/// The path does not exist, is a folder without a readable file, or a folder whose files hold several splits.
pub fn read_rows(path: &Path) -> Result<RowIter, DataError> {
    read_split(path, None)
}

/// As [`read_rows`], and only the files of one split, told by the names of files and folders in the manner of the
/// library `datasets`: `data/train-00000-of-00002.parquet`, `test/part.jsonl`, `validation.csv`. Without a `split`: the
/// whole where there is one split or none, and `train` where there are several.
///
/// # Errors
/// As [`read_rows`], and a folder without files of this split.
pub fn read_split(path: &Path, split: Option<&str>) -> Result<RowIter, DataError> {
    let files = sources::files(path)?;
    let (mut files, note) = split::choose(path, files, split)?;
    files.reverse();
    let sized = |path: PathBuf| {
        let size = std::fs::metadata(&path).ok().filter(std::fs::Metadata::is_file).map(|about| about.len());
        (path, size)
    };
    let waiting: Vec<_> = files.into_iter().map(sized).collect();
    let bytes = waiting.iter().map(|(_, size)| *size).sum();
    Ok(RowIter { waiting, current: None, note, bytes, finished: 0, position: Position::default() })
}

/// The files among `files` that [`read_split`] takes for `splits`, and those that describe the data; paths are relative to
/// the data set, whose name is for messages. So that what is not read need not be there.
///
/// # Errors
/// As [`read_split`], about a split that no file belongs to.
pub fn files_of_splits(
    name: &Path,
    files: Vec<PathBuf>,
    splits: &[Option<&str>],
) -> Result<Vec<PathBuf>, DataError> {
    let (rows, mut needed): (Vec<_>, Vec<_>) = files.into_iter().partition(|file| sources::is_data(file));
    for split in splits {
        let (chosen, _) = split::choose(name, rows.clone(), *split)?;
        needed.extend(chosen);
    }
    needed.sort();
    needed.dedup();
    Ok(needed)
}

/// The rows of all files in order. After a bad row the iteration goes on behind it; after an I/O error with the next file.
pub struct RowIter {
    waiting: Vec<(PathBuf, Option<u64>)>,
    /// With the file's size.
    current: Option<(FileRows, u64)>,
    note: Option<String>,
    bytes: Option<u64>,
    /// Bytes of the files behind.
    finished: u64,
    position: Position,
}

impl RowIter {
    /// What the user should know about the files chosen: that a folder's other splits are left aside.
    pub fn note(&self) -> Option<&str> {
        self.note.as_deref()
    }

    /// Size of all files together; none where one is a stream.
    pub(crate) fn bytes(&self) -> Option<u64> {
        self.bytes
    }

    /// How far it is.
    pub(crate) fn position(&self) -> Position {
        self.position.clone()
    }
}

impl Iterator for RowIter {
    type Item = Row;

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some((rows, size)) = &mut self.current {
                let row = rows.next_row();
                if let Some(share) = rows.share() {
                    self.position.set(self.finished + (share * *size as f64) as u64);
                }
                if row.is_some() {
                    return row;
                }
                self.finished += *size;
                self.position.set(self.finished);
                self.current = None;
            }
            let (path, size) = self.waiting.pop()?;
            match FileRows::open(&path, &self.position) {
                Ok(rows) => self.current = Some((rows, size.unwrap_or(0))),
                Err(error) => return Some(Err(error)),
            }
        }
    }
}

/// The rows of one file, by its format.
enum FileRows {
    Text(text::TextRows),
    Csv(csv::CsvRows),
    Table(table::TableRows),
}

impl FileRows {
    fn open(path: &Path, position: &Position) -> Result<Self, DataError> {
        let (format, reader) = sources::open(path, position)?;
        log::info!("reading {} as {format:?}", path.display());
        Ok(match format {
            Format::Json => Self::Text(text::TextRows::open(path, reader)?),
            Format::Csv { delimiter } => Self::Csv(csv::CsvRows::open(path, reader, delimiter)?),
            Format::Parquet => Self::Table(table::TableRows::parquet(path)?),
            Format::ArrowFile => Self::Table(table::TableRows::arrow_file(path, position)?),
            Format::ArrowStream => Self::Table(table::TableRows::arrow_stream(path, reader)?),
        })
    }

    /// The share of the file that is read, where it says how many rows it has and its bytes are not counted.
    fn share(&self) -> Option<f64> {
        match self {
            Self::Table(rows) => rows.share(),
            Self::Text(_) | Self::Csv(_) => None,
        }
    }

    fn next_row(&mut self) -> Option<Row> {
        match self {
            Self::Text(rows) => rows.next_row(),
            Self::Csv(rows) => rows.next_row(),
            Self::Table(rows) => rows.next_row(),
        }
    }
}

/// The file's name in origins.
fn named(path: &Path) -> Arc<Path> {
    Arc::from(if path == Path::new("-") { Path::new("standard input") } else { path })
}

pub(crate) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests;
