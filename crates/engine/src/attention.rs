//! Grouped-query attention over segments, forward and backward, without ever holding a score matrix: scores exist
//! one tile at a time (Dao et al. 2022, arXiv 2205.14135), and the backward recomputes them from the stored
//! log-sum-exp.

use crate::array::{Values, ValuesMut};
use crate::attention_backward::{SharedGrads, Stored, backward_segment};
use crate::attention_forward::{KeyRows, Queries, forward_rows};
use crate::element::Element;
use crate::error::{expect_same_shape, expect_size};
use crate::shared::SharedMut;
use crate::{Array, Engine, EngineError, Segments};

/// Heads and scale of an attention layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Number of query heads; a multiple of `kv_heads`.
    pub heads: usize,
    /// Number of key and value heads; query head `h` uses `h / (heads / kv_heads)`.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Factor on the scores, normally `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// Rows that a row sees at most, the nearest ones, itself among them; all where there is none.
    pub window: Option<usize>,
    /// Soft cap: a score `s` becomes `cap * tanh(s / cap)`.
    pub cap: Option<f32>,
}

/// Queries, keys and values of one layer in one precision, rotary already applied.
#[derive(Debug, Clone, Copy)]
pub struct Qkv<'a> {
    /// `[tokens, heads * head_dim]`.
    pub q: &'a Array,
    /// `[tokens, kv_heads * head_dim]`.
    pub k: &'a Array,
    /// `[tokens, kv_heads * head_dim]`.
    pub v: &'a Array,
}

/// What the forward left for the backward, and the gradient that comes in.
#[derive(Debug, Clone, Copy)]
pub struct AttentionForward<'a> {
    /// The forward output, `[tokens, heads * head_dim]`, in the precision of the queries. All else here is in f32.
    pub out: &'a Array,
    /// Log-sum-exp of the scaled scores, `[tokens, heads]`.
    pub lse: &'a Array,
    /// Gradient of the output, `[tokens, heads * head_dim]`.
    pub dout: &'a Array,
}

/// Gradients in f32 that [`Engine::attention_backward`] writes (what they hold before is not read).
#[derive(Debug)]
pub struct AttentionGrads<'a> {
    /// `[tokens, heads * head_dim]`.
    pub dq: &'a mut Array,
    /// `[tokens, kv_heads * head_dim]`; a shared context receives the sum over all segments that see it.
    pub dk: &'a mut Array,
    /// `[tokens, kv_heads * head_dim]`, likewise.
    pub dv: &'a mut Array,
}

impl AttentionShape {
    /// Query heads that share a key and value head.
    pub(crate) fn group(&self) -> usize {
        self.heads / self.kv_heads
    }

    /// Keys that a query sees at most.
    pub(crate) fn window(&self) -> usize {
        self.window.unwrap_or(usize::MAX)
    }

    pub(crate) fn check(&self, operation: &'static str) -> Result<(), EngineError> {
        if self.kv_heads == 0 || self.head_dim == 0 || !self.heads.is_multiple_of(self.kv_heads) {
            let reason = format!(
                "{} heads over {} key and value heads of width {} do not share out evenly",
                self.heads, self.kv_heads, self.head_dim
            );
            return Err(EngineError::Invalid { operation, reason });
        }
        if self.window == Some(0) || self.cap.is_some_and(|cap| !(cap.is_finite() && cap > 0.0)) {
            let reason = format!(
                "window {:?} and cap {:?} must be above zero where there is one",
                self.window, self.cap
            );
            return Err(EngineError::Invalid { operation, reason });
        }
        Ok(())
    }
}

impl Qkv<'_> {
    fn check(
        &self,
        operation: &'static str,
        segments: &Segments,
        shape: AttentionShape,
    ) -> Result<(), EngineError> {
        shape.check(operation)?;
        let kv_width = shape.kv_heads * shape.head_dim;
        expect_size(operation, "rows of q (rows of the segments)", segments.tokens(), self.q.rows())?;
        expect_size(operation, "rows of k (rows of the segments)", segments.tokens(), self.k.rows())?;
        expect_size(operation, "rows of v (rows of the segments)", segments.tokens(), self.v.rows())?;
        expect_size(operation, "columns of q", shape.heads * shape.head_dim, self.q.cols())?;
        expect_size(operation, "columns of k", kv_width, self.k.cols())?;
        expect_size(operation, "columns of v", kv_width, self.v.cols())
    }
}

