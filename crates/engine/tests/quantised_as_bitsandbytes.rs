//! Weights in few bits beside bitsandbytes' numbers (`fixtures/make_quantised.py` writes them), on every instruction path of
//! this processor.

#![expect(clippy::unwrap_used, reason = "a test stops at a fixture that it cannot read")]

use bso_engine::{Array, CpuPath, Engine, Quantisation};
use serde_json::Value;

fn numbers(value: &Value) -> Vec<f32> {
    value.as_array().unwrap().iter().map(|number| number.as_f64().unwrap() as f32).collect()
}

#[test]
fn the_numbers_that_come_back_are_those_of_bitsandbytes() {
    let fixture: Value = serde_json::from_str(include_str!("fixtures/quantised.json")).unwrap();
    let (cols, w) = (fixture["cols"].as_u64().unwrap() as usize, numbers(&fixture["w"]));
    let w = Array::from_vec(w.len() / cols, cols, w).unwrap();
    for path in CpuPath::EVERY.into_iter().filter(|path| path.is_available()) {
        let engine = Engine::cpu_with_path(Some(2), path).unwrap();
        for (name, kind) in [
            ("int8", Quantisation::Int8),
            ("nf4", Quantisation::Nf4 { nested: false }),
            ("nf4_nested", Quantisation::Nf4 { nested: true }),
        ] {
            let mut found = Array::zeros(w.rows(), w.cols());
            engine.dequantise(&engine.quantise(&w, kind).unwrap(), &mut found).unwrap();
            let pairs = found.as_slice().iter().zip(numbers(&fixture[name]["back"]));
            // Relative to the number itself: a wrong level would be off by more than a tenth of it, or by all of it.
            let worst = pairs.map(|(a, b)| (a - b).abs() / b.abs().max(1e-6)).fold(0.0, f32::max);
            println!("{name} on {}: numbers differ by at most {worst:.1e} relative", path.name());
            assert!(worst < 2e-6, "{name} on {}: {worst}", path.name());
        }
    }
}
