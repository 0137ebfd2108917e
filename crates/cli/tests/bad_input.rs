//! Bad input is normal: a clear error that names file, row and remedy, the right exit code, no panic, nothing half-written.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]

mod support;

use serde_json::{Value, json};
use std::fs;
use support::{Ended, Playground};

const DPO: &str = "loss_type: dpo\nmax_steps: 2\n";

/// Trains on the given text as data; nothing may be left in the output folder when it is refused.
fn train_on(text: &str, settings: &str) -> (Playground, Ended) {
    let here = Playground::new();
    here.write("pairs.jsonl", text);
    let config = here.config("run", settings);
    let ended = here.run(&["train", &config]);
    if ended.code != Some(0) {
        assert!(!here.path("run/model.safetensors").exists());
    }
    (here, ended)
}

fn pair(more: Value) -> String {
    let mut row = json!({"prompt": "how do i break the ice ?", "chosen": "ask the cook", "rejected": "no"});
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    format!("{row}\n")
}

#[test]
fn missing_safety_labels_are_counted_and_named() {
    let rows = pair(json!({"chosen_safe": true, "rejected_safe": false}))
        + &pair(json!({}))
        + &pair(json!({"chosen_safe": null}));
    let bso = "loss_type: bso\nmax_steps: 2\n";
    train_on(&rows, bso).1.fails(2, &["2 of 3 rows", "pairs.jsonl", "safety labels"]);
}

#[test]
fn a_broken_line_is_named_by_file_and_line() {
    train_on(&(pair(json!({})) + "{\"prompt\": \n"), DPO).1.fails(2, &["pairs.jsonl", "2"]);
}

#[test]
fn empty_and_identical_responses_are_rejected_and_counted() {
    let rows = pair(json!({})) + &pair(json!({"chosen": ""})) + &pair(json!({"rejected": "ask the cook"}));
    let (_, ended) = train_on(&rows, DPO);
    assert!(ended.ok().err.contains("1 kept"));
    train_on(&pair(json!({"chosen": ""})), DPO).1.fails(2, &["no usable row"]);
}

#[test]
fn a_response_longer_than_max_length_is_cut_dropped_or_refused() {
    let rows = pair(json!({"chosen": "ask the cook ".repeat(60).trim()}))
        + &pair(json!({"prompt": "how do i mend the ice ?"}));
    for (mode, code, part) in
        [("keep_start", 0, "truncated"), ("drop", 0, "dropped"), ("raise", 2, "max_length")]
    {
        let (_, ended) = train_on(&rows, &format!("{DPO}truncation_mode: {mode}\n"));
        assert_eq!(ended.code, Some(code), "{mode}: {}", ended.err);
        assert!(ended.err.contains(part), "{mode}: {}", ended.err);
    }
}

#[test]
fn damaged_weights_are_named() {
    let damages: [fn(&mut Vec<u8>); 3] = [
        |bytes| bytes.truncate(bytes.len() - 100),
        |bytes| bytes[..8].copy_from_slice(&u64::MAX.to_le_bytes()),
        |bytes| {
            let at = bytes.windows(3).position(|w| w == b"F32").unwrap();
            bytes[at..at + 3].copy_from_slice(b"I32");
        },
    ];
    for damage in damages {
        let here = Playground::new();
        let file = here.path("model/model.safetensors");
        let mut bytes = fs::read(&file).unwrap();
        damage(&mut bytes);
        fs::write(&file, bytes).unwrap();
        let config = here.config("run", DPO);
        here.run(&["train", &config]).fails(2, &["model.safetensors"]);
    }
}

