//! How much is said: `--quiet`, `-v`, `-vv`, `RUST_LOG`; and what a model's unknown fields and a Ctrl-C are worth.

#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod support;

use bso_durable::{Event, Interrupt, Observer};
use bso_recipes::RecipeError;
use serde_json::Value;
use std::fs;
use std::sync::Mutex;
use support::{Ended, Playground};

const RUN: &str = "loss_type: dpo\nmax_steps: 2\nsave_steps: 1\nlogging_steps: 1\n";

#[test]
fn quiet_leaves_results_and_errors() {
    let here = Playground::new();
    let config = here.config("run", RUN);
    for arguments in [["--quiet", "train", &config], ["train", &config, "-q"]] {
        let ended = here.run(&[&arguments[..], &["--overwrite_output_dir", "true"]].concat());
        // The flag among the settings is no setting.
        let ended = ended.ok();
        assert_eq!(ended.err, "");
        assert!(ended.out.contains("train_loss") && ended.out.contains("report.html"), "{}", ended.out);
    }
    here.run(&["-q", "train", &config]).fails(2, &["error:", "already holds a run"]);
    here.run(&["-q", "-v", "train", &config]).fails(2, &["cannot be used with"]);
}

#[test]
fn verbose_says_what_is_done_and_twice_every_step() {
    let here = Playground::new();
    // What is told of the processor's instructions.
    let config = here.config("run", &format!("{RUN}device: cpu\n"));
    let plain = here.run(&["train", &config]).ok().err;
    assert!(!plain.contains("[info"), "{plain}");
    let told = here.run(&["train", &config, "--overwrite_output_dir", "true", "-v"]).ok().err;
    for part in [
        "[info bso_data] reading ",
        "pairs.jsonl as Json",
        "llama with",
        "instructions",
        "memory for batches",
        "the log-probs are computed",
        "checkpoint-1 written in",
        "reference log-probs:",
        "1 threads",
    ] {
        assert!(told.contains(part), "no {part:?} in:\n{told}");
    }
    assert!(!told.contains("step 1: "), "{told}");
    let all = here.run(&["-vv", "train", &config, "--overwrite_output_dir", "true"]).ok().err;
    assert!(all.contains("[debug bso_recipes] step 1: "), "{all}");
}

#[test]
fn the_environment_chooses_by_module() {
    let here = Playground::new();
    let config = here.config("run", RUN);
    let output = here.bso().args(["train", &config]).env("RUST_LOG", "bso_data=info").output().unwrap();
    let err = Ended::of(output).ok().err;
    assert!(err.contains("[info bso_data]") && !err.contains("[info bso_recipes]"), "{err}");
}

#[test]
fn fields_of_a_model_that_nobody_knows_are_told() {
    let here = Playground::new();
    let file = here.path("model/config.json");
    let mut fields: Value = serde_json::from_str(&fs::read_to_string(&file).unwrap()).unwrap();
    fields["attention_sinks"] = 4.into();
    fs::write(&file, fields.to_string()).unwrap();
    let config = here.config("run", RUN);
    let told = here.run(&["train", &config]).ok().err;
    assert!(told.contains("warning:") && told.contains("not known here: attention_sinks"), "{told}");
    let scored = ["-v", "logprobs", "--model", "model", "--data", "sft.jsonl", "--output", "scored.jsonl"];
    assert!(here.run(&scored).ok().err.contains("[warn bso_recipes]"));
}

#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Observer for Notes {
    fn event(&self, event: Event) {
        if let Event::Note(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

#[test]
fn a_stop_before_any_log_prob_does_not_claim_that_some_were_kept() {
    let here = Playground::new();
    let config = here.config("run", RUN);
    let resolved = bso_recipes::config::load(&here.path(&config), &[]).unwrap();
    let (interrupt, notes) = (Interrupt::new(), Notes::default());
    interrupt.raise();
    let stopped = bso_recipes::train(&resolved.config, &interrupt, &notes);
    assert!(matches!(stopped, Err(RecipeError::Interrupted)));
    let notes = notes.0.into_inner().unwrap().join("\n");
    assert!(!notes.contains("are kept in"), "{notes}");
    here.run(&["train", &config]).ok();
}
