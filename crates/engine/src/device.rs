//! Where arrays live and in which precision. The one place that decides what a device name means.

use crate::{EngineError, cuda};

/// A place to compute. A value, not a type parameter: further devices become further arms.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Device {
    /// This machine's processor.
    Cpu,
    /// The NVIDIA GPU of this number, among those that the driver shows.
    Cuda(u32),
}

impl Device {
    /// Reads `auto`, `cpu`, `cuda` or `cuda:N`. `auto` is the first GPU where one is found that can be computed on, else
    /// the processor.
    ///
    /// # Errors
    /// A CUDA device that is not compiled in or not found, with what was looked for and where. Any other name is unknown.
    pub fn parse(name: &str) -> Result<Self, EngineError> {
        let found = |ordinal| match cuda::find(ordinal) {
            Ok(()) => Ok(Self::Cuda(ordinal)),
            Err(None) => Err(EngineError::DeviceNotCompiledIn(name.to_owned())),
            Err(Some(reason)) => Err(EngineError::DeviceRefused { name: name.to_owned(), reason }),
        };
        match name {
            "cpu" => Ok(Self::Cpu),
            "auto" => Ok(found(0).unwrap_or(Self::Cpu)),
            "cuda" => found(0),
            _ => match name.strip_prefix("cuda:").map(str::parse::<u32>) {
                Some(Ok(ordinal)) => found(ordinal),
                _ => Err(EngineError::UnknownDevice(name.to_owned())),
            },
        }
    }
}

impl std::fmt::Display for Device {
    /// The name that [`Device::parse`] reads back.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Cpu => f.write_str("cpu"),
            Self::Cuda(ordinal) => write!(f, "cuda:{ordinal}"),
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
    fn a_gpu_is_found_or_refused_with_its_reason_and_nonsense_is_unknown() {
        assert_eq!(Device::parse("cpu"), Ok(Device::Cpu));
        let auto = Device::parse("auto").unwrap();
        for (name, device) in [("cuda", Device::Cuda(0)), ("cuda:3", Device::Cuda(3))] {
            match Device::parse(name) {
                Ok(found) => assert_eq!(found, device),
                Err(EngineError::DeviceNotCompiledIn(asked)) => assert_eq!(asked, name),
                Err(error) => {
                    assert!(matches!(error, EngineError::DeviceRefused { .. }), "{error}");
                    assert!(!matches!(crate::cuda::find(0), Err(None)), "only where there is code for it");
                }
            }
        }
        assert_eq!(auto, Device::parse("cuda").unwrap_or(Device::Cpu));
        assert_eq!([Device::Cpu, Device::Cuda(7)].map(|device| device.to_string()), ["cpu", "cuda:7"]);
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
