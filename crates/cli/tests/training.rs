//! Training through the program: what a run leaves, what holds at its first step, and that no interruption shows in
//! its result.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;
use support::{Ended, Playground, assert_same_result, metrics};

const BSO: &str = "loss_type: bso\ngenerator: sba\ngenerator_params: [0.2, 4]\nsafety_penalty: 5\nsafety_transform: swap_drop\n";

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or_else(|| panic!("no {name} in {row}"))
}

#[test]
fn a_run_leaves_the_files_that_the_ecosystem_knows() {
    let here = Playground::new();
    let config = here.config(
        "run",
        &format!("{BSO}max_steps: 6\nlogging_steps: 2\neval_split: 0.1\nreport_to: tensorboard\n"),
    );
    let ended = here.run(&["train", &config]).ok();
    for part in ["objective", "reference", "model as it is before training", "swapped", "trainable"] {
        assert!(ended.err.contains(part), "no {part:?} in:\n{}", ended.err);
    }
    let run = here.path("run");
    for file in [
        "config.yaml",
        "manifest.json",
        "metrics.jsonl",
        "model.safetensors",
        "config.json",
        "generation_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "trainer_state.json",
        "all_results.json",
        "README.md",
        "report.html",
        "tensorboard",
        "reference_log_probs.jsonl",
    ] {
        assert!(run.join(file).exists(), "{file} is missing");
    }
    let report = fs::read_to_string(run.join("report.html")).unwrap();
    assert!(report.contains("Finished after 6 steps."), "the report of a finished run says so");
    let rows = metrics(&run);
    let training: Vec<&Value> = rows.iter().filter(|r| r.get("loss").is_some()).collect();
    assert_eq!(training.iter().map(|r| number(r, "step")).collect::<Vec<_>>(), [2.0, 4.0, 6.0]);
    for name in [
        "epoch",
        "loss",
        "grad_norm",
        "learning_rate",
        "num_tokens",
        "rewards/chosen",
        "rewards/rejected",
        "rewards/accuracies",
        "rewards/margins",
        "logps/chosen",
        "logps/rejected",
        "bso/log_r",
        "bso/frac_log_r_gt_0",
        "bso/frac_clamped",
        "bso/safety_delta",
        "quadrant/safe_unsafe/rewards/margins",
    ] {
        assert!(number(training[2], name).is_finite(), "{name}");
    }
    assert!(rows.iter().any(|r| r.get("eval_rewards/accuracies").is_some()));
    // What config.yaml says is the run: reading it again gives the same settings.
    let shown = here.run(&["config", "show", "run/config.yaml"]).ok().out;
    assert_eq!(shown, here.run(&["config", "show", &config]).ok().out);
}

#[test]
fn a_policy_that_is_its_reference_starts_with_margin_zero_and_ln_2() {
    let here = Playground::new();
    let config = here.config("run", "loss_type: dpo\nmax_steps: 1\nlogging_steps: 1\n");
    here.run(&["train", &config]).ok();
    let first = &metrics(&here.path("run"))[0];
    assert!(number(first, "rewards/margins").abs() < 1e-5, "{first}");
    assert!((number(first, "loss") - std::f64::consts::LN_2).abs() < 1e-5, "{first}");
}

