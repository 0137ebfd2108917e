//! Every operation and its backward, and ten steps of each optimiser, beside PyTorch's numbers
//! (`fixtures/make_ops.py` writes them), on every instruction path of this processor. Prints the largest difference
//! also where it passes.

#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test stops at a fixture that it cannot read, and shows the differences it found"
)]

use bso_engine::{
    Accumulate, AdamW, AdamWState, Array, AttentionForward, AttentionGrads, AttentionShape, CpuPath, Engine,
    Gelu, GeluGrads, HeadInputs, LayerNormGrads, LinearGrads, Qkv, RmsNormGrads, RmsProp, RotaryTable,
    ScoreGrads, Segment, Segments, SelectedLogProbGrads, Sgd, SwigluGrads,
};
use serde_json::Value;

fn fixture(operation: &str) -> Value {
    let text = include_str!("fixtures/ops.json");
    serde_json::from_str::<Value>(text).unwrap()[operation].take()
}

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

fn indices(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|number| number.as_u64().unwrap() as u32).collect()
}

/// An array of `cols` columns.
fn array(value: &Value, cols: usize) -> Array {
    let data = numbers(value);
    Array::from_vec(data.len() / cols, cols, data).unwrap()
}

fn engines() -> impl Iterator<Item = Engine> {
    let paths = CpuPath::EVERY.into_iter().filter(|path| path.is_available());
    paths.map(|path| Engine::cpu_with_path(Some(2), path).unwrap())
}

/// Relative L2 distance below `bound`.
fn compare(engine: &Engine, what: &str, got: &[f32], want: &Value, bound: f64) {
    let want = numbers(want);
    assert_eq!(got.len(), want.len(), "{what}");
    let square = |x: f32| f64::from(x) * f64::from(x);
    let difference: f64 = got.iter().zip(&want).map(|(got, want)| square(got - want)).sum();
    let distance = (difference / want.iter().map(|&want| square(want)).sum::<f64>()).sqrt();
    println!("{what} on {}: relative distance {distance:.1e}", engine.path().name());
    assert!(distance < bound, "{what} on {}: {distance}", engine.path().name());
}

const BOUND: f64 = 1e-6;

#[test]
fn linear() {
    let case = fixture("linear");
    let (x, w, bias) = (array(&case["x"], 7), array(&case["w"], 7), array(&case["bias"], 3));
    let dy = array(&case["upstream"], 3);
    for engine in engines() {
        let mut y = Array::zeros(5, 3);
        engine.linear(&x, &w, Some(&bias), &mut y).unwrap();
        let (mut dx, mut dw, mut db) = (Array::zeros(5, 7), Array::zeros(3, 7), Array::zeros(1, 3));
        let grads = LinearGrads {
            dy: &dy,
            x: &x,
            w: (&w).into(),
            dx: Some((&mut dx, Accumulate::Overwrite)),
            dw: Some(&mut dw),
            db: Some(&mut db),
        };
        engine.linear_backward(grads).unwrap();
        compare(&engine, "linear", y.as_slice(), &case["out"], BOUND);
        compare(&engine, "linear dx", dx.as_slice(), &case["dx"], BOUND);
        compare(&engine, "linear dw", dw.as_slice(), &case["dw"], BOUND);
        compare(&engine, "linear db", db.as_slice(), &case["dbias"], BOUND);
    }
}

#[test]
fn embedding() {
    let case = fixture("embedding");
    let (table, tokens) = (array(&case["table"], 4), indices(&case["tokens"]));
    for engine in engines() {
        let (mut out, mut dtable) = (Array::zeros(4, 4), Array::zeros(6, 4));
        engine.embedding(&tokens, &table, &mut out).unwrap();
        engine.embedding_backward(&tokens, &array(&case["upstream"], 4), &mut dtable).unwrap();
        compare(&engine, "embedding", out.as_slice(), &case["out"], BOUND);
        compare(&engine, "embedding dtable", dtable.as_slice(), &case["dtable"], BOUND);
    }
}

