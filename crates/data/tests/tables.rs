//! Parquet and Arrow: the layouts that `datasets` and PKU-SafeRLHF come in give the rows that JSON gives, and a damaged
//! file gives an error that names it.

#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a test fails by panicking")]

use bso_data::{
    LoadOptions, Loaded, Preference, PreferencePair, SafetyTransform, Schema, load_pairs, read_rows,
    read_split,
};
use bso_durable::Silent;
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/tables").join(name)
}

fn rows(name: &str) -> Vec<Map<String, Value>> {
    read_rows(&fixture(name)).unwrap().map(|row| row.unwrap().1).collect()
}

fn load(name: &str, split: Option<&str>) -> Loaded<PreferencePair> {
    let options = LoadOptions {
        split: split.map(str::to_owned),
        preference: Preference::Better,
        transform: SafetyTransform::SwapDrop,
        ..LoadOptions::default()
    };
    load_pairs(&fixture(name), &options, &Silent).unwrap()
}

#[test]
fn the_columns_of_pku_safe_rlhf_are_read_from_its_shards() {
    let train = load("pku", None);
    assert_eq!((train.detected.schema, train.ledger.read), (Schema::PkuSafeRlhf, 24));
    let last = train.examples.last().unwrap();
    assert!(last.origin.to_string().ends_with("train-00001-of-00002.parquet:12"), "{}", last.origin);
    assert_eq!(load("pku", Some("test")).ledger.read, 6);
    let row =
        read_rows(&fixture("pku/data/train-00000-of-00002.parquet")).unwrap().next().unwrap().unwrap().1;
    assert_eq!(row.len(), 16);
    assert_eq!(row["response_0_harm_category"]["Physical Harm"], true);
    assert_eq!(row["response_0_severity_level"], 2);
    // The same rows as JSON lines give the same pairs.
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("rows.jsonl");
    let lines: Vec<String> =
        read_split(&fixture("pku"), None).unwrap().map(|r| Value::Object(r.unwrap().1).to_string()).collect();
    std::fs::write(&path, lines.join("\n")).unwrap();
    let options = LoadOptions { transform: SafetyTransform::SwapDrop, ..LoadOptions::default() };
    let json = load_pairs(&path, &options, &Silent).unwrap();
    let content = |loaded: &Loaded<PreferencePair>| -> Vec<_> {
        loaded
            .examples
            .iter()
            .map(|p| (p.prompt.clone(), p.chosen.clone(), p.rejected.clone(), p.labels()))
            .collect()
    };
    assert_eq!(content(&json), content(&train));
    assert!(train.ledger.swapped.rows > 0);
}

#[test]
fn every_container_gives_the_same_conversations() {
    let expected = rows("conversations.parquet");
    assert_eq!(expected.len(), 3);
    assert_eq!(expected[2]["prompt"][0]["content"], "q2");
    assert_eq!(expected[1]["chosen_safe"], Value::Null);
    for name in ["conversations.arrow", "conversations.stream.arrow", "saved/train"] {
        assert_eq!(rows(name), expected, "{name}");
    }
    assert_eq!(rows("saved").len(), 3);
    let pairs = load("saved", Some("test"));
    assert_eq!((pairs.detected.schema, pairs.examples[0].chosen.as_str()), (Schema::Conversational, "yes"));
    assert_eq!(pairs.examples[0].labels(), Some((false, false)));
}

#[test]
fn what_state_json_does_not_name_is_a_cache_and_not_data() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["data-00000-of-00001.arrow", "dataset_info.json", "state.json"] {
        std::fs::copy(fixture("saved/train").join(name), dir.path().join(name)).unwrap();
    }
    std::fs::copy(fixture("conversations.arrow"), dir.path().join("cache-1.arrow")).unwrap();
    assert_eq!(read_rows(dir.path()).unwrap().count(), 3);
    std::fs::remove_file(dir.path().join("data-00000-of-00001.arrow")).unwrap();
    let error = read_rows(dir.path()).err().unwrap().to_string();
    assert!(error.contains("data-00000-of-00001.arrow"), "{error}");
}

#[test]
fn a_codec_that_is_not_there_is_named_with_the_remedy() {
    let error = read_rows(&fixture("brotli.parquet")).unwrap().find_map(Result::err).unwrap().to_string();
    assert!(error.contains("brotli.parquet") && error.contains("write the file with snappy"), "{error}");
}

/// Cut at every length and with a byte changed at every place: rows or an error that names the file, never more.
#[test]
fn damaged_tables_are_errors_and_never_panics() {
    let dir = tempfile::tempdir().unwrap();
    for name in ["conversations.parquet", "conversations.arrow", "conversations.stream.arrow"] {
        let whole = std::fs::read(fixture(name)).unwrap();
        let path = dir.path().join(name);
        let mut refused = 0;
        let mut read = |bytes: &[u8]| {
            std::fs::write(&path, bytes).unwrap();
            let mut count = 0;
            for row in read_rows(&path).unwrap() {
                count += 1;
                assert!(count < 1000, "{name}: rows without end");
                if let Err(error) = row {
                    assert!(error.to_string().contains(name), "{error}");
                    refused += 1;
                }
            }
        };
        // The layout of Parquet is read from its end: every length is another case.
        let step = if name.ends_with(".parquet") { 1 } else { 5 };
        for length in (0..whole.len()).step_by(step) {
            read(&whole[..length]);
        }
        for at in 0..whole.len() {
            let mut damaged = whole.clone();
            damaged[at] ^= [0x01, 0x80, 0xff][at % 3];
            read(&damaged);
        }
        println!("{name}: {refused} damaged files refused");
        assert!(refused > whole.len() / 5, "{name}: {refused}");
    }
}
