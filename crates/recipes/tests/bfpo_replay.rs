//! BFPO with general pairs beside the others: one step is that of both losses' summed gradients, a stopped run ends in the
//! same bytes, and rows that do not do are refused.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a failing test panics")]

mod support;

use bso_data::ChatTokenizer;
use bso_durable::{Event, Interrupt, Observer, Seed};
use bso_model::{
    Activations, DType, Decoder, Engine, Gradients, ModelConfig, Optimiser, OptimiserKind, PackedBatch,
};
use bso_objective::SafetyLabels;
use bso_recipes::example::Example;
use bso_recipes::objective::BatchLogProbs;
use bso_recipes::step::{MicroBatch, Step, StepMemory, optimise};
use bso_recipes::{RecipeError, Trained, config, train};
use bso_runs::{StepMetrics, read_metrics};
use serde_json::json;
use std::fs;
use std::path::Path;
use std::sync::{Arc, Mutex};

const REFERENCE: [f64; 2] = [-20.0, -21.0];

fn safe(mut examples: Vec<Example>) -> Vec<Example> {
    let labels = Some(SafetyLabels { chosen_unsafe: false, rejected_unsafe: false });
    examples.iter_mut().for_each(|example| example.labels = labels);
    examples
}

#[test]
fn a_step_follows_the_sum_of_both_mean_losses() {
    let objective = support::objective("loss_type: bfpo");
    let main = support::examples(4, 12, false);
    let general = safe(support::examples(7, 16, false).split_off(4));
    let (mut policy, mut by_hand) = (support::decoder(DType::F32), support::decoder(DType::F32));
    let sgd = |decoder: &Decoder| Optimiser::new(OptimiserKind::Sgd, 0.0, decoder).unwrap();
    let (mut optimiser, mut memory) = (sgd(&policy), StepMemory::new(&policy, false).unwrap());
    let micro = |examples: &'static [Example]| MicroBatch {
        examples: examples.iter().collect(),
        reference: examples.iter().map(|_| &REFERENCE[..]).collect(),
    };
    let (main, general): (&'static [Example], &'static [Example]) = (main.leak(), general.leak());
    let step = Step {
        micro_batches: main.chunks(2).map(micro).collect(),
        replay: general.chunks(2).map(micro).collect(),
        rate: 1e-4,
        max_grad_norm: None,
        dropout: Seed::new(0),
    };
    let outcome = optimise(&mut policy, &mut optimiser, &mut memory, &objective, &step, |_| Ok(())).unwrap();
    assert_eq!((outcome.observations.len(), outcome.replay.len(), outcome.sequences), (4, 3, 14));

    let mut gradients = Gradients::zeros(&by_hand).unwrap();
    let mut losses = Vec::new();
    for part in [main, general] {
        let views: Vec<(&[u32], &[u32])> = part
            .iter()
            .flat_map(|e| &e.sequences)
            .map(|s| (s.prompt.as_slice(), s.response.as_slice()))
            .collect();
        let batch = PackedBatch::from_sequences(&views, false).unwrap();
        let mut activations = Activations::new();
        let log_probs = by_hand.forward(&batch, &mut activations).unwrap();
        let reference: Vec<&[f64]> = part.iter().map(|_| &REFERENCE[..]).collect();
        let logps = BatchLogProbs { policy: log_probs, mismatched: &[], reference: &reference };
        let judged = objective.judge(&part.iter().collect::<Vec<_>>(), &logps).unwrap();
        let weights: Vec<f32> = judged.weights.iter().map(|w| (w / part.len() as f64) as f32).collect();
        by_hand.backward(&batch, &mut activations, &weights, &mut gradients).unwrap();
        losses.extend(judged.observations.iter().map(|o| o.loss));
    }
    for (seen, expected) in outcome.observations.iter().chain(&outcome.replay).zip(&losses) {
        assert!((seen.loss - expected).abs() < 1e-5 * expected.abs().max(1.0), "{} {expected}", seen.loss);
    }
    let norm = gradients.squared_norm().unwrap().sqrt();
    assert!((outcome.grad_norm / norm - 1.0).abs() < 1e-5, "{} {norm}", outcome.grad_norm);
    let mut optimiser = sgd(&by_hand);
    optimiser.step(&mut by_hand, &gradients, 1.0, 1e-4).unwrap();
    let ids: Vec<u32> = (1..20).collect();
    let start = support::decoder(DType::F32).logits(&ids).unwrap();
    let (one, other) = (policy.logits(&ids).unwrap(), by_hand.logits(&ids).unwrap());
    let apart =
        |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).fold(0.0, f64::max);
    let moved = apart(start.row(18), other.row(18));
    assert!(apart(one.row(18), other.row(18)) < 1e-3 * moved, "of {moved}");
}

