//! What must change neither a loss's values nor its gradients, for every loss: packing, shared prompts, recomputed
//! activations, the order in a batch, a cached reference, logits in chunks. In f32 within 1e-5; in bf16 within bounds
//! that training curves respect, which the last test shows over 100 steps.
#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a failing test panics, and the largest differences are shown also on success"
)]

mod support;

use bso_model::{Activations, DType, Decoder, Gradients, Optimiser, OptimiserKind, PackedBatch};
use bso_recipes::TrainingObjective;
use bso_recipes::example::Example;
use bso_recipes::objective::BatchLogProbs;
use bso_recipes::step::{MicroBatch, Step, StepMemory, optimise};
use support::{LOSSES, decoder, examples, is_kto, is_single, objective};

/// How the same job is done.
#[derive(Clone, Copy, PartialEq, Debug)]
enum Way {
    /// Packed, prompts shared, activations stored, the reference's log-probs from one pass.
    Usual,
    OneByOne,
    RepeatedPrompts,
    Recomputed,
    Reversed,
    /// The reference is scored again, sequence by sequence, as if there were no cache.
    FreshReference,
}

const OTHERS: [Way; 5] =
    [Way::OneByOne, Way::RepeatedPrompts, Way::Recomputed, Way::Reversed, Way::FreshReference];

/// Losses of the examples in order, and the gradients of their sum.
fn run(
    (policy, reference): (&Decoder, &Decoder),
    objective: &TrainingObjective,
    examples: &[Example],
    way: Way,
) -> (Vec<f64>, Gradients) {
    let mut order: Vec<&Example> = examples.iter().collect();
    if way == Way::Reversed {
        order.reverse();
    }
    let share = way != Way::RepeatedPrompts;
    let pack = |sequences: &[(&[u32], &[u32])]| PackedBatch::from_sequences(sequences, share).unwrap();
    let views = |trained: bool| -> Vec<(&[u32], &[u32])> {
        let lists = order.iter().map(|e| if trained { &e.sequences[..] } else { e.mismatched.as_slice() });
        lists.flatten().map(|s| (s.prompt.as_slice(), s.response.as_slice())).collect()
    };
    let (trained, mismatched) = (views(true), views(false));
    let score = |decoder: &Decoder, sequences: &[(&[u32], &[u32])], alone: bool| -> Vec<f64> {
        if sequences.is_empty() {
            return Vec::new();
        }
        if alone {
            return sequences.iter().flat_map(|s| decoder.log_probs(&pack(&[*s])).unwrap()).collect();
        }
        decoder.log_probs(&pack(sequences)).unwrap()
    };
    let alone = way == Way::FreshReference;
    let reference_trained = score(reference, &trained, alone);
    let reference_mismatched = score(reference, &mismatched, alone);
    let per_example = if trained.len() == order.len() { 1 } else { 2 };
    let rows: Vec<Vec<f64>> = (0..order.len())
        .map(|i| {
            let mut row = reference_trained[i * per_example..][..per_example].to_vec();
            row.extend(reference_mismatched.get(i));
            row
        })
        .collect();
    let rows: Vec<&[f64]> = rows.iter().map(Vec::as_slice).collect();

    let mut activations =
        if way == Way::Recomputed { Activations::checkpointed() } else { Activations::new() };
    let mut gradients = Gradients::zeros(policy).unwrap();
    let batches: Vec<PackedBatch> = if way == Way::OneByOne {
        trained.iter().map(|s| pack(&[*s])).collect()
    } else {
        vec![pack(&trained)]
    };
    let mut log_probs = Vec::new();
    for batch in &batches {
        log_probs.extend_from_slice(policy.forward(batch, &mut activations).unwrap());
    }
    let logps = BatchLogProbs {
        policy: &log_probs,
        mismatched: &score(policy, &mismatched, way == Way::OneByOne),
        reference: &rows,
    };
    let judged = objective.judge(&order, &logps).unwrap();
    let weights: Vec<f32> = judged.weights.iter().map(|w| *w as f32).collect();
    let mut first = 0;
    for batch in &batches {
        policy.forward(batch, &mut activations).unwrap();
        let weights = &weights[first..first + batch.sequences()];
        policy.backward(batch, &mut activations, weights, &mut gradients).unwrap();
        first += batch.sequences();
    }
    let mut losses: Vec<f64> = judged.observations.iter().map(|o| o.loss).collect();
    if way == Way::Reversed {
        losses.reverse();
    }
    (losses, gradients)
}