#[test]
fn rms_norm() {
    let case = fixture("rms_norm");
    let (x, weight, dy) = (array(&case["x"], 10), array(&case["weight"], 10), array(&case["upstream"], 10));
    for engine in engines() {
        let (mut y, mut inv_rms) = (Array::zeros(4, 10), Array::zeros(4, 1));
        engine.rms_norm(&x, &weight, 1e-5, &mut y, &mut inv_rms).unwrap();
        let (mut dx, mut dweight) = (Array::zeros(4, 10), Array::zeros(1, 10));
        let grads = RmsNormGrads {
            dy: &dy,
            x: &x,
            weight: (&weight).into(),
            inv_rms: &inv_rms,
            dx: (&mut dx, Accumulate::Overwrite),
            dweight: Some(&mut dweight),
        };
        engine.rms_norm_backward(grads).unwrap();
        compare(&engine, "rms_norm", y.as_slice(), &case["out"], BOUND);
        compare(&engine, "rms_norm dx", dx.as_slice(), &case["dx"], BOUND);
        compare(&engine, "rms_norm dweight", dweight.as_slice(), &case["dweight"], BOUND);
    }
}

#[test]
fn rotary() {
    let case = fixture("rotary");
    let positions = indices(&case["positions"]);
    let table = RotaryTable::new(&numbers(&case["inv_freq"]), 1.0, 101);
    for engine in engines() {
        let (mut x, mut dx) = (array(&case["x"], 16), array(&case["upstream"], 16));
        engine.rotary(&mut x, &positions, &table, false).unwrap();
        engine.rotary(&mut dx, &positions, &table, true).unwrap();
        compare(&engine, "rotary", x.as_slice(), &case["out"], BOUND);
        compare(&engine, "rotary dx", dx.as_slice(), &case["dx"], BOUND);
    }
}

#[test]
fn attention() {
    attention_of("attention", None, None);
}

#[test]
fn attention_with_a_window_and_capped_scores() {
    attention_of("attention_windowed_capped", Some(4), Some(0.5));
}

fn attention_of(name: &str, window: Option<usize>, cap: Option<f32>) {
    let case = fixture(name);
    let scale = 1.0 / 8.0_f32.sqrt();
    let shape = AttentionShape { heads: 4, kv_heads: 2, head_dim: 8, scale, window, cap };
    let prompt = Segment { start: 0, len: 5, context: None };
    let chosen = Segment { start: 5, len: 4, context: Some((0, 5)) };
    let rejected = Segment { start: 9, len: 3, context: Some((0, 5)) };
    let segments = Segments::new(vec![prompt, chosen, rejected], 12).unwrap();
    let (q, k, v) = (array(&case["q"], 32), array(&case["k"], 16), array(&case["v"], 16));
    let dout = array(&case["upstream"], 32);
    let qkv = Qkv { q: &q, k: &k, v: &v };
    for engine in engines() {
        let (mut out, mut lse) = (Array::zeros(12, 32), Array::zeros(12, 4));
        engine.attention(qkv, &segments, shape, &mut out, &mut lse).unwrap();
        let (mut dq, mut dk, mut dv) = (Array::zeros(12, 32), Array::zeros(12, 16), Array::zeros(12, 16));
        let forward = AttentionForward { out: &out, lse: &lse, dout: &dout };
        let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
        engine.attention_backward(qkv, forward, &segments, shape, grads).unwrap();
        compare(&engine, name, out.as_slice(), &case["out"], BOUND);
        compare(&engine, &format!("{name} dq"), dq.as_slice(), &case["dq"], BOUND);
        compare(&engine, &format!("{name} dk"), dk.as_slice(), &case["dk"], BOUND);
        compare(&engine, &format!("{name} dv"), dv.as_slice(), &case["dv"], BOUND);
    }
}

#[test]
fn swiglu() {
    let case = fixture("swiglu");
    let (gate, up, dout) = (array(&case["gate"], 7), array(&case["up"], 7), array(&case["upstream"], 7));
    for engine in engines() {
        let (mut out, mut dgate, mut dup) = (gate.clone(), gate.clone(), gate.clone());
        engine.swiglu(&gate, &up, &mut out).unwrap();
        let grads = SwigluGrads { dout: &dout, gate: &gate, up: &up, dgate: &mut dgate, dup: &mut dup };
        engine.swiglu_backward(grads).unwrap();
        compare(&engine, "swiglu", out.as_slice(), &case["out"], BOUND);
        compare(&engine, "swiglu dgate", dgate.as_slice(), &case["dgate"], BOUND);
        compare(&engine, "swiglu dup", dup.as_slice(), &case["dup"], BOUND);
    }
}

