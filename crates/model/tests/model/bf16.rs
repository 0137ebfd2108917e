//! Products of bf16 beside f32: how far they are apart, and what must not change a result in bf16 either.

use crate::fixture::{
    CASES, Expected, Numbers, decoder, gradient_distance, largest_norm, log_probs_and_gradients,
    on_processor, pack,
};
use bso_model::{Activations, DType, Decoder, Gradients, Optimiser, OptimiserKind};

fn narrow(case: &str) -> Decoder {
    let mut decoder = decoder(case);
    decoder.compute_in(DType::Bf16, true).unwrap();
    decoder
}

#[test]
fn log_probs_and_gradients_stay_near_those_of_f32() {
    for case in CASES {
        let expected = Expected::of(case);
        let (batch, weights) = (pack(&expected.sequences(), true), expected.floats("weights").to_vec());
        let exact = log_probs_and_gradients(&decoder(case), &batch, &weights);
        let rounded = log_probs_and_gradients(&narrow(case), &batch, &weights);
        let mut worst = 0.0_f64;
        for (exact, rounded) in exact.0.iter().zip(&rounded.0) {
            worst = worst.max((rounded / exact - 1.0).abs());
        }
        let largest = largest_norm(exact.1.iter().map(|(_, gradient)| gradient.numbers()));
        let (mut difference, mut name) = (0.0, "");
        for ((of, exact), (_, rounded)) in exact.1.iter().zip(rounded.1.iter()) {
            let apart = gradient_distance(&rounded.numbers(), &exact.numbers(), largest);
            if apart > difference {
                (difference, name) = (apart, of);
            }
        }
        println!("{case}: log-probs within {worst:.1e}, gradients within {difference:.1e} ({name})");
        // Eight bits of mantissa: 2^-9 a rounding, a handful of roundings a layer.
        assert!(worst < 5e-3, "{case}: {worst}");
        assert!(difference < 8e-2, "{case}: gradient of {name} differs by {difference}");
    }
}

#[test]
fn packing_and_recomputing_change_no_bit_and_sharing_stays_within_rounding() {
    for case in CASES {
        let expected = Expected::of(case);
        let (decoder, sequences) = (narrow(case), expected.sequences());
        let weights = expected.floats("weights").to_vec();
        let packed = log_probs_and_gradients(&decoder, &pack(&sequences, false), &weights);
        for (sequence, log_prob) in sequences.iter().zip(&packed.0) {
            let alone = decoder.log_probs(&pack(std::slice::from_ref(sequence), false)).unwrap();
            assert_eq!(alone, [*log_prob], "{case}: packed and alone");
        }
        let shared = pack(&sequences, true);
        let stored = log_probs_and_gradients(&decoder, &shared, &weights);
        for (shared, repeated) in stored.0.iter().zip(&packed.0) {
            assert!((shared / repeated - 1.0).abs() < 2e-3, "{case}: {shared} and {repeated}");
        }
        let (mut activations, mut gradients) =
            (Activations::checkpointed(), Gradients::zeros(&decoder).unwrap());
        assert_eq!(decoder.forward(&shared, &mut activations).unwrap(), stored.0);
        decoder.backward(&shared, &mut activations, &weights, &mut gradients).unwrap();
        assert!(gradients.iter().eq(stored.1.iter()), "{case}: recomputed and stored");
    }
}

#[test]
fn training_follows_the_curve_of_f32() {
    let expected = Expected::of(CASES[0]);
    let batch = pack(&expected.sequences(), true);
    let curve = |mut decoder: Decoder| -> Vec<f64> {
        let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.0, &decoder).unwrap();
        let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
        let mut step = || {
            gradients.zero().unwrap();
            let loss = -decoder.forward(&batch, &mut activations).unwrap().iter().sum::<f64>();
            decoder.backward(&batch, &mut activations, &[-1.0; 4], &mut gradients).unwrap();
            optimiser.step(&mut decoder, &gradients, 1.0, 1e-3).unwrap();
            loss
        };
        (0..50).map(|_| step()).collect()
    };
    let (exact, rounded) = (curve(decoder(CASES[0])), curve(narrow(CASES[0])));
    assert!(exact[49] < 0.9 * exact[0], "it learns: {} to {}", exact[0], exact[49]);
    let apart = exact.iter().zip(&rounded).map(|(a, b)| (b / a - 1.0).abs()).fold(0.0, f64::max);
    println!("50 steps: losses within {apart:.1e}");
    assert!(apart < 0.01, "{apart}");
}

#[test]
fn without_the_layout_for_gradients_only_the_forward_pass_runs() {
    if !on_processor("a packed weight without the layout for gradients") {
        return;
    }
    let expected = Expected::of(CASES[0]);
    let (batch, weights) = (pack(&expected.sequences(), true), expected.floats("weights").to_vec());
    let mut reference = decoder(CASES[0]);
    reference.compute_in(DType::Bf16, false).unwrap();
    let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&reference).unwrap());
    let log_probs = reference.forward(&batch, &mut activations).unwrap().to_vec();
    assert_eq!(log_probs, narrow(CASES[0]).log_probs(&batch).unwrap());
    assert!(reference.backward(&batch, &mut activations, &weights, &mut gradients).is_err());
    assert!(reference.compute_in(DType::F16, false).is_err());
}