#[test]
fn every_loss_trains_and_changes_the_weights() {
    let here = Playground::new();
    let margins: Vec<Value> = fs::read_to_string(here.path("pairs.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let row: Value = serde_json::from_str(line).unwrap();
            let text = |i: usize| row[format!("response_{i}")].clone();
            serde_json::json!({"prompt": row["prompt"], "chosen": text(0), "rejected": text(1), "chosen_margin": 0.3,
                               "rejected_margin": -0.2})
        })
        .collect();
    here.write_rows("margins.jsonl", &margins);
    let before = fs::read(here.path("model/model.safetensors")).unwrap();
    for (name, settings) in [
        ("bso", BSO.to_owned()),
        ("kernel", "loss_type: bso\ngenerator: kernel\nkernel: \"1/cosh(u/2)\"\n".to_owned()),
        (
            "tail",
            "loss_type: bso\nlog_ratio_clamp: [-1, 1]\nlog_ratio_tail: linear\nlabel_smoothing: 0.1\n"
                .to_owned(),
        ),
        ("dpo", "loss_type: dpo\noptim: rmsprop\n".to_owned()),
        ("cdpo", "loss_type: cdpo\nlabel_smoothing: 0.1\noptim: sgd\n".to_owned()),
        ("ipo", "loss_type: ipo\n".to_owned()),
        ("ipo_mean", "loss_type: ipo_mean\n".to_owned()),
        ("hinge", "loss_type: hinge\npreference: safer\n".to_owned()),
        ("safedpo", "loss_type: safedpo\n".to_owned()),
        ("bfpo", "loss_type: bfpo\n".to_owned()),
        ("modpo", "loss_type: modpo\ndataset_name: margins.jsonl\n".to_owned()),
        ("kto", "loss_type: kto\n".to_owned()),
        ("sft", "stage: sft\nloss_type: nll\ndataset_name: sft.jsonl\n".to_owned()),
    ] {
        let settings = if settings.contains("dataset_name") {
            let file = here.config(name, "max_steps: 3\nlogging_steps: 1\n");
            let text =
                fs::read_to_string(here.path(&file)).unwrap().replace("dataset_name: pairs.jsonl\n", "");
            here.write(&file, &(text + &settings));
            file
        } else {
            here.config(name, &format!("{settings}max_steps: 3\nlogging_steps: 1\n"))
        };
        let ended = here.run(&["train", &settings]);
        assert_eq!(ended.code, Some(0), "{name}: {}", ended.err);
        let rows = metrics(&here.path(name));
        let losses: Vec<f64> =
            rows.iter().filter(|r| r.get("loss").is_some()).map(|r| number(r, "loss")).collect();
        assert!(losses.len() == 3 && losses.iter().all(|l| l.is_finite()), "{name}: {losses:?}");
        assert!(number(&rows[0], "grad_norm") > 0.0, "{name}");
        assert_ne!(fs::read(here.path(name).join("model.safetensors")).unwrap(), before, "{name}");
    }
}

#[test]
fn a_huge_penalty_trains_with_clipping_and_is_refused_without() {
    let here = Playground::new();
    let huge = "loss_type: bso\ngenerator: sba\ngenerator_params: [1.0, 4]\nsafety_penalty: 100\nlog_ratio_clamp: none\n\
                max_steps: 8\nlogging_steps: 1\n";
    here.run(&["train", &here.config("clipped", huge), "--max_grad_norm", "1.0"]).ok();
    for row in metrics(&here.path("clipped")) {
        let numbers = row.as_object().unwrap().iter().filter(|(name, _)| !name.starts_with("eval_"));
        assert!(numbers.clone().all(|(_, v)| v.as_f64().is_some_and(f64::is_finite)), "{row}");
    }
    here.run(&["train", &here.config("open", huge), "--max_grad_norm", "none"]).fails(1, &["max_grad_norm"]);
}

#[test]
fn accumulating_gradients_equals_one_large_batch() {
    let here = Playground::new();
    let settings = format!("{BSO}max_steps: 4\nlogging_steps: 1\ndtype: f32\n");
    let whole = here.config("whole", &settings);
    let parts = here.config("parts", &settings);
    here.run(&["train", &whole, "--per_device_train_batch_size", "8"]).ok();
    here.run(&["train", &parts, "--per_device_train_batch_size", "2", "--gradient_accumulation_steps", "4"])
        .ok();
    for (a, b) in metrics(&here.path("whole")).iter().zip(metrics(&here.path("parts"))) {
        for name in ["loss", "grad_norm"] {
            if a.get(name).is_some() {
                let (a, b) = (number(a, name), number(&b, name));
                assert!((a - b).abs() <= 1e-4 * a.abs(), "{name}: {a} and {b}");
            }
        }
    }
}

/// Long enough to be killed in the middle, with a checkpoint every few steps and accumulation across micro-batches.
fn long_run(here: &Playground, name: &str) -> String {
    let settings = "max_steps: 120\nsave_steps: 7\nlogging_steps: 5\neval_strategy: steps\neval_steps: 30\n\
                    eval_split: 0.1\ngradient_accumulation_steps: 2\nsave_total_limit: 2\nlr_scheduler_type: cosine\nwarmup_steps: 5\n";
    here.config(name, &format!("{BSO}{settings}"))
}

