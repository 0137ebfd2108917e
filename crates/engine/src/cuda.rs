//! What this binary knows of CUDA devices: the one file that depends on whether it was built with them.

use crate::EngineError;

/// Why GPU `ordinal`, asked for by `name`, is not computed on. Without the driver, a library or a chip that is served
/// the sentence names what was looked for and where.
#[cfg(feature = "cuda")]
pub(crate) fn refusal(name: &str, ordinal: u32) -> EngineError {
    let found = bso_cuda::Driver::open().and_then(|driver| {
        let chip = driver.chip(ordinal)?;
        Ok((driver, chip, bso_cuda::Nvrtc::open()?))
    });
    let reason = match found {
        Err(error) => error.to_string(),
        Ok((driver, chip, nvrtc)) => format!(
            "found {} ({}, driver for CUDA {}, NVRTC {}.{} at {}); its kernels are compiled in, training on it is not \
             there yet: use `device: cpu` or `auto`",
            chip.name,
            chip.architecture(),
            bso_cuda::version_text(driver.version()),
            nvrtc.version().0,
            nvrtc.version().1,
            nvrtc.place(),
        ),
    };
    EngineError::DeviceRefused { name: name.to_owned(), reason }
}

/// Why GPU `_ordinal` is not computed on: no code for it is here.
#[cfg(not(feature = "cuda"))]
pub(crate) fn refusal(name: &str, _ordinal: u32) -> EngineError {
    EngineError::DeviceNotCompiledIn(name.to_owned())
}
