//! Where arrays live and in which precision. The one place that decides what a device name means.

use crate::{EngineError, cuda};

/// A place to compute. A value, not a type parameter: further devices become further arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// This machine's processor.
    Cpu,
}

impl Device {
    /// Reads `auto`, `cpu`, `cuda` or `cuda:N`.
    ///
    /// # Errors
    /// A CUDA device is refused: not compiled in, not found (with what was looked for and where), or found and not yet
    /// computed on. Any other name is unknown.
    pub fn parse(name: &str) -> Result<Self, EngineError> {
        match name {
            "auto" | "cpu" => Ok(Self::Cpu),
            "cuda" => Err(cuda::refusal(name, 0)),
            _ => match name.strip_prefix("cuda:").map(str::parse::<u32>) {
                Some(Ok(ordinal)) => Err(cuda::refusal(name, ordinal)),
                _ => Err(EngineError::UnknownDevice(name.to_owned())),
            },
        }
    }

    /// The name that [`Device::parse`] reads back.
    pub fn name(self) -> &'static str {
        match self {
            Self::Cpu => "cpu",
        }
    }
}

/// Precision of stored numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DType {
    /// IEEE single precision: what the CPU operations compute in.
    F32,
    /// bfloat16: f32's range with 8 bits of mantissa.
    Bf16,
    /// IEEE half precision.
    F16,
}

impl DType {
    /// Reads `f32`, `bf16`, `f16`, or the long names of PyTorch and Hugging Face configs.
    ///
    /// # Errors
    /// Any other name.
    pub fn parse(name: &str) -> Result<Self, EngineError> {
        match name {
            "f32" | "float32" => Ok(Self::F32),
            "bf16" | "bfloat16" => Ok(Self::Bf16),
            "f16" | "float16" => Ok(Self::F16),
            _ => Err(EngineError::UnknownDType(name.to_owned())),
        }
    }

    /// The short name.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
            Self::F16 => "f16",
        }
    }

    /// Bytes of one number.
    pub fn size_in_bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::Bf16 | Self::F16 => 2,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cuda_is_refused_with_its_reason_and_nonsense_as_unknown() {
        assert_eq!(Device::parse("auto"), Ok(Device::Cpu));
        assert_eq!(Device::parse("cpu"), Ok(Device::Cpu));
        for name in ["cuda", "cuda:3"] {
            let error = Device::parse(name).unwrap_err();
            if cfg!(feature = "cuda") {
                assert!(matches!(error, EngineError::DeviceRefused { .. }), "{error}");
            } else {
                assert_eq!(error, EngineError::DeviceNotCompiledIn(name.to_owned()));
            }
        }
        assert!(matches!(Device::parse("cuda:x"), Err(EngineError::UnknownDevice(_))));
        assert!(matches!(Device::parse(""), Err(EngineError::UnknownDevice(_))));
    }

    #[test]
    fn a_dtype_name_reads_back() {
        for dtype in [DType::F32, DType::Bf16, DType::F16] {
            assert_eq!(DType::parse(dtype.name()), Ok(dtype));
        }
        assert!(DType::parse("int8").is_err());
    }
}