#[cfg(unix)]
#[test]
fn ctrl_c_writes_a_checkpoint_and_the_rest_follows() {
    let here = Playground::new();
    let (whole, stopped) = (long_run(&here, "whole"), long_run(&here, "stopped"));
    here.run(&["train", &whole]).ok();
    let child =
        here.bso().args(["train", &stopped]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let metrics_file = here.path("stopped/metrics.jsonl");
    while !fs::read_to_string(&metrics_file).is_ok_and(|text| text.lines().count() >= 3) {
        std::thread::sleep(Duration::from_millis(5));
    }
    let killed = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap();
    assert!(killed.success());
    let ended = Ended::of(child.wait_with_output().unwrap());
    assert_eq!(ended.code, Some(130), "{}", ended.err);
    assert!(ended.err.contains("resume_from_checkpoint"), "{}", ended.err);
    here.run(&["train", &stopped, "--resume_from_checkpoint", "auto"]).ok();
    assert_same_result(&here.path("whole"), &here.path("stopped"));
}

#[test]
fn a_checkpoint_of_other_settings_is_refused_by_name() {
    let here = Playground::new();
    let config = here.config("run", &format!("{BSO}max_steps: 6\nsave_steps: 2\n"));
    here.run(&["train", &config]).ok();
    here.run(&["train", &config, "--resume_from_checkpoint", "auto", "--beta", "0.7"])
        .fails(2, &["beta", "0.7"]);
    here.run(&["train", &config]).fails(2, &["already holds a run", "overwrite_output_dir"]);
    here.run(&["train", &config, "--overwrite_output_dir", "true"]).ok();
}

#[test]
fn a_reference_pass_is_made_checked_and_taken_up_again() {
    let here = Playground::new();
    let more = "loss_type: dpo\npreference: safer\nmax_steps: 2\n";
    let (whole, other) = (here.config("whole", more), here.config("other", more));
    here.run(&["ref", &whole]).ok();
    let file = |run: &str| here.path(run).join("reference_log_probs.jsonl");
    let bytes = fs::read_to_string(file("whole")).unwrap();
    assert!(here.run(&["ref", &whole]).ok().err.contains("read from"), "a second time it is checked");
    // What a stopped pass leaves: the first examples, under the same header with their number.
    let (header, rows) = bytes.split_once('\n').unwrap();
    let mut header: serde_json::Value = serde_json::from_str(header).unwrap();
    (header["train"], header["eval"]) = (5.into(), 0.into());
    let part: Vec<&str> = rows.lines().take(5).collect();
    fs::create_dir(here.path("other")).unwrap();
    let part_file = here.path("other/reference_log_probs.jsonl.part");
    fs::write(&part_file, format!("{header}\n{}\n", part.join("\n"))).unwrap();
    let ended = here.run(&["train", &other]).ok();
    assert!(ended.err.contains("5 of") && !part_file.exists(), "{}", ended.err);
    assert_eq!(fs::read_to_string(file("other")).unwrap(), bytes, "the same bytes");
    let ended = here.run(&["train", &whole]).ok();
    assert!(ended.err.contains("read from"), "the run takes what bso ref left: {}", ended.err);
    assert!(here.run(&["ref", &whole]).ok().err.contains("read from"), "beside a finished run as well");
    // Made from other ingredients, or without a reference.
    fs::create_dir(here.path("third")).unwrap();
    fs::write(here.path("third/reference_log_probs.jsonl.part"), header.to_string()).unwrap();
    here.run(&["ref", &here.config("third", &more.replace("safer", "better"))])
        .fails(2, &["reference_log_probs.jsonl.part", "data in tokens"]);
    here.run(&["ref", &here.config("sft", "stage: sft\n")]).fails(2, &["no reference"]);
}

#[test]
fn stale_reference_log_probs_are_refused() {
    let here = Playground::new();
    let config = here.config("run", "loss_type: dpo\nmax_steps: 4\nsave_steps: 2\n");
    here.run(&["train", &config]).ok();
    let file = here.path("run/reference_log_probs.jsonl");
    let text = fs::read_to_string(&file).unwrap();
    let weights = text.split("\"weights\":\"").nth(1).unwrap().split('"').next().unwrap().to_owned();
    fs::write(&file, text.replace(&weights, "0")).unwrap();
    here.run(&["train", &config, "--resume_from_checkpoint", "auto"])
        .fails(2, &["reference_log_probs.jsonl", "weights"]);
    let (header, rows) = text.split_once('\n').unwrap();
    let (_, rows) = rows.split_once('\n').unwrap();
    fs::write(&file, format!("{header}\n[-1.5]\n{rows}")).unwrap();
    here.run(&["train", &config, "--resume_from_checkpoint", "auto"])
        .fails(2, &["reference_log_probs.jsonl, line 2", "1 log-probs instead of 2"]);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let here = Playground::new();
    let settings = format!("{BSO}max_steps: 5\n");
    for name in ["a", "b", "c"] {
        let config = here.config(name, &settings);
        here.run(&["train", &config, "--seed", if name == "c" { "8" } else { "7" }]).ok();
    }
    let bytes = |name: &str| fs::read(here.path(name).join("model.safetensors")).unwrap();
    assert!(bytes("a") == bytes("b"));
    assert!(bytes("a") != bytes("c"));
}

/// The output directory opens in transformers with the log-probs that `bso logprobs` gives.
#[test]
fn the_trained_model_opens_in_transformers() {
    let Ok(python) = std::env::var("BSO_PYTHON") else {
        println!("skipped: set BSO_PYTHON to a Python with torch and transformers");
        return;
    };
    let here = Playground::new();
    let config = here.config("run", "loss_type: dpo\nmax_steps: 3\n");
    here.run(&["train", &config]).ok();
    here.run(&["logprobs", "--model", "run", "--data", "sft.jsonl", "--output", "scored.jsonl"]).ok();
    let script = r#"
import json, sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
tok, model = AutoTokenizer.from_pretrained("run"), AutoModelForCausalLM.from_pretrained("run", dtype=torch.float32)
worst = 0.0
for line in list(open("scored.jsonl"))[:20]:
    row = json.loads(line)
    messages = [{"role": "user", "content": row["prompt"]}]
    prompt = tok.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    full = tok.apply_chat_template(messages + [{"role": "assistant", "content": row["response"]}], tokenize=False)
    n = len(tok(prompt, add_special_tokens=False).input_ids)
    ids = torch.tensor([tok(full, add_special_tokens=False).input_ids])
    with torch.no_grad(): lp = model(ids).logits.double().log_softmax(-1)
    total = sum(lp[0, i - 1, ids[0, i]].item() for i in range(n, n + row["tokens"]))
    worst = max(worst, abs(total - row["logp"]) / abs(total))
print(worst)
"#;
    here.write("compare.py", script);
    let output = std::process::Command::new(python)
        .arg("compare.py")
        .current_dir(here.path("."))
        .env("HF_HUB_OFFLINE", "1")
        .output()
        .unwrap();
    let ended = Ended::of(output).ok();
    let worst: f64 = ended.out.trim().parse().unwrap();
    println!("largest relative difference to transformers: {worst:e}");
    assert!(worst < 1e-4, "{worst}");
}

/// Asks a run to stop as soon as its first training step is done.
struct StopsAfterOneStep {
    interrupt: bso_durable::Interrupt,
    training: std::sync::atomic::AtomicBool,
}

impl bso_durable::Observer for StopsAfterOneStep {
    fn event(&self, event: bso_durable::Event) {
        use std::sync::atomic::Ordering::Relaxed;
        match event {
            bso_durable::Event::Started { task, .. } => self.training.store(task == "training", Relaxed),
            bso_durable::Event::Advanced { .. } if self.training.load(Relaxed) => {
                self.interrupt.raise();
            }
            _ => {}
        }
    }
}

#[test]
fn an_evaluation_that_ctrl_c_prevents_is_made_up_for_on_resume() {
    let here = Playground::new();
    for (steps, name) in [("1", "last"), ("4", "middle")] {
        let settings = format!(
            "{BSO}max_steps: {steps}\nlogging_steps: 1\neval_split: 0.1\neval_strategy: steps\neval_steps: 1\nsave_steps: 1\n"
        );
        let (whole, stopped) = (
            here.config(&format!("{name}-whole"), &settings),
            here.config(&format!("{name}-stopped"), &settings),
        );
        here.run(&["train", &whole]).ok();
        let resolved = bso_recipes::config::load(&here.path(&stopped), &[]).unwrap();
        let interrupt = bso_durable::Interrupt::new();
        let observer = StopsAfterOneStep { interrupt: interrupt.clone(), training: false.into() };
        let trained = bso_recipes::train(&resolved.config, &interrupt, &observer).unwrap();
        assert!(trained.interrupted, "{name}: the run must not count as finished without its evaluation");
        here.run(&["train", &stopped, "--resume_from_checkpoint", "auto"]).ok();
        assert_same_result(&here.path(&format!("{name}-whole")), &here.path(&format!("{name}-stopped")));
    }
}

#[test]
fn a_refused_resume_leaves_the_record_of_the_run_as_it_was() {
    let here = Playground::new();
    let config = here.config("run", &format!("{BSO}max_steps: 6\nsave_steps: 2\n"));
    here.run(&["train", &config]).ok();
    let record = || {
        ["config.yaml", "manifest.json", "metrics.jsonl"].map(|f| fs::read(here.path("run").join(f)).unwrap())
    };
    let before = record();
    here.run(&["train", &config, "--resume_from_checkpoint", "auto", "--beta", "0.7"]).fails(2, &["beta"]);
    assert!(record() == before);
}

#[test]
fn a_resume_with_another_number_of_threads_is_told() {
    let here = Playground::new();
    let config = here.config("run", &format!("{BSO}max_steps: 6\nsave_steps: 2\n"));
    here.run(&["train", &config]).ok();
    let resume = ["train", &config, "--resume_from_checkpoint", "auto"];
    assert!(!here.run(&resume).ok().err.contains("other conditions"));
    let ended = here.run(&[&resume[..], &["--num_threads", "2"]].concat()).ok();
    assert!(ended.err.contains("num_threads was 1 and is now 2"), "{}", ended.err);
}

#[test]
fn a_resume_with_other_safety_labels_is_refused() {
    let here = Playground::new();
    let settings = "loss_type: bso\nsafety_transform: none\nmax_steps: 6\nsave_steps: 2\n";
    let config = here.config("run", settings);
    here.run(&["train", &config]).ok();
    let pairs = fs::read_to_string(here.path("pairs.jsonl")).unwrap();
    let relabelled = pairs.replacen("\"is_response_0_safe\":true", "\"is_response_0_safe\":false", 1);
    assert_ne!(pairs, relabelled);
    here.write("pairs.jsonl", &relabelled);
    here.run(&["train", &config, "--resume_from_checkpoint", "auto"]).fails(2, &["labels"]);
}

#[test]
fn trainer_state_tells_the_intervals_of_the_run() {
    let here = Playground::new();
    let config = here.config("run", "loss_type: dpo\nmax_steps: 3\nlogging_steps: 2\nsave_steps: 7\n");
    here.run(&["train", &config]).ok();
    let state: Value =
        serde_json::from_str(&fs::read_to_string(here.path("run/trainer_state.json")).unwrap()).unwrap();
    let told = ["global_step", "max_steps", "logging_steps", "save_steps"].map(|name| number(&state, name));
    assert_eq!(told, [3.0, 3.0, 2.0, 7.0]);
}

#[test]
fn kto_trains_where_mismatched_sequences_would_exceed_the_context() {
    let here = Playground::new();
    let rows: Vec<Value> = (0..8)
        .map(|i| {
            let text = |count: usize| vec!["how"; count].join(" ");
            let (prompt, completion) = if i % 2 == 0 { (100, 10) } else { (10, 100) };
            serde_json::json!({"prompt": format!("{}{i}", text(prompt)), "completion": text(completion), "label": i < 4})
        })
        .collect();
    here.write_rows("unpaired.jsonl", &rows);
    let config = here.config("run", "loss_type: kto\nmax_steps: 1\n");
    here.run(&[
        "train",
        &config,
        "--dataset_name",
        "unpaired.jsonl",
        "--max_length",
        "128",
        "--eval_split",
        "0",
    ])
    .ok();
}

#[test]
fn modpo_takes_its_margins_from_a_model_or_from_rows_alike() {
    let here = Playground::new();
    let config = |name: &str, more: &str| {
        here.config(name, &format!("max_steps: 4\nlogging_steps: 1\neval_split: 0\ndtype: f32\n{more}"))
    };
    here.run(&["train", &config("safer", "loss_type: dpo\npreference: safer\n")]).ok();
    let modpo = "loss_type: modpo\nbeta: 0.5\nw0: 0.4\n";
    let by_model = config("by_model", &format!("{modpo}margin_model: safer\n"));
    let ended = here.run(&["train", &by_model]).ok();
    assert!(ended.err.contains("margins"), "{}", ended.err);
    // The same margins, computed by `bso logprobs` and written into rows.
    let scored = |model: &str| {
        let rows = [
            "logprobs",
            "--model",
            model,
            "--data",
            "pairs.jsonl",
            "--preference",
            "better",
            "--max_length",
            "96",
        ];
        here.run(&rows).ok().rows()
    };
    let rows: Vec<Value> = scored("safer")
        .iter()
        .zip(scored("model"))
        .map(|(margin, reference)| {
            let m = |name: &str| 0.5 * (number(margin, name) - number(&reference, name));
            let better = margin["better_response_id"].as_u64().unwrap();
            let text = |i: u64| margin[format!("response_{i}")].clone();
            serde_json::json!({"prompt": margin["prompt"], "chosen": text(better), "rejected": text(1 - better),
                               "chosen_margin": m("chosen_logp"), "rejected_margin": m("rejected_logp")})
        })
        .collect();
    here.write_rows("margins.jsonl", &rows);
    let by_rows = config("by_rows", modpo);
    here.run(&["train", &by_rows, "--dataset_name", "margins.jsonl"]).ok();
    for (a, b) in metrics(&here.path("by_model")).iter().zip(metrics(&here.path("by_rows"))) {
        let (a, b) = (number(a, "loss"), number(&b, "loss"));
        assert!((a - b).abs() <= 1e-5 * a.abs(), "{a} and {b}");
    }
    here.run(&["train", &by_model, "--margin_model", "nowhere"]).fails(2, &["margin_model", "nowhere"]);
}

/// A rate at which a tiny model soon fits the training pairs and no longer the held-out ones.
fn overfitting(here: &Playground, name: &str, more: &str) -> String {
    let settings = "loss_type: dpo\nmax_steps: 120\nlogging_steps: 7\neval_strategy: steps\neval_steps: 4\neval_split: 0.3\n\
                    save_steps: 10\nsave_total_limit: 1\nlr_scheduler_type: constant\nload_best_model_at_end: true\n";
    here.config(name, &format!("{settings}{more}"))
}

fn trainer_state(run: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(run.join("trainer_state.json")).unwrap()).unwrap()
}

