//! Where the time of a training step goes: each operation by itself, at the step's shapes, times how often a step
//! calls it, beside the step as a whole. What a step spends besides, on memory or on waiting for threads, is the rest.

mod between;
mod products;

use super::{engine, peak, step};
use crate::row::Spread;
use bso_engine::{Array, DType, Engine, PackedWeight};
use bso_model::{Device, ModelConfig};
use serde_json::{Value, json};
use std::time::Instant;

/// Rounds of all operations, of which the median counts.
const ROUNDS: usize = 5;
/// Calls between two moments at which a device has nothing left to do.
const REPEATS: u32 = 10;
/// How long each product that measures the machine is repeated.
const PEAK_SECONDS: f64 = 0.2;

/// `step_seconds`, `peak` (GFLOP/s) and `memory` (GB/s) of the machine, and `operations`: `name`, `calls`, `seconds`
/// of one call, `flops` and `bytes` of one call.
pub fn run(settings: &step::Settings) -> anyhow::Result<Value> {
    let measured = step::run(settings)?;
    let engine = engine(&settings.device, settings.threads)?;
    // The clock stops when a device has done its work, which for one call alone would count the way there and back.
    let repeats = if engine.device() == Device::Cpu { 1 } else { REPEATS };
    let shapes = Shapes {
        engine: &engine,
        config: &ModelConfig::from_dir(&settings.model)?,
        dtype: DType::parse(&settings.dtype)?,
        length: settings.tokens - 1,
        sequences: settings.sequences,
        scored: settings.sequences * (settings.tokens - settings.tokens / 2),
    };
    let mut operations = shapes.operations()?;
    let mut seconds: Vec<Vec<f64>> = operations.iter().map(|_| Vec::new()).collect();
    for round in 0..=ROUNDS {
        for (operation, seconds) in operations.iter_mut().zip(&mut seconds) {
            engine.synchronise()?;
            let start = Instant::now();
            engine.install(|| (0..repeats).try_for_each(|_| (operation.run)()))?;
            engine.synchronise()?;
            // The first round warms up.
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64() / f64::from(repeats));
            }
        }
    }
    let rows = operations.iter().zip(&seconds).map(|(operation, seconds)| {
        json!({
            "name": operation.name, "calls": operation.calls, "seconds": Spread::of(seconds).map(|s| s.median),
            "flops": operation.flops, "bytes": operation.bytes,
        })
    });
    let rows: Vec<Value> = rows.collect();
    // A GPU's products are fastest when they are large.
    let width = if engine.device() == Device::Cpu { shapes.config.hidden_size * 4 } else { settings.product };
    let bound = (width, PEAK_SECONDS);
    Ok(json!({
        "step_seconds": measured["step_seconds"],
        "peak": peak::product(&engine, shapes.dtype, bound)?,
        "memory": peak::memory(&engine, bound)?,
        "operations": rows,
    }))
}

/// One operation of a step.
struct Operation<'a> {
    name: String,
    /// In one step.
    calls: usize,
    /// Of one call; 0 where the speed of memory is the bound.
    flops: f64,
    /// Read and written by one call at least.
    bytes: f64,
    run: Box<dyn FnMut() -> anyhow::Result<()> + Send + 'a>,
}

/// What decides the shapes of a step.
struct Shapes<'a> {
    engine: &'a Engine,
    config: &'a ModelConfig,
    dtype: DType,
    /// Rows of a sequence: its last token is not fed in.
    length: usize,
    sequences: usize,
    scored: usize,
}

impl<'a> Shapes<'a> {
    fn operations(&self) -> anyhow::Result<Vec<Operation<'a>>> {
        let mut all = Vec::new();
        self.linears(&mut all)?;
        self.attention(&mut all)?;
        self.head(&mut all)?;
        self.between_products(&mut all)?;
        self.residuals(&mut all)?;
        self.update(&mut all)?;
        Ok(all)
    }

    fn rows(&self) -> usize {
        self.length * self.sequences
    }

    /// Widths of all query heads and of all key heads.
    fn widths(&self) -> (usize, usize) {
        (self.config.heads * self.config.head_dim, self.config.kv_heads * self.config.head_dim)
    }

    /// In the precision of products.
    fn values(&self, rows: usize, cols: usize) -> anyhow::Result<Array> {
        Ok(self.engine.place(peak::numbers(rows, cols)?.to_dtype(self.dtype)?)?)
    }

    /// In f32.
    fn numbers(&self, rows: usize, cols: usize) -> anyhow::Result<Array> {
        Ok(self.engine.place(peak::numbers(rows, cols)?)?)
    }

    fn zeros(&self, rows: usize, cols: usize) -> anyhow::Result<Array> {
        Ok(self.engine.zeros(DType::F32, rows, cols)?)
    }

    /// A weight's copy for products.
    fn packed(&self, weight: &Array) -> anyhow::Result<PackedWeight> {
        let mut packed = self.engine.packed_weight(weight.rows(), weight.cols(), true)?;
        self.engine.pack_weight(weight, &mut packed)?;
        Ok(packed)
    }

    fn size(&self) -> f64 {
        self.dtype.size_in_bytes() as f64
    }
}
