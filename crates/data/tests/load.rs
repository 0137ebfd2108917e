//! Whole data sets: what is kept, swapped, dropped and refused, row by row; and the same on real data where it is at hand.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says why it is skipped and fails by panicking"
)]

use bso_data::check::{CheckOptions, Quadrants, check};
use bso_data::{
    ChatTokenizer, DataError, LoadOptions, Loaded, Message, Needs, Preference, PreferencePair, Rejection,
    SafetyTransform, Schema, TemplateChoice, Truncation, load_pairs, load_sft, load_unpaired, tokenise_pairs,
};
use bso_durable::Silent;
use std::path::{Path, PathBuf};

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures").join(name)
}

fn shared(name: &str) -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data").join(name);
    if !path.exists() {
        println!("skipped: no ../shared/data/{name} beside the repository");
    }
    path.exists().then_some(path)
}

fn pairs(name: &str, options: &LoadOptions) -> Result<Loaded<PreferencePair>, DataError> {
    load_pairs(&fixture(name), options, &Silent)
}

fn with(preference: Preference, transform: SafetyTransform) -> LoadOptions {
    LoadOptions { preference, transform, ..LoadOptions::default() }
}

fn rows(loaded: &Loaded<PreferencePair>) -> Vec<usize> {
    loaded.examples.iter().map(|p| p.origin.row).collect()
}

#[test]
fn every_row_is_kept_swapped_dropped_or_rejected_with_its_reason() {
    let loaded = pairs("pku.jsonl", &with(Preference::Better, SafetyTransform::SwapDrop)).unwrap();
    assert_eq!(rows(&loaded), [1, 2, 3, 5, 7, 11, 12, 13]);
    let ledger = &loaded.ledger;
    assert_eq!((ledger.read, ledger.kept, ledger.swapped.rows), (14, 8, 2));
    let rejected: Vec<_> = ledger.rejected.iter().map(|(r, c)| (*r, c.first[0].row)).collect();
    assert_eq!(
        rejected,
        [
            (Rejection::WrongType, 14),
            (Rejection::MissingPrompt, 10),
            (Rejection::EmptyResponse, 8),
            (Rejection::IdenticalResponses, 9),
            (Rejection::NoPreferenceLabel, 6),
        ]
    );
    assert_eq!(ledger.dropped["both responses are unsafe"].first[0].row, 4);
    assert_eq!(ledger.read, ledger.kept + ledger.rejected_rows() + ledger.dropped_rows());
    let swapped = &loaded.examples[1];
    assert_eq!(swapped.labels(), Some((false, true)));
    assert!(swapped.chosen.ends_with("(2a)"));
    assert!(ledger.to_string().starts_with("14 read, 1 rejected (a field has the wrong type)"), "{ledger}");
}

#[test]
fn drop_only_keeps_the_orientation_and_none_keeps_everything() {
    let drop = pairs("pku.jsonl", &with(Preference::Better, SafetyTransform::Drop)).unwrap();
    assert_eq!((drop.ledger.kept, drop.ledger.swapped.rows), (8, 0));
    assert_eq!(drop.examples[1].labels(), Some((true, false)));
    let none = pairs("pku.jsonl", &with(Preference::Better, SafetyTransform::None)).unwrap();
    assert_eq!(none.ledger.kept, 9);
}

#[test]
fn the_other_preferences_choose_other_rows() {
    let safer = pairs("pku.jsonl", &with(Preference::Safer, SafetyTransform::None)).unwrap();
    assert_eq!(rows(&safer), [1, 2, 3, 4, 6, 7, 11, 12, 13]);
    let safe_better = pairs("pku.jsonl", &with(Preference::SafeBetter, SafetyTransform::None)).unwrap();
    assert_eq!(rows(&safe_better), [1, 3, 5, 7, 11, 13]);
    assert!(safe_better.examples.iter().all(|p| p.chosen_unsafe == Some(false)));
}

