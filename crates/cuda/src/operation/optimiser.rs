//! One pass of an optimiser over one parameter, in f32.

use super::{arguments, blocks, expect_alike, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// AdamW's constants, rounded to f32 as PyTorch rounds them.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct AdamWNumbers {
    /// On the gradient.
    pub factor: f32,
    /// `1 - learning_rate * weight_decay`.
    pub keep: f32,
    /// `1 - beta1`.
    pub first_weight: f32,
    /// Decay of the second moment.
    pub beta2: f32,
    /// `1 - beta2`.
    pub second_weight: f32,
    /// `sqrt(1 - beta2^step)`.
    pub bias_root: f32,
    /// `learning_rate / (1 - beta1^step)`.
    pub step_size: f32,
    /// Added to the root of the second moment.
    pub epsilon: f32,
}

/// One AdamW step on `[parameter, gradient, first moment, second moment]`.
///
/// # Errors
/// Sizes that differ.
pub fn adamw(
    on: &dyn Launcher,
    [parameter, gradient, first, second]: [View<'_>; 4],
    numbers: AdamWNumbers,
) -> Result<(), CudaError> {
    const OP: &str = "adamw";
    let n = parameter.len();
    parameter.expect(OP, "parameter", Number::F32, n)?;
    expect_alike(
        OP,
        parameter,
        &[("gradient", gradient), ("first moment", first), ("second moment", second)],
    )?;
    let AdamWNumbers { factor, keep, first_weight, beta2, second_weight, bias_root, step_size, epsilon } =
        numbers;
    let list = arguments![
        parameter,
        gradient,
        first,
        second,
        factor,
        keep,
        first_weight,
        beta2,
        second_weight,
        bias_root,
        step_size,
        epsilon,
        n as u64,
    ];
    start(on, OP, [blocks(OP, n)?, 1], list)
}

/// RMSprop's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RmsPropNumbers {
    /// On the gradient.
    pub factor: f32,
    /// Decay of the squared average.
    pub alpha: f32,
    /// `1 - alpha`, rounded after the subtraction.
    pub square_weight: f32,
    /// Step size.
    pub learning_rate: f32,
    /// Added to the root of the squared average.
    pub epsilon: f32,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f32,
}

/// One RMSprop step on `[parameter, gradient, squared average]`.
///
/// # Errors
/// Sizes that differ.
pub fn rmsprop(
    on: &dyn Launcher,
    [parameter, gradient, square]: [View<'_>; 3],
    numbers: RmsPropNumbers,
) -> Result<(), CudaError> {
    const OP: &str = "rmsprop";
    let n = parameter.len();
    parameter.expect(OP, "parameter", Number::F32, n)?;
    expect_alike(OP, parameter, &[("gradient", gradient), ("squared average", square)])?;
    let RmsPropNumbers { factor, alpha, square_weight, learning_rate, epsilon, weight_decay } = numbers;
    let list = arguments![
        parameter,
        gradient,
        square,
        factor,
        alpha,
        square_weight,
        learning_rate,
        epsilon,
        weight_decay,
        n as u64,
    ];
    start(on, OP, [blocks(OP, n)?, 1], list)
}

/// Gradient descent's constants.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct SgdNumbers {
    /// On the gradient.
    pub factor: f32,
    /// Step size.
    pub learning_rate: f32,
    /// Added to the gradient, times the parameter.
    pub weight_decay: f32,
}

/// One step of gradient descent on `[parameter, gradient]`.
///
/// # Errors
/// Sizes that differ.
pub fn sgd(
    on: &dyn Launcher,
    [parameter, gradient]: [View<'_>; 2],
    numbers: SgdNumbers,
) -> Result<(), CudaError> {
    const OP: &str = "sgd";
    let n = parameter.len();
    parameter.expect(OP, "parameter", Number::F32, n)?;
    expect_alike(OP, parameter, &[("gradient", gradient)])?;
    let SgdNumbers { factor, learning_rate, weight_decay } = numbers;
    start(
        on,
        OP,
        [blocks(OP, n)?, 1],
        arguments![parameter, gradient, factor, learning_rate, weight_decay, n as u64],
    )
}
