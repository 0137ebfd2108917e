//! Values, every gradient and ten training steps against PyTorch and transformers.

use crate::fixture::{
    CASES, Expected, Numbers, decoder, gradient_distance, largest_norm, log_probs_and_gradients, pack,
    relative_max,
};
use bso_model::{Activations, Decoder, Gradients, Optimiser, OptimiserKind};

#[test]
fn logits_are_those_of_transformers() {
    for case in CASES {
        let expected = Expected::of(case);
        let (prompt, response) = expected.sequences().remove(0);
        let logits = decoder(case).logits(&[prompt, response].concat()).unwrap();
        let difference = relative_max(&logits.numbers(), expected.floats("logits"));
        println!("{case}: logits differ by {difference:.1e} relative");
        assert!(difference < 1e-5, "{case}: {difference}");
    }
}

#[test]
fn sequence_and_token_log_probs_are_those_of_transformers() {
    for case in CASES {
        let (expected, decoder) = (Expected::of(case), decoder(case));
        let mut largest = 0f64;
        for share in [false, true] {
            let batch = pack(&expected.sequences(), share);
            for (i, token_logp) in decoder.token_log_probs(&batch).unwrap().iter().enumerate() {
                let found: Vec<f32> = token_logp.iter().map(|x| *x as f32).collect();
                largest = largest.max(relative_max(&found, expected.floats(&format!("token_logp.{i}"))));
            }
            for (found, expected) in decoder.log_probs(&batch).unwrap().iter().zip(expected.floats("logp")) {
                largest = largest.max((found / f64::from(*expected) - 1.0).abs());
            }
        }
        println!("{case}: log-probs differ by {largest:.1e} relative");
        assert!(largest < 1e-5, "{case}: {largest}");
    }
}

#[test]
fn every_gradient_is_that_of_autograd() {
    for case in CASES {
        let (expected, decoder) = (Expected::of(case), decoder(case));
        for share in [false, true] {
            let batch = pack(&expected.sequences(), share);
            let (_, gradients) = log_probs_and_gradients(&decoder, &batch, expected.floats("weights"));
            let found: std::collections::BTreeMap<_, _> =
                gradients.stored(&decoder).unwrap().into_iter().collect();
            assert_eq!(found.len(), expected.gradients().count(), "{case}: another set of parameters");
            let largest = largest_norm(expected.gradients().map(|(_, gradient)| gradient));
            let mut worst = (0f64, "");
            for (name, expected) in expected.gradients() {
                let difference = gradient_distance(&found[name], expected, largest);
                assert!(difference < 1e-4, "{case}, prompts shared: {share}, {name}: {difference}");
                if difference >= worst.0 {
                    worst = (difference, name);
                }
            }
            let (difference, name) = worst;
            println!(
                "{case}, prompts shared: {share}: gradients differ by at most {difference:.1e} ({name})"
            );
            assert_eq!(gradients.non_finite().unwrap(), None);
            assert_eq!(gradients.all_zero().unwrap(), Vec::<&str>::new());
        }
    }
}

/// `-log sigmoid(beta (lp_chosen - lp_rejected - reference))`, its mean, and its derivatives.
fn preference_loss(log_probs: &[f64]) -> (f64, Vec<f32>) {
    let (beta, reference) = (0.5, [0.3, -0.8]);
    let (mut loss, mut weights) = (0.0, Vec::new());
    for (pair, reference) in log_probs.as_chunks::<2>().0.iter().zip(reference) {
        let margin: f64 = beta * (pair[0] - pair[1] - reference);
        loss += (-margin).max(0.0) + (-margin.abs()).exp().ln_1p();
        let slope = -beta / (1.0 + margin.exp());
        weights.extend([(slope / 2.0) as f32, (-slope / 2.0) as f32]);
    }
    (loss / 2.0, weights)
}

pub fn ten_losses(
    mut decoder: Decoder,
    expected: &Expected,
    kind: OptimiserKind,
    learning_rate: f64,
) -> Vec<f64> {
    let mut optimiser = Optimiser::new(kind, 0.1, &decoder).unwrap();
    let (mut activations, mut gradients) = (Activations::new(), Gradients::zeros(&decoder).unwrap());
    let batch = pack(&expected.sequences(), true);
    let mut losses = Vec::new();
    for _ in 0..10 {
        let (loss, weights) = preference_loss(decoder.forward(&batch, &mut activations).unwrap());
        gradients.zero().unwrap();
        decoder.backward(&batch, &mut activations, &weights, &mut gradients).unwrap();
        optimiser.step(&mut decoder, &gradients, 1.0, learning_rate).unwrap();
        losses.push(loss);
    }
    losses.push(preference_loss(&decoder.log_probs(&batch).unwrap()).0);
    losses
}

#[test]
fn ten_training_steps_give_the_losses_of_pytorch() {
    for case in CASES {
        let expected = Expected::of(case);
        for (name, kind, learning_rate) in
            [("adamw", OptimiserKind::ADAMW, 1e-3), ("rmsprop", OptimiserKind::RMSPROP, 1e-4)]
        {
            let losses = ten_losses(decoder(case), &expected, kind, learning_rate);
            let expected = expected.floats(&format!("loss.{name}"));
            let differences = losses.iter().zip(expected).map(|(l, e)| (l / f64::from(*e) - 1.0).abs());
            let largest = differences.fold(0f64, f64::max);
            let (first, last) = (losses[0], losses[10]);
            println!(
                "{case}, {name}: losses from {first:.4} to {last:.6} differ by at most {largest:.1e} relative"
            );
            assert!(largest < 1e-4, "{case}, {name}: {losses:?} against {expected:?}");
        }
    }
}
