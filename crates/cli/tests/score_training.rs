//! `stage: reward` and `stage: cost` through the program: what is learnt and left, resuming, what is refused.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops where something is not as it should be"
)]

mod support;

use bso_model::{NormaliserRule, ScoreHead, ScoreKind};
use serde_json::{Value, json};
use std::fs;
use std::path::Path;
use std::process::Command;
use support::{Playground, metrics, write_scorer};

const STEPS: &str = "max_steps: 8\nlogging_steps: 2\nsave_strategy: steps\nsave_steps: 4\neval_split: 0.2\neval_strategy: steps\neval_steps: 8\n";

fn read(file: &Path) -> Value {
    serde_json::from_slice(&fs::read(file).unwrap()).unwrap()
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or(f64::NAN)
}

#[test]
fn a_reward_model_is_trained_from_a_language_model_and_scores() {
    let here = Playground::new();
    let config =
        here.config("run", &format!("stage: reward\nnum_train_epochs: 4\nmax_steps: 60\n{}", &STEPS[13..]));
    let ended = here.run(&["train", &config]).ok();
    for said in [
        "-log sigmoid(r_w - r_l) + 0.001 mean(score^2)",
        "head        new, of a LlamaForSequenceClassification",
    ] {
        assert!(ended.err.contains(said), "{}", ended.err);
    }
    assert!(!ended.err.contains("reference  "), "there is none: {}", ended.err);
    let run = here.path("run");
    let rows = metrics(&run);
    let (first, last) = (&rows[0], rows.iter().rev().find(|row| row.get("loss").is_some()).unwrap());
    for name in ["loss", "rewards/chosen", "rewards/rejected", "rewards/accuracies", "rewards/margins"] {
        assert!(number(first, name).is_finite() && number(last, name).is_finite(), "{name}: {last}");
    }
    assert!(number(last, "loss") < number(first, "loss"), "it learns: {first} to {last}");
    assert!(rows.iter().any(|row| row.get("eval_rewards/accuracies").is_some()));
    let saved = read(&run.join("config.json"));
    assert_eq!(saved["architectures"], json!(["LlamaForSequenceClassification"]));
    assert_eq!(saved["id2label"], json!({"0": "LABEL_0"}));
    assert!(!run.join("generation_config.json").exists(), "it generates nothing");
    assert!(
        fs::read_to_string(run.join("README.md")).unwrap().contains("pipeline_tag: \"text-classification\"")
    );
    // The held-out accuracy is that of its scores of the rows.
    let pairs: Vec<Value> = fs::read_to_string(here.path("pairs.jsonl"))
        .unwrap()
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let row =
        |pair: &Value, id: u64| json!({"prompt": pair["prompt"], "response": pair[format!("response_{id}")]});
    let better = |pair: &Value| pair["better_response_id"].as_u64().unwrap();
    let input: Vec<Value> = pairs.iter().flat_map(|p| [row(p, better(p)), row(p, 1 - better(p))]).collect();
    here.write_rows("rows.jsonl", &input);
    here.run(&["score", "--model", "run", "--input", "rows.jsonl", "--output", "scored.jsonl"]).ok();
    let scores: Vec<f64> = fs::read_to_string(here.path("scored.jsonl"))
        .unwrap()
        .lines()
        .map(|line| number(&serde_json::from_str(line).unwrap(), "score"))
        .collect();
    let right = scores.chunks(2).filter(|pair| pair[0] > pair[1]).count();
    assert!(right * 10 > pairs.len() * 6, "{right} of {} pairs in order", pairs.len());
    opens_in_transformers(&here, scores[0], &input[0]);
}

/// transformers' class gives the saved model's first row the same score.
fn opens_in_transformers(here: &Playground, expected: f64, row: &Value) {
    let python = std::env::var("BSO_PYTHON").unwrap_or_default();
    if python.is_empty() {
        println!("skipped: BSO_PYTHON does not name a Python with torch and transformers");
        return;
    }
    let script = "
import json, sys, torch, transformers as t
row, tokenizer = json.loads(sys.argv[1]), t.AutoTokenizer.from_pretrained('run')
model = t.AutoModelForSequenceClassification.from_pretrained('run', dtype=torch.float32).eval()
messages = [dict(role='user', content=row['prompt']), dict(role='assistant', content=row['response'])]
ids = tokenizer(tokenizer.apply_chat_template(messages, tokenize=False), add_special_tokens=False, return_tensors='pt').input_ids
print(model(ids).logits[0, 0].item())
";
    let output = Command::new(python)
        .current_dir(here.path(""))
        .args(["-c", script, &row.to_string()])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: f64 = String::from_utf8(output.stdout).unwrap().trim().parse().unwrap();
    println!("transformers scores {found}, bso {expected}");
    assert!((found - expected).abs() < 1e-4 * expected.abs().max(1.0), "{found} and {expected}");
}