/// What a run says.
#[derive(Default)]
struct Notes(Mutex<Vec<String>>);

impl Observer for Notes {
    fn event(&self, event: Event) {
        if let Event::Note(text) = event {
            self.0.lock().unwrap().push(text);
        }
    }
}

/// A folder with a model, labelled pairs, and fewer general pairs without labels than a run takes.
fn folder() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let model = dir.path().join("model");
    fs::create_dir_all(&model).unwrap();
    let words: Vec<String> = (0..12).map(|i| format!("w{i}")).collect();
    let tokenizer = ChatTokenizer::word_level(&words.iter().map(String::as_str).collect::<Vec<_>>()).unwrap();
    tokenizer.save(&model).unwrap();
    let shape = json!({
        "architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_size": 16, "intermediate_size": 32,
        "num_hidden_layers": 2, "num_attention_heads": 2, "num_key_value_heads": 1, "vocab_size": tokenizer.vocab_size(),
        "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "rope_theta": 10000.0, "hidden_act": "silu",
        "tie_word_embeddings": true, "initializer_range": 0.15, "eos_token_id": tokenizer.eos().1,
    });
    let shape = ModelConfig::from_value(shape, Path::new("config.json")).unwrap();
    let engine = Arc::new(Engine::cpu(Some(2)).unwrap());
    Decoder::random(shape, Seed::new(1), engine).unwrap().save(&model, DType::F32).unwrap();
    let row = |i: usize| {
        let prompt = format!("w{} w{} w{}", i % 12, (i / 2) % 12, (i / 3) % 12);
        json!({"prompt": prompt, "chosen": format!("w{} w1", (i + 1) % 12), "rejected": format!("w{}", (i + 5) % 12)})
    };
    let labelled = |i: usize| {
        let mut row = row(i);
        row["chosen_safe"] = json!(!i.is_multiple_of(4));
        row["rejected_safe"] = json!(!i.is_multiple_of(3));
        row.to_string() + "\n"
    };
    fs::write(dir.path().join("pairs.jsonl"), (0..22).map(labelled).collect::<String>()).unwrap();
    let general = |from: usize| (from..from + 5).map(|i| row(i).to_string() + "\n").collect::<String>();
    fs::write(dir.path().join("general.jsonl"), general(40)).unwrap();
    fs::write(dir.path().join("others.jsonl"), general(41)).unwrap();
    dir
}

fn run(
    dir: &Path,
    output: &str,
    more: &str,
    (interrupt, observer): (&Interrupt, &dyn Observer),
) -> Result<Trained, RecipeError> {
    let text = format!(
        "preset: bfpo\nmodel_name_or_path: model\ndataset_name: pairs.jsonl\nnum_train_epochs: 2\nper_device_train_batch_size: 2\n\
         gradient_accumulation_steps: 2\nlogging_steps: 2\ndtype: f32\nnum_threads: 2\nlearning_rate: 1e-3\neval_split: 0\n\
         output_dir: {output}\n{more}"
    );
    let file = dir.join(format!("{output}.yaml"));
    fs::write(&file, text).unwrap();
    train(&config::load(&file, &[])?.config, interrupt, observer)
}

