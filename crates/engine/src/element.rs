//! The kinds of numbers that arrays hold, as the kernels see them: read as f32, written rounded.

use half::bf16;

/// A stored number. Kernels compute in f32 whatever is stored.
pub(crate) trait Element: Copy + Send + Sync + bytemuck::Pod + 'static {
    /// Whether the number is bfloat16 as it lies in memory.
    const IS_BF16: bool;
    fn to_f32(self) -> f32;
    fn from_f32(value: f32) -> Self;
    /// Bits as bfloat16, rounded to nearest even where the number holds more.
    fn to_bf16_bits(self) -> u16;
}

impl Element for f32 {
    const IS_BF16: bool = false;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        self
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        value
    }

    #[inline(always)]
    fn to_bf16_bits(self) -> u16 {
        round_to_bf16_bits(self)
    }
}

impl Element for bf16 {
    const IS_BF16: bool = true;

    #[inline(always)]
    fn to_f32(self) -> f32 {
        f32::from_bits(u32::from(self.to_bits()) << 16)
    }

    #[inline(always)]
    fn from_f32(value: f32) -> Self {
        Self::from_bits(round_to_bf16_bits(value))
    }

    #[inline(always)]
    fn to_bf16_bits(self) -> u16 {
        self.to_bits()
    }
}

/// Round to nearest, ties to even; NaN stays NaN. Without branches, so that loops over it become vector code.
#[inline(always)]
fn round_to_bf16_bits(value: f32) -> u16 {
    let bits = value.to_bits();
    let rounded = (bits.wrapping_add(0x7fff + ((bits >> 16) & 1)) >> 16) as u16;
    let nan = (bits >> 16) as u16 | 0x40;
    if value.is_nan() { nan } else { rounded }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rounding_is_that_of_the_reference_for_every_kind_of_number() {
        let mut bits = 0x1234_5678_u32;
        for _ in 0..1_000_000 {
            bits = bits.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let value = f32::from_bits(bits);
            let (got, want) = (<bf16 as Element>::from_f32(value), bf16::from_f32(value));
            assert!(got == want || (got.is_nan() && want.is_nan()), "{value:e}: {got} instead of {want}");
        }
        for value in [0.0, -0.0, f32::INFINITY, f32::NEG_INFINITY, f32::MIN_POSITIVE, 1e-45, f32::MAX] {
            assert_eq!(<bf16 as Element>::from_f32(value), bf16::from_f32(value));
        }
        assert!(<bf16 as Element>::from_f32(f32::NAN).is_nan());
    }
}
