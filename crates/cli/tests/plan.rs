//! `bso plan`: what it says, and that a run's memory is what it predicted.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test stops where something is not as it should be, and shows what it measured"
)]

mod support;

use bso_durable::Seed;
use bso_model::{DType, Decoder, Engine, ModelConfig};
use serde_json::Value;
use std::fs;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;
use support::Playground;

const SETTINGS: &str = "loss_type: bso\nsafety_penalty: 5\nsafety_transform: swap_drop\nmax_steps: 3\neval_strategy: \"no\"\n\
                        report_to: none\noverwrite_output_dir: true\n";

/// A model whose training takes more than the process around it.
fn enlarge(here: &Playground) {
    let dir = here.path("model");
    let file = dir.join("config.json");
    let mut config: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    let sizes = [
        ("hidden_size", 256),
        ("intermediate_size", 768),
        ("num_hidden_layers", 6),
        ("num_attention_heads", 8),
        ("num_key_value_heads", 4),
    ];
    for (name, size) in sizes {
        config[name] = size.into();
    }
    fs::write(&file, config.to_string()).unwrap();
    let engine = Arc::new(Engine::cpu(Some(1)).unwrap());
    let config = ModelConfig::from_dir(&dir).unwrap();
    Decoder::random(config, Seed::new(1), engine).unwrap().save(&dir, DType::F32).unwrap();
}

/// Bytes of the largest resident set of a program, looked at while it runs.
fn peak_of(command: &mut Command) -> u64 {
    let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let status = format!("/proc/{}/status", child.id());
    let mut peak = 0;
    loop {
        let ended = child.try_wait().unwrap();
        let text = fs::read_to_string(&status).unwrap_or_default();
        let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|l| l.split_whitespace().next()).and_then(|n| n.parse::<u64>().ok());
        peak = peak.max(kibibytes.unwrap_or(0) * 1024);
        if let Some(ended) = ended {
            assert!(ended.success());
            return peak;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

#[test]
fn a_plan_says_what_a_run_does_and_loads_no_weights() {
    let here = Playground::new();
    enlarge(&here);
    let config = here.config("run", SETTINGS);
    // Weights are not read: a file that no run could load does not matter.
    fs::write(here.path("model").join("model.safetensors"), "nothing").unwrap();
    let text = here.run(&["plan", &config]).ok().out;
    for part in [
        "objective",
        "log R",
        "model as it is before training",
        "parameters",
        "swapped",
        "3 of 4 x 1 examples",
        "padded batches would compute",
        "optimiser",
        "activations",
        "peak",
        "fits",
        "GFLOP/s",
    ] {
        assert!(text.contains(part), "no {part:?} in:\n{text}");
    }
    assert!(!here.path("run").exists(), "a plan leaves nothing behind");
    let plan = &here.run(&["plan", &config, "--json", "--max_steps", "5"]).ok().rows()[0];
    assert_eq!((plan["steps"].as_u64(), plan["fits"].as_bool()), (Some(5), Some(true)));
    assert!(plan["time"]["total"].as_f64().unwrap() > 0.0);
    let tokens = |name: &str| plan["tokens"][name].as_u64().unwrap();
    assert!(tokens("packed") < tokens("given") && tokens("given") <= tokens("padded"));
}

#[test]
fn a_run_that_does_not_fit_is_told_with_what_would_help() {
    let here = Playground::new();
    enlarge(&here);
    let config = here.config("run", &format!("{SETTINGS}dtype: f32\n"));
    let ended = here.run(&["plan", "--memory_gib", "0.01", &config]);
    assert_eq!(ended.code, Some(1), "{}\n{}", ended.out, ended.err);
    for part in ["DOES NOT FIT", "gradient_checkpointing: true", "gradient_accumulation_steps: 4"] {
        assert!(ended.out.contains(part), "no {part:?} in:\n{}", ended.out);
    }
    here.run(&["plan", &config, "--memory_gib", "much"]).fails(2, &["positive number of GiB"]);
}

#[cfg(target_os = "linux")]
#[test]
fn the_peak_is_within_a_tenth_of_what_was_predicted() {
    let here = Playground::new();
    enlarge(&here);
    for (name, more) in [
        ("stored", "dtype: f32\nper_device_train_batch_size: 24\n"),
        ("checkpointed", "dtype: bf16\ngradient_checkpointing: true\nper_device_train_batch_size: 24\n"),
        ("reward", "dtype: f32\nper_device_train_batch_size: 24\n"),
        ("lora", "dtype: f32\nuse_peft: true\nper_device_train_batch_size: 24\n"),
        ("lora-bf16", "dtype: bf16\nuse_peft: true\nper_device_train_batch_size: 24\n"),
        ("dora", "dtype: f32\nuse_peft: true\nuse_dora: true\nper_device_train_batch_size: 24\n"),
        ("nf4", "dtype: f32\nuse_peft: true\nload_in_4bit: true\nper_device_train_batch_size: 24\n"),
        ("int8-bf16", "dtype: bf16\nuse_peft: true\nload_in_8bit: true\nper_device_train_batch_size: 24\n"),
    ] {
        // What is measured is the host's memory.
        let mut settings = format!("{SETTINGS}{more}device: cpu\n");
        if name == "reward" {
            settings = settings.replacen("loss_type: bso\n", "stage: reward\n", 1);
        }
        let config = here.config(name, &settings).to_owned();
        let text = fs::read_to_string(here.path(&config)).unwrap();
        here.write(&config, &text.replacen("per_device_train_batch_size: 4\n", "", 1));
        let plan = &here.run(&["plan", &config, "--json"]).ok().rows()[0];
        let predicted = plan["peak_bytes"].as_u64().unwrap() as f64;
        let measured = peak_of(here.bso().args(["train", &config])) as f64;
        println!(
            "{name}: predicted {:.1} MiB, measured {:.1} MiB",
            predicted / 1048576.0,
            measured / 1048576.0
        );
        assert!(
            (predicted / measured - 1.0).abs() < 0.1,
            "{name}: {predicted} predicted, {measured} measured"
        );
    }
}
