//! NVIDIA's run-time compiler: CUDA C to the code of one architecture. It needs no GPU and no driver.

use std::ffi::{CStr, CString, c_char, c_int};
use std::path::PathBuf;
use std::ptr;

use libloading::Library;

use crate::CudaError;
use crate::library::{Found, Wanted};

const NVRTC: Wanted = Wanted {
    title: "NVRTC (NVIDIA's run-time compiler)",
    names: &["libnvrtc.so.13", "libnvrtc.so.12", "libnvrtc.so"],
    symbols: &[
        "nvrtcVersion",
        "nvrtcGetNumSupportedArchs",
        "nvrtcGetSupportedArchs",
        "nvrtcCreateProgram",
        "nvrtcCompileProgram",
        "nvrtcDestroyProgram",
        "nvrtcGetProgramLogSize",
        "nvrtcGetProgramLog",
        "nvrtcGetCUBINSize",
        "nvrtcGetCUBIN",
        "nvrtcGetErrorString",
    ],
    remedy: "Install the CUDA toolkit or `pip install nvidia-cuda-nvrtc`, and name its folder in BSO_CUDA_LIBRARIES",
    in_toolkits: true,
};

/// What every kernel is compiled with, besides its architecture. Division, roots and exponentials stay exact to the
/// last bits; multiply-adds may be contracted, as on the CPU.
pub const OPTIONS: &[&str] =
    &["--std=c++17", "--fmad=true", "--prec-div=true", "--prec-sqrt=true", "--ftz=false"];

/// The compiler.
#[derive(Debug)]
pub struct Nvrtc {
    library: Library,
    place: String,
    version: (u32, u32),
}

/// `nvrtcResult`; 0 is success.
type Status = c_int;
/// `nvrtcProgram`.
type Program = *mut std::ffi::c_void;

impl Nvrtc {
    /// Finds and opens it.
    ///
    /// # Errors
    /// It is nowhere, or too old.
    pub fn open() -> Result<Self, CudaError> {
        Self::open_also_in(&[])
    }

    /// As [`Nvrtc::open`], looking into these folders after all others.
    ///
    /// # Errors
    /// As [`Nvrtc::open`].
    pub fn open_also_in(folders: &[PathBuf]) -> Result<Self, CudaError> {
        let Found { library, place } = NVRTC.open_also_in(folders)?;
        let mut nvrtc = Self { library, place, version: (0, 0) };
        let (mut major, mut minor): (c_int, c_int) = (0, 0);
        // SAFETY: the signature is that of nvrtc.h; both pointers are to live integers.
        let status = unsafe {
            nvrtc.function::<unsafe extern "C" fn(*mut c_int, *mut c_int) -> Status>("nvrtcVersion")?(
                &raw mut major,
                &raw mut minor,
            )
        };
        nvrtc.expect("nvrtcVersion", status)?;
        nvrtc.version = (major.unsigned_abs(), minor.unsigned_abs());
        Ok(nvrtc)
    }

    /// Major and minor.
    pub fn version(&self) -> (u32, u32) {
        self.version
    }

    /// The name or path that it was opened by.
    pub fn place(&self) -> &str {
        &self.place
    }

    /// The architectures that it compiles for, as `90` for `sm_90`.
    ///
    /// # Errors
    /// It refuses to say.
    pub fn architectures(&self) -> Result<Vec<u32>, CudaError> {
        let mut count: c_int = 0;
        // SAFETY: signatures of nvrtc.h; the second call fills exactly `count` integers.
        unsafe {
            let status = self
                .function::<unsafe extern "C" fn(*mut c_int) -> Status>("nvrtcGetNumSupportedArchs")?(
                &raw mut count,
            );
            self.expect("nvrtcGetNumSupportedArchs", status)?;
            let mut found: Vec<c_int> = vec![0; usize::try_from(count).unwrap_or(0)];
            let status = self
                .function::<unsafe extern "C" fn(*mut c_int) -> Status>("nvrtcGetSupportedArchs")?(
                found.as_mut_ptr(),
            );
            self.expect("nvrtcGetSupportedArchs", status)?;
            Ok(found.into_iter().map(i32::unsigned_abs).collect())
        }
    }

