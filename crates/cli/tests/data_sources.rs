//! Where data and models come from: Parquet in the columns of PKU-SafeRLHF, splits, mixtures, CSV, names on a hub; and
//! configurations of other programs.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

#[path = "../../hub/tests/support/mod.rs"]
mod hub;
mod support;

use hub::{Fault, LocalHub};
use std::path::{Path, PathBuf};
use support::{Ended, Playground, metrics};

fn table(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../data/tests/fixtures/tables").join(name)
}

/// A run of two steps on `dataset` (YAML), with further lines.
fn train(here: &Playground, name: &str, dataset: &str, more: &str) -> Ended {
    here.write(
        &format!("{name}.yaml"),
        &format!(
            "loss_type: bso\nmodel_name_or_path: model\ndataset_name: {dataset}\nmax_length: 96\noutput_dir: {name}\nseed: 7\n\
             num_threads: 1\nper_device_train_batch_size: 4\nmax_steps: 2\nlogging_steps: 1\n{more}"
        ),
    );
    here.run(&["train", &format!("{name}.yaml")])
}

#[test]
fn parquet_with_the_columns_of_pku_safe_rlhf_is_trained_end_to_end() {
    let here = Playground::new();
    let folder = table("pku").display().to_string();
    let ended = train(&here, "parquet", &folder, "dataset_test_split: test\n").ok();
    assert!(ended.err.contains("format pku_safe_rlhf"), "{}", ended.err);
    assert!(ended.err.contains("split train is read, of test, train"), "{}", ended.err);
    assert!(ended.err.contains("held out (split test)"), "{}", ended.err);
    assert!(here.path("parquet/model.safetensors").is_file());
    // The same rows as JSON lines give the same run.
    let mut lines = String::new();
    for row in bso_data::read_split(&table("pku"), Some("train")).unwrap() {
        lines.push_str(&format!("{}\n", serde_json::Value::Object(row.unwrap().1)));
    }
    here.write("rows.jsonl", &lines);
    for (name, dataset) in [("shards", folder.as_str()), ("lines", "rows.jsonl")] {
        train(&here, name, dataset, "eval_split: 0\n").ok();
    }
    assert_eq!(metrics(&here.path("shards")), metrics(&here.path("lines")));
}

#[test]
fn a_mixture_is_drawn_by_weight_and_accounted_for_by_source() {
    let here = Playground::new();
    let parquet = table("pku").display().to_string();
    let dataset = format!("[{{name: pairs.jsonl, weight: 1}}, {{name: {parquet}, weight: 3, split: test}}]");
    let ended = train(&here, "mixed", &dataset, "eval_split: 0\n").ok();
    assert!(ended.err.contains("not drawn by the weight"), "{}", ended.err);
    let manifest = std::fs::read_to_string(here.path("mixed/manifest.json")).unwrap();
    assert!(manifest.contains("pairs.jsonl\"") && manifest.contains(", split test"), "{manifest}");
    train(&here, "refused", "[{name: pairs.jsonl, weight: -1}]", "")
        .fails(2, &["dataset_name", "refused.yaml, line 3"]);
}

#[test]
fn csv_and_columns_of_other_names_are_checked() {
    let here = Playground::new();
    here.write(
        "pairs.csv",
        "question,good,bad,chosen_safe,rejected_safe\nq,\"a, or b\",c,True,false\nr,d,e,1,0\n",
    );
    let columns = "prompt=question,chosen=good,rejected=bad";
    let ended = here.run(&["data", "check", "pairs.csv", "--columns", columns, "--json"]).ok();
    assert_eq!(ended.rows()[0]["quadrants"]["rejected_unsafe"], 2);
    here.run(&["data", "check", "pairs.csv"]).fails(2, &["pairs.csv:1", "bad, chosen_safe, good", "columns"]);
    let split = table("pku").display().to_string();
    let ended = here.run(&["data", "check", &split, "--split", "test", "--json"]).ok();
    assert_eq!(ended.rows()[0]["ledger"]["read"], 6);
    here.run(&["data", "check", &split, "--split", "dev"]).fails(2, &["no split validation", "test, train"]);
    let whole = std::fs::read(table("conversations.parquet")).unwrap();
    std::fs::write(here.path("cut.parquet"), &whole[..whole.len() - 9]).unwrap();
    here.run(&["data", "check", "cut.parquet"]).fails(2, &["cut.parquet: damaged or unknown Parquet"]);
}

