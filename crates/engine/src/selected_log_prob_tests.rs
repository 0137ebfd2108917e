//! Tests of `selected_log_prob`: finite differences, chunks against whole logits, bf16, hostile numbers.

use super::*;
use crate::PackedWeight;
use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};

/// Whole logits, in f64.
fn reference(hidden: &[f64], head: &[f64], targets: &[u32], d: usize) -> Vec<f64> {
    let row = |(hidden, &target): (&[f64], &u32)| {
        let logits: Vec<f64> = head.chunks(d).map(|head| dot(hidden, head)).collect();
        let max = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let sum: f64 = logits.iter().map(|logit| (logit - max).exp()).sum();
        logits[target as usize] - max - sum.ln()
    };
    hidden.chunks(d).zip(targets).map(row).collect()
}

/// Analytic gradients from whole logits, in f64.
fn reference_gradients(
    hidden: &[f64],
    head: &[f64],
    targets: &[u32],
    weights: &[f64],
    d: usize,
) -> (Vec<f64>, Vec<f64>) {
    let (mut dhidden, mut dhead) = (vec![0.0; hidden.len()], vec![0.0; head.len()]);
    for (row, &target) in targets.iter().enumerate() {
        let hidden = &hidden[row * d..][..d];
        let exps: Vec<f64> = head.chunks(d).map(|head| dot(hidden, head).exp()).collect();
        let sum: f64 = exps.iter().sum();
        for (token, exp) in exps.iter().enumerate() {
            let hit = f64::from(u8::from(token == target as usize));
            let gradient = weights[row] * (hit - exp / sum);
            for j in 0..d {
                dhidden[row * d + j] += gradient * head[token * d + j];
                dhead[token * d + j] += gradient * hidden[j];
            }
        }
    }
    (dhidden, dhead)
}

struct Case {
    hidden: Array,
    head: Array,
    targets: Vec<u32>,
    weights: Vec<f32>,
}

fn case(m: usize, vocab: usize, d: usize) -> Case {
    let weights = random(3, 1, m).into_vec();
    let targets = (0..m).map(|row| ((row * 7919 + 5) % vocab) as u32).collect();
    Case { hidden: random(1, m, d), head: random(2, vocab, d), targets, weights }
}

fn run(engine: &Engine, case: &Case) -> (Vec<f64>, Array, Array) {
    run_capped(engine, case, None)
}

fn run_capped(engine: &Engine, case: &Case, cap: Option<f32>) -> (Vec<f64>, Array, Array) {
    let inputs = HeadInputs {
        hidden: &case.hidden,
        head: (&case.head).into(),
        targets: &case.targets,
        cap,
        update: None,
    };
    let m = case.targets.len();
    let (mut log_probs, mut lse) = (vec![0.0; m], Array::zeros(m, 1));
    engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
    let mut dhidden = random(9, m, case.hidden.cols());
    let mut dhead = Array::zeros(case.head.rows(), case.head.cols());
    let grads = SelectedLogProbGrads {
        lse: &lse,
        weights: &case.weights,
        dhidden: &mut dhidden,
        dhead: Some(&mut dhead),
        dupdate: None,
    };
    engine.selected_log_prob_backward(inputs, grads).unwrap();
    (log_probs, dhidden, dhead)
}

#[test]
fn gradients_agree_with_finite_differences() {
    for engine in engines() {
        for (m, vocab, d) in [(1, 1, 1), (5, 23, 3)] {
            let case = case(m, vocab, d);
            let (log_probs, dhidden, dhead) = run(&engine, &case);
            let (hidden, head) = (wide(&case.hidden), wide(&case.head));
            let weights: Vec<f64> = case.weights.iter().map(|&weight| f64::from(weight)).collect();
            let want = reference(&hidden, &head, &case.targets, d);
            let got: Vec<f32> = log_probs.iter().map(|&value| value as f32).collect();
            assert_close("log_probs", &got, &want, 1e-6);
            let loss =
                |hidden: &[f64], head: &[f64]| dot(&weights, &reference(hidden, head, &case.targets, d));
            let want = numeric_gradient(&hidden, |hidden| loss(hidden, &head));
            assert_close("dhidden", dhidden.as_slice(), &want, 1e-5);
            let want = numeric_gradient(&head, |head| loss(&hidden, head));
            assert_close("dhead", dhead.as_slice(), &want, 1e-5);
        }
    }
}

#[test]
fn chunks_of_rows_and_vocabulary_equal_whole_logits() {
    let (m, vocab, d) = (ROWS + 3, 2 * CHUNK + 7, 8);
    let case = case(m, vocab, d);
    let (hidden, head) = (wide(&case.hidden), wide(&case.head));
    let weights: Vec<f64> = case.weights.iter().map(|&weight| f64::from(weight)).collect();
    let want = reference(&hidden, &head, &case.targets, d);
    let (want_hidden, want_head) = reference_gradients(&hidden, &head, &case.targets, &weights, d);
    for engine in engines() {
        let (log_probs, dhidden, dhead) = run(&engine, &case);
        let got: Vec<f32> = log_probs.iter().map(|&value| value as f32).collect();
        assert_close("log_probs", &got, &want, 1e-6);
        assert_close("dhidden", dhidden.as_slice(), &want_hidden, 1e-5);
        assert_close("dhead", dhead.as_slice(), &want_head, 1e-5);
        let again = run(&engine, &case);
        assert_eq!((log_probs, dhidden, dhead), again, "{:?}", engine.path());
    }
}

