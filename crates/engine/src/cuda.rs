//! What this binary knows of CUDA devices: the one file that depends on whether it was built with them. With them, the
//! device's operations are in `cuda/gpu.rs`.

use crate::EngineError;
use crate::accelerator::Shared;

#[cfg(feature = "cuda")]
mod gpu;

/// Whether GPU `ordinal` is there, with what it takes to compute on it. Without the driver, a library or a chip that is
/// served the sentence names what was looked for and where; without code for GPUs there is none.
#[cfg(feature = "cuda")]
pub(crate) fn find(ordinal: u32) -> Result<(), Option<String>> {
    let found = bso_cuda::Driver::open().and_then(|driver| {
        driver.chip(ordinal)?;
        bso_cuda::Nvrtc::open()
    });
    found.map(|_| ()).map_err(|error| Some(error.to_string()))
}

/// As above: no code for GPUs is here.
#[cfg(not(feature = "cuda"))]
pub(crate) fn find(_ordinal: u32) -> Result<(), Option<String>> {
    Err(None)
}

/// GPU `ordinal` with its kernels.
#[cfg(feature = "cuda")]
pub(crate) fn open(ordinal: u32) -> Result<Shared, EngineError> {
    gpu::Cuda::open(ordinal).map(|gpu| std::sync::Arc::new(gpu) as Shared)
}

/// As above: no code for GPUs is here.
#[cfg(not(feature = "cuda"))]
pub(crate) fn open(ordinal: u32) -> Result<Shared, EngineError> {
    Err(EngineError::DeviceNotCompiledIn(crate::Device::Cuda(ordinal).to_string()))
}
