//! The detector against human labels, where they are: XSTest's completions (five models) in `$BSO_DATA/xstest`, and the
//! propositions of `$BSO_DATA/openai_rbr_gold`. Without the data these tests say so; the made rows of the unit tests remain.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking and shows its figures"
)]

use bso_evaluation::{Refusal, detect_refusal};
use std::path::{Path, PathBuf};

/// The models whose answers the phrases were chosen on; the others were not looked at.
const DEVELOPMENT: [&str; 2] = ["llama2orig", "mistralguard"];
const HELD_OUT: [&str; 3] = ["gpt4", "llama2new", "mistralinstruct"];

fn data() -> Option<PathBuf> {
    std::env::var_os("BSO_DATA").map(PathBuf::from).filter(|dir| dir.join("xstest").is_dir())
}

/// Label and verdict of every answer.
type Verdicts = Vec<(Refusal, Refusal)>;

fn xstest(folder: &Path, models: &[&str]) -> Verdicts {
    let mut verdicts = Vec::new();
    for model in models {
        let file = folder.join(format!("xstest/xstest_v2_completions_{model}.csv"));
        let mut reader = csv::Reader::from_path(file).unwrap();
        let columns = reader.headers().unwrap().clone();
        let column =
            |name: &str| columns.iter().position(|c| c.trim_start_matches('\u{feff}') == name).unwrap();
        let (answer, label) = (column("completion"), column("final_label"));
        for record in reader.records() {
            let record = record.unwrap();
            let label = match &record[label] {
                "1_full_compliance" => Refusal::Compliance,
                "2_full_refusal" => Refusal::Full,
                "3_partial_refusal" => Refusal::Partial,
                other => panic!("label {other}"),
            };
            verdicts.push((label, detect_refusal(&record[answer])));
        }
    }
    verdicts
}

/// Precision and recall of a class.
fn figures(verdicts: &Verdicts, class: impl Fn(Refusal) -> bool) -> (f64, f64) {
    let count = |of: &dyn Fn(bool, bool) -> bool| {
        verdicts.iter().filter(|(label, verdict)| of(class(*label), class(*verdict))).count() as f64
    };
    let both = count(&|label, verdict| label && verdict);
    (both / count(&|_, verdict| verdict).max(1.0), both / count(&|label, _| label).max(1.0))
}

fn show(name: &str, verdicts: &Verdicts) {
    let line =
        |class: &str, (precision, recall): (f64, f64)| format!("{class} P {precision:.3} R {recall:.3}");
    let same =
        verdicts.iter().filter(|(label, verdict)| label == verdict).count() as f64 / verdicts.len() as f64;
    println!(
        "{name:<30} n {:4} | {} | {} | {} | three classes {same:.3}",
        verdicts.len(),
        line("refusal", figures(verdicts, Refusal::is_refusal)),
        line("full", figures(verdicts, |r| r == Refusal::Full)),
        line("partial", figures(verdicts, |r| r == Refusal::Partial)),
    );
}

#[test]
fn precision_and_recall_against_human_labels() {
    let Some(folder) = data() else {
        println!("no data in $BSO_DATA: the labels were not compared");
        return;
    };
    for model in DEVELOPMENT.iter().chain(&HELD_OUT) {
        show(model, &xstest(&folder, &[model]));
    }
    show("development", &xstest(&folder, &DEVELOPMENT));
    let held_out = xstest(&folder, &HELD_OUT);
    show("held out", &held_out);
    // docs/evaluation.md states these figures.
    let (precision, recall) = figures(&held_out, Refusal::is_refusal);
    assert!(precision > 0.9 && recall > 0.85, "precision {precision:.3}, recall {recall:.3}");
    let (precision, recall) = figures(&held_out, |r| r == Refusal::Full);
    assert!(precision > 0.8 && recall > 0.8, "full refusals: precision {precision:.3}, recall {recall:.3}");
}

#[test]
fn inability_to_comply_in_the_gold_propositions() {
    let Some(folder) = data().map(|dir| dir.join("openai_rbr_gold")).filter(|dir| dir.is_dir()) else {
        println!("no data in $BSO_DATA: the propositions were not compared");
        return;
    };
    let mut verdicts = Verdicts::new();
    for file in ["train.jsonl", "test.jsonl"] {
        let text = std::fs::read_to_string(folder.join(file)).unwrap();
        verdicts.extend(text.lines().map(|line| {
            let row: serde_json::Value = serde_json::from_str(line).unwrap();
            let answer = row["completion"][0]["content"].as_str().unwrap();
            let refuses = row["propositions"]["inability_to_comply"].as_bool().unwrap();
            let label = if refuses { Refusal::Full } else { Refusal::Compliance };
            (label, detect_refusal(answer))
        }));
    }
    show("inability_to_comply", &verdicts);
    // The proposition is narrower than a refusal: answers that judge or console have others. Recall alone is bound.
    let (_, recall) = figures(&verdicts, Refusal::is_refusal);
    assert!(recall > 0.75, "recall {recall:.3}");
}
