//! Whole runs of `stage: ppo_lag` on small random models: their multiplier follows the cost, they go on after a stop to the same
//! bytes, and refuse what does not belong together.
#![allow(clippy::unwrap_used, reason = "a failing test panics")]

use bso_data::ChatTokenizer;
use bso_durable::{Interrupt, Seed, Silent};
use bso_model::{DType, Decoder, Engine, ModelConfig, NormaliserRule, ScoreHead, ScoreKind};
use bso_recipes::{RecipeError, Trained, config, train};
use bso_runs::{StepMetrics, read_metrics};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::Arc;

/// A language model of `words` words, or the same with a scalar head, in `dir`.
fn write_model(dir: &Path, words: usize, head: Option<ScoreKind>) {
    fs::create_dir_all(dir).unwrap();
    let words: Vec<String> = (0..words).map(|i| format!("w{i}")).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let tokenizer = ChatTokenizer::word_level(&words).unwrap();
    tokenizer.save(dir).unwrap();
    let shape = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": tokenizer.vocab_size(),
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "initializer_range": 0.15, "eos_token_id": tokenizer.eos().1,
    });
    let shape = ModelConfig::from_value(shape, Path::new("config.json")).unwrap();
    let engine = Arc::new(Engine::cpu(Some(2)).unwrap());
    let seed = Seed::new(head.map_or(1, |kind| kind as u64 + 2));
    let mut decoder = Decoder::random(shape, seed, engine).unwrap();
    if let Some(kind) = head {
        decoder.replace_head(ScoreHead::safe_rlhf(kind, NormaliserRule::Fixed), seed).unwrap();
    }
    decoder.save(dir, DType::F32).unwrap();
}

/// A folder with actor, reward and cost model, prompts and rows to imitate.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, head) in
        [("actor", None), ("reward", Some(ScoreKind::Reward)), ("cost", Some(ScoreKind::Cost))]
    {
        write_model(&dir.path().join(name), 12, head);
    }
    let row = |i: usize| {
        let prompt = format!("w{} w{} w{}", i % 12, (i / 2) % 12, (i / 3) % 12);
        json!({"prompt": prompt, "response": format!("w{} w1", (i + 1) % 12)}).to_string() + "\n"
    };
    fs::write(dir.path().join("rows.jsonl"), (0..40).map(row).collect::<String>()).unwrap();
    dir
}

fn run(dir: &Path, output: &str, more: &str, interrupt: &Interrupt) -> Result<Trained, RecipeError> {
    let text = format!(
        "preset: ppo-lag\nmodel_name_or_path: actor\nreward_model: reward\ncost_model: cost\ndataset_name: rows.jsonl\n\
         ptx_dataset_name: rows.jsonl\nmax_new_tokens: 8\nmax_steps: 6\nper_device_train_batch_size: 4\n\
         gradient_accumulation_steps: 2\nlogging_steps: 2\ndtype: f32\nnum_threads: 2\nwarmup_ratio: 0\nlearning_rate: 1e-3\n\
         critic_learning_rate: 1e-3\noutput_dir: {output}\n{more}"
    );
    let overridden = |line: &str| {
        let key = line.split(':').next().unwrap_or("");
        more.lines().any(|l| l.split(':').next() == Some(key)) && !more.contains(line)
    };
    let text: String = text.lines().filter(|l| !overridden(l)).map(|l| format!("{l}\n")).collect();
    let file = dir.join(format!("{output}.yaml"));
    fs::write(&file, text).unwrap();
    train(&config::load(&file, &[])?.config, interrupt, &Silent)
}

