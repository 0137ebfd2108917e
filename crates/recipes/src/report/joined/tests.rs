//! Runs, evaluations and pages under common names, on folders made by hand.

use super::*;
use crate::report::gather;
use serde_json::json;
use std::fs;

fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn run(dir: &Path, config: &str) {
    write(&dir.join("metrics.jsonl"), "{\"step\":1,\"epoch\":0.5,\"loss\":0.7}\n");
    write(&dir.join("config.yaml"), &format!("stage: preference\n{config}"));
}

fn interval(mean: f64) -> serde_json::Value {
    json!({"mean": mean, "low": mean - 0.01, "high": mean + 0.01, "n": 100})
}

/// A model's name, path and metrics.
type Told<'a> = (&'a str, &'a Path, &'a [(&'a str, f64)]);

/// A results.json.
fn evaluation(dir: &Path, models: &[Told]) {
    let models: Vec<_> = models
        .iter()
        .map(|(name, path, metrics)| {
            let metrics: serde_json::Map<_, _> =
                metrics.iter().map(|(name, mean)| ((*name).to_owned(), interval(*mean))).collect();
            json!({"name": name, "path": path, "all": {"answers": 100, "metrics": metrics}, "sets": []})
        })
        .collect();
    let results = json!({"baseline": models[0]["name"], "resamples": 10, "models": models, "judge": null});
    write(&dir.join("results.json"), &results.to_string());
}

#[test]
fn runs_of_one_name_are_told_apart_and_share_a_family() {
    let dir = tempfile::tempdir().unwrap();
    for sub in ["c1/run", "c5/run"] {
        run(&dir.path().join(sub), "loss_type: bso\ngenerator: logistic\nsafety_penalty: 1\n");
    }
    let page = gather(&[dir.path().to_owned()]).unwrap();
    let names: Vec<&str> = page.methods.iter().map(|m| m.name.as_str()).collect();
    assert_eq!(names, ["c1/run", "c5/run"]);
    assert!(page.methods.iter().all(|m| m.family == "bso logistic"));
    // The same folder twice is one run.
    let twice = gather(&[dir.path().join("c1/run"), dir.path().join("c1/run")]).unwrap();
    assert_eq!(twice.methods.len(), 1);
}

#[test]
fn axes_are_what_there_is() {
    let dir = tempfile::tempdir().unwrap();
    let (base, trained) = (dir.path().join("base"), dir.path().join("run"));
    run(&trained, "loss_type: dpo\n");
    let eval = dir.path().join("eval");
    let by_models = [("reward", 1.0), ("safe_rate", 0.9), ("over_refusal", 0.1), ("harmless_ratio", 0.8)];
    evaluation(&eval, &[("base", &base, &by_models), ("mine", &trained, &by_models)]);
    let page = gather(&[dir.path().to_owned()]).unwrap();
    assert!(page.axes.is_none(), "mean reward and safe rate");
    assert_eq!((page.methods.len(), page.landmarks.len()), (1, 1));
    assert_eq!(page.methods[0].name, "run", "the run's name, not the evaluation's");
    assert_eq!(page.methods[0].scores.unwrap().safe_rate.unwrap().mean, 0.9);

    evaluation(&eval, &[("base", &base, &by_models[2..]), ("mine", &trained, &by_models[2..])]);
    let page = gather(&[dir.path().to_owned()]).unwrap();
    let axes = page.axes.unwrap();
    assert_eq!(
        (axes.helpfulness.as_str(), axes.safety.as_str()),
        ("Safe prompts answered", "Unsafe prompts refused")
    );
    let place = page.methods[0].place.unwrap();
    assert!((place.helpfulness.mean - 0.9).abs() < 1e-12 && place.helpfulness.low < place.helpfulness.high);
    assert!(page.notes.iter().any(|note| note.contains("detector")));
}

#[test]
fn rising_refusals_of_an_evaluation_are_a_finding_of_the_run() {
    let dir = tempfile::tempdir().unwrap();
    let (base, trained) = (dir.path().join("base"), dir.path().join("run"));
    run(&trained, "loss_type: dpo\n");
    evaluation(
        &dir.path().join("eval"),
        &[("base", &base, &[("over_refusal", 0.02)]), ("mine", &trained, &[("over_refusal", 0.3)])],
    );
    let page = gather(&[dir.path().to_owned()]).unwrap();
    let symptoms: Vec<_> = page.methods[0].findings.iter().map(|f| f.symptom).collect();
    assert_eq!(symptoms, [bso_runs::Symptom::OverRefusal]);
}

#[test]
fn what_differs_between_environments_is_said_with_names() {
    let entry = |k: &str, v: &str| (k.to_owned(), v.to_owned());
    let all = [
        ("a".to_owned(), vec![entry("System", "linux"), entry("Seed", "0")]),
        ("b".to_owned(), vec![entry("System", "linux"), entry("Seed", "1")]),
    ];
    assert_eq!(environment(&all), [entry("System", "linux"), entry("Seed (a)", "0"), entry("Seed (b)", "1")]);
}