#[test]
fn a_run_stops_early_and_ends_with_its_best_weights() {
    let here = Playground::new();
    let config = overfitting(&here, "run", "early_stopping_patience: 3\n");
    let ended = here.run(&["train", &config]).ok();
    let run = here.path("run");
    let evaluations: Vec<(f64, f64)> = metrics(&run)
        .iter()
        .filter(|row| row.get("eval_loss").is_some())
        .map(|row| (number(row, "step"), number(row, "eval_loss")))
        .collect();
    let best = evaluations.iter().copied().min_by(|a, b| a.1.total_cmp(&b.1)).unwrap();
    // Three evaluations without a gain, every four steps.
    let last = best.0 + 12.0;
    assert!(last < 120.0 && evaluations.last().unwrap().0 == last, "{evaluations:?}");
    assert!(ended.err.contains(&format!("stopped after step {last}")), "{}", ended.err);
    let state = trainer_state(&run);
    assert_eq!(number(&state, "best_global_step"), best.0);
    assert_eq!(number(&state, "best_metric"), best.1);
    assert_eq!(number(&state, "global_step"), last);
    let checkpoint = run.join(format!("checkpoint-{}", best.0));
    assert!(
        state["best_model_checkpoint"].as_str().unwrap().ends_with(&format!("run/checkpoint-{}", best.0))
    );
    // save_total_limit: 1 keeps the best beside the latest.
    let weights = |dir: &Path| fs::read(dir.join("model.safetensors")).unwrap();
    assert!(weights(&run) == weights(&checkpoint));
    let results: Value =
        serde_json::from_str(&fs::read_to_string(run.join("all_results.json")).unwrap()).unwrap();
    assert_eq!(number(&results, "eval_loss"), best.1);
    let names = fs::read_dir(&run).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap());
    let kept: Vec<String> = names.filter(|name| name.starts_with("checkpoint-")).collect();
    assert!(kept.len() <= 2, "{kept:?}");
}