fn rows(dir: &Path) -> Vec<StepMetrics> {
    read_metrics(&dir.join("metrics.jsonl")).unwrap().rows.iter().map(StepMetrics::without_times).collect()
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes() {
    let dir = folder();
    let dir = dir.path();
    let free = Interrupt::new();
    let whole = run(dir, "whole", "update_iters: 2\nsave_steps: 3", &free).unwrap();
    assert_eq!((whole.interrupted, whole.steps), (false, 6));
    // Its log is three steps deep when the checkpoint is taken: the row of steps 3 and 4 is still to be written.
    let checkpoint = dir.join("whole/checkpoint-3");
    let more = format!("update_iters: 2\nresume_from_checkpoint: {}", checkpoint.display());
    assert_eq!(run(dir, "half", &more, &free).unwrap().steps, 6);
    // Stopped while the first responses are sampled.
    let raised = Interrupt::new();
    raised.raise();
    let stopped = run(dir, "late", "update_iters: 2", &raised).unwrap();
    assert_eq!((stopped.interrupted, stopped.steps), (true, 0));
    run(dir, "late", "update_iters: 2\nresume_from_checkpoint: true", &free).unwrap();
    for part in ["half", "late"] {
        for file in ["model.safetensors", "config.json", "generation_config.json"] {
            let read = |run: &str| fs::read(dir.join(run).join(file)).unwrap();
            assert!(read("whole") == read(part), "{part}: {file} differs");
        }
        let (all, resumed) = (rows(&dir.join("whole")), rows(&dir.join(part)));
        assert_eq!(resumed, all[all.len() - resumed.len()..], "{part}");
        assert!(resumed.len() >= 2);
    }
    for critic in ["reward_critic", "cost_critic"] {
        assert!(checkpoint.join(critic).join("optimizer.safetensors").exists());
    }
    let other = run(dir, "whole", "resume_from_checkpoint: true", &free).unwrap_err();
    assert!(other.to_string().contains("update_iters"), "{other}");
}

#[test]
fn the_multiplier_rises_while_the_cost_is_above_the_threshold() {
    let dir = folder();
    let more = "threshold: -1\nlambda_lr: 0.03\nmax_steps: 40\nptx_coeff: 0\nlearning_rate: 1e-2\nlogging_steps: 1\nkl_coeff: 0";
    run(dir.path(), "out", more, &Interrupt::new()).unwrap();
    let rows = rows(&dir.path().join("out"));
    let mean = |name: &str, part: &[StepMetrics]| {
        part.iter().map(|row| row.get(name).unwrap()).sum::<f64>() / part.len() as f64
    };
    let (first, last) = (&rows[..8], &rows[32..]);
    assert!(
        mean("lambda", last) > 1.5 * mean("lambda", first),
        "{} {}",
        mean("lambda", first),
        mean("lambda", last)
    );
    assert!(mean("episode_cost", last) > -1.0);
    assert!(rows[0].get("kl").unwrap().abs() < 1e-4, "the actor starts as its reference");
    assert!(rows[0].get("frac_clipped").unwrap() == 0.0);
    for row in &rows {
        let length = row.get("mean_generated_length").unwrap();
        assert!((1.0..=8.0).contains(&length), "{length}");
    }
}

#[test]
fn what_does_not_belong_together_is_refused_with_a_remedy() {
    let dir = folder();
    let dir = dir.path();
    write_model(&dir.join("stranger"), 13, Some(ScoreKind::Reward));
    write_model(&dir.join("another"), 12, Some(ScoreKind::Reward));
    for (more, parts) in [
        ("reward_model: actor", ["reward_model", "no scalar head", "stage: reward"]),
        ("cost_model: another", ["cost_model", "score_type is reward", "cost"]),
        ("cost_model: reward", ["cost_model", "reward_model", "the same"]),
        ("reward_model: stranger", ["reward_model", "tokenizer", "w12"]),
        ("model_name_or_path: reward", ["scalar head", "ppo_lag", "causal language model"]),
        ("ref_model: cost", ["ref_model", "scalar head", "causal"]),
        ("max_length: 3", ["no room", "max_length", "raise"]),
        ("reward_model: nowhere", ["reward_model", "nowhere", "does not exist"]),
    ] {
        let error = run(dir, "out", more, &Interrupt::new()).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{more}: `{part}` is not in: {error}");
        }
        assert!(!dir.join("out").exists(), "{more}: nothing is written");
    }
}

#[test]
fn an_actor_that_never_ends_its_turn_is_told() {
    let dir = folder();
    let dir = dir.path();
    for (name, head) in
        [("actor", None), ("reward", Some(ScoreKind::Reward)), ("cost", Some(ScoreKind::Cost))]
    {
        write_model(&dir.join(name), 4000, head);
    }
    let more = "max_new_tokens: 1\nper_device_train_batch_size: 16";
    let error = run(dir, "out", more, &Interrupt::new()).unwrap_err();
    assert!(error.is_failed_run());
    for part in ["none of the", "came to an end", "max_new_tokens", "stage: sft"] {
        assert!(error.to_string().contains(part), "{error}");
    }
}