#[test]
fn layer_norm() {
    let case = fixture("layer_norm");
    let (x, dy) = (array(&case["x"], 10), array(&case["upstream"], 10));
    let (weight, bias) = (array(&case["weight"], 10), array(&case["bias"], 10));
    for engine in engines() {
        let (mut y, mut inv_std) = (Array::zeros(4, 10), Array::zeros(4, 1));
        engine.layer_norm(&x, [&weight, &bias], 1e-5, &mut y, &mut inv_std).unwrap();
        let (mut dx, mut dweight, mut dbias) =
            (Array::zeros(4, 10), Array::zeros(1, 10), Array::zeros(1, 10));
        let grads = LayerNormGrads {
            dy: &dy,
            x: &x,
            weight: &weight,
            inv_std: &inv_std,
            dx: (&mut dx, Accumulate::Overwrite),
            dweight_dbias: Some([&mut dweight, &mut dbias]),
        };
        engine.layer_norm_backward(grads).unwrap();
        compare(&engine, "layer_norm", y.as_slice(), &case["out"], BOUND);
        compare(&engine, "layer_norm dx", dx.as_slice(), &case["dx"], BOUND);
        compare(&engine, "layer_norm dweight", dweight.as_slice(), &case["dweight"], BOUND);
        compare(&engine, "layer_norm dbias", dbias.as_slice(), &case["dbias"], BOUND);
    }
}

#[test]
fn gelu_alone_and_as_a_gate() {
    for (curve, kind) in [(Gelu::Exact, "none"), (Gelu::Tanh, "tanh")] {
        let (alone, gated) = (fixture(&format!("gelu_{kind}")), fixture(&format!("geglu_{kind}")));
        let (x, gate, up) = (array(&alone["x"], 7), array(&gated["gate"], 7), array(&gated["up"], 7));
        for engine in engines() {
            let (mut out, mut dx, mut dup) = (x.clone(), x.clone(), x.clone());
            engine.gelu(curve, &x, None, &mut out).unwrap();
            compare(&engine, &format!("gelu {kind}"), out.as_slice(), &alone["out"], BOUND);
            let dout = array(&alone["upstream"], 7);
            engine.gelu_backward(curve, GeluGrads { dout: &dout, x: &x, dx: &mut dx, up: None }).unwrap();
            compare(&engine, &format!("gelu {kind} dx"), dx.as_slice(), &alone["dx"], BOUND);
            engine.gelu(curve, &gate, Some(&up), &mut out).unwrap();
            compare(&engine, &format!("geglu {kind}"), out.as_slice(), &gated["out"], BOUND);
            let dout = array(&gated["upstream"], 7);
            let grads = GeluGrads { dout: &dout, x: &gate, dx: &mut dx, up: Some((&up, &mut dup)) };
            engine.gelu_backward(curve, grads).unwrap();
            compare(&engine, &format!("geglu {kind} dgate"), dx.as_slice(), &gated["dgate"], BOUND);
            compare(&engine, &format!("geglu {kind} dup"), dup.as_slice(), &gated["dup"], BOUND);
        }
    }
}

#[test]
fn selected_log_prob() {
    selected_log_prob_of("selected_log_prob", None);
}

#[test]
fn selected_log_prob_of_capped_logits() {
    selected_log_prob_of("selected_log_prob_capped", Some(1.5));
}

