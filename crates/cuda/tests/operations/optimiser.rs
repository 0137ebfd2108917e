//! AdamW, RMSprop and SGD over several steps.

use bso_cuda::operation::{AdamWNumbers, RmsPropNumbers, SgdNumbers, adamw, rmsprop, sgd};
use bso_engine::{AdamW, AdamWState, Array, Engine, RmsProp, Sgd};

use crate::machine::{F32, assert_close, on_every_machine, random};

#[test]
fn parameters_and_moments_after_five_steps() {
    let engine = Engine::cpu(Some(1)).unwrap();
    let (rate, decay, factor) = (0.01, 0.1, 0.5_f32);
    on_every_machine(|machine| {
        let zeros = || Array::zeros(3, 101);
        let (mut p, mut m, mut v) = (random(1, 3, 101), zeros(), zeros());
        let [hp, hm, hv] = [&p, &m, &v].map(|array| machine.array(array));
        let (mut p2, mut s) = (random(2, 3, 101), zeros());
        let [hp2, hs] = [&p2, &s].map(|array| machine.array(array));
        let mut p3 = random(3, 3, 101);
        let hp3 = machine.array(&p3);
        for step in 1..=5 {
            let g = random(10 + step, 3, 101);
            let hg = machine.array(&g);
            let (beta1, beta2, epsilon) = (0.9, 0.999, 1e-8);
            let hyper = AdamW { learning_rate: rate, beta1, beta2, epsilon, weight_decay: decay, step };
            let (first_moment, second_moment) = (&mut m, &mut v);
            let state = AdamWState { parameter: &mut p, gradient: &g, first_moment, second_moment };
            engine.adamw_update(state, factor, &hyper).unwrap();
            let numbers = AdamWNumbers {
                factor,
                keep: (1.0 - rate * decay) as f32,
                first_weight: (1.0 - beta1) as f32,
                beta2: beta2 as f32,
                second_weight: (1.0 - beta2) as f32,
                bias_root: (1.0 - beta2.powi(step as i32)).sqrt() as f32,
                step_size: (rate / (1.0 - beta1.powi(step as i32))) as f32,
                epsilon: epsilon as f32,
            };
            adamw(machine.on(), [hp.view(), hg.view(), hm.view(), hv.view()], numbers).unwrap();

            let hyper = RmsProp { learning_rate: rate, alpha: 0.99, epsilon, weight_decay: decay };
            engine.rmsprop_update(&mut p2, &g, &mut s, factor, &hyper).unwrap();
            let numbers = RmsPropNumbers {
                factor,
                alpha: 0.99,
                square_weight: (1.0 - 0.99_f64) as f32,
                learning_rate: rate as f32,
                epsilon: epsilon as f32,
                weight_decay: decay as f32,
            };
            rmsprop(machine.on(), [hp2.view(), hg.view(), hs.view()], numbers).unwrap();

            engine
                .sgd_update(&mut p3, &g, factor, &Sgd { learning_rate: rate, weight_decay: decay })
                .unwrap();
            let numbers = SgdNumbers { factor, learning_rate: rate as f32, weight_decay: decay as f32 };
            sgd(machine.on(), [hp3.view(), hg.view()], numbers).unwrap();
        }
        for (what, got, want) in [
            ("adamw", &hp, &p),
            ("first moment", &hm, &m),
            ("second moment", &hv, &v),
            ("rmsprop", &hp2, &p2),
            ("squared average", &hs, &s),
            ("sgd", &hp3, &p3),
        ] {
            assert_close(what, machine, got, want.as_slice(), F32);
        }
    });
}
