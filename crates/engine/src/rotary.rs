//! Rotary position embedding (Su et al. 2021, arXiv 2104.09864) in Hugging Face's "rotate_half" layout: value `j` of
//! a head turns with value `j + head_dim / 2`. How frequencies are scaled is the model's business.

use crate::{Array, Engine, EngineError};

/// Cosines and sines by position.
#[derive(Debug, Clone)]
pub struct RotaryTable {
    half: usize,
    positions: usize,
    /// `[positions, half]` cosines.
    cos: Vec<f32>,
    /// `[positions, half]` sines.
    sin: Vec<f32>,
}

impl RotaryTable {
    /// Angles `position * inv_freq[j]` for positions `0..positions`; cosines and sines are multiplied by
    /// `attention_scale` (1 for plain RoPE, the "attention factor" of scaled kinds). `head_dim = 2 * inv_freq.len()`.
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
        Self { half, positions, cos, sin }
    }

    /// Width of a head.
    pub fn head_dim(&self) -> usize {
        2 * self.half
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
        let _ = (x, positions, &table.cos, &table.sin, inverse);
        todo!()
    }
}
