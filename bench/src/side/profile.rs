//! Where the time of a training step goes: each operation by itself, at the step's shapes, times how often a step
//! calls it, beside the step as a whole. What a step spends besides, on memory or on waiting for threads, is the rest.

use super::{peak, peak::numbers, step};
use crate::row::Spread;
use bso_engine::{
    Accumulate, AdamW, AdamWState, Array, AttentionForward, AttentionGrads, AttentionShape, DType, Engine,
    HeadInputs, LinearGrads, PackedWeight, Qkv, RmsNormGrads, RotaryTable, Segments, SelectedLogProbGrads,
    SwigluGrads, Weight,
};
use bso_model::ModelConfig;
use serde_json::{Value, json};
use std::time::Instant;

/// Rounds of all operations, of which the median counts.
const ROUNDS: usize = 5;

/// `step_seconds`, `peak` (GFLOP/s) and `memory` (GB/s) of the machine, and `operations`: `name`, `calls`, `seconds`
/// of one call, `flops` and `bytes` of one call.
pub fn run(settings: &step::Settings) -> anyhow::Result<Value> {
    let measured = step::run(settings)?;
    let engine = Engine::cpu(Some(settings.threads))?;
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
            let start = Instant::now();
            engine.install(&mut operation.run)?;
            // The first round warms up.
            if round > 0 {
                seconds.push(start.elapsed().as_secs_f64());
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
    let width = shapes.config.hidden_size.max(64) * 4;
    Ok(json!({
        "step_seconds": measured["step_seconds"],
        "peak": peak::product(&engine, shapes.dtype, width)?,
        "memory": peak::memory(&engine, width)?,
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

    fn values(&self, rows: usize, cols: usize) -> anyhow::Result<Array> {
        Ok(numbers(rows, cols)?.to_dtype(self.dtype)?)
    }

    fn size(&self) -> f64 {
        self.dtype.size_in_bytes() as f64
    }

    /// Every projection; the last layer's output projection and MLP see the rows that meet the head.
    fn linears(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (hidden, inner, layers) =
            (self.config.hidden_size, self.config.intermediate_size, self.config.layers);
        let (wide, narrow) = self.widths();
        let (rows, few) = (self.rows(), self.scored);
        for (name, count, i, o) in [("query", 1, hidden, wide), ("key, value", 2, hidden, narrow)] {
            self.linear(name, count * layers, (rows, i, o), all)?;
        }
        for (name, count, i, o) in
            [("output", 1, wide, hidden), ("gate, up", 2, hidden, inner), ("down", 1, inner, hidden)]
        {
            self.linear(name, count * (layers - 1), (rows, i, o), all)?;
            self.linear(&format!("{name}, last layer"), count, (few, i, o), all)?;
        }
        Ok(())
    }

    fn linear(
        &self,
        name: &str,
        calls: usize,
        (rows, i, o): (usize, usize, usize),
        all: &mut Vec<Operation<'a>>,
    ) -> anyhow::Result<()> {
        let engine = self.engine;
        let flops = 2.0 * (rows * i * o) as f64;
        let bytes = self.size() * (rows * (i + o) + i * o) as f64;
        let (x, dy, w) = (self.values(rows, i)?, self.values(rows, o)?, numbers(o, i)?);
        let mut packed = PackedWeight::new(o, i, true);
        engine.pack_weight(&w, &mut packed)?;
        let (mut y, mut dx, mut dw) = (dy.clone(), Array::zeros(rows, i), w.clone());
        let (x2, w2, packed2) = (x.clone(), w.clone(), packed.clone());
        let mut push = |what: &str, flops, bytes, run| {
            all.push(Operation { name: format!("{name}: {what}"), calls, flops, bytes, run });
        };
        push(
            "product",
            flops,
            bytes,
            Box::new(move || {
                Ok(engine.linear(&x2, Weight { values: &w2, packed: Some(&packed2) }, None, &mut y)?)
            }),
        );
        push(
            "both gradients",
            2.0 * flops,
            2.0 * bytes,
            Box::new(move || {
                let w = Weight { values: &w, packed: Some(&packed) };
                let dx = Some((&mut dx, Accumulate::Overwrite));
                Ok(engine.linear_backward(LinearGrads {
                    dy: &dy,
                    x: &x,
                    w,
                    dx,
                    dw: Some(&mut dw),
                    db: None,
                })?)
            }),
        );
        Ok(())
    }

    fn attention(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, config, rows) = (self.engine, self.config, self.rows());
        let (wide, narrow) = self.widths();
        let shape = AttentionShape {
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
        };
        let segments = Segments::independent(&vec![self.length; self.sequences]);
        let [q, k, v] = [wide, narrow, narrow].map(|cols| self.values(rows, cols));
        let (q, k, v) = (q?, k?, v?);
        let (mut out, mut lse) = (q.clone(), Array::zeros(rows, config.heads));
        engine.attention(Qkv { q: &q, k: &k, v: &v }, &segments, shape, &mut out, &mut lse)?;
        // Causal: half of the scores, two products.
        let flops = (2 * rows * (self.length + 1) * wide) as f64;
        let bytes = self.size() * (rows * (2 * wide + 2 * narrow)) as f64;
        let (q2, k2, v2, segments2) = (q.clone(), k.clone(), v.clone(), segments.clone());
        let (mut out2, mut lse2) = (out.clone(), lse.clone());
        all.push(Operation {
            name: "attention".to_owned(),
            calls: config.layers,
            flops,
            bytes,
            run: Box::new(move || {
                let qkv = Qkv { q: &q2, k: &k2, v: &v2 };
                Ok(engine.attention(qkv, &segments2, shape, &mut out2, &mut lse2)?)
            }),
        });
        let dout = numbers(rows, wide)?;
        let (mut dq, mut dk, mut dv) =
            (Array::zeros(rows, wide), Array::zeros(rows, narrow), Array::zeros(rows, narrow));
        all.push(Operation {
            name: "attention, gradients".to_owned(),
            calls: config.layers,
            flops: 2.5 * flops,
            bytes: 2.5 * bytes,
            run: Box::new(move || {
                let forward = AttentionForward { out: &out, lse: &lse, dout: &dout };
                let grads = AttentionGrads { dq: &mut dq, dk: &mut dk, dv: &mut dv };
                let qkv = Qkv { q: &q, k: &k, v: &v };
                Ok(engine.attention_backward(qkv, forward, &segments, shape, grads)?)
            }),
        });
        Ok(())
    }

    fn head(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, rows) = (self.engine, self.scored);
        let (vocabulary, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let (x, w) = (self.values(rows, hidden)?, numbers(vocabulary, hidden)?);
        let mut packed = PackedWeight::new(vocabulary, hidden, true);
        engine.pack_weight(&w, &mut packed)?;
        let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % vocabulary) as u32).collect();
        let (mut log_probs, mut lse) = (vec![0.0; rows], vec![0.0; rows]);
        let inputs =
            HeadInputs { hidden: &x, head: Weight { values: &w, packed: Some(&packed) }, targets: &targets };
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse)?;
        let flops = 2.0 * (rows * vocabulary * hidden) as f64;
        let bytes = self.size() * ((rows + vocabulary) * hidden) as f64;
        let (x2, w2, packed2, targets2, mut lse2) =
            (x.clone(), w.clone(), packed.clone(), targets.clone(), lse.clone());
        all.push(Operation {
            name: "head with log-softmax".to_owned(),
            calls: 1,
            flops,
            bytes,
            run: Box::new(move || {
                let head = Weight { values: &w2, packed: Some(&packed2) };
                let inputs = HeadInputs { hidden: &x2, head, targets: &targets2 };
                Ok(engine.selected_log_prob(inputs, &mut log_probs, &mut lse2)?)
            }),
        });
        let (weights, mut dhidden, mut dhead) = (vec![0.5; rows], Array::zeros(rows, hidden), w.clone());
        all.push(Operation {
            name: "head, gradients with recomputed logits".to_owned(),
            calls: 1,
            flops: 3.0 * flops,
            bytes: 3.0 * bytes,
            run: Box::new(move || {
                let head = Weight { values: &w, packed: Some(&packed) };
                let (dhidden, dhead) = (&mut dhidden, Some(&mut dhead));
                let grads = SelectedLogProbGrads { lse: &lse, weights: &weights, dhidden, dhead };
                let inputs = HeadInputs { hidden: &x, head, targets: &targets };
                Ok(engine.selected_log_prob_backward(inputs, grads)?)
            }),
        });
        Ok(())
    }
}

