//! Grouped-query attention over segments, forward and backward, without ever holding a score matrix: scores exist
//! one tile at a time (Dao et al. 2022, arXiv 2205.14135), and the backward recomputes them from the stored
//! log-sum-exp.

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
}

/// Queries, keys and values of one layer, rotary already applied.
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
    /// The forward output, `[tokens, heads * head_dim]`.
    pub out: &'a Array,
    /// Log-sum-exp of the scaled scores, `[tokens, heads]`.
    pub lse: &'a Array,
    /// Gradient of the output, `[tokens, heads * head_dim]`.
    pub dout: &'a Array,
}

/// Gradients that [`Engine::attention_backward`] writes (what they hold before is not read).
#[derive(Debug)]
pub struct AttentionGrads<'a> {
    /// `[tokens, heads * head_dim]`.
    pub dq: &'a mut Array,
    /// `[tokens, kv_heads * head_dim]`; a shared context receives the sum over all segments that see it.
    pub dk: &'a mut Array,
    /// `[tokens, kv_heads * head_dim]`, likewise.
    pub dv: &'a mut Array,
}

impl Engine {
    /// `out[t] = softmax(scale * q[t] . k) v` over the rows that `segments` lets row `t` see, per head.
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
        let _ = (qkv, segments, shape, out, lse);
        todo!()
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
        let _ = (qkv, forward, segments, shape, grads);
        todo!()
    }
}