#[test]
fn missing_labels_are_an_error_that_counts_and_names_ten() {
    let needs = Needs { safety_labels: Some("loss bso".to_owned()), margins: None };
    let error = pairs("unlabelled.jsonl", &LoadOptions { needs, ..LoadOptions::default() }).unwrap_err();
    let DataError::MissingLabels { count, read, ref first, .. } = error else { panic!("{error}") };
    assert_eq!((count, read, first.len()), (12, 24, 10));
    let said = error.to_string();
    assert!(said.contains("12 of 24 rows lack safety labels, which loss bso needs"), "{said}");
    assert!(said.contains("unlabelled.jsonl:2, 4, 6, 8, 10, 12, 14, 16, 18, 20."), "{said}");
    for options in [
        with(Preference::Better, SafetyTransform::SwapDrop),
        with(Preference::SafeBetter, SafetyTransform::None),
    ] {
        assert!(matches!(pairs("unlabelled.jsonl", &options), Err(DataError::MissingLabels { .. })));
    }
    assert_eq!(pairs("unlabelled.jsonl", &LoadOptions::default()).unwrap().ledger.kept, 24);
    let needs = Needs { safety_labels: None, margins: Some("loss modpo".to_owned()) };
    let error = pairs("flat.json", &LoadOptions { needs, ..LoadOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("chosen_margin"), "{error}");
}

#[test]
fn a_broken_line_stops_with_its_number_or_is_counted() {
    let error = pairs("broken.jsonl", &LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("broken.jsonl:2: invalid JSON"), "{error}");
    let options = LoadOptions { skip_bad_rows: true, ..LoadOptions::default() };
    let loaded = pairs("broken.jsonl", &options).unwrap();
    assert_eq!((loaded.ledger.read, loaded.ledger.kept), (3, 2));
    assert_eq!(loaded.ledger.rejected[&Rejection::NotJson].first[0].row, 2);
}

#[test]
fn every_schema_loads_and_serves_what_it_can() {
    let loaded = pairs("flat.json", &LoadOptions::default()).unwrap();
    assert_eq!((loaded.detected.schema, loaded.ledger.kept), (Schema::Flat, 2));
    assert_eq!(loaded.examples[1].labels(), Some((false, true)));
    let loaded = pairs("hh.jsonl.gz", &LoadOptions::default()).unwrap();
    assert_eq!((loaded.detected.schema, loaded.examples[0].prompt.len()), (Schema::Hh, 3));
    let sft = |name: &str| load_sft(&fixture(name), &LoadOptions::default(), &Silent).unwrap().examples;
    assert_eq!(sft("messages.jsonl")[0].response, "Here.");
    assert_eq!(sft("flat.json")[0].response, "Under the mat.");
    assert_eq!(sft("unpaired.jsonl").len(), 1);
    let unpaired =
        |name: &str| load_unpaired(&fixture(name), &LoadOptions::default(), &Silent).unwrap().examples;
    assert_eq!(unpaired("unpaired.jsonl").iter().map(|e| e.desirable).collect::<Vec<_>>(), [true, false]);
    assert_eq!(unpaired("flat.json").len(), 4);
    let error = pairs("messages.jsonl", &LoadOptions::default()).unwrap_err().to_string();
    assert!(error.contains("stage sft"), "{error}");
}

#[test]
fn columns_are_mapped_and_a_format_forced() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("d.jsonl");
    std::fs::write(&path, "{\"question\": \"q\", \"good\": \"a\", \"bad\": \"b\", \"prompt\": 7}\n").unwrap();
    let columns = [("prompt", "question"), ("chosen", "good"), ("rejected", "bad")];
    let options = LoadOptions {
        columns: columns.map(|(a, b)| (a.to_owned(), b.to_owned())).into(),
        format: Some(Schema::Flat),
        ..LoadOptions::default()
    };
    let loaded = load_pairs(&path, &options, &Silent).unwrap();
    assert_eq!(
        (loaded.examples[0].prompt[0].content.as_str(), loaded.examples[0].chosen.as_str()),
        ("q", "a")
    );
    let forced = LoadOptions { format: Some(Schema::PkuSafeRlhf), ..LoadOptions::default() };
    let error = load_pairs(&path, &forced, &Silent).unwrap_err().to_string();
    assert!(error.contains("no usable row") && error.contains("prompt should be"), "{error}");
}