/// What is bound by memory.
impl<'a> Shapes<'a> {
    /// Rotary embedding and the gated activation.
    fn between_products(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, config, rows) = (self.engine, self.config, self.rows());
        let frequencies: Vec<f32> =
            (0..config.head_dim / 2).map(|i| 1e4f32.powf(-2.0 * i as f32 / config.head_dim as f32)).collect();
        let table = RotaryTable::new(&frequencies, 1.0, self.length);
        let positions: Vec<u32> = (0..rows).map(|row| (row % self.length) as u32).collect();
        let (wide, narrow) = self.widths();
        let (mut queries, mut keys) = (self.values(rows, wide)?, self.values(rows, narrow)?);
        all.push(Operation {
            name: "rotary".to_owned(),
            calls: 2 * config.layers,
            flops: 0.0,
            bytes: 2.0 * self.size() * (rows * (wide + narrow)) as f64,
            run: Box::new(move || {
                engine.rotary(&mut queries, &positions, &table, false)?;
                Ok(engine.rotary(&mut keys, &positions, &table, false)?)
            }),
        });
        let inner = config.intermediate_size;
        let (gate, up) = (self.values(rows, inner)?, self.values(rows, inner)?);
        let (mut out, gate2, up2) = (gate.clone(), gate.clone(), up.clone());
        // In the forward and again in the backward; the last layer's, on fewer rows, counts in full.
        all.push(Operation {
            name: "SwiGLU".to_owned(),
            calls: 2 * config.layers,
            flops: 0.0,
            bytes: 3.0 * self.size() * (rows * inner) as f64,
            run: Box::new(move || Ok(engine.swiglu(&gate2, &up2, &mut out)?)),
        });
        let dout = gate.clone();
        let (mut dgate, mut dup) = (gate.clone(), gate.clone());
        all.push(Operation {
            name: "SwiGLU, gradients".to_owned(),
            calls: config.layers,
            flops: 0.0,
            bytes: 5.0 * self.size() * (rows * inner) as f64,
            run: Box::new(move || {
                let (dgate, dup) = (&mut dgate, &mut dup);
                Ok(engine.swiglu_backward(SwigluGrads { dout: &dout, gate: &gate, up: &up, dgate, dup })?)
            }),
        });
        Ok(())
    }

    /// Norms and sums on the residual stream.
    fn residuals(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, layers, rows, hidden) =
            (self.engine, self.config.layers, self.rows(), self.config.hidden_size);
        let area = (rows * hidden) as f64;
        let (x, weight) = (numbers(rows, hidden)?, numbers(1, hidden)?);
        let (mut y, mut inv_rms) = (self.values(rows, hidden)?, vec![1.0; rows]);
        let (x2, weight2) = (x.clone(), weight.clone());
        all.push(Operation {
            name: "norm".to_owned(),
            calls: 4 * layers + 1,
            flops: 0.0,
            bytes: area * (4.0 + self.size()),
            run: Box::new(move || Ok(engine.rms_norm(&x2, &weight2, 1e-6, &mut y, &mut inv_rms)?)),
        });
        let (dy, inv_rms, mut dx, mut dweight) = (x.clone(), vec![1.0; rows], x.clone(), weight.clone());
        let x3 = x.clone();
        all.push(Operation {
            name: "norm, gradients".to_owned(),
            calls: 2 * layers + 1,
            flops: 0.0,
            bytes: area * 16.0,
            run: Box::new(move || {
                let (dx, dweight) = ((&mut dx, Accumulate::Add), Some(&mut dweight));
                let (x, weight, inv_rms) = (&x3, &weight, &inv_rms[..]);
                Ok(engine.rms_norm_backward(RmsNormGrads { dy: &dy, x, weight, inv_rms, dx, dweight })?)
            }),
        });
        let mut sum = x.clone();
        all.push(Operation {
            name: "residual sums".to_owned(),
            calls: 2 * layers,
            flops: 0.0,
            bytes: area * 12.0,
            run: Box::new(move || Ok(engine.add_assign(&mut sum, &x)?)),
        });
        let vocabulary = self.config.vocab_size;
        let (mut table, mut out) = (numbers(vocabulary, hidden)?, Array::zeros(rows, hidden));
        let tokens: Vec<u32> = (0..rows).map(|row| (row * 31 % vocabulary) as u32).collect();
        all.push(Operation {
            name: "embedding and its gradient".to_owned(),
            calls: 1,
            flops: 0.0,
            bytes: area * 20.0,
            run: Box::new(move || {
                engine.embedding(&tokens, &table, &mut out)?;
                Ok(engine.embedding_backward(&tokens, &out, &mut table)?)
            }),
        });
        Ok(())
    }

    /// AdamW, zeroing the gradients and, in bf16, packing, as if all parameters were one matrix.
    fn update(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, config) = (self.engine, self.config);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (wide, narrow) = self.widths();
        let rows = config.layers * (2 * wide + 2 * narrow + 3 * inner) + config.vocab_size;
        let count = (rows * hidden) as f64;
        let mut parameter = numbers(rows, hidden)?;
        let (mut gradient, mut first_moment, mut second_moment) =
            (parameter.clone(), Array::zeros(rows, hidden), Array::zeros(rows, hidden));
        let w = parameter.clone();
        all.push(Operation {
            name: "AdamW, gradients to zero".to_owned(),
            calls: 1,
            flops: 0.0,
            bytes: count * 32.0,
            run: Box::new(move || {
                let (learning_rate, beta1, beta2) = (1e-6, 0.9, 0.999);
                let rule = AdamW { learning_rate, beta1, beta2, epsilon: 1e-8, weight_decay: 0.01, step: 3 };
                let (parameter, first_moment, second_moment) =
                    (&mut parameter, &mut first_moment, &mut second_moment);
                let state = AdamWState { parameter, gradient: &gradient, first_moment, second_moment };
                engine.adamw_update(state, 1.0, &rule)?;
                gradient.fill(0.0);
                Ok(())
            }),
        });
        if self.dtype == DType::Bf16 {
            let mut packed = PackedWeight::new(rows, hidden, true);
            all.push(Operation {
                name: "packing weights".to_owned(),
                calls: 1,
                flops: 0.0,
                bytes: count * 8.0,
                run: Box::new(move || Ok(engine.pack_weight(&w, &mut packed)?)),
            });
        }
        Ok(())
    }
}
