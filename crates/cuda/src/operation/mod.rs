//! Each operation as launches of its kernels: shapes are checked, grids chosen and arguments put in order here, once
//! for whatever carries the launches out. What an operation computes is said where the engine's of the same name is.

mod activation;
mod adapter;
mod attention;
mod cached_attention;
mod dropout;
mod elementwise;
mod log_prob;
mod norm;
mod optimiser;
mod pages;
mod product;
mod quantised;
mod reduce;
mod rotary;
mod rows;
mod score;

pub use activation::{Curve, gelu, gelu_backward, swiglu, swiglu_backward};
pub use adapter::{
    ScaledColumns, Update, add_length_gradient, add_scaled_columns, length_factors, row_norms, scale_columns,
};
pub use attention::{
    AttentionForward, AttentionGrads, AttentionKernels, AttentionShape, AttentionTiles, Qkv, Segment,
    attention, attention_backward,
};
pub use cached_attention::{CachePool, Cached, CachedTiles, append_rows, cached_attention};
pub use dropout::{Dropout, dropout};
pub use elementwise::{add_assign, convert, repeat_row, scale, soft_cap};
pub use log_prob::{Logits, RowSums, log_prob_begin, log_prob_chunk, log_prob_end, log_prob_gradient};
pub use norm::{
    LayerNormGrads, RmsNormGrads, add_column_sums, layer_norm, layer_norm_backward, partial_sums, rms_norm,
    rms_norm_backward,
};
pub use optimiser::{AdamWNumbers, RmsPropNumbers, SgdNumbers, adamw, rmsprop, sgd};
pub use pages::{CachedRows, PAGE, PageTables};
pub use product::{Factor, product};
pub use quantised::{Codes, Quantised, Scales, dequantise};
pub use reduce::{add_squared_norm, partial_totals};
pub use rotary::{Angles, rotary};
pub use rows::{RowGroups, add_gathered_rows, add_row_groups, gather_rows};
pub use score::{ScoreGrads, score, score_backward};

use crate::CudaError;
use crate::view::{Argument, Call, Launcher, Number, View};

/// Threads of every block, as in `common.cuh`.
const THREADS: u32 = 256;
/// Warps of every block.
const WARPS: usize = 8;

/// The arguments of a launch, each in the kernel's type.
macro_rules! arguments {
    ($($argument:expr),* $(,)?) => { &[$($crate::view::Argument::from($argument)),*] };
}
use arguments;

/// Starts a kernel whose arguments the caller has checked.
fn start(
    launcher: &dyn Launcher,
    kernel: &str,
    grid: [u32; 2],
    arguments: &[Argument],
) -> Result<(), CudaError> {
    if grid.contains(&0) {
        return Ok(());
    }
    start_blocks_of(THREADS, launcher, kernel, grid, arguments)
}

/// As [`start`], of a kernel with blocks of its own size.
fn start_blocks_of(
    threads: u32,
    launcher: &dyn Launcher,
    kernel: &str,
    grid: [u32; 2],
    arguments: &[Argument],
) -> Result<(), CudaError> {
    // SAFETY: every operation passes its kernel's parameters in order, and views whose sizes it has checked.
    unsafe { launcher.launch(&Call { kernel, grid, threads, arguments }) }
}

/// Blocks with a thread for each of `count` values.
fn blocks(operation: &'static str, count: usize) -> Result<u32, CudaError> {
    fit(operation, "number of blocks", count.div_ceil(THREADS as usize)).and_then(|blocks| {
        let most = i32::MAX.unsigned_abs();
        if blocks > most {
            Err(CudaError::shape(operation, format!("{blocks} blocks; {most} at most")))
        } else {
            Ok(blocks)
        }
    })
}

/// A size that a kernel takes in 32 bits.
fn fit(operation: &'static str, what: &str, size: usize) -> Result<u32, CudaError> {
    u32::try_from(size).map_err(|_| CudaError::shape(operation, format!("{what}: {size} is beyond 32 bits")))
}

/// The kernel for numbers in f32, or in bf16.
fn kernel_of(
    operation: &'static str,
    number: Number,
    kernels: [&'static str; 2],
) -> Result<&'static str, CudaError> {
    match number {
        Number::F32 => Ok(kernels[0]),
        Number::Bf16 => Ok(kernels[1]),
        _ => Err(CudaError::shape(operation, format!("computes in F32 or Bf16, not in {number:?}"))),
    }
}

/// Refuses views that are not all of the same kind and number of values.
fn expect_alike(
    operation: &'static str,
    like: View<'_>,
    views: &[(&str, View<'_>)],
) -> Result<(), CudaError> {
    views.iter().try_for_each(|(what, view)| view.expect(operation, what, like.number(), like.len()))
}
