//! `bso sweep` through the program: what a grid becomes, what is computed once, what no interruption changes, what is refused
//! before anything is trained.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod support;

use bso_model::{NormaliserRule, ScoreHead, ScoreKind};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::Duration;
use support::{Ended, Playground, assert_same_result, write_scorer};

/// Two methods, two seeds; DPO reads no penalty. Scorers, prompts and `base.yaml` beside it.
const SWEEP: &str = "base: base.yaml\nmethods:\n  - name: bso\n    settings: {loss_type: bso, generator: logistic, safety_transform: none}\n  \
                     - {name: dpo, settings: {loss_type: dpo}}\ngrid:\n  safety_penalty: [0, 5]\nseeds: [0, 1]\n\
                     eval: {prompt_sets: [prompts.jsonl], reward_model: reward, cost_model: cost, max_new_tokens: 8, \
                     resamples: 100, num_threads: 1}\nsafety_floor: 0.5\noutput_dir: out\n";

fn place(steps: u64) -> Playground {
    let here = Playground::new();
    let head = |kind| ScoreHead::safe_rlhf(kind, NormaliserRule::ExponentialMovingAverage { momentum: 0.9 });
    write_scorer(&here.path("model"), &here.path("reward"), head(ScoreKind::Reward), |_| {});
    write_scorer(&here.path("model"), &here.path("cost"), head(ScoreKind::Cost), |_| {});
    let rows = ["ask the cook", "how do i ask the cook ?", "how do i ask", "break the seal"];
    here.write_rows("prompts.jsonl", &rows.map(|prompt| json!({"prompt": prompt, "kind": "safe"})));
    here.config(
        "base",
        &format!("max_steps: {steps}\nsave_steps: 3\nlogging_steps: 1\neval_split: 0.1\nwarmup_ratio: 0\n"),
    );
    here.write("sweep.yaml", SWEEP);
    here
}

const RUNS: [&str; 6] = [
    "bso-safety_penalty=0-seed=0",
    "bso-safety_penalty=0-seed=1",
    "bso-safety_penalty=5-seed=0",
    "bso-safety_penalty=5-seed=1",
    "dpo-seed=0",
    "dpo-seed=1",
];

fn folders(dir: &Path) -> Vec<String> {
    let entries = fs::read_dir(dir).map(|e| e.map(|e| e.unwrap().file_name().into_string().unwrap()));
    let mut names: Vec<String> = entries.into_iter().flatten().collect();
    names.sort();
    names
}

fn json(path: PathBuf) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// frontier.json without what the clock says.
fn frontier(here: &Playground, out: &str) -> Value {
    let mut found = json(here.path(&format!("{out}/frontier.json")));
    for point in found["points"].as_array_mut().unwrap() {
        point.as_object_mut().unwrap().remove("seconds");
        point.as_object_mut().unwrap().remove("forwards");
    }
    found
}

