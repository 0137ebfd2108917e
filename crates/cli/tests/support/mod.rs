//! What the tests of the program share: a folder with a tiny model and tiny data, and ways to run `bso` in it.
#![allow(dead_code, reason = "every test file uses its own part")]
#![allow(clippy::unwrap_used, reason = "a test that cannot set itself up should stop")]

use bso_data::ChatTokenizer;
use bso_durable::Seed;
use bso_model::{DType, Decoder, Engine, ModelConfig};
use bso_world::{
    PreferenceConfig, World, WorldConfig, preference_pairs, preference_row, sft_examples, sft_row, vocabulary,
};
use serde_json::{Value, json};
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use tempfile::TempDir;

/// A temporary folder with `model/`, `pairs.jsonl` and `sft.jsonl`.
pub struct Playground {
    dir: TempDir,
}

impl Playground {
    /// A one-layer model of 32 channels and SafeWorld rows.
    pub fn new() -> Self {
        let playground = Self { dir: tempfile::tempdir().unwrap() };
        write_model(&playground.path("model"));
        let world = World::new(WorldConfig::default(), Seed::new(3)).unwrap();
        let settings = PreferenceConfig { pairs: 120, ..PreferenceConfig::default() };
        let pairs = preference_pairs(world.train(), &settings, Seed::new(4)).unwrap();
        playground.write_rows("pairs.jsonl", &pairs.iter().map(preference_row).collect::<Vec<_>>());
        let sft = sft_examples(world.train(), 80, Seed::new(5));
        playground.write_rows("sft.jsonl", &sft.iter().map(sft_row).collect::<Vec<_>>());
        playground
    }

    /// A path in the folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes a text file.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path(name);
        fs::write(&path, text).unwrap();
        path
    }

    /// Writes JSON lines.
    pub fn write_rows(&self, name: &str, rows: &[Value]) -> PathBuf {
        let text: String = rows.iter().map(|row| format!("{row}\n")).collect();
        self.write(name, &text)
    }

    /// The program, to be run in the folder.
    pub fn bso(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bso"));
        command.current_dir(self.dir.path()).env("NO_COLOR", "1").env_remove("BSO_SHARED");
        // No test asks a hub but the one on this machine.
        command.env("HF_HUB_OFFLINE", "1").env("HF_HOME", self.path("hf"));
        command
    }

    /// Runs the program to its end.
    pub fn run(&self, arguments: &[&str]) -> Ended {
        Ended::of(self.bso().args(arguments).output().unwrap())
    }

    /// Runs the program with text on standard input.
    pub fn run_with_input(&self, arguments: &[&str], input: &str) -> Ended {
        use std::io::Write;
        use std::process::Stdio;
        let mut child = self
            .bso()
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // A program that refuses its arguments may close its input before we have written it.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        Ended::of(child.wait_with_output().unwrap())
    }

    /// Writes `NAME.yaml`: a small preference run into `NAME/` with `more` lines of its own.
    pub fn config(&self, name: &str, more: &str) -> String {
        let file = format!("{name}.yaml");
        self.write(
            &file,
            &format!(
                "model_name_or_path: model\ndataset_name: pairs.jsonl\nmax_length: 96\noutput_dir: {name}\nseed: 7\n\
                 num_threads: 1\nlearning_rate: 1.0e-3\nper_device_train_batch_size: 4\n{more}"
            ),
        );
        file
    }
}

/// A program that ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    pub out: String,
    pub err: String,
}

impl Ended {
    pub fn of(output: Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8(output.stdout).unwrap(),
            err: String::from_utf8(output.stderr).unwrap(),
        }
    }

    /// Asserts success.
    #[track_caller]
    pub fn ok(self) -> Self {
        assert_eq!(self.code, Some(0), "{}\n{}", self.out, self.err);
        self
    }

    /// Asserts a failure with this exit code whose message names every part, without a panic.
    #[track_caller]
    pub fn fails(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, Some(code), "{}\n{}", self.out, self.err);
        assert!(!self.err.contains("panicked"), "{}", self.err);
        for part in parts {
            assert!(self.err.contains(part), "no {part:?} in:\n{}", self.err);
        }
        self
    }

    /// Standard output as JSON lines.
    pub fn rows(&self) -> Vec<Value> {
        self.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A tiny Llama with random weights and SafeWorld's tokenizer.
pub fn write_model(dir: &Path) {
    fs::create_dir_all(dir).unwrap();
    let tokenizer = ChatTokenizer::word_level(&vocabulary()).unwrap();
    tokenizer.save(dir).unwrap();
    let config = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 32, "intermediate_size": 64,
        "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 1,
        "vocab_size": tokenizer.vocab_size(), "max_position_embeddings": 128, "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0, "hidden_act": "silu", "tie_word_embeddings": true, "initializer_range": 0.1,
        "eos_token_id": tokenizer.eos().1,
    });
    fs::write(dir.join("config.json"), config.to_string()).unwrap();
    let engine = Arc::new(Engine::cpu(Some(1)).unwrap());
    let config = ModelConfig::from_dir(dir).unwrap();
    Decoder::random(config, Seed::new(1), engine).unwrap().save(dir, DType::F32).unwrap();
}

/// Rows of a metrics.jsonl without the figures that depend on the clock.
pub fn metrics(run: &Path) -> Vec<Value> {
    fs::read_to_string(run.join("metrics.jsonl"))
        .unwrap()
        .lines()
        .map(|line| {
            let mut row: Value = serde_json::from_str(line).unwrap();
            for time in ["tokens_per_second", "eval_runtime"] {
                row.as_object_mut().unwrap().remove(time);
            }
            row
        })
        .collect()
}

/// Asserts that two runs ended with the same weights and the same log.
#[track_caller]
pub fn assert_same_result(a: &Path, b: &Path) {
    let bytes = |run: &Path| fs::read(run.join("model.safetensors")).unwrap();
    assert!(bytes(a) == bytes(b), "the weights differ");
    assert_eq!(metrics(a), metrics(b));
}

/// Gives the language model in `dir` a scalar head and writes it into `out`, tokenizer included; `change` comes before
/// that.
pub fn write_scorer(dir: &Path, out: &Path, head: bso_model::ScoreHead, change: impl FnOnce(&mut Decoder)) {
    fs::create_dir_all(out).unwrap();
    let mut decoder = Decoder::load(dir, Arc::new(Engine::cpu(Some(1)).unwrap())).unwrap();
    decoder.replace_head(head, Seed::new(11)).unwrap();
    change(&mut decoder);
    decoder.save(out, DType::F32).unwrap();
    ChatTokenizer::load(dir, &bso_data::TemplateChoice::Auto).unwrap().save(out).unwrap();
}