#[test]
fn the_check_finds_what_is_wrong() {
    let report = check(&fixture("pku.jsonl"), &CheckOptions::default(), &Silent).unwrap();
    let expected =
        Quadrants { both_safe: 4, chosen_unsafe: 2, rejected_unsafe: 2, both_unsafe: 1, unlabelled: 0 };
    assert_eq!(report.quadrants, expected);
    assert_eq!((report.disagreement.judged_twice, report.disagreement.differ.rows), (8, 6));
    let found = &report.contradictions;
    assert_eq!(found.duplicates.first.iter().map(|o| o.row).collect::<Vec<_>>(), [11]);
    assert_eq!(found.opposite_better.first[0].row, 12);
    assert_eq!(found.different_label.first.iter().map(|o| o.row).collect::<Vec<_>>(), [13]);
    assert_eq!(found.safer_is_unsafe.first[0].row, 7);
    assert_eq!((found.opposite_safer.rows, found.distinct_prompts), (0, 7));
    let effects: Vec<_> = report.transforms.iter().map(|t| (t.kept, t.swapped, t.dropped)).collect();
    assert_eq!(effects, [(9, 0, 0), (6, 2, 1), (8, 0, 1)]);
    assert_eq!((report.preview.len(), report.preview[0].unit), (3, "text"));
    let words = ChatTokenizer::word_level(&["the", "ward"]).unwrap();
    let options = CheckOptions { tokenizer: Some(&words), max_length: Some(20), ..CheckOptions::default() };
    let report = check(&fixture("pku.jsonl"), &options, &Silent).unwrap();
    assert_eq!(report.tokens.unwrap().prompt.max, 12);
    assert_eq!(report.longer_than_max, Some(9));
    let row = &report.preview[0];
    let text: String = row.chosen.iter().map(|p| p.text.as_str()).collect();
    assert!(row.chosen.last().unwrap().text.ends_with("<end>") && text.starts_with("<bos>"), "{text}");
    let broken = check(&fixture("broken.jsonl"), &CheckOptions::default(), &Silent).unwrap();
    assert_eq!(broken.ledger.rejected[&Rejection::NotJson].rows, 1);
}

#[test]
fn xstest_has_its_520_swaps() {
    let Some(path) = shared("xstest/derived_pairs_with_better.jsonl") else { return };
    let loaded = load_pairs(&path, &with(Preference::Better, SafetyTransform::SwapDrop), &Silent).unwrap();
    assert_eq!((loaded.ledger.read, loaded.ledger.swapped.rows), (1383, 520));
    println!("{}", loaded.ledger);
    let Some(model) = shared("stories260K") else { return };
    let tokenizer = ChatTokenizer::load(&model, &TemplateChoice::Auto).unwrap();
    let mut ledger = loaded.ledger.clone();
    let limit = Truncation { max_length: Some(512), ..Truncation::default() };
    let started = std::time::Instant::now();
    let tokenised = tokenise_pairs(&loaded.examples, &tokenizer, limit, &mut ledger, &Silent).unwrap();
    println!("{ledger}; tokenised in {:?}", started.elapsed());
    assert_eq!(
        (tokenised.len(), ledger.kept),
        (ledger.kept, 1383 - ledger.dropped_rows() - ledger.rejected_rows())
    );
    assert!(tokenised.iter().all(|p| p.chosen.response.last() == Some(&2) && p.chosen.prompt[0] == 1));
}

#[test]
fn hh_dialogues_load_nearly_all() {
    let Some(path) = shared("hh_rlhf") else { return };
    let loaded = load_pairs(&path, &LoadOptions::default(), &Silent).unwrap();
    println!("{}", loaded.ledger);
    assert_eq!((loaded.detected.schema, loaded.ledger.read), (Schema::Hh, 2312 + 2354));
    assert!(loaded.ledger.kept > 4400, "{}", loaded.ledger);
}

#[test]
fn a_real_tokenizer_splits_at_its_end_of_turn() {
    for (name, template) in
        [("tokenizers/qwen2", "auto"), ("tokenizers/minimind", "auto"), ("stories260K", "none")]
    {
        let Some(dir) = shared(name) else { return };
        let tokenizer = ChatTokenizer::load(&dir, &TemplateChoice::parse(template)).unwrap();
        let sequence = tokenizer.encode_response(&[Message::user("What is it?")], "A tower.").unwrap();
        assert_eq!(tokenizer.decode(&sequence.response).trim(), "A tower.", "{name}");
        let end = tokenizer.decode_with_special(&sequence.response[sequence.response.len() - 1..]);
        assert_eq!(end, if template == "none" { "</s>" } else { "<|im_end|>" }, "{name}");
        assert_eq!(tokenizer.encode_prompt(&[Message::user("What is it?")]).unwrap(), sequence.prompt);
    }
}