/// `|a - b| / |b|` over all parameters.
fn apart(a: &Gradients, b: &Gradients) -> f64 {
    let (mut difference, mut size) = (0.0, 0.0);
    for ((_, a), (_, b)) in a.iter().zip(b.iter()) {
        for (a, b) in a.as_slice().iter().zip(b.as_slice()) {
            difference += f64::from(a - b).powi(2);
            size += f64::from(*b).powi(2);
        }
    }
    (difference / size).sqrt()
}

/// A policy some steps away from its reference, so that no loss is at its start.
fn policy_and_reference(dtype: DType) -> (Decoder, Decoder) {
    let (mut policy, reference) = (decoder(dtype), decoder(dtype));
    let mut optimiser = Optimiser::new(OptimiserKind::Sgd, 0.0, &policy).unwrap();
    let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&policy).unwrap());
    let examples = examples(4, 12, false);
    let views: Vec<(&[u32], &[u32])> = examples
        .iter()
        .flat_map(|e| &e.sequences)
        .map(|s| (s.prompt.as_slice(), s.response.as_slice()))
        .collect();
    let batch = PackedBatch::from_sequences(&views, true).unwrap();
    policy.forward(&batch, &mut activations).unwrap();
    policy.backward(&batch, &mut activations, &[-1.0; 8], &mut gradients).unwrap();
    optimiser.step(&mut policy, &gradients, 1.0, 1e-4).unwrap();
    (policy, reference)
}

/// The worst relative differences of values and of gradients, each with its loss and way.
fn worst(dtype: DType) -> [(f64, String); 2] {
    let (policy, reference) = policy_and_reference(dtype);
    let mut worst = [(0.0, String::new()), (0.0, String::new())];
    for loss in LOSSES {
        let (objective, examples) = (objective(loss), examples(5, 24, is_single(loss)));
        let models = (&policy, &reference);
        let usual = run(models, &objective, &examples, Way::Usual);
        let size = usual.0.iter().fold(0.0_f64, |m, l| m.max(l.abs()));
        for way in OTHERS {
            let other = run(models, &objective, &examples, way);
            let values = usual.0.iter().zip(&other.0).map(|(a, b)| (a - b).abs() / size).fold(0.0, f64::max);
            for (worst, found) in worst.iter_mut().zip([values, apart(&other.1, &usual.1)]) {
                assert!(found.is_finite(), "{loss}, {way:?}");
                if found > worst.0 {
                    *worst = (found, format!("{}, {way:?}", loss.replace('\n', ", ")));
                }
            }
        }
    }
    println!("{}: values within {:?}, gradients within {:?}", dtype.name(), worst[0], worst[1]);
    worst
}

#[test]
fn no_way_of_computing_changes_a_loss_or_its_gradients_in_f32() {
    let [values, gradients] = worst(DType::F32);
    assert!(values.0 < 1e-5, "{values:?}");
    assert!(gradients.0 < 1e-5, "{gradients:?}");
}

#[test]
fn no_way_of_computing_changes_them_by_more_than_rounding_in_bf16() {
    let [values, gradients] = worst(DType::Bf16);
    // Eight bits of mantissa in what products read; the order of rows decides how some of it is summed.
    assert!(values.0 < 2e-3, "{values:?}");
    assert!(gradients.0 < 1e-2, "{gradients:?}");
}