#[test]
fn an_adapter_beside_a_scalar_head_is_trained_resumed_scored_and_merged() {
    let here = Playground::new();
    let more = format!("stage: reward\nuse_peft: true\nlora_r: 4\nlora_dropout: 0.1\n{STEPS}");
    let (whole, part) = (here.config("whole", &more), here.config("part", &more));
    for config in [&whole, &part] {
        here.run(&["train", config]).ok();
    }
    here.run(&["train", &part, "--resume_from_checkpoint", "part/checkpoint-4"]).ok();
    let bytes = |run: &str, file: &str| fs::read(here.path(run).join(file)).unwrap();
    for file in ["adapter_model.safetensors", "adapter_config.json"] {
        assert!(bytes("whole", file) == bytes("part", file), "{file} differs");
    }
    let saved = read(&here.path("whole/adapter_config.json"));
    assert_eq!((&saved["task_type"], &saved["modules_to_save"]), (&json!("SEQ_CLS"), &json!(["score"])));
    here.write_rows(
        "rows.jsonl",
        &[json!({"prompt": "how do i break the ice ?", "response": "ask the cook"})],
    );
    let score = |model: &str| {
        here.run(&["score", "--model", model, "--input", "rows.jsonl", "--output", "scored.jsonl"]).ok();
        number(&read(&here.path("scored.jsonl")), "score")
    };
    let beside = score("whole");
    here.run(&["merge", "--model", "whole", "--output", "merged"]).ok();
    let merged = score("merged");
    assert!(beside.is_finite() && (beside - merged).abs() < 1e-5, "{beside} {merged}");
    // It goes on from the adapter's own head, and a preference run refuses it.
    let ended = here.run(&["train", &here.config("again", &more), "--model_name_or_path", "whole"]).ok();
    assert!(ended.err.contains("head        the adapter's own"), "{}", ended.err);
    here.run(&[
        "train",
        &here.config("other", "loss_type: dpo\nuse_peft: true\n"),
        "--model_name_or_path",
        "whole",
    ])
    .fails(2, &["whole", "scalar head"]);
    here.run(&["plan", &whole, "--output_dir", "planned"]).ok();
}

#[test]
fn a_cost_model_in_safe_rlhfs_layout_is_resumed_to_the_same_bytes() {
    let here = Playground::new();
    let more = format!("stage: cost\nscore_layout: safe_rlhf\n{STEPS}");
    let (whole, part) = (here.config("whole", &more), here.config("part", &more));
    for config in [&whole, &part] {
        here.run(&["train", config]).ok();
    }
    here.run(&["train", &part, "--resume_from_checkpoint", "part/checkpoint-4"]).ok();
    let bytes = |run: &str, file: &str| fs::read(here.path(run).join(file)).unwrap();
    for file in ["model.safetensors", "config.json"] {
        assert!(bytes("whole", file) == bytes("part", file), "{file} differs");
    }
    assert_eq!(metrics(&here.path("whole")), metrics(&here.path("part")));
    let saved = read(&here.path("whole/config.json"));
    assert_eq!((&saved["architectures"], &saved["score_type"]), (&json!(["LlamaForScore"]), &json!("cost")));
    assert_eq!((&saved["do_normalize"], &saved["momentum"]), (&json!(false), &json!(0.9)));
    assert_ne!(saved["mean"], json!([0.0]), "statistics follow training");
    let last = metrics(&here.path("whole"));
    let last = last.iter().rev().find(|row| row.get("loss").is_some()).unwrap();
    for name in
        ["costs/chosen", "costs/rejected", "costs/sign_accuracies", "rewards/accuracies", "rewards/margins"]
    {
        assert!(number(last, name).is_finite(), "{name}: {last}");
    }
    // Training goes on from a model that has a head.
    let again = here.config("again", &format!("stage: cost\n{STEPS}"));
    let ended = here.run(&["train", &again, "--model_name_or_path", "whole"]).ok();
    assert!(ended.err.contains("the model's own, of a LlamaForScore"), "{}", ended.err);
    assert_eq!(read(&here.path("again/config.json"))["architectures"], json!(["LlamaForScore"]));
}