fn rows(dir: &Path) -> Vec<StepMetrics> {
    read_metrics(&dir.join("metrics.jsonl")).unwrap().rows.iter().map(StepMetrics::without_times).collect()
}

#[test]
fn a_stopped_run_goes_on_to_the_same_bytes_and_other_general_pairs_are_refused() {
    let dir = folder();
    let (dir, free, notes) = (dir.path(), Interrupt::new(), Notes::default());
    let replay = "replay_dataset_name: general.jsonl\nsave_steps: 3";
    let whole = run(dir, "whole", replay, (&free, &notes)).unwrap();
    // Of the policy and of the reference, two sequences a pair: 22 pairs in two epochs with as many general ones.
    assert_eq!((whole.steps, whole.forwards), (12, 2 * (2 * (22 + 22) + 22 + 5)));
    let notes = notes.0.into_inner().unwrap();
    assert!(notes.iter().any(|n| n.starts_with("replay      5 general pairs")), "{notes:?}");
    let all = rows(&dir.join("whole"));
    // At the start h is 0: the loss of two safe responses is (0.5 / beta)^2.
    let first = all[0].get("replay_loss").unwrap();
    assert!((first / 2500.0 - 1.0).abs() < 0.1, "{first}");
    assert!((all[0].get("loss").unwrap() - first).abs() > 1.0);
    assert!(all.iter().all(|row| row.get("replay_loss").is_some()));

    let checkpoint = dir.join("whole/checkpoint-3");
    let from = format!("resume_from_checkpoint: {}", checkpoint.display());
    run(dir, "half", &format!("{replay}\n{from}"), (&free, &Notes::default())).unwrap();
    let read = |run: &str| fs::read(dir.join(run).join("model.safetensors")).unwrap();
    assert!(read("whole") == read("half"));
    let resumed = rows(&dir.join("half"));
    assert_eq!(resumed, all[all.len() - resumed.len()..]);

    fs::copy(dir.join("others.jsonl"), dir.join("general.jsonl")).unwrap();
    let error = run(dir, "half", &format!("{replay}\n{from}"), (&free, &Notes::default())).unwrap_err();
    assert!(error.to_string().contains("the token sequences of replay_dataset_name differ"), "{error}");

    let notes = Notes::default();
    run(dir, "alone", "", (&free, &notes)).unwrap();
    let notes = notes.0.into_inner().unwrap();
    assert!(notes.iter().any(|n| n.starts_with("replay      none")), "{notes:?}");
    assert!(read("alone") != read("whole"));
    assert!(rows(&dir.join("alone")).iter().all(|row| row.get("replay_loss").is_none()));
    let error = run(
        dir,
        "alone",
        &format!("{replay}\nresume_from_checkpoint: {}", checkpoint.display()),
        (&free, &Notes::default()),
    );
    assert!(error.unwrap_err().to_string().contains("replay_dataset_name"));
}

#[test]
fn rows_that_do_not_do_are_refused_with_a_remedy() {
    let dir = folder();
    let dir = dir.path();
    fs::write(
        dir.join("broken.jsonl"),
        "{\"prompt\": \"w1\", \"chosen\": \"w2\", \"rejected\": \"w3\"}\n{\"prompt\": \"w1\"\n",
    )
    .unwrap();
    fs::write(dir.join("empty.jsonl"), "").unwrap();
    for (more, parts) in [
        ("replay_dataset_name: nowhere.jsonl", ["replay_dataset_name", "nowhere.jsonl", "does not exist"]),
        ("replay_dataset_name: broken.jsonl", ["broken.jsonl", "2", "JSON"]),
        ("replay_dataset_name: empty.jsonl", ["empty.jsonl", "", ""]),
    ] {
        let error = run(dir, "out", more, (&Interrupt::new(), &Notes::default())).unwrap_err().to_string();
        for part in parts {
            assert!(error.contains(part), "{more}: `{part}` is not in: {error}");
        }
        assert!(!dir.join("out").exists(), "{more}: nothing is written");
    }
}