#[test]
fn chunks_of_the_vocabulary_give_what_whole_logits_give() {
    let (policy, reference) = policy_and_reference(DType::F32);
    // Log-probs by whole logits, softmax in f64.
    let by_logits = |decoder: &Decoder, examples: &[Example]| -> Vec<f64> {
        let sequences = examples.iter().flat_map(|e| &e.sequences);
        let log_prob = |s: &bso_data::TokenisedSequence| {
            let ids = [s.prompt.as_slice(), &s.response].concat();
            let logits = decoder.logits(&ids).unwrap();
            let token = |(i, token): (usize, &u32)| {
                let row = logits.row(s.prompt.len() - 1 + i);
                let sum: f64 = row.iter().map(|x| f64::from(*x).exp()).sum();
                f64::from(row[*token as usize]) - sum.ln()
            };
            s.response.iter().enumerate().map(token).sum::<f64>()
        };
        sequences.map(log_prob).collect()
    };
    for loss in LOSSES.into_iter().filter(|loss| !is_kto(loss)) {
        let (objective, examples) = (objective(loss), examples(5, 24, is_single(loss)));
        let order: Vec<&Example> = examples.iter().collect();
        let (losses, gradients) = run((&policy, &reference), &objective, &examples, Way::Usual);
        let fixed = by_logits(&reference, &examples);
        let whole = |decoder: &Decoder| -> Vec<f64> {
            let rows: Vec<&[f64]> = fixed.chunks(if is_single(loss) { 1 } else { 2 }).collect();
            let policy = by_logits(decoder, &examples);
            let logps = BatchLogProbs { policy: &policy, mismatched: &[], reference: &rows };
            objective.judge(&order, &logps).unwrap().observations.iter().map(|o| o.loss).collect()
        };
        let size = losses.iter().fold(0.0_f64, |m, l| m.max(l.abs()));
        for (a, b) in losses.iter().zip(whole(&policy)) {
            assert!((a - b).abs() < 1e-5 * size, "{loss}: {a} and {b}");
        }
        // A step along the gradient changes the loss of whole logits as the gradient says.
        let norm = gradients.squared_norm().unwrap();
        let step = 2e-4 / norm.sqrt();
        let moved = |rate: f64| {
            let mut decoder = policy.clone();
            let mut optimiser = Optimiser::new(OptimiserKind::Sgd, 0.0, &decoder).unwrap();
            optimiser.step(&mut decoder, &gradients, 1.0, rate).unwrap();
            whole(&decoder).iter().sum::<f64>()
        };
        let slope = (moved(-step) - moved(step)) / (2.0 * step);
        let difference = (slope / norm - 1.0).abs();
        println!("{}: slope within {difference:.1e}", loss.replace('\n', ", "));
        assert!(difference < 1e-2, "{loss}: {slope} and {norm}");
    }
}

#[test]
fn over_100_steps_bf16_follows_the_losses_of_f32_within_one_percent() {
    let examples = examples(48, 48, false);
    for loss in
        ["loss_type: dpo", "loss_type: bso\ngenerator: sba\ngenerator_params: [0.2, 4]\nsafety_penalty: 5"]
    {
        let objective = objective(loss);
        let curve = |dtype: DType| -> Vec<f64> {
            let (mut policy, reference) = (decoder(dtype), decoder(dtype));
            let cached: Vec<Vec<f64>> = examples
                .iter()
                .map(|e| {
                    let views: Vec<(&[u32], &[u32])> =
                        e.sequences.iter().map(|s| (s.prompt.as_slice(), s.response.as_slice())).collect();
                    reference.log_probs(&PackedBatch::from_sequences(&views, true).unwrap()).unwrap()
                })
                .collect();
            let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.0, &policy).unwrap();
            let mut memory = StepMemory::new(&policy, false).unwrap();
            let mut step = |i: usize| {
                let members = (0..8).map(|j| (8 * i + j) % examples.len());
                let micro = MicroBatch {
                    examples: members.clone().map(|m| &examples[m]).collect(),
                    reference: members.map(|m| cached[m].as_slice()).collect(),
                };
                let step = Step {
                    micro_batches: vec![micro],
                    replay: Vec::new(),
                    rate: 1e-4,
                    max_grad_norm: Some(1.0),
                    dropout: bso_durable::Seed::new(0),
                };
                let seen = optimise(&mut policy, &mut optimiser, &mut memory, &objective, &step, |_| Ok(()))
                    .unwrap();
                seen.observations.iter().map(|o| o.loss).sum::<f64>() / 8.0
            };
            (0..100).map(&mut step).collect()
        };
        let (exact, rounded) = (curve(DType::F32), curve(DType::Bf16));
        let apart = exact.iter().zip(&rounded).map(|(a, b)| (b / a - 1.0).abs()).fold(0.0, f64::max);
        println!(
            "{}: {:.4} to {:.4}, bf16 within {apart:.1e}",
            loss.replace('\n', ", "),
            exact[0],
            exact[99]
        );
        assert!(exact[99] < 0.9 * exact[0], "it learns: {} to {}", exact[0], exact[99]);
        assert!(apart < 0.01, "{loss}: {apart}");
    }
}