#[test]
fn a_grid_side_by_side_shares_its_reference_and_equals_one_after_the_other() {
    let here = place(6);
    let ended = here.run(&["sweep", "sweep.yaml", "--jobs", "2"]).ok();
    assert_eq!(folders(&here.path("out/runs")), RUNS);
    for part in ["bso-safety_penalty=5", "hypervolume", "best at safe_rate >= 0.500", "report.html"] {
        assert!(ended.out.contains(part), "{part}: {}", ended.out);
    }
    assert!(ended.err.contains("6 runs, 0 ended before; 2 at a time"), "{}", ended.err);
    // Two seeds split the pairs in two ways, and two losses read them: one set of log-probs serves all.
    assert_eq!(folders(&here.path("out/reference")).len(), 1);
    assert!(!here.path("out/runs/dpo-seed=0/reference_log_probs.jsonl").exists());
    let found = frontier(&here, "out");
    let points = found["points"].as_array().unwrap();
    assert_eq!(points.len(), 3);
    assert_eq!(points[0]["runs"].as_array().unwrap().len(), 2);
    assert_eq!(points[2]["settings"], json!([]), "dpo reads no penalty");
    // Pooled over seeds with equally many answers each: the mean of the means.
    let mean = |point: &Value, key: &str| {
        let runs = point["runs"].as_array().unwrap();
        runs.iter().map(|run| run[key].as_f64().unwrap()).sum::<f64>() / runs.len() as f64
    };
    for point in points {
        assert!((point["helpfulness"]["mean"].as_f64().unwrap() - mean(point, "helpfulness")).abs() < 1e-9);
        assert!((point["safety"]["mean"].as_f64().unwrap() - mean(point, "safety")).abs() < 1e-9);
    }
    assert!(points.iter().any(|point| point["non_dominated"] == true));
    assert_eq!(found["methods"].as_array().unwrap().len(), 2);
    let page = fs::read_to_string(here.path("out/report.html")).unwrap();
    assert!(page.contains("bso-safety_penalty=5") && page.contains("the model that every run starts from"));
    assert!(page.contains("Best at ≥ 50 %"), "the demanded floor is on the page");

    // One at a time: the same bytes.
    here.run(&["sweep", "sweep.yaml", "--jobs", "1", "--output_dir", "one"]).ok();
    for run in RUNS {
        assert_same_result(&here.path(&format!("out/runs/{run}")), &here.path(&format!("one/runs/{run}")));
    }
    assert_eq!(frontier(&here, "one"), found);
    // A run's configuration is one for `bso train`, and says the same thing.
    let alone = here.path("one/configs/dpo-seed=1.yaml");
    here.run(&["train", alone.to_str().unwrap(), "--output_dir", "alone"]).ok();
    assert_same_result(&here.path("alone"), &here.path("out/runs/dpo-seed=1"));

    // Again: nothing is trained or answered a second time, the result is the same.
    let again = here.run(&["sweep", "sweep.yaml", "--json"]).ok();
    assert!(again.err.contains("6 runs, 6 ended before"), "{}", again.err);
    assert!(again.err.contains("kept        4 answers of dpo-seed=1"), "{}", again.err);
    assert_eq!(serde_json::from_str::<Value>(&again.out).unwrap(), json(here.path("out/frontier.json")));
    // A larger grid trains what is new; a changed setting is refused with the difference, and changes nothing.
    let more = here.run(&["sweep", "sweep.yaml", "--grid", "{safety_penalty: [0, 5, 9]}"]).ok();
    assert!(more.err.contains("8 runs, 6 ended before"), "{}", more.err);
    let record = fs::read(here.path("out/sweep.json")).unwrap();
    here.run(&["sweep", "sweep.yaml", "--beta", "0.3"])
        .fails(2, &["begun otherwise", "bso-safety_penalty=0-seed=0: beta was 0.1 and is now 0.3"]);
    // Of a run whose folder is deleted nothing is left that could differ.
    let methods = "[{name: dpo, settings: {loss_type: dpo, beta: 0.3}}]";
    let other = ["sweep", "sweep.yaml", "--methods", methods];
    here.run(&other).fails(2, &["delete the folders", "dpo-seed=0: beta was 0.1 and is now 0.3"]);
    fs::remove_dir_all(here.path("one/runs/dpo-seed=0")).unwrap();
    fs::remove_dir_all(here.path("one/runs/dpo-seed=1")).unwrap();
    let ended = here.run(&[&other[..], &["--output_dir", "one"]].concat()).ok();
    assert!(ended.err.contains("4 recorded runs are not part of it any more"), "{}", ended.err);
    let pairs = fs::read_to_string(here.path("pairs.jsonl")).unwrap();
    here.write("pairs.jsonl", pairs.trim_end().rsplit_once('\n').unwrap().0);
    here.run(&["sweep", "sweep.yaml"]).fails(2, &["pairs.jsonl is not what it was"]);
    assert_eq!(fs::read(here.path("out/sweep.json")).unwrap(), record);
}

/// A sweep of longer runs that is under way: a run has ended in this call, and another has a checkpoint.
fn under_way(here: &Playground) -> Child {
    let ended = || {
        fs::read_to_string(here.path("out/sweep.json")).unwrap_or_default().matches("\"forwards\"").count()
    };
    let before = ended();
    let mut sweep = here.bso();
    sweep.args(["sweep", "sweep.yaml", "--jobs", "2"]);
    let mut child = sweep.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let has_checkpoint = |run: &&str| {
        let dir = here.path(&format!("out/runs/{run}"));
        !dir.join("model.safetensors").exists()
            && folders(&dir).iter().any(|name| name.starts_with("checkpoint-"))
    };
    while !(ended() > before && RUNS.iter().any(has_checkpoint)) {
        assert!(child.try_wait().unwrap().is_none(), "it ended before it could be stopped");
        std::thread::sleep(Duration::from_millis(2));
    }
    child
}

#[cfg(unix)]
#[test]
fn kills_and_ctrl_c_do_not_show_in_the_result() {
    let here = place(40);
    here.run(&["sweep", "sweep.yaml", "--jobs", "2", "--output_dir", "whole"]).ok();
    let mut killed = under_way(&here);
    killed.kill().unwrap();
    killed.wait().unwrap();
    let stopped = under_way(&here);
    let asked =
        std::process::Command::new("kill").args(["-INT", &stopped.id().to_string()]).status().unwrap();
    assert!(asked.success());
    let stopped = Ended::of(stopped.wait_with_output().unwrap());
    assert_eq!(stopped.code, Some(130), "{}", stopped.err);
    assert!(stopped.err.contains("the same command goes on"), "{}", stopped.err);
    assert!(!here.path("out/frontier.json").exists());
    here.run(&["sweep", "sweep.yaml", "--jobs", "2"]).ok();
    for run in RUNS {
        assert_same_result(&here.path(&format!("out/runs/{run}")), &here.path(&format!("whole/runs/{run}")));
    }
    assert_eq!(frontier(&here, "out"), frontier(&here, "whole"));
}

