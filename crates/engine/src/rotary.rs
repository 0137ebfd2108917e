//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in Hugging Face's "rotate_half" layout: value `j` of
//! a head turns with value `j + width / 2`, where `width` is the head's, or less: values beyond it stay. How
//! frequencies are scaled is the model's business.

use rayon::prelude::*;
use std::sync::{Arc, OnceLock};

use crate::accelerator::Shared;
use crate::array::with_values;
use crate::cpu::vectorised;
use crate::element::Element;
use crate::error::{expect_indices, expect_size};
use crate::{Array, DType, Engine, EngineError};

/// Cosines and sines by position.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    half: usize,
    head_dim: usize,
    positions: usize,
    /// `[positions, half]` cosines.
    cos: Vec<f32>,
    /// `[positions, half]` sines.
    sin: Vec<f32>,
    /// The same on a device, from its first use there on.
    #[allow(dead_code, reason = "for devices, if any are compiled in")]
    on_device: OnceLock<Arc<[Array; 2]>>,
}

impl RotaryTable {
    /// Angles `position * inv_freq[j]` for positions `0..positions`; cosines and sines are multiplied by
    /// `attention_scale` (1 for plain RoPE, the "attention factor" of scaled kinds). Heads are `2 * inv_freq.len()` wide.
    pub fn new(inv_freq: &[f32], attention_scale: f32, positions: usize) -> Self {
        let half = inv_freq.len();
        let mut cos = Vec::with_capacity(positions * half);
        let mut sin = Vec::with_capacity(positions * half);
        for position in 0..positions {
            for &frequency in inv_freq {
                // The product is rounded to f32 first, as the references do: at long positions this decides.
                let angle = f64::from(position as f32 * frequency);
                cos.push((angle.cos() * f64::from(attention_scale)) as f32);
                sin.push((angle.sin() * f64::from(attention_scale)) as f32);
            }
        }
        Self { half, head_dim: 2 * half, positions, cos, sin, on_device: OnceLock::new() }
    }

    /// The same table for wider heads, whose first `2 * inv_freq.len()` values turn and whose others stay.
    ///
    /// # Errors
    /// Heads narrower than what turns.
    pub fn in_heads_of(self, head_dim: usize) -> Result<Self, EngineError> {
        if head_dim < 2 * self.half {
            let reason = format!("{} values turn in heads of {head_dim}", 2 * self.half);
            return Err(EngineError::Invalid { operation: "rotary", reason });
        }
        Ok(Self { head_dim, ..self })
    }

    /// Cosines and sines, `[positions, half]` each, on a device.
    #[allow(dead_code, reason = "as above")]
    pub(crate) fn on(&self, device: &Shared) -> Result<Arc<[Array; 2]>, EngineError> {
        if let Some(arrays) = self.on_device.get() {
            return Ok(arrays.clone());
        }
        let place = |values: &[f32]| {
            let mut array = Array::on_device(device, DType::F32, (self.positions, self.half))?;
            array.set(&Array::from_vec(self.positions, self.half, values.to_vec())?)?;
            Ok(array)
        };
        let arrays = Arc::new([place(&self.cos)?, place(&self.sin)?]);
        Ok(self.on_device.get_or_init(|| arrays).clone())
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        self.head_dim
    }

    /// Number of positions; larger ones are refused.
    pub fn positions(&self) -> usize {
        self.positions
    }
}

impl Engine {
    /// Turns every head of every row of `x[n, heads * head_dim]` in place by the angles of its position.
    /// `inverse` turns back, which is the backward: apply it to the gradient.
    ///
    /// # Errors
    /// A position outside the table; shapes that do not fit.
    pub fn rotary(
        &self,
        x: &mut Array,
        positions: &[u32],
        table: &RotaryTable,
        inverse: bool,
    ) -> Result<(), EngineError> {
        const OP: &str = "rotary";
        let cols = x.cols();
        expect_size(OP, "number of positions", x.rows(), positions.len())?;
        expect_indices(OP, "position", positions.iter().map(|&position| position as usize), table.positions)?;
        if x.is_empty() {
            return Ok(());
        }
        if table.half == 0 || !cols.is_multiple_of(table.head_dim) {
            let reason = format!("{cols} columns are not whole heads of {}", table.head_dim());
            return Err(EngineError::Invalid { operation: OP, reason });
        }
        if let Some(gpu) = x.accelerator() {
            return gpu.rotary(x, positions, table, inverse);
        }
        with_values!(ValuesMut, x.values_mut(), |x| self.turn_rows((x, cols), positions, table, inverse));
        Ok(())
    }