#[test]
fn the_best_survives_kills_and_ends_in_the_same_bytes() {
    let here = Playground::new();
    for (name, more) in [
        ("loss", "early_stopping_patience: 3\n"),
        ("accuracy", "metric_for_best_model: rewards/accuracies\nsave_strategy: best\n"),
    ] {
        let [whole, killed] =
            ["whole", "killed"].map(|which| overfitting(&here, &format!("{name}-{which}"), more));
        here.run(&["train", &whole]).ok();
        let mut kills = 0;
        for attempt in 0u64..60 {
            let mut child = here
                .bso()
                .args(["train", &killed, "--resume_from_checkpoint", "auto"])
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap();
            std::thread::sleep(Duration::from_millis(70 + 31 * attempt));
            if child.try_wait().unwrap().is_some() {
                break;
            }
            child.kill().unwrap();
            child.wait().unwrap();
            kills += 1;
        }
        println!("{name}: killed {kills} times");
        let [whole, killed] = ["whole", "killed"].map(|which| here.path(&format!("{name}-{which}")));
        assert_same_result(&whole, &killed);
        for field in ["best_global_step", "best_metric", "global_step"] {
            assert_eq!(trainer_state(&whole)[field], trainer_state(&killed)[field], "{name}: {field}");
        }
    }
}

