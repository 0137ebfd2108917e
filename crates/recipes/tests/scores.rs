//! Training of reward and cost models against PyTorch written from the equations
//! (`crates/model/tests/fixtures/make_scores.py`), through the step that `bso train` takes.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing test panics, and differences are shown"
)]

use bso_data::TokenisedSequence;
use bso_durable::Seed;
use bso_model::{Decoder, Engine, Optimiser, OptimiserKind};
use bso_objective::{SafetyLabels, ScoreLoss};
use bso_recipes::TrainingObjective;
use bso_recipes::example::Example;
use bso_recipes::step::{MicroBatch, Step, StepMemory, optimise};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../model/tests/fixtures/scores/safe_rlhf")
}

fn expected() -> BTreeMap<String, Vec<f32>> {
    let bytes = std::fs::read(folder().join("expected.safetensors")).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let read = |(name, entry): (&String, &serde_json::Value)| {
        let at = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize;
        let data = bytes[at(0)..at(1)].as_chunks::<4>().0;
        (name.clone(), data.iter().map(|b| f32::from_le_bytes(*b)).collect())
    };
    tensors.map(read).collect()
}

fn examples(expected: &BTreeMap<String, Vec<f32>>) -> Vec<Example> {
    let ids = |name: String| expected[&name].iter().map(|x| *x as u32).collect();
    let sequence = |i: usize| TokenisedSequence {
        prompt: ids(format!("tokens.{i}.prompt")),
        response: ids(format!("tokens.{i}.response")),
    };
    let pair = |(i, rejected_unsafe): (usize, bool)| Example {
        sequences: vec![sequence(2 * i), sequence(2 * i + 1)],
        mismatched: None,
        labels: Some(SafetyLabels { chosen_unsafe: false, rejected_unsafe }),
        margins: None,
        desirable: true,
    };
    [(0, true), (1, false)].into_iter().map(pair).collect()
}

/// The losses before each of ten steps of AdamW, with the pairs in micro-batches of `micro`, and the model after them.
fn train(loss: ScoreLoss, examples: &[Example], micro: usize) -> (Vec<f64>, Decoder) {
    let objective = TrainingObjective::Scores(loss);
    let mut decoder = Decoder::load(&folder(), Arc::new(Engine::cpu(Some(2)).unwrap())).unwrap();
    let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.1, &decoder).unwrap();
    let mut memory = StepMemory::new(&decoder, false).unwrap();
    let mut losses = Vec::new();
    for index in 0..10 {
        let step = Step {
            micro_batches: examples
                .chunks(micro)
                .map(|pairs| MicroBatch { examples: pairs.iter().collect(), reference: Vec::new() })
                .collect(),
            replay: Vec::new(),
            rate: 1e-3,
            max_grad_norm: None,
            dropout: Seed::new(index),
        };
        let outcome =
            optimise(&mut decoder, &mut optimiser, &mut memory, &objective, &step, |_| Ok(())).unwrap();
        losses.push(outcome.observations.iter().map(|o| o.loss).sum::<f64>() / examples.len() as f64);
    }
    (losses, decoder)
}

#[test]
fn ten_steps_of_reward_and_cost_training_give_the_losses_of_pytorch() {
    let expected = expected();
    let examples = examples(&expected);
    for (name, loss) in
        [("reward", ScoreLoss::reward(0.01).unwrap()), ("cost", ScoreLoss::cost(0.01).unwrap())]
    {
        let (found, decoder) = train(loss.clone(), &examples, 2);
        let theirs = &expected[&format!("loss.{name}")];
        let apart =
            found.iter().zip(theirs).map(|(a, b)| (a / f64::from(*b) - 1.0).abs()).fold(0.0, f64::max);
        println!(
            "{name}: losses from {:.4} to {:.6} differ by at most {apart:.1e} relative",
            found[0], found[9]
        );
        assert!(apart < 1e-4, "{name}: {found:?} and {theirs:?}");
        assert!(found[9] < 0.5 * found[0], "{name}: it learns");
        if name == "cost" {
            let statistics = decoder.config().score.as_ref().unwrap().normaliser;
            let theirs = &expected["statistics.cost"];
            assert!((statistics.mean - f64::from(theirs[0])).abs() < 1e-4, "{statistics:?} and {theirs:?}");
            assert!(
                (statistics.var / f64::from(theirs[1]) - 1.0).abs() < 1e-4,
                "{statistics:?} and {theirs:?}"
            );
            assert_eq!(statistics.count, 96 + 10 * 4);
        }
        // Accumulated pair by pair, the same.
        let (accumulated, _) = train(loss, &examples, 1);
        for (a, b) in found.iter().zip(&accumulated) {
            assert!((a / b - 1.0).abs() < 1e-4, "{name}: {a} at once, {b} accumulated");
        }
    }
}
