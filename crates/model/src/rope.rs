//! Rotary position embedding: the frequencies of each scaling rule, as transformers computes them
//! (`modeling_rope_utils.py`). The rotation itself is the engine's.

use std::f64::consts::PI;

/// One rotary embedding.
#[derive(Clone, Debug, PartialEq)]
pub struct Rope {
    /// Base of the frequencies.
    pub theta: f64,
    /// Stretch of the frequencies.
    pub scaling: RopeScaling,
}

/// How the rotary frequencies are stretched for contexts longer than those trained on.
#[derive(Clone, Debug, PartialEq)]
pub enum RopeScaling {
    /// Plain rotary embedding (RoFormer, arXiv 2104.09864).
    None,
    /// All frequencies divided by `factor` (position interpolation, arXiv 2306.15595).
    Linear {
        /// Stretch, at least 1.
        factor: f64,
    },
    /// NTK-aware scaling that begins beyond `max_position_embeddings`; within it, the plain frequencies. Longer
    /// sequences are refused everywhere, so that nothing else is needed.
    Dynamic {
        /// Stretch, at least 1.
        factor: f64,
    },
    /// Llama 3.1's: long wavelengths divided, short ones kept, a smooth step between.
    Llama3 {
        /// Stretch, at least 1.
        factor: f64,
        /// Wavelengths above `original / low_freq_factor` are stretched fully.
        low_freq_factor: f64,
        /// Wavelengths below `original / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length before the stretch, tokens.
        original_max_position_embeddings: f64,
    },
    /// YaRN (arXiv 2309.00071).
    Yarn {
        /// Stretch, at least 1.
        factor: f64,
        /// Multiplies cosines and sines; 0.1 ln(factor) + 1 where the config is silent.
        attention_factor: f64,
        /// Rotations above which a dimension is kept.
        beta_fast: f64,
        /// Rotations below which a dimension is interpolated fully.
        beta_slow: f64,
        /// Whether the bounds of the ramp are rounded to whole dimensions.
        truncate: bool,
        /// Context length before the stretch, tokens.
        original_max_position_embeddings: f64,
    },
}

/// The `head_dim / 2` inverse frequencies (radians per token) and the factor on cosines and sines.
///
/// Rounded to f32 after each of PyTorch's steps: at position 10,000 a difference in the last bit of a frequency
/// already turns the vector by 1e-3 radians.
pub(crate) fn inverse_frequencies(head_dim: usize, theta: f64, scaling: &RopeScaling) -> (Vec<f32>, f32) {
    let powers: Vec<f32> =
        (0..head_dim / 2).map(|i| theta.powf(f64::from((2 * i) as f32 / head_dim as f32)) as f32).collect();
    let plain: Vec<f32> = powers.iter().map(|p| 1.0 / p).collect();
    match *scaling {
        RopeScaling::None | RopeScaling::Dynamic { .. } => (plain, 1.0),
        RopeScaling::Linear { factor } => (plain.iter().map(|f| f / factor as f32).collect(), 1.0),
        RopeScaling::Llama3 {
            factor,
            low_freq_factor,
            high_freq_factor,
            original_max_position_embeddings: original,
        } => {
            let stretched = |f: f32| {
                let wavelength = (2.0 * PI) as f32 / f;
                if f64::from(wavelength) < original / high_freq_factor {
                    f
                } else if f64::from(wavelength) > original / low_freq_factor {
                    f / factor as f32
                } else {
                    let smooth = (original as f32 / wavelength - low_freq_factor as f32)
                        / (high_freq_factor - low_freq_factor) as f32;
                    (1.0 - smooth) * f / factor as f32 + smooth * f
                }
            };
            (plain.iter().map(|f| stretched(*f)).collect(), 1.0)
        }
        RopeScaling::Yarn {
            factor,
            attention_factor,
            beta_fast,
            beta_slow,
            truncate,
            original_max_position_embeddings: original,
        } => {
            let dimension = |rotations: f64| {
                head_dim as f64 * (original / (rotations * 2.0 * PI)).ln() / (2.0 * theta.ln())
            };
            let (mut low, mut high) = (dimension(beta_fast), dimension(beta_slow));
            if truncate {
                (low, high) = (low.floor(), high.ceil());
            }
            (low, high) = (low.max(0.0), high.min(head_dim as f64 - 1.0));
            if low == high {
                high += 0.001;
            }
            let mixed = powers.iter().enumerate().map(|(i, power)| {
                let ramp = ((i as f32 - low as f32) / (high - low) as f32).clamp(0.0, 1.0);
                let kept = 1.0 - ramp;
                1.0 / (factor as f32 * power) * (1.0 - kept) + 1.0 / power * kept
            });
            (mixed.collect(), attention_factor as f32)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linear_scaling_divides_every_frequency() {
        let (plain, _) = inverse_frequencies(8, 10_000.0, &RopeScaling::None);
        let (scaled, factor) = inverse_frequencies(8, 10_000.0, &RopeScaling::Linear { factor: 4.0 });
        assert_eq!(factor, 1.0);
        assert_eq!(plain.iter().map(|f| f / 4.0).collect::<Vec<_>>(), scaled);
        assert_eq!(plain[0], 1.0);
    }
}