#[test]
fn the_best_of_nothing_is_refused_with_the_remedy() {
    let here = Playground::new();
    let config = here.config("run", "loss_type: dpo\nmax_steps: 2\n");
    for (settings, parts) in [
        (&["--load_best_model_at_end", "true"][..], &["load_best_model_at_end", "set eval_strategy"][..]),
        (&["--early_stopping_patience", "2"], &["early_stopping_patience", "set eval_strategy"]),
        (&["--save_strategy", "best"], &["save_strategy", "set eval_strategy"]),
        (
            &["--load_best_model_at_end", "true", "--eval_strategy", "epoch", "--eval_split", "0"],
            &["raise eval_split", "dataset_test_split"],
        ),
        (
            &["--metric_for_best_model", "eval_accuracy", "--eval_strategy", "epoch"],
            &["no eval_accuracy", "eval_rewards/accuracies", "by quadrant"],
        ),
    ] {
        here.run(&[&["train", &config], settings].concat()).fails(2, parts);
    }
    here.run(&[
        "train",
        &config,
        "--overwrite_output_dir",
        "true",
        "--metric_for_best_model",
        "rewards/margins",
    ])
    .ok();
    let state = trainer_state(&here.path("run"));
    assert!(state["best_model_checkpoint"].as_str().unwrap().ends_with("/run"), "{state}");
}

