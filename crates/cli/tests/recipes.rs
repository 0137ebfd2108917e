//! Methods of several stages through the program: what they leave, what is not done twice, and that no interruption shows.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use support::Playground;

const SHORT: &str = "num_train_epochs: 1\nmax_steps: 4\nlogging_steps: 2\nsave_steps: 2\nwarmup_ratio: 0\ndual_prompts: 6\n\
                     dual_samples: 4\ndual_max_new_tokens: 12\n";

fn record(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("recipe.json")).unwrap()).unwrap()
}

fn weights(run: &Path) -> Vec<u8> {
    fs::read(run.join("model.safetensors")).unwrap()
}

fn stages(run: &Path) -> Vec<String> {
    let record = record(run);
    record["stages"].as_array().unwrap().iter().map(|s| s["stage"].as_str().unwrap().to_owned()).collect()
}

/// Runs a preset into `NAME/`.
fn config(here: &Playground, name: &str, preset: &str, more: &str) -> String {
    here.config(name, &format!("preset: {preset}\n{SHORT}{more}"))
}

#[test]
fn sacpo_starts_its_second_stage_from_the_first_and_does_nothing_twice() {
    let here = Playground::new();
    let file = config(&here, "sacpo", "sacpo", "");
    here.run(&["train", &file]).ok();
    let run = here.path("sacpo");
    assert_eq!(stages(&run), ["helpful", ""]);
    let first = fs::read_to_string(run.join("helpful/config.yaml")).unwrap();
    let second = fs::read_to_string(run.join("config.yaml")).unwrap();
    assert!(first.contains("preference: better") && second.contains("preference: safer"), "{second}");
    assert!(second.contains("sacpo/helpful") && !second.contains("recipe:"), "{second}");
    // 4 steps of 4 pairs, and the reference once.
    let forwards = record(&run)["stages"][0]["forwards"].as_u64().unwrap();
    assert!(forwards >= 4 * 4 * 2 + 2 * 100, "{forwards}");
    let before = weights(&run);
    let again = here.run(&["train", &file]).ok();
    assert_eq!(again.err.matches("finished before").count(), 2, "{}", again.err);
    assert_eq!(weights(&run), before);
    here.run(&[
        "generate",
        "--model",
        "sacpo",
        "--input",
        "pairs.jsonl",
        "--output",
        "out.jsonl",
        "--max_new_tokens",
        "4",
    ])
    .ok();
}

#[test]
fn an_interruption_between_and_inside_stages_does_not_show() {
    let here = Playground::new();
    here.run(&["train", &config(&here, "whole", "sacpo", "")]).ok();
    // Between: the first stage is there, the second is not.
    let file = config(&here, "between", "sacpo", "");
    here.run(&["train", &file]).ok();
    let run = here.path("between");
    for name in [
        "model.safetensors",
        "manifest.json",
        "metrics.jsonl",
        "reference_log_probs.jsonl",
        "trainer_state.json",
    ] {
        fs::remove_file(run.join(name)).unwrap();
    }
    for step in [2, 4] {
        let _ = fs::remove_dir_all(run.join(format!("checkpoint-{step}")));
    }
    let again = here.run(&["train", &file]).ok();
    assert_eq!(again.err.matches("finished before").count(), 1, "{}", again.err);
    assert_eq!(weights(&run), weights(&here.path("whole")));
    // Inside: as a killed second stage leaves it, with the checkpoint after its second step.
    let manifest = fs::read_to_string(run.join("manifest.json")).unwrap();
    let mut manifest: Value = serde_json::from_str(&manifest).unwrap();
    manifest["status"] = serde_json::json!({ "state": "running" });
    fs::write(run.join("manifest.json"), manifest.to_string()).unwrap();
    fs::remove_file(run.join("model.safetensors")).unwrap();
    let refused = here.run(&["train", &file]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(refused.err.contains("--resume_from_checkpoint auto"), "{}", refused.err);
    let resumed = here.run(&["train", &file, "--resume_from_checkpoint", "auto"]).ok();
    assert!(resumed.err.contains("step 2"), "{}", resumed.err);
    assert_eq!(weights(&run), weights(&here.path("whole")));
}

#[test]
fn every_recipe_runs_to_its_end() {
    let here = Playground::new();
    for (preset, more, expected) in [
        ("sacpo", "safety_loss_type: kto\n", &["helpful", "judged", ""][..]),
        ("p-sacpo", "interpolation: 0.25\n", &["helpful", "safer", ""]),
        ("modpo", "", &["margin", ""]),
        ("pecan", "safety_level: -5\n", &["helpful", "safe", "samples", "relabelled", ""]),
        ("mocan", "safety_level: -50\n", &["reward", "cost", "samples", "relabelled", ""]),
    ] {
        let name = format!("run-{preset}");
        here.run(&["train", &config(&here, &name, preset, more)]).ok();
        let run = here.path(&name);
        assert_eq!(stages(&run), expected, "{preset}");
        assert!(!weights(&run).is_empty(), "{preset}");
        let results: Value =
            serde_json::from_slice(&fs::read(run.join("all_results.json")).unwrap()).unwrap();
        assert!(results["recipe_forwards"].as_f64().unwrap() > 0.0, "{preset}");
    }
    let pairs = fs::read_to_string(here.path("run-pecan/relabelled/pairs.jsonl")).unwrap();
    assert_eq!(pairs.lines().count(), 120);
}

#[test]
fn a_folder_of_something_else_or_of_other_settings_is_refused() {
    let here = Playground::new();
    let file = config(&here, "run", "sacpo", "");
    fs::create_dir(here.path("run")).unwrap();
    here.write("run/notes.txt", "mine");
    let refused = here.run(&["train", &file]);
    assert_eq!(refused.code, Some(2), "{}", refused.err);
    assert!(
        refused.err.contains("not empty") && refused.err.contains("overwrite_output_dir"),
        "{}",
        refused.err
    );
    fs::remove_file(here.path("run/notes.txt")).unwrap();
    here.run(&["train", &file]).ok();
    let other = here.run(&["train", &file, "--safety_beta", "0.3"]);
    assert_eq!(other.code, Some(2), "{}", other.err);
    assert!(other.err.contains("other settings"), "{}", other.err);
    let unreachable = config(&here, "far", "pecan", "safety_level: 1000\n");
    let refused = here.run(&["train", &unreachable]);
    assert!(refused.code != Some(0) && refused.err.contains("unbounded"), "{}", refused.err);
}

#[test]
fn rows_that_a_later_stage_cannot_use_are_refused_before_the_first_one_trains() {
    let here = Playground::new();
    let rows = here.path("pairs.jsonl");
    let text = fs::read_to_string(&rows).unwrap();
    let mut lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    lines[6].as_object_mut().unwrap().remove("is_response_0_safe");
    here.write_rows("unlabelled.jsonl", &lines);
    let file = config(&here, "run", "safe-rlhf", "");
    let refused = here.run(&["train", &file, "--dataset_name", "unlabelled.jsonl"]);
    refused.fails(2, &["unlabelled.jsonl:7", "loss_type cost"]);
    assert!(!here.path("run").exists(), "nothing was begun");
}
