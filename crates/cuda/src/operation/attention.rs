//! Grouped-query attention over segments. Which tiles there are, and which segments see a tile of keys, is worked out
//! on the host once a batch and serves every layer.

use super::{WARPS, arguments, fit, kernel_of, start, start_blocks_of};
use crate::CudaError;
use crate::view::{Argument, Launcher, Number, View};

/// Widest head, as in `attention.cu`.
const MAX_DIM: usize = 256;

/// Which kernels are used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttentionKernels {
    /// `attention.cu`: f32 arithmetic, f32 or bf16, heads up to 256 wide.
    Plain,
    /// `attention_tensor.cu`: tensor cores, bf16, heads up to 128 wide.
    Tensor,
}

impl AttentionKernels {
    /// Tensor cores where they serve.
    pub fn of(number: Number, head_dim: usize) -> Self {
        if number == Number::Bf16 && head_dim <= 128 { Self::Tensor } else { Self::Plain }
    }

    /// Rows of a tile.
    pub(super) fn tile(self) -> usize {
        match self {
            Self::Plain => 16,
            Self::Tensor => 64,
        }
    }

    /// Threads of a block.
    pub(super) fn threads(self) -> u32 {
        match self {
            Self::Plain => super::THREADS,
            Self::Tensor => 128,
        }
    }

    /// The one for these numbers and heads, of those for f32, bf16, and tensor cores with narrow and with wide heads.
    fn pick(
        self,
        operation: &'static str,
        qkv: &Qkv<'_>,
        names: [&'static str; 4],
    ) -> Result<&'static str, CudaError> {
        let [f32, bf16, narrow, wide] = names;
        match self {
            Self::Plain => kernel_of(operation, qkv.q.number(), [f32, bf16]),
            Self::Tensor if Self::of(qkv.q.number(), qkv.shape.head_dim) != Self::Tensor => {
                let reason =
                    format!("tensor cores take bf16 and heads up to 128, not {:?}", qkv.shape.head_dim);
                Err(CudaError::shape(operation, reason))
            }
            Self::Tensor => Ok(if qkv.shape.head_dim <= 64 { narrow } else { wide }),
        }
    }
}

/// Rows `start..start + len` that see the context's rows (which end at or before `start`), then each other up to
/// themselves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
    /// First row and number of rows of the context.
    pub context: Option<(usize, usize)>,
}

/// A batch's segments as the kernels read them: lists of u32, made on the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttentionTiles {
    /// `[segments, 4]`: start, len, context start, context len.
    pub segments: Vec<u32>,
    /// `[tiles, 2]`: segment, first query.
    pub queries: Vec<u32>,
    /// `[tiles, 4]`: first row, rows, first and one past the last in `visitors`.
    pub keys: Vec<u32>,
    /// Segments that see a tile of keys, ascending.
    pub visitors: Vec<u32>,
    /// Rows of the batch.
    pub tokens: usize,
    /// What the tiles are cut for.
    pub kernels: AttentionKernels,
}

impl AttentionTiles {
    /// Tiles of segments that cover rows `0..tokens` in order.
    ///
    /// # Errors
    /// Segments with gaps, or with a context that does not end before them; sizes beyond 32 bits.
    pub fn of(segments: &[Segment], kernels: AttentionKernels) -> Result<Self, CudaError> {
        const OP: &str = "attention";
        let tile = kernels.tile();
        let mut tiles =
            Self { segments: vec![], queries: vec![], keys: vec![], visitors: vec![], tokens: 0, kernels };
        let small = |size: usize| fit(OP, "rows", size);
        for (index, segment) in segments.iter().enumerate() {
            let (context, seen) = segment.context.unwrap_or((0, 0));
            if segment.start != tiles.tokens
                || context.saturating_add(seen) > segment.start
                || segment.len == 0
            {
                return Err(CudaError::shape(OP, format!("segment {index} ({segment:?}) does not follow")));
            }
            tiles.tokens += segment.len;
            for part in [segment.start, segment.len, context, seen] {
                tiles.segments.push(small(part)?);
            }
            for first in (0..segment.len).step_by(tile) {
                tiles.queries.extend([small(index)?, small(first)?]);
                let rows = segment.start + first..segment.start + segment.len.min(first + tile);
                let begin = tiles.visitors.len();
                tiles.visitors.push(small(index)?);
                for (later, other) in segments.iter().enumerate().skip(index + 1) {
                    if other.context.is_some_and(|(at, len)| at < rows.end && at + len > rows.start) {
                        tiles.visitors.push(small(later)?);
                    }
                }
                let bounds = [rows.start, rows.len(), begin, tiles.visitors.len()];
                tiles.keys.extend(bounds.into_iter().map(small).collect::<Result<Vec<_>, _>>()?);
            }
        }
        Ok(tiles)
    }
}