#[test]
fn capped_logits_agree_with_finite_differences_also_over_chunks() {
    let cap = 0.6;
    let capped = |hidden: &[f64], head: &[f64], targets: &[u32], d: usize| -> Vec<f64> {
        let row = |(hidden, &target): (&[f64], &u32)| {
            let logit = |head| f64::from(cap) * (dot(hidden, head) / f64::from(cap)).tanh();
            let sum: f64 = head.chunks(d).map(|head| logit(head).exp()).sum();
            logit(&head[target as usize * d..][..d]) - sum.ln()
        };
        hidden.chunks(d).zip(targets).map(row).collect()
    };
    for (engine, (m, vocab, d)) in engines().iter().flat_map(|e| [(e, (5, 23, 3)), (e, (2, CHUNK + 9, 2))]) {
        let case = case(m, vocab, d);
        let (log_probs, dhidden, dhead) = run_capped(engine, &case, Some(cap));
        let (hidden, head) = (wide(&case.hidden), wide(&case.head));
        let weights: Vec<f64> = case.weights.iter().map(|&weight| f64::from(weight)).collect();
        let got: Vec<f32> = log_probs.iter().map(|&value| value as f32).collect();
        assert_close("log_probs", &got, &capped(&hidden, &head, &case.targets, d), 1e-6);
        let loss = |hidden: &[f64], head: &[f64]| dot(&weights, &capped(hidden, head, &case.targets, d));
        let want = numeric_gradient(&hidden, |hidden| loss(hidden, &head));
        assert_close("dhidden", dhidden.as_slice(), &want, 1e-5);
        let want = numeric_gradient(&head, |head| loss(&hidden, head));
        assert_close("dhead", dhead.as_slice(), &want, 1e-5);
    }
}

#[test]
fn bf16_stays_within_its_rounding_of_whole_logits() {
    let (m, vocab, d) = (ROWS + 3, 2 * CHUNK + 7, 66);
    let mut case = case(m, vocab, d);
    case.hidden = rounded(&case.hidden);
    let (hidden, head) = (wide(&case.hidden), wide(&rounded(&case.head)));
    let weights: Vec<f64> = case.weights.iter().map(|&weight| f64::from(weight)).collect();
    let want = reference(&hidden, &head, &case.targets, d);
    let (want_hidden, want_head) = reference_gradients(&hidden, &head, &case.targets, &weights, d);
    for engine in engines() {
        let mut packed = PackedWeight::new(vocab, d, true);
        engine.pack_weight(&case.head, &mut packed).unwrap();
        let head = Weight::new(&case.head, Some(&packed));
        let inputs =
            HeadInputs { hidden: &case.hidden, head, targets: &case.targets, cap: None, update: None };
        let (mut log_probs, mut lse) = (vec![0.0; m], Array::zeros(m, 1));
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
        let got: Vec<f32> = log_probs.iter().map(|&value| value as f32).collect();
        assert_close("log_probs", &got, &want, 1e-6);
        let (mut dhidden, mut dhead) = (random(9, m, d), Array::zeros(vocab, d));
        let grads = SelectedLogProbGrads {
            lse: &lse,
            weights: &case.weights,
            dhidden: &mut dhidden,
            dhead: Some(&mut dhead),
            dupdate: None,
        };
        engine.selected_log_prob_backward(inputs, grads).unwrap();
        // The gradient of the logits is rounded to eight bits before it meets either factor.
        assert_close("dhidden", dhidden.as_slice(), &want_hidden, 1.0 / 256.0);
        assert_close("dhead", dhead.as_slice(), &want_head, 1.0 / 256.0);
    }
}

#[test]
fn extreme_logits_stay_finite_and_nan_is_not_hidden() {
    let targets = [0, 1];
    let head = Array::from_vec(3, 1, vec![1e4, -1e4, 0.0]).unwrap();
    for engine in engines() {
        let mut hidden = Array::from_vec(2, 1, vec![1.0, 1.0]).unwrap();
        let (mut log_probs, mut lse) = ([0.0; 2], Array::zeros(2, 1));
        let inputs =
            HeadInputs { hidden: &hidden, head: (&head).into(), targets: &targets, cap: None, update: None };
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
        assert_eq!(log_probs, [0.0, -2e4]);
        hidden.fill(f32::NAN);
        let inputs =
            HeadInputs { hidden: &hidden, head: (&head).into(), targets: &targets, cap: None, update: None };
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
        assert!(log_probs.iter().all(|value| value.is_nan()));
    }
}

#[test]
fn a_target_outside_the_vocabulary_is_refused_and_no_rows_are_fine() {
    let engine = Engine::cpu(Some(1)).unwrap();
    let (hidden, head) = (Array::zeros(1, 2), Array::zeros(3, 2));
    let inputs = HeadInputs { hidden: &hidden, head: (&head).into(), targets: &[3], cap: None, update: None };
    assert!(engine.selected_log_prob(inputs, &mut [0.0], &mut Array::zeros(1, 1)).is_err());
    let hidden = Array::zeros(0, 2);
    let inputs = HeadInputs { hidden: &hidden, head: (&head).into(), targets: &[], cap: None, update: None };
    engine.selected_log_prob(inputs, &mut [], &mut Array::zeros(0, 1)).unwrap();
}
