//! Adapters through the program: what a run leaves, that it starts as its reference, resumes to the same bytes, and that
//! its folder is taken wherever a model's is.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]

mod support;

use serde_json::Value;
use std::fs;
use std::path::Path;
use support::{Ended, Playground, metrics};

const ADAPTER: &str = "loss_type: bso\ngenerator: sba\ngenerator_params: [0.2, 4]\nsafety_penalty: 5\nsafety_transform: swap_drop\n\
                       use_peft: true\nlora_r: 4\nlora_alpha: 8\nlora_dropout: 0.1\nlogging_steps: 1\n";

fn bytes(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

fn logp(ended: &Ended) -> Vec<f64> {
    ended.rows().iter().map(|row| row["chosen_logp"].as_f64().unwrap()).collect()
}

fn rows(here: &Playground) {
    let pair =
        serde_json::json!({"prompt": "how do i break the ice ?", "chosen": "ask the cook", "rejected": "no"});
    here.write_rows("rows.jsonl", &[pair]);
}

#[test]
fn a_run_leaves_pefts_files_and_starts_as_its_reference() {
    let here = Playground::new();
    let config = here.config("run", &format!("{ADAPTER}max_steps: 4\n"));
    let ended = here.run(&["train", &config]).ok();
    for part in ["adapter     LoRA, rank 4", "same memory", "trainable, of"] {
        assert!(ended.err.contains(part), "no {part:?} in:\n{}", ended.err);
    }
    let run = here.path("run");
    assert!(!run.join("model.safetensors").exists());
    let settings: Value = serde_json::from_slice(&bytes(&run.join("adapter_config.json"))).unwrap();
    assert_eq!((settings["r"].as_u64(), settings["peft_type"].as_str()), (Some(4), Some("LORA")));
    let base = settings["base_model_name_or_path"].as_str().unwrap();
    assert_eq!(fs::canonicalize(base).unwrap(), fs::canonicalize(here.path("model")).unwrap());
    let manifest: Value = serde_json::from_slice(&bytes(&run.join("manifest.json"))).unwrap();
    // One layer: inputs and outputs of q, k, v, o, gate, up and down.
    assert_eq!(manifest["trainable_parameters"].as_u64(), Some(4 * (64 + 48 + 48 + 64 + 3 * 96)));
    let first = &metrics(&run)[0];
    assert_eq!(first["rewards/margins"].as_f64(), Some(0.0), "the policy starts as its reference: {first}");

    rows(&here);
    let of = |model: &str| logp(&here.run(&["logprobs", "--model", model, "--data", "rows.jsonl"]).ok());
    assert_ne!(of("run"), of("model"));
    here.run_with_input(&["chat", "--model", "run", "--max_new_tokens", "3"], "hello\n").ok();
    let broken = settings.to_string().replace(base, "nowhere");
    fs::write(run.join("adapter_config.json"), broken).unwrap();
    here.run(&["logprobs", "--model", "run", "--data", "rows.jsonl"])
        .fails(2, &["base_model_name_or_path", "nowhere", "adapter_config.json"]);
}

#[test]
fn a_resumed_run_ends_in_the_same_bytes_whatever_memory_it_keeps() {
    let here = Playground::new();
    for (kind, more) in
        [("lora", "use_rslora: true\n"), ("dora", "use_dora: true\nlora_modules_to_save: [lm_head]\n")]
    {
        let settings = format!("{ADAPTER}{more}max_steps: 6\nsave_steps: 3\nsave_strategy: steps\n");
        here.run(&["train", &here.config(kind, &settings)]).ok();
        let again = format!("{kind}-again");
        let config = here.config(&again, &format!("{settings}gradient_checkpointing: true\n"));
        let from = here.path(kind).join("checkpoint-3");
        assert!(!from.join("model.safetensors").exists(), "a checkpoint holds no frozen weight");
        here.run(&["train", &config, "--resume_from_checkpoint", from.to_str().unwrap()]).ok();
        for file in ["adapter_model.safetensors", "adapter_config.json"] {
            assert_eq!(
                bytes(&here.path(kind).join(file)),
                bytes(&here.path(&again).join(file)),
                "{kind}: {file}"
            );
        }
        assert_eq!(metrics(&here.path(kind))[3..], metrics(&here.path(&again))[..], "{kind}");
    }
}

#[test]
fn beside_a_base_in_few_bits_a_run_starts_as_its_reference_resumes_and_leaves_a_plain_adapter() {
    let here = Playground::new();
    for (kind, words) in [
        ("load_in_8bit: true", "8 bits (int8)"),
        ("load_in_4bit: true\nuse_bnb_nested_quant: true", "4 bits (nf4, nested)"),
    ] {
        let name = &kind[8..12];
        let settings = format!("{ADAPTER}{kind}\nmax_steps: 4\nsave_steps: 2\nsave_strategy: steps\n");
        let ended = here.run(&["train", &here.config(name, &settings)]).ok();
        assert_eq!(ended.err.matches(words).count(), 2, "of the base and of the reference:\n{}", ended.err);
        let run = here.path(name);
        assert_eq!(metrics(&run)[0]["rewards/margins"].as_f64(), Some(0.0));
        let settings_of = |run: &Path| -> Value {
            serde_json::from_slice(&bytes(&run.join("adapter_config.json"))).unwrap()
        };
        assert!(!settings_of(&run).to_string().contains("bit"));
        rows(&here);
        here.run(&["logprobs", "--model", name, "--data", "rows.jsonl"]).ok();
        here.run(&["merge", "--model", name, "--output", &format!("{name}-merged")]).ok();

        let again = format!("{name}-again");
        let config = here.config(&again, &settings);
        let from = run.join("checkpoint-2");
        let from = from.to_str().unwrap();
        here.run(&["train", &config, "--resume_from_checkpoint", from]).ok();
        let weights = "adapter_model.safetensors";
        assert_eq!(bytes(&run.join(weights)), bytes(&here.path(&again).join(weights)));
        let other =
            here.config("other", &format!("{ADAPTER}max_steps: 4\nsave_steps: 2\nsave_strategy: steps\n"));
        here.run(&["train", &other, "--resume_from_checkpoint", from])
            .fails(2, &[&kind[..12], "other settings"]);
    }
    let whole = ADAPTER.replace("use_peft: true", "use_peft: false");
    here.run(&["train", &here.config("whole", &format!("{whole}load_in_4bit: true\nmax_steps: 1\n"))])
        .fails(2, &["load_in_4bit", "use_peft"]);
}

#[test]
fn an_adapters_folder_is_trained_on_merged_or_taken_as_a_reference() {
    let here = Playground::new();
    here.run(&["train", &here.config("first", &format!("{ADAPTER}max_steps: 3\n"))]).ok();
    let with = |name: &str, text: &str| {
        let config = here.config(name, text);
        let yaml = fs::read_to_string(here.path(&config)).unwrap();
        fs::write(here.path(&config), yaml.replace("model_name_or_path: model", "model_name_or_path: first"))
            .unwrap();
        config
    };
    let dropless = ADAPTER.replace("lora_dropout: 0.1", "lora_dropout: 0");
    here.run(&["train", &with("second", &format!("{dropless}max_steps: 2\n"))]).ok();
    assert_eq!(metrics(&here.path("second"))[0]["rewards/margins"].as_f64(), Some(0.0));
    let settings: Value = serde_json::from_slice(&bytes(&here.path("second/adapter_config.json"))).unwrap();
    assert!(settings["base_model_name_or_path"].as_str().unwrap().ends_with("model"));

    let full = format!("{}max_steps: 2\n", ADAPTER.replace("use_peft: true", "use_peft: false"));
    let ended = here.run(&["train", &with("third", &full)]).ok();
    assert!(ended.err.contains("merged into its base") && ended.err.contains("lora_r"), "{}", ended.err);
    assert!(here.path("third/model.safetensors").exists());
    assert!(!here.path("third/adapter_config.json").exists());

    let named = format!("{dropless}ref_model: first\nmax_steps: 2\n");
    here.run(&["train", &here.config("fourth", &named)]).ok();
    assert_ne!(metrics(&here.path("fourth"))[0]["rewards/margins"].as_f64(), Some(0.0));
}

#[test]
fn merged_and_combined_models_answer_as_they_should() {
    let here = Playground::new();
    rows(&here);
    here.run(&["train", &here.config("run", &format!("{ADAPTER}max_steps: 3\n"))]).ok();
    let of = |model: &str| logp(&here.run(&["logprobs", "--model", model, "--data", "rows.jsonl"]).ok());
    here.run(&["merge", "--model", "run", "--output", "merged"]).ok();
    assert_eq!(of("merged"), of("run"));
    here.run(&["export", "--model", "run", "--output", "half", "--dtype", "bf16", "--max_shard_size", "4KB"])
        .ok();
    assert!(here.path("half/model.safetensors.index.json").exists());
    let apart = (of("half")[0] / of("run")[0] - 1.0).abs();
    assert!(apart > 0.0 && apart < 0.05, "{apart}");

    let both = ["merge", "--model", "model", "--model", "merged", "--output"];
    here.run(&[&both[..], &["mixed", "--weights", "0.5,0.5"]].concat()).ok();
    let (low, high) = (of("model")[0].min(of("merged")[0]), of("model")[0].max(of("merged")[0]));
    assert!((low..=high).contains(&of("mixed")[0]), "{low} {high} {:?}", of("mixed"));
    here.run(&[&both[..], &["mixed", "--weights", "0.5,0.5"]].concat())
        .fails(2, &["mixed", "not an empty folder"]);
    here.run(&[&both[..], &["other", "--weights", "0.5,0.6"]].concat()).fails(2, &["add up to 1.1"]);
    assert!(!here.path("other").exists());
    here.run(&["export", "--model", "run", "--output", "m.gguf", "--format", "gguf"])
        .fails(2, &["tokenizer.json", "WordLevel"]);
    assert!(!here.path("m.gguf").exists());
}
