//! Which files a path stands for, and their format and bytes, unpacked.

use super::position::{Counted, Position};
use crate::error::DataError;
use flate2::bufread::MultiGzDecoder;
use serde_json::Value;
use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Folders are followed this deep.
const MAX_DEPTH: usize = 4;
/// Files of data-set folders that describe the data rather than hold it.
const NOT_DATA: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// What the bytes of a file are.
#[derive(Clone, Copy, Debug)]
pub(super) enum Format {
    Json,
    Csv { delimiter: u8 },
    Parquet,
    ArrowFile,
    ArrowStream,
}

/// The files that `path` stands for, sorted by name.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    if path == Path::new("-") {
        return Ok(vec![path.to_owned()]);
    }
    let about = std::fs::metadata(path).map_err(|e| DataError::io(path, e))?;
    if !about.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let mut found = Vec::new();
    walk(path, 0, &mut found)?;
    found.sort();
    let kinds: BTreeSet<&str> = found.iter().filter_map(|file| kind_of(&name_of(file))).collect();
    if found.is_empty() {
        return Err(DataError::NoFiles { path: path.to_owned(), hint: String::new() });
    }
    // The same rows in two formats would count twice.
    if kinds.len() > 1 {
        let kinds: Vec<_> = kinds.into_iter().collect();
        return Err(DataError::Schema(format!(
            "{}: holds files of several formats ({}); name the file or inner folder to read",
            path.display(),
            kinds.join(", ")
        )));
    }
    Ok(found)
}

/// Whether a file of this name holds rows and does not describe others.
pub(super) fn is_data(path: &Path) -> bool {
    !NOT_DATA.contains(&name_of(path).as_str())
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>) -> Result<(), DataError> {
    let listed = listed(folder)?;
    for entry in std::fs::read_dir(folder).map_err(|e| DataError::io(folder, e))? {
        let path = entry.map_err(|e| DataError::io(folder, e))?.path();
        let name = name_of(&path);
        if name.starts_with('.') || !is_data(&path) {
            continue;
        }
        if path.is_dir() {
            if depth == MAX_DEPTH {
                let problem = "it lies too deep below the data folder, or a link leads back into it; name an inner folder or file";
                return Err(DataError::io(&path, std::io::Error::other(problem)));
            }
            walk(&path, depth + 1, found)?;
        } else if kind_of(&name).is_some()
            && listed.as_ref().is_none_or(|names| path.file_name().is_some_and(|n| names.contains(n)))
        {
            found.push(path);
        }
    }
    match listed {
        Some(names) => names.into_iter().try_for_each(|name| {
            let path = folder.join(&name);
            if path.is_file() {
                Ok(())
            } else {
                Err(DataError::io(path, std::io::ErrorKind::NotFound.into()))
            }
        }),
        None => Ok(()),
    }
}

/// The data files that `state.json` of `datasets.save_to_disk` names; caches of the library lie beside them.
fn listed(folder: &Path) -> Result<Option<BTreeSet<OsString>>, DataError> {
    let path = folder.join("state.json");
    if !path.is_file() || !folder.join("dataset_info.json").is_file() {
        return Ok(None);
    }
    let text = std::fs::read_to_string(&path).map_err(|e| DataError::io(&path, e))?;
    let state: Value = serde_json::from_str(&text).unwrap_or_default();
    let Some(files) = state.get("_data_files").and_then(Value::as_array) else { return Ok(None) };
    let names = files.iter().filter_map(|f| f.get("filename").and_then(Value::as_str));
    Ok(Some(names.map(OsString::from).collect()))
}

/// The family of formats that a name promises.
fn kind_of(name: &str) -> Option<&'static str> {
    let plain = without_gz(name);
    if [".jsonl", ".ndjson", ".json"].iter().any(|end| plain.ends_with(end)) {
        return Some("JSON");
    }
    if plain.ends_with(".csv") || plain.ends_with(".tsv") {
        return Some("CSV");
    }
    if name.ends_with(".parquet") {
        return Some("Parquet");
    }
    name.ends_with(".arrow").then_some("Arrow")
}

/// The format and the bytes of one file. Gzip, Parquet and Arrow are recognised by their first bytes, whatever the file
/// is called; CSV has none and is recognised by its name.
pub(super) fn open(path: &Path, position: &Position) -> Result<(Format, Box<dyn BufRead + Send>), DataError> {
    let io = |e| DataError::io(path, e);
    if path == Path::new("-") {
        let (format, reader) = recognised(path, Box::new(BufReader::new(std::io::stdin()))).map_err(io)?;
        if matches!(format, Format::Parquet | Format::ArrowFile) {
            return Err(DataError::Schema(
                "standard input holds a Parquet or Arrow file, which is read from its end; name the file"
                    .to_owned(),
            ));
        }
        return Ok((format, reader));
    }
    let about = std::fs::metadata(path).map_err(io)?;
    if about.is_dir() {
        return Err(io(std::io::Error::other("it is a folder")));
    }
    let file = Counted { file: File::open(path).map_err(io)?, position: position.clone() };
    let (format, reader) = recognised(path, Box::new(BufReader::with_capacity(1 << 18, file))).map_err(io)?;
    if kind_of(&name_of(path)) == Some("Parquet") && !matches!(format, Format::Parquet) {
        return Err(DataError::Table {
            path: path.to_owned(),
            format: "Parquet".to_owned(),
            place: String::new(),
            problem: format!("it does not begin with PAR1 ({} bytes)", about.len()),
        });
    }
    Ok((format, reader))
}

fn recognised(
    path: &Path,
    mut reader: Box<dyn BufRead + Send>,
) -> std::io::Result<(Format, Box<dyn BufRead + Send>)> {
    let start = reader.fill_buf()?;
    let name = name_of(path);
    let plain = without_gz(&name);
    let format = if start.starts_with(b"PAR1") {
        Format::Parquet
    } else if start.starts_with(b"ARROW1") {
        Format::ArrowFile
    } else if start.starts_with(&[0xff; 4]) || plain.ends_with(".arrow") {
        Format::ArrowStream
    } else if plain.ends_with(".csv") {
        Format::Csv { delimiter: b',' }
    } else if plain.ends_with(".tsv") {
        Format::Csv { delimiter: b'\t' }
    } else {
        Format::Json
    };
    if start.starts_with(&[0x1f, 0x8b]) {
        return Ok((format, Box::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(reader)))));
    }
    Ok((format, reader))
}

/// Whether the name promises JSON lines, as standard input does.
pub(super) fn says_lines(path: &Path) -> bool {
    let name = name_of(path);
    if name == "-" {
        return true;
    }
    let name = without_gz(&name);
    name.ends_with(".jsonl") || name.ends_with(".ndjson")
}

fn without_gz(name: &str) -> &str {
    name.strip_suffix(".gz").unwrap_or(name)
}

fn name_of(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().to_lowercase()).unwrap_or_default()
}