impl Engine {
    /// `out[t] = softmax(cap(scale * q[t] . k)) v` over the rows that `segments` and the window let row `t` see, per head.
    /// `out` is `[tokens, heads * head_dim]`, `lse` `[tokens, heads]` (natural log, for the backward).
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn attention(
        &self,
        qkv: Qkv<'_>,
        segments: &Segments,
        shape: AttentionShape,
        out: &mut Array,
        lse: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "attention";
        qkv.check(OP, segments, shape)?;
        expect_same_shape(OP, ("rows of out", "columns of out"), qkv.q, out)?;
        expect_size(OP, "rows of lse", segments.tokens(), lse.rows())?;
        expect_size(OP, "columns of lse", shape.heads, lse.cols())?;
        if let Some(gpu) = out.accelerator() {
            return gpu.attention(qkv, segments, shape, out, lse);
        }
        let lse = SharedMut::new(lse.as_mut_slice());
        match (qkv.q.values(), qkv.k.values(), qkv.v.values(), out.values_mut()) {
            (Values::F32(q), Values::F32(k), Values::F32(v), ValuesMut::F32(out)) => {
                self.attend([q, k, v], segments, shape, (out, &lse));
            }
            (Values::Bf16(q), Values::Bf16(k), Values::Bf16(v), ValuesMut::Bf16(out)) => {
                self.attend([q, k, v], segments, shape, (out, &lse));
            }
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    fn attend<E: Element>(
        &self,
        [q, k, v]: [&[E]; 3],
        segments: &Segments,
        shape: AttentionShape,
        (out, lse): (&mut [E], &SharedMut<'_>),
    ) {
        let out = SharedMut::new(out);
        let tasks = segments.list().len() * shape.kv_heads;
        self.for_each(tasks, attention_steps(segments, shape), |task| {
            let segment = segments.list()[task / shape.kv_heads];
            let kv_head = task % shape.kv_heads;
            let queries = Queries { values: q, start: segment.start, len: segment.len, kv_head };
            let [keys, values] = [k, v].map(|x| KeyRows::of_segment(x, &segment, shape, kv_head));
            // SAFETY: a task writes the rows of its segment in the columns of its heads, and no two tasks share both.
            unsafe { forward_rows(self, shape, queries, [keys, values], &out, Some(lse)) };
        });
    }

    /// Gradients of the queries, keys and values.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn attention_backward(
        &self,
        qkv: Qkv<'_>,
        forward: AttentionForward<'_>,
        segments: &Segments,
        shape: AttentionShape,
        grads: AttentionGrads<'_>,
    ) -> Result<(), EngineError> {
        const OP: &str = "attention_backward";
        let AttentionGrads { dq, dk, dv } = grads;
        qkv.check(OP, segments, shape)?;
        expect_same_shape(OP, ("rows of out", "columns of out"), qkv.q, forward.out)?;
        expect_same_shape(OP, ("rows of dout", "columns of dout"), qkv.q, forward.dout)?;
        expect_size(OP, "rows of lse", segments.tokens(), forward.lse.rows())?;
        expect_size(OP, "columns of lse", shape.heads, forward.lse.cols())?;
        expect_same_shape(OP, ("rows of dq", "columns of dq"), qkv.q, dq)?;
        expect_same_shape(OP, ("rows of dk", "columns of dk"), qkv.k, dk)?;
        expect_same_shape(OP, ("rows of dv", "columns of dv"), qkv.v, dv)?;
        if let Some(gpu) = dq.accelerator() {
            return gpu.attention_backward(qkv, forward, segments, shape, AttentionGrads { dq, dk, dv });
        }
        dk.fill(0.0);
        dv.fill(0.0);
        let shared = SharedGrads {
            dq: SharedMut::new(dq.as_mut_slice()),
            dk: SharedMut::new(dk.as_mut_slice()),
            dv: SharedMut::new(dv.as_mut_slice()),
        };
        let (lse, dout) = (forward.lse.as_slice(), forward.dout.as_slice());
        match (qkv.q.values(), qkv.k.values(), qkv.v.values(), forward.out.values()) {
            (Values::F32(q), Values::F32(k), Values::F32(v), Values::F32(out)) => {
                self.attend_backward(Stored { q, k, v, out, lse, dout }, segments, shape, &shared);
            }
            (Values::Bf16(q), Values::Bf16(k), Values::Bf16(v), Values::Bf16(out)) => {
                self.attend_backward(Stored { q, k, v, out, lse, dout }, segments, shape, &shared);
            }
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    fn attend_backward<E: Element>(
        &self,
        stored: Stored<'_, E>,
        segments: &Segments,
        shape: AttentionShape,
        shared: &SharedGrads<'_>,
    ) {
        let tasks = segments.groups().len() * shape.kv_heads;
        self.for_each(tasks, attention_steps(segments, shape), |task| {
            // The segments of a group one after another: a shared context adds up in their order.
            for &index in &segments.groups()[task / shape.kv_heads] {
                let segment = &segments.list()[index];
                // SAFETY: a task writes rows of its group in the columns of its heads, and no two tasks share both.
                unsafe { backward_segment(self, shape, stored, (segment, task % shape.kv_heads), shared) };
            }
        });
    }
}

/// Rough count of multiplications, to decide whether threads pay.
fn attention_steps(segments: &Segments, shape: AttentionShape) -> usize {
    let visible = |segment: &crate::Segment| segment.visible().min(shape.window());
    let pairs: usize = segments.list().iter().map(|segment| segment.len * visible(segment)).sum();
    pairs.saturating_mul(shape.heads * shape.head_dim / 8)
}

#[cfg(test)]
#[path = "attention_tests.rs"]
mod tests;