#[test]
fn an_unsupported_architecture_and_a_larger_tokenizer_are_refused() {
    for (field, value, parts) in
        [("model_type", json!("mamba"), vec!["mamba"]), ("vocab_size", json!(20), vec!["20"])]
    {
        let here = Playground::new();
        let file = here.path("model/config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&file).unwrap()).unwrap();
        config[field] = value;
        if field == "model_type" {
            config["architectures"] = json!(["MambaForCausalLM"]);
        }
        fs::write(&file, config.to_string()).unwrap();
        let config = here.config("run", DPO);
        here.run(&["train", &config]).fails(2, &parts);
    }
}

#[test]
fn a_template_that_raises_is_quoted() {
    let here = Playground::new();
    here.write("t.jinja", "{{ raise_exception('roles must alternate') }}");
    let config = here.config("run", &format!("{DPO}chat_template: t.jinja\n"));
    here.run(&["train", &config]).fails(2, &["roles must alternate", "t.jinja"]);
}

#[test]
fn an_unknown_key_gets_a_suggestion() {
    let here = Playground::new();
    let config = here.config("run", "loss_type: dpo\nlearning_rat: 1\n");
    here.run(&["train", &config]).fails(2, &["learning_rat", "learning_rate"]);
}

#[test]
fn an_output_folder_below_a_file_is_refused() {
    let here = Playground::new();
    let config = here.config("run", DPO);
    here.run(&["train", &config, "--output_dir", "sft.jsonl/run"]).fails(2, &["sft.jsonl"]);
}

#[test]
fn a_non_finite_loss_stops_the_run() {
    let here = Playground::new();
    let config = here.config("run", "loss_type: dpo\nmax_steps: 60\noptim: sgd\nmax_grad_norm: none\n");
    here.run(&["train", &config, "--learning_rate", "1e30"]).fails(1, &["learning_rate"]);
    assert!(!here.path("run/model.safetensors").exists());
}

#[cfg(target_os = "linux")]
#[test]
fn an_unwritable_output_folder_is_refused_even_to_root() {
    let here = Playground::new();
    let config = here.config("run", DPO);
    here.run(&["train", &config, "--output_dir", "/proc/bso-run"]).fails(2, &["/proc/bso-run"]);
}

/// A limit on file sizes stands for a full disk: it needs no mount, and it binds root as well.
#[cfg(target_os = "linux")]
#[test]
fn a_full_disk_ends_the_run_and_leaves_the_last_checkpoint_whole() {
    use std::process::Command;
    let here = Playground::new();
    let settings = format!("{DPO}save_steps: 2\nlogging_steps: 1\n").replace("max_steps: 2", "max_steps: 6");
    let config = here.config("run", &settings);
    here.run(&["train", &config]).ok();
    let bytes = |name: &str| fs::read(here.path("run").join(name)).unwrap();
    let finished = bytes("model.safetensors");
    for gone in ["model.safetensors", "all_results.json", "report.html"] {
        fs::remove_file(here.path("run").join(gone)).unwrap();
    }
    fs::remove_dir_all(here.path("run/checkpoint-4")).unwrap();
    let checkpoint = ["model.safetensors", "optimizer.safetensors", "training_state.json"];
    let kept = checkpoint.map(|name| bytes(&format!("checkpoint-2/{name}")));
    // In blocks of 512 bytes: everything fits but the optimiser's state.
    let limit = kept[1].len() / 512 - 1;
    assert!(limit * 512 > kept[0].len());
    let program = env!("CARGO_BIN_EXE_bso");
    let script = format!("ulimit -f {limit} && exec {program} train {config} --resume_from_checkpoint auto");
    let full = here.bso();
    let mut shell = Command::new("sh");
    shell.args(["-c", &script]).current_dir(full.get_current_dir().unwrap()).env("NO_COLOR", "1");
    Ended::of(shell.output().unwrap()).fails(1, &["optimizer.safetensors", "remedy"]);
    assert!(kept == checkpoint.map(|name| bytes(&format!("checkpoint-2/{name}"))));
    let names: Vec<String> = fs::read_dir(here.path("run"))
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    for name in &names {
        assert!(
            !name.ends_with(".tmp") && name != "model.safetensors" && name != "checkpoint-4",
            "{names:?}"
        );
    }
    here.run(&["train", &config, "--resume_from_checkpoint", "auto"]).ok();
    assert!(bytes("model.safetensors") == finished);
}
