//! Log-probabilities of chosen tokens over chunks of the vocabulary, and the gradient by the logits. With a hidden width
//! that is the vocabulary's size and a head of unit rows, the CPU's hidden rows are the logits themselves.

use bso_cuda::Number;
use bso_cuda::operation::{Logits, RowSums, log_prob_begin, log_prob_chunk, log_prob_end, log_prob_gradient};
use bso_engine::{Array, Engine, HeadInputs, SelectedLogProbGrads};

use crate::machine::{F32, Machine, assert_close, on_every_machine, random, tolerance};

fn columns(x: &Array, first: usize, width: usize) -> Array {
    let values = (0..x.rows()).flat_map(|row| x.row(row)[first..first + width].to_vec()).collect();
    Array::from_vec(x.rows(), width, values).unwrap()
}

#[test]
fn log_probs_and_gradients_over_chunks() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for (rows, vocab, chunk) in [(1, 5, 5), (7, 83, 20), (3, 1030, 600)] {
            for cap in [None, Some(3.0)] {
                let mut logits = random(1, rows, vocab);
                logits.as_mut_slice().iter_mut().for_each(|x| *x *= 10.0);
                let targets: Vec<u32> = (0..rows).map(|row| (row * 37 % vocab) as u32).collect();
                let weights = random(2, 1, rows).into_vec();
                let unit = (0..vocab * vocab).map(|i| f32::from(u8::from(i / vocab == i % vocab))).collect();
                let unit = Array::from_vec(vocab, vocab, unit).unwrap();
                let (hidden, head) = (&logits, (&unit).into());
                let inputs = HeadInputs { hidden, head, targets: &targets, cap, update: None };
                let (mut log_probs, mut lse) = (vec![0.0; rows], Array::zeros(rows, 1));
                engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
                let mut dlogits = Array::zeros(rows, vocab);
                let grads = SelectedLogProbGrads {
                    lse: &lse,
                    weights: &weights,
                    dhidden: &mut dlogits,
                    dhead: None,
                    dupdate: None,
                };
                engine.selected_log_prob_backward(inputs, grads).unwrap();
                check(
                    machine,
                    (&logits, chunk, cap),
                    (&targets, &weights),
                    (&log_probs, lse.as_slice(), &dlogits),
                );
            }
        }
    });
}

fn check(
    machine: &Machine<'_>,
    (logits, chunk, cap): (&Array, usize, Option<f32>),
    (targets, weights): (&[u32], &[f32]),
    (log_probs, lse, dlogits): (&[f64], &[f32], &Array),
) {
    let (rows, vocab, on) = (logits.rows(), logits.cols(), machine.on());
    let [largest, target_logits] = [(); 2].map(|()| machine.room(Number::F32, rows, 1));
    let sums = machine.room(Number::F64, rows, 1);
    let rows_sums =
        RowSums { largest: largest.view(), sums: sums.view(), target_logits: target_logits.view() };
    let (held_targets, held_weights) = (machine.indices(targets), machine.floats(weights));
    let chunks: Vec<(usize, usize)> =
        (0..vocab).step_by(chunk).map(|first| (first, chunk.min(vocab - first))).collect();
    log_prob_begin(on, rows_sums).unwrap();
    for &(first, width) in &chunks {
        let values = machine.array(&columns(logits, first, width));
        let logits = Logits { values: values.view(), first, cap };
        log_prob_chunk(on, logits, held_targets.view(), rows_sums).unwrap();
    }
    let (found, found_lse) = (machine.room(Number::F64, rows, 1), machine.room(Number::F32, rows, 1));
    log_prob_end(on, rows_sums, found.view(), found_lse.view()).unwrap();
    let want: Vec<f32> = log_probs.iter().map(|x| *x as f32).collect();
    assert_close("log_probs", machine, &found, &want, F32);
    assert_close("lse", machine, &found_lse, lse, F32);
    for &(first, width) in &chunks {
        let values = machine.array(&columns(logits, first, width));
        let part = Logits { values: values.view(), first, cap };
        let want = columns(dlogits, first, width);
        let narrow = machine.room(Number::Bf16, rows, width);
        let sides = [found_lse.view(), held_weights.view()];
        log_prob_gradient(on, part, held_targets.view(), sides, narrow.view()).unwrap();
        assert_close(
            "dlogits in bf16",
            machine,
            &narrow,
            want.as_slice(),
            tolerance(bso_engine::DType::Bf16),
        );
        log_prob_gradient(on, part, held_targets.view(), sides, values.view()).unwrap();
        // Relative to all of the row: a chunk without the target holds only small values.
        let size = dlogits.as_slice().iter().fold(0.0_f32, |size, x| size.max(x.abs()));
        for (got, want) in machine.values(&values).iter().zip(want.as_slice()) {
            assert!((got - f64::from(*want)).abs() <= F32 * f64::from(size), "dlogits: {got}, {want}");
        }
    }
}
