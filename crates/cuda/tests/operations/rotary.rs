//! Rotary position embedding, there and back.

use bso_cuda::operation::{Angles, rotary};
use bso_engine::{Array, DType, Engine, RotaryTable};

use crate::machine::{assert_close, on_every_machine, random_of, tolerance};

const INV_FREQ: [f32; 4] = [1.0, 0.1, 0.01, 0.001];

#[test]
fn heads_turn_by_their_rows_angles() {
    let engine = Engine::cpu(Some(1)).unwrap();
    let (positions, most) = ([0_u32, 5, 1000, 3, 3], 1001_usize);
    let angle = |i: usize| f64::from((i / 4) as f32 * INV_FREQ[i % 4]);
    let table = |of: &dyn Fn(f64) -> f64| {
        Array::from_vec(most, 4, (0..most * 4).map(|i| (of(angle(i)) * 1.25) as f32).collect()).unwrap()
    };
    on_every_machine(|machine| {
        let (cosines, sines) = (machine.array(&table(&f64::cos)), machine.array(&table(&f64::sin)));
        for (dtype, head_dim, inverse) in [DType::F32, DType::Bf16]
            .into_iter()
            .flat_map(|d| [(d, 8, false), (d, 8, true), (d, 11, false), (d, 11, true)])
        {
            let on_cpu = RotaryTable::new(&INV_FREQ, 1.25, most).in_heads_of(head_dim).unwrap();
            let mut x = random_of(dtype, 1, 5, 3 * head_dim);
            let (held, at) = (machine.array(&x), machine.indices(&positions));
            let angles = Angles { cosines: cosines.view(), sines: sines.view(), head_dim };
            rotary(machine.on(), held.view(), at.view(), angles, inverse).unwrap();
            engine.rotary(&mut x, &positions, &on_cpu, inverse).unwrap();
            assert_close("rotary", machine, &held, &x.to_f32_vec(), tolerance(dtype));
        }
    });
}