/// Heads and scale of a layer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AttentionShape {
    /// Query heads, a multiple of `kv_heads`.
    pub heads: usize,
    /// Key and value heads.
    pub kv_heads: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// On the scores.
    pub scale: f32,
    /// Nearest rows that a row sees at most, itself among them.
    pub window: Option<usize>,
    /// Soft cap of the scores.
    pub cap: Option<f32>,
}

impl AttentionShape {
    pub(super) fn check(&self, operation: &'static str) -> Result<(), CudaError> {
        let Self { heads, kv_heads, head_dim, window, cap, .. } = *self;
        if kv_heads == 0 || !heads.is_multiple_of(kv_heads) || head_dim == 0 || head_dim > MAX_DIM {
            let reason = format!("{heads} heads over {kv_heads} of width {head_dim}; {MAX_DIM} at most");
            return Err(CudaError::shape(operation, reason));
        }
        if window == Some(0) || cap.is_some_and(|cap| !(cap.is_finite() && cap > 0.0)) {
            return Err(CudaError::shape(operation, format!("window {window:?} and cap {cap:?}")));
        }
        Ok(())
    }

    pub(super) fn arguments(&self) -> [Argument; 6] {
        let small = |size: usize| Argument::U32(u32::try_from(size).unwrap_or(u32::MAX));
        let window = self.window.map_or(Argument::U32(u32::MAX), small);
        let cap = Argument::F32(self.cap.unwrap_or(0.0));
        let scale = Argument::F32(self.scale);
        [small(self.heads), small(self.kv_heads), small(self.head_dim), window, scale, cap]
    }
}

/// Queries `[tokens, heads * head_dim]`, keys and values `[tokens, kv_heads * head_dim]`, in one precision.
#[derive(Debug, Clone, Copy)]
pub struct Qkv<'a> {
    /// Queries.
    pub q: View<'a>,
    /// Keys.
    pub k: View<'a>,
    /// Values.
    pub v: View<'a>,
    /// The lists of [`AttentionTiles`] on the device: `segments, queries, keys, visitors`.
    pub tiles: [View<'a>; 4],
    /// What the tiles are cut for.
    pub kernels: AttentionKernels,
    /// Heads and scale.
    pub shape: AttentionShape,
}

impl Qkv<'_> {
    /// Rows.
    fn check(&self, operation: &'static str) -> Result<usize, CudaError> {
        self.shape.check(operation)?;
        let (tokens, kv) = (self.q.rows(), self.shape.kv_heads * self.shape.head_dim);
        self.q.expect(operation, "q", self.q.number(), tokens * self.shape.heads * self.shape.head_dim)?;
        self.k.expect(operation, "k", self.q.number(), tokens * kv)?;
        self.v.expect(operation, "v", self.q.number(), tokens * kv)?;
        self.tiles.iter().try_for_each(|list| list.expect(operation, "tiles", Number::U32, list.len()))?;
        Ok(tokens)
    }

    fn start(
        &self,
        on: &dyn Launcher,
        kernel: &str,
        grid: [u32; 2],
        [read, written]: [&[Argument]; 2],
    ) -> Result<(), CudaError> {
        let list = [read, written, &self.shape.arguments()].concat();
        if grid.contains(&0) {
            return Ok(());
        }
        start_blocks_of(self.kernels.threads(), on, kernel, grid, &list)
    }

    fn grid(&self, list: usize, each: usize, heads: usize) -> Result<[u32; 2], CudaError> {
        Ok([fit("attention", "tiles", self.tiles[list].len() / each)?, fit("attention", "heads", heads)?])
    }
}

/// `out` as `q` is, and the log-sum-exp of the scores, `[tokens, heads]` in f32.
///
/// # Errors
/// Sizes that do not fit.
pub fn attention(on: &dyn Launcher, qkv: Qkv<'_>, out: View<'_>, lse: View<'_>) -> Result<(), CudaError> {
    const OP: &str = "attention";
    let tokens = qkv.check(OP)?;
    out.expect(OP, "out", qkv.q.number(), qkv.q.len())?;
    lse.expect(OP, "lse", Number::F32, tokens * qkv.shape.heads)?;
    let names = ["attention_f32", "attention_bf16", "attention_tensor_64", "attention_tensor_128"];
    let kernel = qkv.kernels.pick(OP, &qkv, names)?;
    let [segments, queries, ..] = qkv.tiles;
    let (read, written) = (arguments![qkv.q, qkv.k, qkv.v], arguments![out, lse, segments, queries]);
    qkv.start(on, kernel, qkv.grid(1, 2, qkv.shape.heads)?, [read, written])
}