    fn turn_rows<E: Element>(
        &self,
        (x, cols): (&mut [E], usize),
        positions: &[u32],
        table: &RotaryTable,
        inverse: bool,
    ) {
        let (path, half, width) = (self.path(), table.half, table.head_dim);
        let turn = |(row, &position): (&mut [E], &u32)| {
            let at = position as usize * half;
            turn_heads(path, (row, width), &table.cos[at..at + half], &table.sin[at..at + half], inverse);
        };
        if self.parallel(x.len()) {
            self.install(|| x.par_chunks_mut(cols).zip(positions).with_min_len(32).for_each(turn));
        } else {
            x.chunks_mut(cols).zip(positions).for_each(turn);
        }
    }
}

vectorised! {
    fn turn_heads[E: Element][E](heads: (&mut [E], usize), cos: &[f32], sin: &[f32], inverse: bool) = turn_heads_body
}

#[inline(always)]
fn turn_heads_body<const FMA: bool, E: Element>(
    (row, width): (&mut [E], usize),
    cos: &[f32],
    sin: &[f32],
    inverse: bool,
) {
    let sign = if inverse { -1.0 } else { 1.0 };
    for head in row.chunks_exact_mut(width) {
        let (first, second) = head.split_at_mut(cos.len());
        for ((first, second), (cos, sin)) in first.iter_mut().zip(second).zip(cos.iter().zip(sin)) {
            let (a, b, sin) = (first.to_f32(), second.to_f32(), sin * sign);
            *first = E::from_f32(a * cos - b * sin);
            *second = E::from_f32(b * cos + a * sin);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, wide};

    const INV_FREQ: [f32; 4] = [1.0, 0.1, 0.01, 0.001];

    /// Each pair as a complex number times `scale * e^(i angle)`.
    fn reference(x: &[f64], positions: &[u32], scale: f64) -> Vec<f64> {
        let half = INV_FREQ.len();
        let width = x.len() / positions.len();
        let value = |at: usize| {
            let (row, j) = (at / width, at % (2 * half));
            let (sin, cos) = f64::from(positions[row] as f32 * INV_FREQ[j % half]).sin_cos();
            let other = if j < half { -x[at + half] } else { x[at - half] };
            scale * (x[at] * cos + other * sin)
        };
        (0..x.len()).map(value).collect()
    }

    #[test]
    fn forward_and_inverse_agree_with_complex_turns_and_their_gradient() {
        let positions = [0, 5, 1000, 3, 3];
        for scale in [1.0_f32, 1.25] {
            let table = RotaryTable::new(&INV_FREQ, scale, 1001);
            for engine in engines() {
                let (x, dy) = (random(1, 5, 24), random(2, 5, 24));
                let mut y = x.clone();
                engine.rotary(&mut y, &positions, &table, false).unwrap();
                let forward = |x: &[f64]| reference(x, &positions, f64::from(scale));
                assert_close("rotary", y.as_slice(), &forward(&wide(&x)), 1e-6);
                let mut dx = dy.clone();
                engine.rotary(&mut dx, &positions, &table, true).unwrap();
                let want = numeric_gradient(&wide(&x), |x| dot(&wide(&dy), &forward(x)));
                assert_close("dx", dx.as_slice(), &want, 1e-5);
            }
        }
    }

    #[test]
    fn values_beyond_the_turning_ones_stay_and_turn_back_to_the_bit_where_they_were() {
        let positions = [7, 0, 40];
        let table = RotaryTable::new(&INV_FREQ, 1.0, 41);
        let wide_table = table.clone().in_heads_of(11).unwrap();
        for engine in engines() {
            let x = random(1, 3, 22);
            let mut y = x.clone();
            engine.rotary(&mut y, &positions, &wide_table, false).unwrap();
            for head in 0..2 {
                let part = |x: &Array, from: usize, to: usize| -> Vec<f32> {
                    (0..3).flat_map(|row| x.row(row)[head * 11 + from..head * 11 + to].to_vec()).collect()
                };
                let mut alone = Array::from_vec(3, 8, part(&x, 0, 8)).unwrap();
                engine.rotary(&mut alone, &positions, &table, false).unwrap();
                assert_eq!(part(&y, 0, 8), alone.as_slice());
                assert_eq!(part(&y, 8, 11), part(&x, 8, 11));
            }
        }
        assert!(table.in_heads_of(7).is_err());
    }

    #[test]
    fn positions_outside_the_table_and_split_heads_are_refused() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let table = RotaryTable::new(&INV_FREQ, 1.0, 4);
        assert!(engine.rotary(&mut Array::zeros(1, 8), &[4], &table, false).is_err());
        assert!(engine.rotary(&mut Array::zeros(1, 12), &[0], &table, false).is_err());
        assert!(engine.rotary(&mut Array::zeros(2, 8), &[0], &table, false).is_err());
        assert!(engine.rotary(&mut Array::zeros(0, 8), &[], &table, false).is_ok());
    }
}