fn selected_log_prob_of(name: &str, cap: Option<f32>) {
    let case = fixture(name);
    let (hidden, head, targets) =
        (array(&case["hidden"], 6), array(&case["head"], 6), indices(&case["targets"]));
    let inputs = HeadInputs { hidden: &hidden, head: (&head).into(), targets: &targets, cap, update: None };
    for engine in engines() {
        let (mut log_probs, mut lse) = (vec![0.0; 5], Array::zeros(5, 1));
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
        let (mut dhidden, mut dhead) = (Array::zeros(5, 6), Array::zeros(11, 6));
        let weights = numbers(&case["upstream"]);
        let grads = SelectedLogProbGrads {
            lse: &lse,
            weights: &weights,
            dhidden: &mut dhidden,
            dhead: Some(&mut dhead),
            dupdate: None,
        };
        engine.selected_log_prob_backward(inputs, grads).unwrap();
        let log_probs: Vec<f32> = log_probs.iter().map(|&value| value as f32).collect();
        compare(&engine, name, &log_probs, &case["out"], BOUND);
        compare(&engine, &format!("{name} dhidden"), dhidden.as_slice(), &case["dhidden"], BOUND);
        compare(&engine, &format!("{name} dhead"), dhead.as_slice(), &case["dhead"], BOUND);
    }
}

#[test]
fn score() {
    let case = fixture("score");
    let (hidden, head, bias) = (array(&case["hidden"], 6), array(&case["head"], 6), array(&case["bias"], 1));
    let weights = numbers(&case["upstream"]);
    for engine in engines() {
        let mut scores = [0.0; 5];
        engine.score(&hidden, &head, Some(&bias), &mut scores).unwrap();
        let (mut dhidden, mut dhead, mut dbias) =
            (Array::zeros(5, 6), Array::zeros(1, 6), Array::zeros(1, 1));
        let grads = ScoreGrads {
            weights: &weights,
            hidden: &hidden,
            head: &head,
            dhidden: &mut dhidden,
            dhead: Some(&mut dhead),
            dbias: Some(&mut dbias),
        };
        engine.score_backward(grads).unwrap();
        compare(&engine, "score", &scores.map(|score| score as f32), &case["out"], BOUND);
        compare(&engine, "score dhidden", dhidden.as_slice(), &case["dhidden"], BOUND);
        compare(&engine, "score dhead", dhead.as_slice(), &case["dhead"], BOUND);
        compare(&engine, "score dbias", dbias.as_slice(), &case["dbias"], BOUND);
    }
}

/// Runs ten steps; `step` is given the parameter, the gradient (to be doubled by its factor) and the number.
fn follow(name: &str, mut step: impl FnMut(&Engine, &mut Array, &Array, u64)) {
    let case = fixture(name);
    for engine in engines() {
        let mut parameter = array(&case["start"], 13);
        for index in 0..10 {
            let mut gradient = array(&case["gradients"][index], 13);
            engine.scale(&mut gradient, 0.5).unwrap();
            step(&engine, &mut parameter, &gradient, index as u64 + 1);
            let what = format!("{name} step {}", index + 1);
            compare(&engine, &what, parameter.as_slice(), &case["trace"][index], BOUND);
        }
    }
}

#[test]
fn adamw() {
    let (mut first, mut second) = (Array::zeros(1, 13), Array::zeros(1, 13));
    follow("adamw", |engine, parameter, gradient, step| {
        if step == 1 {
            first.fill(0.0);
            second.fill(0.0);
        }
        let hyper =
            AdamW { learning_rate: 0.01, beta1: 0.9, beta2: 0.95, epsilon: 1e-8, weight_decay: 0.1, step };
        let state = AdamWState { parameter, gradient, first_moment: &mut first, second_moment: &mut second };
        engine.adamw_update(state, 2.0, &hyper).unwrap();
    });
}

#[test]
fn rmsprop() {
    let hyper = RmsProp { learning_rate: 0.01, alpha: 0.99, epsilon: 1e-8, weight_decay: 0.01 };
    let mut square = Array::zeros(1, 13);
    follow("rmsprop", |engine, parameter, gradient, step| {
        if step == 1 {
            square.fill(0.0);
        }
        engine.rmsprop_update(parameter, gradient, &mut square, 2.0, &hyper).unwrap();
    });
}

#[test]
fn sgd() {
    let hyper = Sgd { learning_rate: 0.1, weight_decay: 0.01 };
    follow("sgd", |engine, parameter, gradient, _| {
        engine.sgd_update(parameter, gradient, 2.0, &hyper).unwrap();
    });
}