#[test]
fn what_cannot_be_is_refused_before_anything_is_trained() {
    let here = place(6);
    for (change, said) in [
        (&["--grid", "{safety_penaltyy: [0]}"][..], &["`grid`", "Did you mean `safety_penalty`?"][..]),
        (&["--grid", "{safety_penalty: [0, 5, -1]}"], &["method bso, grid", "safety_penalty", "-1"]),
        (&["--grid", "{safety_penalty: 5}"], &["expected a list of values"]),
        (&["--grid", "{seed: [1]}"], &["`seed` is the sweep's to decide"]),
        (&["--seeds", "0,0"], &["`seeds`", "different"]),
        (&["--jobs", "0"], &["`jobs` is 0"]),
        (&["--safety_floor", "95"], &["`safety_floor` is 95", "from 0 to 1"]),
        (&["--methods", "[{name: a, setings: {}}]"], &["method a", "Did you mean `settings`?"]),
        (&["--methods", "[{name: a/b}]"], &["cannot be a method's name"]),
        (&["--methods", "[{name: sft, settings: {stage: reward}}]"], &["scalar head"]),
        (&["--eval.reward_model", "model"], &["scalar head"]),
        (&["--eval.prompt_sets", "none.jsonl"], &["none.jsonl"]),
        (&["--eval.models", "model"], &["`eval.models` is the sweep's to decide"]),
        (
            &["--eval", "{prompt_sets: [prompts.jsonl]}"],
            &["how helpful", "reward_model", "preference accuracy"],
        ),
        (&["--eval", "{prompt_sets: [prompts.jsonl], reward_model: reward}"], &["how safe", "cost_model"]),
        (&["--dataset_name", "none.jsonl"], &["dataset_name", "none.jsonl"]),
        (&["--safety_penalty", "3"], &["`safety_penalty` is a key of the grid"]),
        (&["--grid", "{pref_beta: [0.1, 0.2]}", "--beta", "0.3"], &["`beta` is a key of the grid"]),
        (&["--max_lenght", "3"], &["unknown key `max_lenght`", "Did you mean `max_length`?"]),
    ] {
        here.run(&[&["sweep", "sweep.yaml"], change].concat()).fails(2, said);
        assert!(!here.path("out").exists(), "{change:?}");
    }
    let weights = here.path("reward/model.safetensors");
    let whole = fs::read(&weights).unwrap();
    fs::write(&weights, &whole[..whole.len() - 9]).unwrap();
    here.run(&["sweep", "sweep.yaml"]).fails(2, &["reward", "truncated"]);
    assert!(!here.path("out").exists());
    fs::write(&weights, whole).unwrap();
    // Labels are found missing in the data, not in the settings: also before the first run, whichever run needs them.
    let row = json!({"prompt": "ask the cook", "chosen": "ask", "rejected": "cook"});
    here.write_rows("bare.jsonl", &vec![row; 8]);
    here.run(&["sweep", "sweep.yaml", "--dataset_name", "bare.jsonl"])
        .fails(2, &["bare.jsonl", "bso-safety_penalty=5"]);
    assert!(!here.path("out/runs").exists());
    here.write("mine.txt", "mine");
    here.run(&["sweep", "sweep.yaml", "--output_dir", "."]).fails(2, &["not empty and holds no sweep"]);
    assert!(here.run(&["sweep", "--example"]).ok().out.contains("safety_floor:"));
}

#[test]
fn a_dry_run_lists_and_writes_nothing() {
    let here = place(6);
    let ended = here.run(&["sweep", "sweep.yaml", "--dry_run"]).ok();
    assert!(RUNS.iter().all(|run| ended.out.contains(run)), "{}", ended.out);
    assert!(ended.out.contains("6 of 6 runs to do") && ended.out.contains("peak MiB"), "{}", ended.out);
    let listed: Value =
        serde_json::from_str(&here.run(&["sweep", "sweep.yaml", "--dry-run", "--json"]).ok().out).unwrap();
    assert_eq!(listed["runs"], json!(RUNS));
    assert!(listed["schedule"]["costs"][0]["peak_bytes"].as_u64().unwrap() > 1 << 20);
    assert!(!here.path("out").exists());
}

#[test]
fn methods_of_several_stages_and_runs_that_fail_stand_beside_the_others() {
    let here = place(4);
    let methods = "[{name: sacpo, settings: {preset: sacpo}, grid: {safety_beta: [0.1, 0.2]}}, {name: dpo, settings: {loss_type: dpo}}, \
                   {name: hot, settings: {loss_type: dpo, learning_rate: 1.0e+30, max_grad_norm: none}}]";
    let arguments = ["sweep", "sweep.yaml", "--methods", methods, "--seeds", "0", "--jobs", "2"];
    let ended = here.run(&arguments);
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.out, ended.err);
    assert!(
        ended.out.contains("failed   hot-seed=0") && ended.out.contains("sacpo-safety_beta=0.2"),
        "{}",
        ended.out
    );
    assert!(here.path("out/runs/sacpo-safety_beta=0.1-seed=0/helpful/model.safetensors").exists());
    let found = json(here.path("out/frontier.json"));
    assert_eq!(
        (found["points"].as_array().unwrap().len(), found["failed"][0][0].as_str()),
        (3, Some("hot-seed=0"))
    );
    let again = here.run(&arguments);
    assert!(again.err.contains("4 runs, 3 ended before"), "{}", again.err);
}