#[test]
fn a_margin_model_that_changed_is_noticed_where_its_log_probs_are_gone() {
    let here = Playground::new();
    support::write_model(&here.path("margin"));
    let config = here.config("run", "loss_type: modpo\nmargin_model: margin\nmax_steps: 4\nsave_steps: 2\n");
    here.run(&["train", &config]).ok();
    let log_probs = here.path("run/margin_log_probs.jsonl");
    fs::remove_file(&log_probs).unwrap();
    let resume = ["train", &config, "--resume_from_checkpoint", "auto"];
    here.run(&resume).ok();
    fs::remove_file(&log_probs).unwrap();
    let weights = here.path("margin/model.safetensors");
    let mut bytes = fs::read(&weights).unwrap();
    *bytes.last_mut().unwrap() ^= 1;
    fs::write(&weights, bytes).unwrap();
    here.run(&resume).fails(2, &["margin_model are no longer the same"]);
    assert!(!log_probs.exists(), "nothing is computed for a run that this is not");
}

#[test]
fn preferences_that_always_are_for_the_unsafe_response_are_told_where_no_penalty_helps() {
    let here = Playground::new();
    let rows: Vec<serde_json::Value> = (0..24)
        .map(|i| {
            serde_json::json!({"prompt": format!("break the seal {i}"), "response_0": "take the hammer .", "response_1": "sorry , no .",
                "is_response_0_safe": false, "is_response_1_safe": true, "better_response_id": 0, "safer_response_id": 1})
        })
        .collect();
    here.write_rows("pairs.jsonl", &rows);
    let said = |transform: &str| {
        let settings =
            format!("loss_type: bso\nsafety_transform: {transform}\nmax_steps: 1\neval_split: 0\n");
        here.run(&["train", &here.config(transform, &settings)]).ok().err
    };
    assert!(said("none").contains("in 24 of 24 pairs"), "{}", said("none"));
    assert!(!said("swap_drop").contains("in 24 of 24 pairs"));
}
