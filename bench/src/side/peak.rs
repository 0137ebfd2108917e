//! The machine's peak as the engine reaches it: its fastest large product of each precision, and the speed of memory.

use super::{engine, rounded};
use bso_engine::{Array, DType, Engine, Weight};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::time::Instant;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Width of square products; half and twice as many rows are tried too.
    pub size: usize,
    /// How long each product is repeated: long enough to meet an undisturbed moment.
    pub seconds: f64,
    /// Where it computes.
    pub device: String,
    /// Threads.
    pub threads: usize,
}

/// Far beyond any cache, numbers.
const LONG: usize = 1 << 24;

/// `f32` and `bf16` in GFLOP/s, the best of all products; `memory` in GB/s.
pub fn run(settings: &Settings) -> anyhow::Result<Value> {
    let engine = engine(&settings.device, settings.threads)?;
    Ok(json!({
        "f32": rounded(product(&engine, DType::F32, (settings.size, settings.seconds))?),
        "bf16": rounded(product(&engine, DType::Bf16, (settings.size, settings.seconds))?),
        "memory": rounded(memory(&engine, (settings.size, settings.seconds))?),
    }))
}

/// The fastest product, GFLOP/s.
pub fn product(engine: &Engine, dtype: DType, (size, seconds): (usize, f64)) -> anyhow::Result<f64> {
    let mut best: f64 = 0.0;
    for (rows, cols) in [(size, size), (2 * size, size), (2 * size, size / 2)] {
        let [x, w] = [(rows, cols), (size, cols)].map(|(rows, cols)| numbers(rows, cols));
        let x = engine.place(x?.to_dtype(dtype)?)?;
        let w = engine.place(w?)?;
        let mut packed = engine.packed_weight(size, cols, false)?;
        engine.pack_weight(&w, &mut packed)?;
        let mut y = engine.zeros(dtype, rows, size)?;
        let shortest = shortest((engine, seconds), || {
            Ok(engine.linear(&x, Weight::new(&w, Some(&packed)), None, &mut y)?)
        })?;
        best = best.max(2e-9 * (rows * cols * size) as f64 / shortest);
    }
    Ok(best)
}

/// A long sum `y += x`: two numbers read and one written, GB/s.
pub fn memory(engine: &Engine, (size, seconds): (usize, f64)) -> anyhow::Result<f64> {
    let rows = LONG.min(size * size * 4) / size;
    let (mut y, x) = (engine.place(numbers(rows, size)?)?, engine.place(numbers(rows, size)?)?);
    let shortest = shortest((engine, seconds), || Ok(engine.add_assign(&mut y, &x)?))?;
    Ok(12e-9 * (rows * size) as f64 / shortest)
}

/// The shortest of the repetitions that fit into so many seconds, at least two.
fn shortest(
    (engine, seconds): (&Engine, f64),
    mut work: impl FnMut() -> anyhow::Result<()>,
) -> anyhow::Result<f64> {
    let (begin, mut shortest) = (Instant::now(), f64::INFINITY);
    work()?;
    engine.synchronise()?;
    loop {
        let start = Instant::now();
        work()?;
        engine.synchronise()?;
        shortest = shortest.min(start.elapsed().as_secs_f64());
        if begin.elapsed().as_secs_f64() > seconds {
            return Ok(shortest);
        }
    }
}

/// Numbers between -0.5 and 0.5, none of them denormal.
pub fn numbers(rows: usize, cols: usize) -> anyhow::Result<Array> {
    let data = (0..rows * cols).map(|i| ((i * 7919) % 1009) as f32 / 1009.0 - 0.5).collect();
    Ok(Array::from_vec(rows, cols, data)?)
}
