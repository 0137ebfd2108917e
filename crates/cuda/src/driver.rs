//! The CUDA driver: whether it is there, which GPUs it shows, and which of them can be used.

use std::env;
use std::ffi::{CStr, c_char, c_int};
use std::ptr;
use std::sync::OnceLock;

use cudarc::driver::sys::{self, CUdevice_attribute as Attribute, CUresult};

use crate::CudaError;
use crate::library::Wanted;

/// Every function of the driver that this crate calls: `cudarc` looks each up on its first call and would panic where
/// one is missing, so all are looked for before any is called.
const DRIVER: Wanted = Wanted {
    title: "the CUDA driver",
    names: &["libcuda.so.1", "libcuda.so"],
    symbols: &[
        "cuInit",
        "cuDriverGetVersion",
        "cuDeviceGetCount",
        "cuDeviceGet",
        "cuDeviceGetName",
        "cuDeviceGetAttribute",
        "cuDeviceTotalMem_v2",
        "cuDevicePrimaryCtxRetain",
        "cuDevicePrimaryCtxRelease_v2",
        "cuCtxSetCurrent",
        "cuStreamCreate",
        "cuStreamSynchronize",
        "cuStreamDestroy_v2",
        "cuMemAlloc_v2",
        "cuMemFree_v2",
        "cuMemcpyHtoDAsync_v2",
        "cuMemcpyDtoHAsync_v2",
        "cuMemcpyDtoDAsync_v2",
        "cuMemsetD8Async",
        "cuMemGetInfo_v2",
        "cuMemAllocHost_v2",
        "cuMemFreeHost",
        "cuModuleLoadData",
        "cuModuleUnload",
        "cuModuleGetFunction",
        "cuLaunchKernel",
        "cuGetErrorString",
    ],
    remedy: "Install NVIDIA's driver, or use `device: cpu`",
    in_toolkits: false,
};

/// The oldest chip that the kernels are written for.
pub const OLDEST: (u32, u32) = (8, 0);

/// The driver, found, complete and initialised.
#[derive(Debug, Clone, Copy)]
pub struct Driver {
    version: u32,
}

/// A GPU as the driver describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chip {
    /// Number, as in `cuda:N`.
    pub ordinal: u32,
    /// What the driver calls it.
    pub name: String,
    /// Compute capability, major and minor.
    pub capability: (u32, u32),
    /// Bytes of memory.
    pub memory: usize,
    pub(crate) handle: sys::CUdevice,
}

impl Chip {
    /// As `sm_90`: what kernels are compiled for.
    pub fn architecture(&self) -> String {
        format!("sm_{}{}", self.capability.0, self.capability.1)
    }
}

impl Driver {
    /// Finds the driver and initialises it.
    ///
    /// # Errors
    /// It is nowhere, lacks a function, or does not start (no GPU, or one that is held by others).
    pub fn open() -> Result<Self, CudaError> {
        static OPENED: OnceLock<Result<Driver, CudaError>> = OnceLock::new();
        OPENED.get_or_init(Self::start).clone()
    }

    fn start() -> Result<Self, CudaError> {
        let found = DRIVER.open()?;
        // SAFETY: it only opens libraries and closes them.
        if !unsafe { sys::is_culib_present() } {
            return Err(CudaError::LibraryUnusable {
                library: DRIVER.title,
                place: found.place,
                reason: "the system's loader does not find it by its name".to_owned(),
                remedy: "Put its folder into LD_LIBRARY_PATH, or use `device: cpu`",
            });
        }
        // It stays open for the life of the process: the driver does not like to be unloaded.
        std::mem::forget(found.library);
        let mut version: c_int = 0;
        // SAFETY: the functions are there; the pointer is to a live integer.
        unsafe {
            expect("cuInit", sys::cuInit(0))?;
            expect("cuDriverGetVersion", sys::cuDriverGetVersion(&raw mut version))?;
        }
        Ok(Self { version: version.unsigned_abs() })
    }

