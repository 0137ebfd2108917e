//! Which files a path stands for, and their bytes, unpacked.

use crate::error::DataError;
use flate2::bufread::MultiGzDecoder;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// Folders are followed this deep.
const MAX_DEPTH: usize = 4;
/// Files of data-set folders that describe the data rather than hold it.
const NOT_DATA: [&str; 4] = ["dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json"];

/// The files that `path` stands for, sorted by name.
pub(super) fn files(path: &Path) -> Result<Vec<PathBuf>, DataError> {
    if path == Path::new("-") {
        return Ok(vec![path.to_owned()]);
    }
    let about = std::fs::metadata(path).map_err(|e| DataError::io(path, e))?;
    if !about.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let (mut found, mut parquet) = (Vec::new(), false);
    walk(path, 0, &mut found, &mut parquet)?;
    found.sort();
    if found.is_empty() {
        let hint = if parquet { "; convert its Parquet files to JSON lines" } else { "" };
        return Err(DataError::NoFiles { path: path.to_owned(), hint: hint.to_owned() });
    }
    if parquet {
        return Err(DataError::Schema(format!(
            "{}: holds Parquet files beside JSON, and they would be left out; convert them to JSON lines, or name the files to read",
            path.display()
        )));
    }
    Ok(found)
}

fn walk(folder: &Path, depth: usize, found: &mut Vec<PathBuf>, parquet: &mut bool) -> Result<(), DataError> {
    for entry in std::fs::read_dir(folder).map_err(|e| DataError::io(folder, e))? {
        let path = entry.map_err(|e| DataError::io(folder, e))?.path();
        let name = name_of(&path);
        if name.starts_with('.') || NOT_DATA.contains(&name.as_str()) {
            continue;
        }
        if path.is_dir() {
            if depth == MAX_DEPTH {
                let problem = "it lies too deep below the data folder, or a link leads back into it; name an inner folder or file";
                return Err(DataError::io(&path, std::io::Error::other(problem)));
            }
            walk(&path, depth + 1, found, parquet)?;
        } else if says_lines(&path) || without_gz(&name).ends_with(".json") {
            found.push(path);
        }
        *parquet |= name.ends_with(".parquet");
    }
    Ok(())
}

/// The bytes of one file; gzip is recognised by its first two bytes, whatever the file is called.
pub(super) fn open(path: &Path) -> Result<Box<dyn BufRead>, DataError> {
    if path == Path::new("-") {
        return unpacked(Box::new(BufReader::new(std::io::stdin()))).map_err(|e| DataError::io(path, e));
    }
    let about = std::fs::metadata(path).map_err(|e| DataError::io(path, e))?;
    if about.is_dir() {
        return Err(DataError::io(path, std::io::Error::other("it is a folder")));
    }
    if name_of(path).ends_with(".parquet") {
        return Err(DataError::Schema(format!(
            "{}: Parquet is not read; write it as JSON lines (pandas: df.to_json(path, orient=\"records\", lines=True))",
            path.display()
        )));
    }
    let file = File::open(path).map_err(|e| DataError::io(path, e))?;
    unpacked(Box::new(BufReader::with_capacity(1 << 18, file))).map_err(|e| DataError::io(path, e))
}

fn unpacked(mut reader: Box<dyn BufRead>) -> std::io::Result<Box<dyn BufRead>> {
    if reader.fill_buf()?.starts_with(&[0x1f, 0x8b]) {
        return Ok(Box::new(BufReader::with_capacity(1 << 18, MultiGzDecoder::new(reader))));
    }
    Ok(reader)
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