    /// Compiles CUDA C to the code (cubin) of `architecture`, as `sm_90`.
    ///
    /// # Errors
    /// The source does not compile (with the compiler's log); an architecture that this NVRTC does not know.
    pub fn compile(&self, source_name: &str, source: &str, architecture: &str) -> Result<Vec<u8>, CudaError> {
        let program = self.program(source_name, source)?;
        let options = OPTIONS.iter().map(|option| (*option).to_owned());
        let options = options.chain([format!("--gpu-architecture={architecture}")]);
        let options: Vec<CString> = options.map(|option| text(&option)).collect::<Result<_, _>>()?;
        let pointers: Vec<*const c_char> = options.iter().map(|option| option.as_ptr()).collect();
        type Compile = unsafe extern "C" fn(Program, c_int, *const *const c_char) -> Status;
        // SAFETY: signature of nvrtc.h; the program is alive, and the options outlive the call.
        let status = unsafe {
            self.function::<Compile>("nvrtcCompileProgram")?(
                program.handle,
                pointers.len() as c_int,
                pointers.as_ptr(),
            )
        };
        if status != 0 {
            let log = program.bytes("nvrtcGetProgramLogSize", "nvrtcGetProgramLog")?;
            let log = String::from_utf8_lossy(&log).trim_end_matches('\0').to_owned();
            let log = if log.trim().is_empty() { self.words(status) } else { log };
            let (source_name, architecture) = (source_name.to_owned(), architecture.to_owned());
            return Err(CudaError::Compile { source_name, architecture, log });
        }
        program.bytes("nvrtcGetCUBINSize", "nvrtcGetCUBIN")
    }

    fn program(&self, name: &str, source: &str) -> Result<OpenProgram<'_>, CudaError> {
        type Create = unsafe extern "C" fn(
            *mut Program,
            *const c_char,
            *const c_char,
            c_int,
            *const *const c_char,
            *const *const c_char,
        ) -> Status;
        let (name, source) = (text(name)?, text(source)?);
        let mut handle: Program = ptr::null_mut();
        // SAFETY: signature of nvrtc.h; NVRTC copies both texts, and there are no headers.
        let status = unsafe {
            self.function::<Create>("nvrtcCreateProgram")?(
                &raw mut handle,
                source.as_ptr(),
                name.as_ptr(),
                0,
                ptr::null(),
                ptr::null(),
            )
        };
        self.expect("nvrtcCreateProgram", status)?;
        Ok(OpenProgram { nvrtc: self, handle })
    }

    /// # Safety
    /// `F` is the function's type in nvrtc.h.
    unsafe fn function<F: Copy>(&self, name: &'static str) -> Result<F, CudaError> {
        // SAFETY: by the caller; the library lives as long as `self`.
        let found = unsafe { self.library.get::<F>(name.as_bytes()) };
        found.map(|function| *function).map_err(|error| self.unusable(name, &error.to_string()))
    }

    fn expect(&self, call: &'static str, status: Status) -> Result<(), CudaError> {
        if status == 0 { Ok(()) } else { Err(self.unusable(call, &self.words(status))) }
    }

    fn unusable(&self, call: &str, reason: &str) -> CudaError {
        let reason = format!("{call}: {reason}");
        CudaError::LibraryUnusable {
            library: NVRTC.title,
            place: self.place.clone(),
            reason,
            remedy: NVRTC.remedy,
        }
    }

    fn words(&self, status: Status) -> String {
        // SAFETY: signature of nvrtc.h; the text is static, and null for no known status.
        unsafe {
            let Ok(name) =
                self.function::<unsafe extern "C" fn(Status) -> *const c_char>("nvrtcGetErrorString")
            else {
                return format!("status {status}");
            };
            let words = name(status);
            if words.is_null() {
                return format!("status {status}");
            }
            CStr::from_ptr(words).to_string_lossy().into_owned()
        }
    }
}

/// Text as C takes it.
fn text(text: &str) -> Result<CString, CudaError> {
    CString::new(text).map_err(|_| CudaError::shape("compile", "the source holds a zero byte"))
}

struct OpenProgram<'a> {
    nvrtc: &'a Nvrtc,
    handle: Program,
}

impl OpenProgram<'_> {
    /// What a pair of functions tells the size of, and writes.
    fn bytes(&self, size: &'static str, fill: &'static str) -> Result<Vec<u8>, CudaError> {
        let mut len = 0_usize;
        // SAFETY: signatures of nvrtc.h for both pairs; the buffer has the size that the first call told.
        unsafe {
            let of_size = self.nvrtc.function::<unsafe extern "C" fn(Program, *mut usize) -> Status>(size)?;
            self.nvrtc.expect(size, of_size(self.handle, &raw mut len))?;
            let mut bytes = vec![0_u8; len];
            let fill_bytes = self.nvrtc.function::<unsafe extern "C" fn(Program, *mut u8) -> Status>(fill)?;
            self.nvrtc.expect(fill, fill_bytes(self.handle, bytes.as_mut_ptr()))?;
            Ok(bytes)
        }
    }
}

impl Drop for OpenProgram<'_> {
    fn drop(&mut self) {
        // SAFETY: signature of nvrtc.h; the program is destroyed once. A failure leaves nothing to do.
        unsafe {
            if let Ok(destroy) =
                self.nvrtc.function::<unsafe extern "C" fn(*mut Program) -> Status>("nvrtcDestroyProgram")
            {
                destroy(&raw mut self.handle);
            }
        }
    }
}