    /// The newest CUDA that it serves, as `12080` for 12.8.
    pub fn version(self) -> u32 {
        self.version
    }

    /// Number of GPUs.
    ///
    /// # Errors
    /// The driver refuses to say.
    pub fn count(self) -> Result<u32, CudaError> {
        let mut count: c_int = 0;
        // SAFETY: the driver is initialised; the pointer is to a live integer.
        unsafe { expect("cuDeviceGetCount", sys::cuDeviceGetCount(&raw mut count))? };
        Ok(count.unsigned_abs())
    }

    /// GPU `ordinal`, if it is there and new enough.
    ///
    /// # Errors
    /// There are fewer; it is older than [`OLDEST`].
    pub fn chip(self, ordinal: u32) -> Result<Chip, CudaError> {
        let found = self.count()?;
        if ordinal >= found {
            let visible = env::var("CUDA_VISIBLE_DEVICES").unwrap_or_else(|_| "not set".to_owned());
            return Err(CudaError::NoSuchDevice { asked: ordinal, found, visible });
        }
        let (mut handle, mut memory) = (0, 0_usize);
        let mut name: [c_char; 256] = [0; 256];
        // SAFETY: the driver is initialised; pointers are to live values, and the name's room is told.
        let name = unsafe {
            expect("cuDeviceGet", sys::cuDeviceGet(&raw mut handle, ordinal as c_int))?;
            expect(
                "cuDeviceGetName",
                sys::cuDeviceGetName(name.as_mut_ptr(), name.len() as c_int - 1, handle),
            )?;
            expect("cuDeviceTotalMem", sys::cuDeviceTotalMem_v2(&raw mut memory, handle))?;
            CStr::from_ptr(name.as_ptr()).to_string_lossy().into_owned()
        };
        let major = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, handle)?;
        let minor = attribute(Attribute::CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, handle)?;
        let chip = Chip { ordinal, name, capability: (major, minor), memory, handle };
        if chip.capability < OLDEST {
            let Chip { name, capability, .. } = chip;
            return Err(CudaError::UnsupportedChip { ordinal, name, capability });
        }
        Ok(chip)
    }
}

fn attribute(which: Attribute, handle: sys::CUdevice) -> Result<u32, CudaError> {
    let mut value: c_int = 0;
    // SAFETY: the driver is initialised; the pointer is to a live integer.
    unsafe { expect("cuDeviceGetAttribute", sys::cuDeviceGetAttribute(&raw mut value, which, handle))? };
    Ok(value.unsigned_abs())
}

/// `12080` as `12.8`.
pub fn version_text(version: u32) -> String {
    format!("{}.{}", version / 1000, version % 1000 / 10)
}

/// A failed call in the driver's own words.
pub(crate) fn expect(call: &'static str, result: CUresult) -> Result<(), CudaError> {
    if result == CUresult::CUDA_SUCCESS {
        return Ok(());
    }
    let mut words: *const c_char = ptr::null();
    // SAFETY: the function is there (nothing is called before that is known); its text is static, or null.
    let words = unsafe {
        let _ = sys::cuGetErrorString(result, &raw mut words);
        (!words.is_null()).then(|| CStr::from_ptr(words).to_string_lossy().into_owned())
    };
    let words = words.unwrap_or_else(|| "no words for it".to_owned());
    Err(CudaError::Driver { call, reason: format!("{words} (CUresult {})", result as u32) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn asking_for_a_gpu_gives_one_or_a_sentence_and_never_panics() {
        match Driver::open().and_then(|driver| driver.chip(0)) {
            Ok(chip) => assert!(chip.capability >= OLDEST && chip.memory > 0),
            Err(error) => {
                let sentence = error.to_string();
                println!("no GPU here: {sentence}");
                assert!(sentence.contains("driver") || sentence.contains("GPU"), "{sentence}");
            }
        }
        if let Ok(driver) = Driver::open() {
            let beyond = driver.count().unwrap();
            assert!(matches!(driver.chip(beyond), Err(CudaError::NoSuchDevice { .. })));
        }
    }
}
