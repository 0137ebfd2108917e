//! The scalar head and its gradients.

use bso_cuda::Number;
use bso_cuda::operation::{ScoreGrads, score, score_backward};
use bso_engine::{Array, Engine};

use crate::machine::{assert_close, on_every_machine, random};

#[test]
fn scores_and_gradients_with_and_without_a_bias_and_of_a_frozen_head() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for (rows, d, with_head, with_bias) in [
            (1, 1, true, true),
            (5, 37, true, false),
            (3, 512, false, true),
            (7, 1031, true, true),
            (2, 9, false, false),
        ] {
            let (hidden, head, bias) = (random(1, rows, d), random(2, 1, d), random(3, 1, 1));
            let weights = random(4, 1, rows);
            let mut scores = vec![0.0; rows];
            engine.score(&hidden, &head, with_bias.then_some(&bias), &mut scores).unwrap();
            let (mut dhidden, mut dhead, mut dbias) =
                (Array::zeros(rows, d), random(6, 1, d), random(7, 1, 1));

            let [x, w, b, g] = [&hidden, &head, &bias, &weights].map(|array| machine.array(array));
            let [to_head, to_bias] = [&dhead, &dbias].map(|array| machine.array(array));
            let (out, dx) = (machine.room(Number::F64, 1, rows), machine.room(Number::F32, rows, d));
            score(machine.on(), x.view(), w.view(), with_bias.then_some(b.view()), out.view()).unwrap();
            for (got, want) in machine.values(&out).iter().zip(&scores) {
                assert!((got - want).abs() < 1e-12, "{got} instead of {want}");
            }
            let grads = ScoreGrads {
                weights: g.view(),
                hidden: x.view(),
                head: w.view(),
                dhidden: dx.view(),
                dhead: with_head.then_some(to_head.view()),
                dbias: with_bias.then_some(to_bias.view()),
            };
            score_backward(machine.on(), grads).unwrap();
            let (weights, hidden, head) = (weights.as_slice(), &hidden, &head);
            let dhead_to = with_head.then_some(&mut dhead);
            let dbias_to = with_bias.then_some(&mut dbias);
            let grads = bso_engine::ScoreGrads {
                weights,
                hidden,
                head,
                dhidden: &mut dhidden,
                dhead: dhead_to,
                dbias: dbias_to,
            };
            engine.score_backward(grads).unwrap();
            assert_close("dhidden", machine, &dx, dhidden.as_slice(), 0.0);
            assert_close("dhead", machine, &to_head, dhead.as_slice(), 0.0);
            assert_close("dbias", machine, &to_bias, dbias.as_slice(), 0.0);
        }
        let (x, short) = (machine.zeros(Number::F32, 2, 3), machine.zeros(Number::F32, 1, 2));
        let out = machine.zeros(Number::F64, 1, 2);
        assert!(score(machine.on(), x.view(), short.view(), None, out.view()).is_err());
    });
}
