//! Operations bound by arithmetic: projections, attention, the head.

use super::{Operation, Shapes};
use bso_engine::{
    Accumulate, AttentionForward, AttentionGrads, AttentionShape, HeadInputs, LinearGrads, Qkv, Segments,
    SelectedLogProbGrads, Weight,
};

impl<'a> Shapes<'a> {
    /// Every projection; the last layer's output projection and MLP see the rows that meet the head.
    pub(super) fn linears(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
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
        let (x, dy, w) = (self.values(rows, i)?, self.values(rows, o)?, self.numbers(o, i)?);
        let packed = self.packed(&w)?;
        let (mut y, mut dx, mut dw) = (dy.clone(), self.zeros(rows, i)?, w.clone());
        let (x2, w2, packed2) = (x.clone(), w.clone(), packed.clone());
        let mut push = |what: &str, flops, bytes, run| {
            all.push(Operation { name: format!("{name}: {what}"), calls, flops, bytes, run });
        };
        push(
            "product",
            flops,
            bytes,
            Box::new(move || Ok(engine.linear(&x2, Weight::new(&w2, Some(&packed2)), None, &mut y)?)),
        );
        push(
            "both gradients",
            2.0 * flops,
            2.0 * bytes,
            Box::new(move || {
                let w = Weight::new(&w, Some(&packed));
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

    pub(super) fn attention(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, config, rows) = (self.engine, self.config, self.rows());
        let (wide, narrow) = self.widths();
        let shape = AttentionShape {
            window: None,
            cap: None,
            heads: config.heads,
            kv_heads: config.kv_heads,
            head_dim: config.head_dim,
            scale: 1.0 / (config.head_dim as f32).sqrt(),
        };
        let segments = Segments::independent(&vec![self.length; self.sequences]);
        let [q, k, v] = [wide, narrow, narrow].map(|cols| self.values(rows, cols));
        let (q, k, v) = (q?, k?, v?);
        let (mut out, mut lse) = (q.clone(), self.zeros(rows, config.heads)?);
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
        let dout = self.numbers(rows, wide)?;
        let (mut dq, mut dk, mut dv) =
            (self.zeros(rows, wide)?, self.zeros(rows, narrow)?, self.zeros(rows, narrow)?);
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

    pub(super) fn head(&self, all: &mut Vec<Operation<'a>>) -> anyhow::Result<()> {
        let (engine, rows) = (self.engine, self.scored);
        let (vocabulary, hidden) = (self.config.vocab_size, self.config.hidden_size);
        let (x, w) = (self.values(rows, hidden)?, self.numbers(vocabulary, hidden)?);
        let packed = self.packed(&w)?;
        let targets: Vec<u32> = (0..rows).map(|row| (row * 31 % vocabulary) as u32).collect();
        let (mut log_probs, mut lse) = (vec![0.0; rows], self.zeros(rows, 1)?);
        let inputs = HeadInputs {
            hidden: &x,
            head: Weight::new(&w, Some(&packed)),
            targets: &targets,
            cap: None,
            update: None,
        };
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
                let head = Weight::new(&w2, Some(&packed2));
                let inputs = HeadInputs { hidden: &x2, head, targets: &targets2, cap: None, update: None };
                Ok(engine.selected_log_prob(inputs, &mut log_probs, &mut lse2)?)
            }),
        });
        let (weights, mut dhidden, mut dhead) = (vec![0.5; rows], self.zeros(rows, hidden)?, w.clone());
        all.push(Operation {
            name: "head, gradients with recomputed logits".to_owned(),
            calls: 1,
            flops: 3.0 * flops,
            bytes: 3.0 * bytes,
            run: Box::new(move || {
                let head = Weight::new(&w, Some(&packed));
                let (dhidden, dhead) = (&mut dhidden, Some(&mut dhead));
                let grads =
                    SelectedLogProbGrads { lse: &lse, weights: &weights, dhidden, dhead, dupdate: None };
                let inputs = HeadInputs { hidden: &x, head, targets: &targets, cap: None, update: None };
                Ok(engine.selected_log_prob_backward(inputs, grads)?)
            }),
        });
        Ok(())
    }
}