/// What the forward left, the gradient that comes in, and room.
#[derive(Debug, Clone, Copy)]
pub struct AttentionForward<'a> {
    /// The forward's output.
    pub out: View<'a>,
    /// Its log-sum-exps.
    pub lse: View<'a>,
    /// Gradient of the output, in f32.
    pub dout: View<'a>,
    /// Room for a value for each token and head, f32.
    pub delta: View<'a>,
}

/// Gradients in f32, overwritten.
#[derive(Debug, Clone, Copy)]
pub struct AttentionGrads<'a> {
    /// As `q`.
    pub dq: View<'a>,
    /// As `k`.
    pub dk: View<'a>,
    /// As `v`.
    pub dv: View<'a>,
}

/// The gradients of [`attention`].
///
/// # Errors
/// Sizes that do not fit.
pub fn attention_backward(
    on: &dyn Launcher,
    qkv: Qkv<'_>,
    forward: AttentionForward<'_>,
    grads: AttentionGrads<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "attention_backward";
    let (tokens, shape) = (qkv.check(OP)?, qkv.shape);
    let AttentionForward { out, lse, dout, delta } = forward;
    out.expect(OP, "out", qkv.q.number(), qkv.q.len())?;
    dout.expect(OP, "dout", Number::F32, qkv.q.len())?;
    lse.expect(OP, "lse", Number::F32, tokens * shape.heads)?;
    delta.expect(OP, "delta", Number::F32, tokens * shape.heads)?;
    grads.dq.expect(OP, "dq", Number::F32, qkv.q.len())?;
    grads.dk.expect(OP, "dk", Number::F32, qkv.k.len())?;
    grads.dv.expect(OP, "dv", Number::F32, qkv.v.len())?;
    let [segments, queries, keys, visitors] = qkv.tiles;
    let rows = tokens * shape.heads;
    let head_dim = fit(OP, "head_dim", shape.head_dim)?;
    let kernel = kernel_of(OP, qkv.q.number(), ["attention_delta_f32", "attention_delta_bf16"])?;
    let grid = [fit(OP, "rows", rows.div_ceil(WARPS))?, 1];
    start(on, kernel, grid, arguments![out, dout, delta, head_dim, rows as u64])?;

    let read: &[Argument] = arguments![qkv.q, qkv.k, qkv.v, dout, lse, delta];
    let names =
        ["attention_dq_f32", "attention_dq_bf16", "attention_tensor_dq_64", "attention_tensor_dq_128"];
    let kernel = qkv.kernels.pick(OP, &qkv, names)?;
    let written: &[Argument] = arguments![grads.dq, segments, queries];
    qkv.start(on, kernel, qkv.grid(1, 2, shape.heads)?, [read, written])?;
    let names =
        ["attention_dkv_f32", "attention_dkv_bf16", "attention_tensor_dkv_64", "attention_tensor_dkv_128"];
    let kernel = qkv.kernels.pick(OP, &qkv, names)?;
    let written: &[Argument] = arguments![grads.dk, grads.dv, segments, keys, visitors];
    qkv.start(on, kernel, qkv.grid(2, 4, shape.kv_heads)?, [read, written])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiles_cover_every_row_once_and_name_every_segment_that_sees_them() {
        let segment = |start, len, context| Segment { start, len, context };
        let list = [segment(0, 20, None), segment(20, 3, Some((0, 20))), segment(23, 5, Some((2, 6)))];
        let tiles = AttentionTiles::of(&list, AttentionKernels::Plain).unwrap();
        assert_eq!(tiles.tokens, 28);
        assert_eq!(tiles.queries, [0, 0, 0, 16, 1, 0, 2, 0]);
        assert_eq!(tiles.keys, [0, 16, 0, 3, 16, 4, 3, 5, 20, 3, 5, 6, 23, 5, 6, 7]);
        assert_eq!(tiles.visitors, [0, 1, 2, 0, 1, 1, 2]);
        let refused = |list: &[Segment]| AttentionTiles::of(list, AttentionKernels::Tensor).is_err();
        assert!(refused(&[segment(1, 2, None)]));
        assert!(refused(&[segment(0, 2, None), segment(2, 2, Some((1, 2)))]));
    }
}
