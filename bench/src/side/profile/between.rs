//! Operations bound by memory: what lies between the products, and the update of the weights.

use super::{Operation, Shapes};
use bso_engine::{Accumulate, AdamW, AdamWState, Array, DType, RmsNormGrads, RotaryTable, SwigluGrads};

impl<'a> Shapes<'a> {
    /// Rotary embedding and the gated activation.
    pub(super) fn between_products(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
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
    pub(super) fn residuals(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, layers, rows, hidden) =
            (self.engine, self.config.layers, self.rows(), self.config.hidden_size);
        let area = (rows * hidden) as f64;
        let (x, weight) = (self.numbers(rows, hidden)?, self.numbers(1, hidden)?);
        let (mut y, mut inv_rms) = (self.values(rows, hidden)?, self.zeros(rows, 1)?);
        let (x2, weight2) = (x.clone(), weight.clone());
        all.push(Operation {
            name: "norm".to_owned(),
            calls: 4 * layers + 1,
            flops: 0.0,
            bytes: area * (4.0 + self.size()),
            run: Box::new(move || Ok(engine.rms_norm(&x2, &weight2, 1e-6, &mut y, &mut inv_rms)?)),
        });
        let (dy, inv_rms, mut dx, mut dweight) =
            (x.clone(), engine.place(Array::from_vec(rows, 1, vec![1.0; rows])?)?, x.clone(), weight.clone());
        let x3 = x.clone();
        all.push(Operation {
            name: "norm, gradients".to_owned(),
            calls: 2 * layers + 1,
            flops: 0.0,
            bytes: area * 16.0,
            run: Box::new(move || {
                let (dx, dweight) = ((&mut dx, Accumulate::Add), Some(&mut dweight));
                let (x, weight, inv_rms) = (&x3, (&weight).into(), &inv_rms);
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
        let (mut table, mut out) = (self.numbers(vocabulary, hidden)?, self.zeros(rows, hidden)?);
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
    pub(super) fn update(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, config) = (self.engine, self.config);
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let (wide, narrow) = self.widths();
        let rows = config.layers * (2 * wide + 2 * narrow + 3 * inner) + config.vocab_size;
        let count = (rows * hidden) as f64;
        let mut parameter = self.numbers(rows, hidden)?;
        let (mut gradient, mut first_moment, mut second_moment) =
            (parameter.clone(), self.zeros(rows, hidden)?, self.zeros(rows, hidden)?);
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
                Ok(engine.zero(&mut gradient)?)
            }),
        });
        if self.dtype == DType::Bf16 {
            let mut packed = engine.packed_weight(rows, hidden, true)?;
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
