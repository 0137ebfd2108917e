//! SwiGLU and GELU.

use super::{arguments, blocks, expect_alike, kernel_of, start};
use crate::CudaError;
use crate::view::{Launcher, View};

/// `out = gate * sigmoid(gate) * up`.
///
/// # Errors
/// Sizes or precisions that differ.
pub fn swiglu(on: &dyn Launcher, gate: View<'_>, up: View<'_>, out: View<'_>) -> Result<(), CudaError> {
    const OP: &str = "swiglu";
    expect_alike(OP, gate, &[("up", up), ("out", out)])?;
    let kernel = kernel_of(OP, gate.number(), ["swiglu_f32", "swiglu_bf16"])?;
    start(on, kernel, [blocks(OP, gate.len())?, 1], arguments![gate, up, out, gate.len() as u64])
}

/// Gradients of `[gate, up]` from that of the output.
///
/// # Errors
/// Sizes or precisions that differ.
pub fn swiglu_backward(
    on: &dyn Launcher,
    dout: View<'_>,
    [gate, up]: [View<'_>; 2],
    [dgate, dup]: [View<'_>; 2],
) -> Result<(), CudaError> {
    const OP: &str = "swiglu_backward";
    expect_alike(OP, gate, &[("up", up), ("dout", dout), ("dgate", dgate), ("dup", dup)])?;
    let kernel = kernel_of(OP, gate.number(), ["swiglu_backward_f32", "swiglu_backward_bf16"])?;
    let list = arguments![dout, gate, up, dgate, dup, gate.len() as u64];
    start(on, kernel, [blocks(OP, gate.len())?, 1], list)
}

/// Which of GELU's two curves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Curve {
    /// By erf.
    Exact,
    /// By the tanh approximation.
    Tanh,
}

/// `out = gelu(x)`, times `up` where there is one.
///
/// # Errors
/// Sizes or precisions that differ.
pub fn gelu(
    on: &dyn Launcher,
    curve: Curve,
    x: View<'_>,
    up: Option<View<'_>>,
    out: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "gelu";
    expect_alike(OP, x, &[("up", up.unwrap_or(x)), ("out", out)])?;
    let kernel = kernel_of(OP, x.number(), ["gelu_f32", "gelu_bf16"])?;
    let list = arguments![x, up, out, curve == Curve::Exact, x.len() as u64];
    start(on, kernel, [blocks(OP, x.len())?, 1], list)
}

/// Gradient of the input, and of `up` where there is one (`(up, dup)`).
///
/// # Errors
/// Sizes or precisions that differ.
pub fn gelu_backward(
    on: &dyn Launcher,
    curve: Curve,
    [dout, x]: [View<'_>; 2],
    up: Option<(View<'_>, View<'_>)>,
    dx: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "gelu_backward";
    let (up, dup) = up.unzip();
    let alike = [("dout", dout), ("dx", dx), ("up", up.unwrap_or(x)), ("dup", dup.unwrap_or(x))];
    expect_alike(OP, x, &alike)?;
    let kernel = kernel_of(OP, x.number(), ["gelu_backward_f32", "gelu_backward_bf16"])?;
    let list = arguments![dout, x, up, dx, dup, curve == Curve::Exact, x.len() as u64];
    start(on, kernel, [blocks(OP, x.len())?, 1], list)
}