#[test]
fn what_does_not_go_together_is_refused_by_name_before_anything_is_written() {
    let here = Playground::new();
    let rule = NormaliserRule::Fixed;
    write_scorer(
        &here.path("model"),
        &here.path("costs"),
        ScoreHead::safe_rlhf(ScoreKind::Cost, rule),
        |_| {},
    );
    let reward = here.config("reward", "stage: reward\nmax_steps: 1\n");
    here.run(&["train", &reward, "--model_name_or_path", "costs"])
        .fails(2, &["LlamaForScore", "score_type is cost"]);
    let dpo = here.config("dpo", "loss_type: dpo\nmax_steps: 1\n");
    here.run(&["train", &dpo, "--model_name_or_path", "costs"])
        .fails(2, &["scalar head", "causal language model"]);
    here.run(&["train", &reward, "--use_peft", "true", "--score_layout", "safe_rlhf"])
        .fails(2, &["use_peft", "score_layout"]);
    let cost = here.config("cost", "stage: cost\nuse_peft: true\n");
    here.run(&["train", &cost, "--model_name_or_path", "costs"]).fails(2, &["costs", "safe-rlhf's layout"]);
    here.run(&["plan", &reward, "--model_name_or_path", "costs"]).fails(2, &["score_type is cost"]);
    let plan = here.run(&["plan", &reward]).ok().out;
    assert!(plan.contains("log sigmoid(r_w - r_l)") && !plan.contains("\nreference"), "{plan}");
    let unlabelled = json!({"prompt": "how", "chosen": "ask", "rejected": "no"});
    here.write_rows("flat.jsonl", &[unlabelled]);
    let cost = here.config("cost", "stage: cost\nmax_steps: 1\n");
    here.run(&["train", &cost, "--dataset_name", "flat.jsonl"]).fails(2, &["flat.jsonl"]);
    let contradiction = json!({"prompt": "how", "response_0": "ask", "response_1": "no", "is_response_0_safe": false,
        "is_response_1_safe": true, "better_response_id": 0, "safer_response_id": 0});
    here.write_rows("wrong.jsonl", &[contradiction]);
    here.run(&["train", &cost, "--dataset_name", "wrong.jsonl", "--eval_split", "0"])
        .fails(2, &["wrong.jsonl:1", "unsafe"]);
    for run in ["reward", "dpo", "cost"] {
        assert!(!here.path(run).exists(), "{run}");
    }
}

#[test]
fn loss_of_scores_is_a_row_in_a_row_out() {
    let here = Playground::new();
    let row = json!({"id": 7, "chosen_score": 0.5, "rejected_score": -1.25, "chosen_unsafe": false, "rejected_unsafe": true});
    let found = here
        .run_with_input(&["loss", "--loss_type", "cost", "--regularization", "0"], &row.to_string())
        .ok()
        .rows();
    let softplus = |x: f64| x.exp().ln_1p();
    // The rejected response is unsafe and should cost more: three wrong signs out of three.
    let expected = softplus(1.75) + softplus(0.5) + softplus(1.25);
    assert!((number(&found[0], "loss") - expected).abs() < 1e-12, "{}", found[0]);
    assert!(
        number(&found[0], "dloss_dchosen_score") > 0.0 && number(&found[0], "dloss_drejected_score") < 0.0
    );
    assert_eq!(found[0]["id"], 7);
    let found = here.run_with_input(&["loss", "--loss-type", "reward"], &row.to_string()).ok().rows();
    let expected = softplus(-1.75) + 0.001 * (0.25 + 1.5625) / 2.0;
    assert!((number(&found[0], "loss") - expected).abs() < 1e-12, "{}", found[0]);
    here.run_with_input(&["loss", "--loss_type", "cost"], "{\"chosen_score\": 1}")
        .fails(2, &["line 1", "rejected_score"]);
}
