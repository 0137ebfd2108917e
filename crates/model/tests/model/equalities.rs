//! What must not change a result: packing, sharing prompts, the order in a batch, the memory used.

use crate::fixture::{
    Expected, FAMILIES as CASES, Numbers, Sequences, decoder, gradient_distance, largest_norm,
    log_probs_and_gradients, pack,
};
use bso_model::{Activations, DType, Decoder, Gradients, PackedBatch, Workspace};

/// Between two orders of the same f32 sums.
const ROUNDING: f64 = 3e-6;

fn assert_same(what: &str, a: &(Vec<f64>, Gradients), b: &(Vec<f64>, Gradients)) {
    for (a, b) in a.0.iter().zip(&b.0) {
        assert!((a / b - 1.0).abs() < ROUNDING, "{what}: log-probs {a} and {b}");
    }
    let largest = largest_norm(b.1.iter().map(|(_, gradient)| gradient.numbers()));
    let mut worst = 0f64;
    for ((name, a), (_, b)) in a.1.iter().zip(b.1.iter()) {
        let difference = gradient_distance(&a.numbers(), &b.numbers(), largest);
        assert!(difference < 10.0 * ROUNDING, "{what}: gradient of {name} differs by {difference}");
        worst = worst.max(difference);
    }
    println!("{what}: gradients differ by at most {worst:.1e}");
}

fn setting(case: &str) -> (Decoder, Sequences, Vec<f32>) {
    let expected = Expected::of(case);
    (decoder(case), expected.sequences(), expected.floats("weights").to_vec())
}

#[test]
fn a_packed_batch_gives_what_its_sequences_give_one_by_one() {
    for case in CASES {
        let (decoder, sequences, weights) = setting(case);
        let packed = log_probs_and_gradients(&decoder, &pack(&sequences, false), &weights);
        let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
        let mut log_probs = Vec::new();
        for (sequence, weight) in sequences.iter().zip(&weights) {
            let batch = pack(std::slice::from_ref(sequence), false);
            log_probs.extend(decoder.forward(&batch, &mut activations).unwrap());
            decoder.backward(&batch, &mut activations, &[*weight], &mut gradients).unwrap();
        }
        assert_same(&format!("{case}: packed and one by one"), &packed, &(log_probs, gradients));
    }
}

#[test]
fn a_shared_prompt_gives_what_a_repeated_one_gives() {
    for case in CASES {
        let (decoder, sequences, weights) = setting(case);
        let (shared, repeated) = (pack(&sequences, true), pack(&sequences, false));
        assert!(shared.rows() < repeated.rows());
        let shared = log_probs_and_gradients(&decoder, &shared, &weights);
        let repeated = log_probs_and_gradients(&decoder, &repeated, &weights);
        assert_same(&format!("{case}: shared and repeated prompts"), &shared, &repeated);
    }
}

#[test]
fn the_order_in_a_batch_does_not_matter() {
    for case in CASES {
        let (decoder, mut sequences, mut weights) = setting(case);
        let there = log_probs_and_gradients(&decoder, &pack(&sequences, true), &weights);
        sequences.reverse();
        weights.reverse();
        let mut back = log_probs_and_gradients(&decoder, &pack(&sequences, true), &weights);
        back.0.reverse();
        assert_same(&format!("{case}: there and back"), &there, &back);
    }
}

#[test]
fn reused_memory_of_a_larger_batch_leaves_no_trace() {
    let (decoder, sequences, weights) = setting(CASES[0]);
    let (large, small) = (pack(&sequences, false), pack(&sequences[2..3], false));
    let fresh = log_probs_and_gradients(&decoder, &small, &weights[2..3]);
    let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
    decoder.forward(&large, &mut activations).unwrap();
    decoder.backward(&large, &mut activations, &weights, &mut gradients).unwrap();
    gradients.zero().unwrap();
    let log_probs = decoder.forward(&small, &mut activations).unwrap().to_vec();
    decoder.backward(&small, &mut activations, &weights[2..3], &mut gradients).unwrap();
    assert_eq!(log_probs, fresh.0);
    assert!(gradients.iter().eq(fresh.1.iter()));
    let mut workspace = Workspace::new();
    decoder.log_probs_in(&large, &mut workspace).unwrap();
    assert_eq!(decoder.log_probs_in(&small, &mut workspace).unwrap(), log_probs);
}

