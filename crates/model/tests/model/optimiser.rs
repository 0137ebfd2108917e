//! The optimisers' state on disk, and what they refuse.

use crate::fixture::{Expected, decoder, engine, log_probs_and_gradients, pack};
use bso_model::{DType, Decoder, Gradients, Optimiser, OptimiserKind};

fn run(decoder: &mut Decoder, optimiser: &mut Optimiser, steps: usize) {
    let expected = Expected::of("llama_tied_gqa");
    let batch = pack(&expected.sequences(), true);
    for _ in 0..steps {
        let (_, gradients) = log_probs_and_gradients(decoder, &batch, expected.floats("weights"));
        optimiser.step(decoder, &gradients, -0.1, 1e-3).unwrap();
    }
}

#[test]
fn a_resumed_run_takes_the_same_steps_to_the_last_bit() {
    for kind in [OptimiserKind::ADAMW, OptimiserKind::RMSPROP, OptimiserKind::Sgd] {
        let mut straight = decoder("llama_tied_gqa");
        let mut optimiser = Optimiser::new(kind, 0.1, &straight).unwrap();
        run(&mut straight, &mut optimiser, 3);
        let dir = tempfile::tempdir().unwrap();
        straight.save(dir.path(), DType::F32).unwrap();
        let state = dir.path().join("optimizer.safetensors");
        optimiser.save(&state, &straight).unwrap();
        run(&mut straight, &mut optimiser, 3);

        let mut resumed = Decoder::load(dir.path(), engine()).unwrap();
        let mut optimiser = Optimiser::load(&state, kind, 0.1, &resumed).unwrap();
        assert_eq!(optimiser.steps(), 3);
        run(&mut resumed, &mut optimiser, 3);
        assert!(straight.parameters().eq(resumed.parameters()), "{}", kind.name());
    }
}

#[test]
fn the_state_of_another_rule_or_model_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let (state, decoder_a) = (dir.path().join("optimizer.safetensors"), decoder("llama_tied_gqa"));
    Optimiser::new(OptimiserKind::ADAMW, 0.0, &decoder_a).unwrap().save(&state, &decoder_a).unwrap();
    let error = Optimiser::load(&state, OptimiserKind::RMSPROP, 0.0, &decoder_a).unwrap_err().to_string();
    assert!(error.contains("adamw") && error.contains("rmsprop"), "{error}");
    let other = decoder("llama_rope_llama3");
    let error = Optimiser::load(&state, OptimiserKind::ADAMW, 0.0, &other).unwrap_err().to_string();
    assert!(error.contains("optimizer.safetensors") && error.contains("tensor"), "{error}");
    let length = std::fs::metadata(&state).unwrap().len();
    std::fs::OpenOptions::new().write(true).open(&state).unwrap().set_len(length - 1).unwrap();
    let error = Optimiser::load(&state, OptimiserKind::ADAMW, 0.0, &decoder_a).unwrap_err().to_string();
    assert!(error.contains("truncated"), "{error}");
}

#[test]
fn norms_and_biases_do_not_decay() {
    for kind in [OptimiserKind::ADAMW, OptimiserKind::RMSPROP, OptimiserKind::Sgd] {
        let mut decoder = decoder("llama_untied_biases_sharded");
        let before = decoder.clone();
        let zeros = Gradients::zeros(&decoder).unwrap();
        Optimiser::new(kind, 0.5, &decoder).unwrap().step(&mut decoder, &zeros, 1.0, 0.1).unwrap();
        for ((name, after), (_, before)) in decoder.parameters().zip(before.parameters()) {
            assert_eq!(after == before, after.rows() == 1, "{}: {name}", kind.name());
        }
    }
}

#[test]
fn a_factor_or_constant_out_of_range_is_refused_and_nothing_changes() {
    let mut decoder = decoder("llama_tied_gqa");
    let before = decoder.clone();
    let gradients = Gradients::zeros(&decoder).unwrap();
    let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.0, &decoder).unwrap();
    let error = optimiser.step(&mut decoder, &gradients, 1e300, 1e-3).unwrap_err().to_string();
    assert!(error.contains("max_grad_norm"), "{error}");
    assert!(before.parameters().eq(decoder.parameters()));
    assert_eq!(optimiser.steps(), 0);
    let bad = OptimiserKind::AdamW { beta1: 1.0, beta2: 0.9, epsilon: 1e-8 };
    assert!(Optimiser::new(bad, 0.0, &decoder).is_err());
    assert!(Optimiser::new(OptimiserKind::Sgd, f64::NAN, &decoder).is_err());
}