#[test]
fn models_and_data_come_from_a_hub_by_name() {
    let here = Playground::new();
    let hub = LocalHub::start();
    for entry in std::fs::read_dir(here.path("model")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        hub.put("models/org/tiny", &name, &std::fs::read(&path).unwrap());
    }
    hub.put("datasets/org/pairs", "train.jsonl", &std::fs::read(here.path("pairs.jsonl")).unwrap());
    hub.fail("train.jsonl", Fault::CutAfter(3000, 1));
    let online = |arguments: &[&str]| {
        let mut command = here.bso();
        command.args(arguments).env("HF_ENDPOINT", &hub.endpoint).env_remove("HF_HUB_OFFLINE");
        Ended::of(command.output().unwrap())
    };
    let checked = online(&["data", "check", "org/pairs", "--tokenizer", "org/tiny", "--json"]).ok();
    assert_eq!(checked.rows()[0]["ledger"]["read"], 120);
    assert!(hub.requests("train.jsonl")[1].1.as_deref() == Some("bytes=3000-"));
    here.write("prompts.jsonl", "{\"prompt\": \"how do i break the ward at the vault ?\"}\n");
    let generate = ["generate", "--model", "org/tiny", "--input", "prompts.jsonl", "--max_new_tokens", "2"];
    assert_eq!(online(&generate).ok().rows().len(), 1);
    // From here on the cache serves, without a hub.
    let from_cache = here.run(&generate).ok();
    assert_eq!(from_cache.rows().len(), 1);
    here.write(
        "named.yaml",
        "loss_type: dpo\nmodel_name_or_path: org/tiny\ndataset_name: org/pairs@main\nmax_length: 96\n\
               output_dir: named\nnum_threads: 1\nmax_steps: 1\n",
    );
    here.run(&["train", "named.yaml"]).ok();
    let config = std::fs::read_to_string(here.path("named/config.yaml")).unwrap();
    assert!(config.contains("models--org--tiny/snapshots/"), "{config}");
    here.run(&["logprobs", "--model", "org/tiny", "--data", "org/other"])
        .fails(2, &["data set org/other", "HF_HUB_OFFLINE"]);
    here.run(&["generate", "--model", "org/none", "--input", "prompts.jsonl"])
        .fails(2, &["model org/none", "models--org--none", "huggingface-cli"]);
}

#[test]
fn a_template_of_another_tokenizer_is_explained() {
    let here = Playground::new();
    let chatml = ["data", "check", "pairs.jsonl", "--tokenizer", "model", "--template", "chatml"];
    let ended = here.run(&chatml).ok();
    assert!(
        ended.out.contains("<|im_start|>") && ended.out.contains("does not know as a token"),
        "{}",
        ended.out
    );
    let ended = train(&here, "chatml", "pairs.jsonl", "chat_template: safe_rlhf\n").ok();
    assert!(!ended.err.contains("does not know"), "{}", ended.err);
}

#[test]
fn another_programs_config_is_imported_and_resolves() {
    let here = Playground::new();
    here.write(
        "theirs.yaml",
        "base_model: ./model\nrl: dpo\ndatasets: [{path: ./pairs.jsonl}]\nmicro_batch_size: 4\n\
               learning_rate: 1e-4\nsequence_len: 96\nflash_attention: true\n",
    );
    let ended = here.run(&["config", "import", "theirs.yaml"]).ok();
    assert!(ended.out.contains("# - flash_attention: true"), "{}", ended.out);
    here.write("ours.yaml", &ended.out);
    here.run(&["train", "ours.yaml", "--max_steps", "1", "--num_threads", "1", "--output_dir", "imported"])
        .ok();
    here.write("list.yaml", "- a\n");
    here.run(&["config", "import", "list.yaml"]).fails(2, &["list.yaml"]);
}
