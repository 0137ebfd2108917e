//! metrics.jsonl: appended line by line, safe against a killed process, cut back on resume so that the file of a
//! resumed run equals that of an uninterrupted one (times aside).

use crate::{RunsError, StepMetrics};
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};

/// No row is longer; a longer line is not a metrics row.
const MAX_LINE: u64 = 1 << 20;

/// Appends rows to metrics.jsonl.
pub struct MetricsLog {
    file: File,
    path: PathBuf,
}

/// What a resume did to the file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resumed {
    /// Rows up to the step that were kept.
    pub kept: u64,
    /// Bytes cut: rows after the step, and a line that a kill tore.
    pub cut_bytes: u64,
}

impl MetricsLog {
    /// Starts an empty file, replacing what stood there.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn create(path: &Path) -> Result<Self, RunsError> {
        let file = File::create(path).map_err(RunsError::io("create", path))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// Continues after optimiser step `step`: cuts every row of a later step and a torn last line. A missing file
    /// counts as empty. All rows of a step must have been appended before the checkpoint of that step.
    ///
    /// # Errors
    /// When a line before the last is not a metrics row, or the file cannot be written.
    pub fn resume(path: &Path, step: u64) -> Result<(Self, Resumed), RunsError> {
        let open = OpenOptions::new().read(true).append(true).create(true).open(path);
        let file = open.map_err(RunsError::io("open", path))?;
        let (mut keep_bytes, mut kept) = (0, 0);
        let mut lines = Lines::new(&file, path);
        while let Some((row, end)) = lines.next()? {
            if row.step() > step {
                break;
            }
            (keep_bytes, kept) = (end, kept + 1);
        }
        let length = file.metadata().map_err(RunsError::io("read", path))?.len();
        file.set_len(keep_bytes).and_then(|()| file.sync_all()).map_err(RunsError::io("cut", path))?;
        let resumed = Resumed { kept, cut_bytes: length.saturating_sub(keep_bytes) };
        Ok((Self { file, path: path.to_owned() }, resumed))
    }

    /// Appends one row as one write, so that a kill tears at most the last line.
    ///
    /// # Errors
    /// When the file cannot be written (e.g. a full disk).
    pub fn append(&mut self, row: &StepMetrics) -> Result<(), RunsError> {
        let mut line = serde_json::to_vec(row).map_err(|e| RunsError::Write(e.into()))?;
        line.push(b'\n');
        self.file.write_all(&line).map_err(RunsError::io("append to", &self.path))
    }

    /// Makes sure that the rows so far survive a power cut; to be called before each checkpoint.
    ///
    /// # Errors
    /// When the system cannot.
    pub fn sync(&self) -> Result<(), RunsError> {
        self.file.sync_data().map_err(RunsError::io("sync", &self.path))
    }
}

/// The rows of a metrics.jsonl.
#[derive(Clone, Debug, PartialEq)]
pub struct MetricsFile {
    /// Whole rows in order.
    pub rows: Vec<StepMetrics>,
    /// Whether the last line was torn (the run was killed, or is writing just now).
    pub torn: bool,
}

/// Reads a metrics.jsonl.
///
/// # Errors
/// When the file cannot be read or a line before the last is not a metrics row.
pub fn read_metrics(path: &Path) -> Result<MetricsFile, RunsError> {
    let file = File::open(path).map_err(RunsError::io("open", path))?;
    let mut lines = Lines::new(&file, path);
    let mut rows = Vec::new();
    while let Some((row, _)) = lines.next()? {
        rows.push(row);
    }
    Ok(MetricsFile { rows, torn: lines.torn })
}

/// Whole rows with the byte offset of their end.
struct Lines<'a> {
    reader: BufReader<&'a File>,
    path: &'a Path,
    line: u64,
    end: u64,
    torn: bool,
}

impl<'a> Lines<'a> {
    fn new(file: &'a File, path: &'a Path) -> Self {
        Self { reader: BufReader::new(file), path, line: 0, end: 0, torn: false }
    }

    fn next(&mut self) -> Result<Option<(StepMetrics, u64)>, RunsError> {
        let read = RunsError::io("read", self.path);
        let mut bytes = Vec::new();
        let count = self.reader.by_ref().take(MAX_LINE).read_until(b'\n', &mut bytes).map_err(read)?;
        if count == 0 {
            return Ok(None);
        }
        self.line += 1;
        let whole = bytes.ends_with(b"\n");
        let parsed = std::str::from_utf8(&bytes).map_err(|e| e.to_string()).and_then(StepMetrics::parse);
        match parsed {
            Ok(row) if whole => {
                self.end += count as u64;
                Ok(Some((row, self.end)))
            }
            parsed => {
                // Only the end of the file can be torn; anything else was not written by a run.
                let rest = self.reader.fill_buf().map_err(RunsError::io("read", self.path))?;
                if rest.is_empty() {
                    self.torn = true;
                    return Ok(None);
                }
                let reason = parsed.err().unwrap_or_else(|| format!("longer than {MAX_LINE} bytes"));
                Err(RunsError::MetricsLine { path: self.path.to_owned(), line: self.line, reason })
            }
        }
    }
}
