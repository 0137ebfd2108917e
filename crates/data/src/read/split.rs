//! Which split a file belongs to, told by its name and its folders as the library `datasets` tells it.

use crate::error::DataError;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

/// Words in names that mean a split.
const WORDS: [(&str, &[&str]); 3] = [
    ("train", &["train", "training"]),
    ("validation", &["validation", "valid", "val", "dev"]),
    ("test", &["test", "testing", "eval", "evaluation"]),
];

/// The files of `split` among those found under `root`, and what to tell the user where others are left aside.
pub(super) fn choose(
    root: &Path,
    files: Vec<PathBuf>,
    split: Option<&str>,
) -> Result<(Vec<PathBuf>, Option<String>), DataError> {
    let splits: Vec<Option<String>> = files.iter().map(|file| of(root, file)).collect();
    let known: BTreeSet<&str> = splits.iter().flatten().map(String::as_str).collect();
    let all = known.iter().copied().collect::<Vec<_>>().join(", ");
    let wanted = match split {
        Some(split) => canonical(split),
        None if known.len() < 2 => return Ok((files, None)),
        None if known.contains("train") => "train".to_owned(),
        None => {
            return Err(DataError::Schema(format!(
                "{} holds several splits ({all}) and none is called train; name one with dataset_train_split",
                root.display()
            )));
        }
    };
    if !known.contains(wanted.as_str()) {
        let there = if known.is_empty() {
            "no file name tells a split".to_owned()
        } else {
            format!("there are {all}")
        };
        return Err(DataError::Schema(format!(
            "{} has no split {wanted}: {there}; names like {wanted}-00000-of-00001.parquet, {wanted}.jsonl or a folder {wanted}/ tell it",
            root.display()
        )));
    }
    let note = (split.is_none()).then(|| {
        format!("{}: split train is read, of {all}; dataset_train_split names another", root.display())
    });
    let chosen = files.into_iter().zip(&splits).filter(|(_, s)| s.as_deref() == Some(wanted.as_str()));
    Ok((chosen.map(|(file, _)| file).collect(), note))
}

/// The split of `file`: the name before `-00000-of-00002`, else a word of its name, else of the folders below `root`.
fn of(root: &Path, file: &Path) -> Option<String> {
    let below = file.strip_prefix(root).unwrap_or(file);
    let names: Vec<String> = if below.as_os_str().is_empty() {
        vec![name(file)]
    } else {
        below.iter().map(|part| part.to_string_lossy().into_owned()).collect()
    };
    let (last, folders) = names.split_last()?;
    let stem = last.split('.').next().unwrap_or(last);
    if let Some(split) = before_shard(stem).filter(|s| *s != "data") {
        return Some(canonical(split));
    }
    // A folder of a split written whole holds data-00000-of-00001.arrow or files of any name.
    let in_folders = || folders.iter().rev().find_map(|folder| word(folder));
    word(&last[..last.len() - extension(last)]).or_else(in_folders)
}

fn name(path: &Path) -> String {
    path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default()
}

fn extension(name: &str) -> usize {
    let packed = name.strip_suffix(".gz").unwrap_or(name);
    name.len() - packed.rfind('.').unwrap_or(packed.len())
}

/// `train` of `train-00000-of-00002`.
fn before_shard(stem: &str) -> Option<&str> {
    let (before, count) = stem.rsplit_once("-of-")?;
    let (split, index) = before.rsplit_once('-')?;
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    (digits(count) && digits(index) && !split.is_empty()).then_some(split)
}

fn word(name: &str) -> Option<String> {
    let lower = name.to_lowercase();
    let mut words = lower.split(|c: char| !c.is_ascii_alphabetic());
    words
        .find_map(|word| WORDS.iter().find(|(_, also)| also.contains(&word)))
        .map(|(split, _)| (*split).to_owned())
}

fn canonical(split: &str) -> String {
    let found = WORDS.iter().find(|(_, also)| also.contains(&split.to_lowercase().as_str()));
    found.map_or_else(|| split.to_owned(), |(name, _)| (*name).to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_tell_their_split() {
        for (file, split) in [
            ("data/train-00000-of-00002.parquet", Some("train")),
            ("data/test_prefs-00000-of-00001.parquet", Some("test_prefs")),
            ("helpful-base.test.jsonl.gz", Some("test")),
            ("val.csv", Some("validation")),
            ("train/data-00000-of-00001.arrow", Some("train")),
            ("default/test/0000.parquet", Some("test")),
            ("pairs.jsonl", None),
            ("contest.json", None),
            ("trainable/rows.jsonl", None),
        ] {
            let found = of(Path::new("/d/train set"), &Path::new("/d/train set").join(file));
            assert_eq!(found.as_deref(), split, "{file}");
        }
    }

    #[test]
    fn several_splits_are_never_mixed_unnoticed() {
        let files =
            |names: &[&str]| -> Vec<PathBuf> { names.iter().map(|n| Path::new("d").join(n)).collect() };
        let choose = |names: &[&str], split| choose(Path::new("d"), files(names), split);
        let both = ["test.jsonl", "train.jsonl"];
        let (chosen, note) = choose(&both, None).unwrap();
        assert_eq!(chosen, files(&["train.jsonl"]));
        assert!(note.unwrap().contains("of test, train"));
        assert_eq!(choose(&both, Some("eval")).unwrap(), (files(&["test.jsonl"]), None));
        assert_eq!(choose(&["a.test.jsonl", "b.test.jsonl"], None).unwrap().0.len(), 2);
        assert!(
            choose(&["test.jsonl", "dev.jsonl"], None)
                .unwrap_err()
                .to_string()
                .contains("dataset_train_split")
        );
        let error = choose(&["a.jsonl"], Some("train")).unwrap_err().to_string();
        assert!(error.contains("no split train: no file name tells a split"), "{error}");
        let error = choose(&both, Some("dev")).unwrap_err().to_string();
        assert!(error.contains("no split validation: there are test, train"), "{error}");
    }
}