/// More rows than are computed at a time where activations are not kept.
fn many_rows(sequences: &Sequences, share: bool) -> PackedBatch {
    let mut repeated = sequences.clone();
    while pack(&repeated, share).rows() < 1100 {
        repeated.extend(sequences.iter().cloned());
    }
    pack(&repeated, share)
}

#[test]
fn rows_recomputed_part_by_part_give_what_rows_that_are_kept_give() {
    for (case, dtype) in CASES.iter().flat_map(|case| [(case, DType::F32), (case, DType::Bf16)]) {
        let (mut decoder, sequences, _) = setting(case);
        decoder.compute_in(dtype, true).unwrap();
        for share in [false, true] {
            let batch = many_rows(&sequences, share);
            let weights: Vec<f32> = (0..batch.sequences()).map(|i| 1.0 - 0.3 * (i % 7) as f32).collect();
            let kept = log_probs_and_gradients(&decoder, &batch, &weights);
            let (mut activations, mut gradients) =
                (Activations::checkpointed(), Gradients::zeros(&decoder).unwrap());
            let log_probs = decoder.forward(&batch, &mut activations).unwrap().to_vec();
            decoder.backward(&batch, &mut activations, &weights, &mut gradients).unwrap();
            let what = format!("{case} in {}: {} rows", dtype.name(), batch.rows());
            assert_same(&what, &(log_probs, gradients), &kept);
            for (alone, kept) in decoder.log_probs(&batch).unwrap().iter().zip(&kept.0) {
                assert!((alone / kept - 1.0).abs() < ROUNDING, "{what}: without gradients {alone}, {kept}");
            }
        }
    }
}

#[test]
fn the_same_batch_gives_the_same_bytes_and_gradients_add_up() {
    let (decoder, sequences, weights) = setting(CASES[2]);
    let batch = pack(&sequences, true);
    let once = log_probs_and_gradients(&decoder, &batch, &weights);
    let again = log_probs_and_gradients(&decoder, &batch, &weights);
    assert_eq!(once.0, again.0);
    assert!(once.1.iter().eq(again.1.iter()));
    let (mut activations, mut twice) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
    for _ in 0..2 {
        decoder.forward(&batch, &mut activations).unwrap();
        decoder.backward(&batch, &mut activations, &weights, &mut twice).unwrap();
    }
    twice.rescale(0.5).unwrap();
    assert_same("twice and once", &(once.0.clone(), twice), &once);
}

#[test]
fn what_does_not_fit_together_is_refused() {
    let (decoder, sequences, weights) = setting(CASES[0]);
    let batch = pack(&sequences, false);
    let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
    assert!(decoder.backward(&batch, &mut activations, &weights, &mut gradients).is_err(), "no forward");
    decoder.forward(&batch, &mut activations).unwrap();
    assert!(
        decoder.backward(&batch, &mut activations, &weights[1..], &mut gradients).is_err(),
        "a weight short"
    );
    let other = pack(&sequences[..2], false);
    assert!(
        decoder.backward(&other, &mut activations, &weights[..2], &mut gradients).is_err(),
        "another batch"
    );
    let mut foreign = Gradients::zeros(&crate::fixture::decoder(CASES[1])).unwrap();
    assert!(decoder.backward(&batch, &mut activations, &weights, &mut foreign).is_err(), "another model");

    let outside = pack(&[(vec![1], vec![64])], false);
    let error = decoder.forward(&outside, &mut activations).unwrap_err().to_string();
    assert!(error.contains("token id 64") && error.contains("tokenizer"), "{error}");
    let long = pack(&[(vec![1; 60], vec![2; 6])], false);
    let error = decoder.log_probs(&long).unwrap_err().to_string();
    assert!(error.contains("65 positions") && error.contains("max_length"), "{error}");
    assert!(decoder.log_probs(&pack(&[(vec![1; 60], vec![2; 5])], false)).is_ok());
}

#[test]
fn a_gradient_that_is_not_finite_is_named() {
    let (decoder, sequences, _) = setting(CASES[0]);
    let weights = [f32::INFINITY, 0.0, 0.0, 0.0];
    let (_, gradients) = log_probs_and_gradients(&decoder, &pack(&sequences, false), &weights);
    assert!(gradients.non_finite().unwrap().is_some());
    let (_, zero) = log_probs_and_gradients(&decoder, &pack(&sequences, false), &[0.0; 4]);
    assert_eq!(zero.all_zero().unwrap().len(), zero.iter().count());
    assert_eq!((zero.squared_norm().unwrap(), zero.non_finite().unwrap()), (0.0, None));
}
