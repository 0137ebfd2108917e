//! cuBLASLt's functions, with the signatures and numbers of cublasLt.h (the same in CUDA 12 and 13).

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;

use crate::CudaError;
use crate::library::{Found, Wanted};

/// `cublasStatus_t`; 0 is success.
type Status = c_int;
/// `cublasLtHandle_t`, `cublasLtMatmulDesc_t`, `cublasLtMatrixLayout_t`, `cublasLtMatmulPreference_t`.
pub(super) type Handle = *mut c_void;

/// `CUBLAS_STATUS_NOT_SUPPORTED`: this product is not one that it does.
const NOT_SUPPORTED: Status = 15;

/// `cudaDataType`: `CUDA_R_32F`.
pub(super) const F32: c_int = 0;
/// `cudaDataType`: `CUDA_R_16BF`.
pub(super) const BF16: c_int = 14;
/// `cublasComputeType_t`: `CUBLAS_COMPUTE_32F`.
pub(super) const IN_F32: c_int = 68;
/// `cublasComputeType_t`: `CUBLAS_COMPUTE_32F_FAST_TF32`.
pub(super) const IN_TF32: c_int = 77;
/// `cublasOperation_t`: `CUBLAS_OP_T`; `CUBLAS_OP_N` is 0.
pub(super) const TURNED: c_int = 1;
/// `cublasLtMatmulDescAttributes_t`: `CUBLASLT_MATMUL_DESC_TRANSA`, `.._TRANSB`; 32 bits each.
pub(super) const TURN_OF: [c_int; 2] = [3, 4];
/// `cublasLtMatmulPreferenceAttributes_t`: `CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES`; 64 bits.
pub(super) const MOST_WORKSPACE: c_int = 1;
/// `CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES`, `.._B_..`, `.._C_..`, `.._D_..`; 32 bits each.
pub(super) const ALIGNMENT_OF: [c_int; 4] = [5, 6, 7, 8];

/// `cublasLtMatmulAlgo_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Algorithm {
    data: [u64; 8],
}

/// `cublasLtMatmulHeuristicResult_t`.
#[derive(Debug, Clone, Copy, Default)]
#[repr(C)]
pub(super) struct Advice {
    pub(super) algorithm: Algorithm,
    pub(super) workspace: usize,
    pub(super) state: Status,
    waves: f32,
    reserved: [c_int; 4],
}

macro_rules! functions {
    ($($field:ident = $symbol:literal: ($($kind:ty),* $(,)?) -> $back:ty;)*) => {
        const CUBLASLT: Wanted = Wanted {
            title: "cuBLASLt (NVIDIA's products of matrices)",
            names: &["libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"],
            symbols: &[$($symbol),*],
            remedy: "Install the CUDA toolkit or `pip install nvidia-cublas`, and name its folder in BSO_CUDA_LIBRARIES",
            in_toolkits: true,
        };

        /// The library, open.
        #[derive(Debug)]
        pub(super) struct CublasLt {
            // The functions are of it.
            _library: libloading::Library,
            place: String,
            $(pub(super) $field: unsafe extern "C" fn($($kind),*) -> $back,)*
        }

        impl CublasLt {
            fn load(Found { library, place }: Found) -> Result<Self, CudaError> {
                $(
                    // SAFETY: the signature is that of cublasLt.h; the library is kept beside the function.
                    let found = unsafe {
                        library.get::<unsafe extern "C" fn($($kind),*) -> $back>($symbol.as_bytes())
                    };
                    let $field = *found.map_err(|error| unusable(&place, $symbol, &error.to_string()))?;
                )*
                Ok(Self { _library: library, place, $($field),* })
            }
        }
    };
}

functions! {
    version = "cublasLtGetVersion": () -> usize;
    words = "cublasLtGetStatusString": (Status) -> *const c_char;
    create = "cublasLtCreate": (*mut Handle) -> Status;
    destroy = "cublasLtDestroy": (Handle) -> Status;
    // Compute type, type of the factors of the sums.
    create_operation = "cublasLtMatmulDescCreate": (*mut Handle, c_int, c_int) -> Status;
    set_operation = "cublasLtMatmulDescSetAttribute": (Handle, c_int, *const c_void, usize) -> Status;
    destroy_operation = "cublasLtMatmulDescDestroy": (Handle) -> Status;
    // Type, rows, columns, from one column to the next: column-major.
    create_layout = "cublasLtMatrixLayoutCreate": (*mut Handle, c_int, u64, u64, i64) -> Status;
    destroy_layout = "cublasLtMatrixLayoutDestroy": (Handle) -> Status;
    create_preference = "cublasLtMatmulPreferenceCreate": (*mut Handle) -> Status;
    set_preference = "cublasLtMatmulPreferenceSetAttribute": (Handle, c_int, *const c_void, usize) -> Status;
    destroy_preference = "cublasLtMatmulPreferenceDestroy": (Handle) -> Status;
    // Operation, layouts of a, b, c, d, preference, how many are asked for, those given, and their number.
    advise = "cublasLtMatmulAlgoGetHeuristic":
        (Handle, Handle, Handle, Handle, Handle, Handle, Handle, c_int, *mut Advice, *mut c_int) -> Status;
    // Operation, alpha, a, b, beta, c, d (matrices each with a layout), algorithm, workspace and its bytes, stream.
    multiply = "cublasLtMatmul": (
        Handle, Handle, *const f32, u64, Handle, u64, Handle, *const f32, u64, Handle, u64, Handle,
        *const Algorithm, u64, usize, Handle,
    ) -> Status;
}

/// What it says to a product.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Answer {
    Done,
    /// Not a product that it does.
    Refused,
}

impl CublasLt {
    /// Finds and opens it.
    ///
    /// # Errors
    /// It is nowhere, or too old.
    pub(super) fn open() -> Result<Self, CudaError> {
        Self::load(CUBLASLT.open()?)
    }

    /// The name or path that it was opened by.
    pub(super) fn place(&self) -> &str {
        &self.place
    }

    pub(super) fn expect(&self, call: &str, status: Status) -> Result<(), CudaError> {
        match self.answer(call, status)? {
            Answer::Done => Ok(()),
            Answer::Refused => Err(unusable(&self.place, call, "not supported")),
        }
    }

    pub(super) fn answer(&self, call: &str, status: Status) -> Result<Answer, CudaError> {
        match status {
            0 => Ok(Answer::Done),
            NOT_SUPPORTED => Ok(Answer::Refused),
            _ => Err(unusable(&self.place, call, &self.words_of(status))),
        }
    }

    fn words_of(&self, status: Status) -> String {
        // SAFETY: the text is static, or null.
        unsafe {
            let words = (self.words)(status);
            if words.is_null() {
                return format!("status {status}");
            }
            CStr::from_ptr(words).to_string_lossy().into_owned()
        }
    }

    /// A handle made by `create`.
    pub(super) fn made(
        &self,
        call: &str,
        create: impl FnOnce(*mut Handle) -> Status,
    ) -> Result<Handle, CudaError> {
        let mut handle: Handle = ptr::null_mut();
        self.expect(call, create(&raw mut handle))?;
        Ok(handle)
    }
}

fn unusable(place: &str, call: &str, reason: &str) -> CudaError {
    CudaError::LibraryUnusable {
        library: CUBLASLT.title,
        place: place.to_owned(),
        reason: format!("{call}: {reason}"),
        remedy: CUBLASLT.remedy,
    }
}

#[cfg(test)]
mod tests {
    use std::env;
    use std::path::{Path, PathBuf};

    use super::super::plan::{Key, Plan, Preference, Side, Workspace};
    use super::*;
    use crate::library::wheel_folders;

    /// The library needs a GPU for its handle, and none for descriptors: it refuses numbers and sizes that it does not
    /// know. Where it is not found (`BSO_PYTHON` may name a Python that has the wheel) nothing is checked.
    #[test]
    fn the_library_takes_every_descriptor() {
        let python = env::var_os("BSO_PYTHON").map(PathBuf::from);
        let home = python.as_deref().and_then(Path::parent).and_then(Path::parent);
        let found = CUBLASLT.open_also_in(&home.map(wheel_folders).unwrap_or_default());
        let library = match found.and_then(CublasLt::load) {
            Ok(library) => library,
            Err(error) => return println!("skipped: {error}"),
        };
        println!("cuBLASLt at {}", library.place());
        let side = |turned, address| Side::new(8, 8, turned, address);
        for (bf16, into_bf16, tf32) in
            [(false, false, false), (false, false, true), (true, false, false), (true, true, false)]
        {
            let key = Key { a: side(true, 256), b: side(false, 4), c: side(false, 2), bf16, into_bf16, tf32 };
            let workspace = Workspace { address: 0, bytes: 1 << 20 };
            Preference::new(&library, key, workspace).unwrap_or_else(|error| panic!("{error}"));
            Plan::described(&library, key).unwrap_or_else(|error| panic!("{error}")).destroy(&library);
        }
        let unknown = library.answer("cublasLtMatmul", 7).unwrap_err().to_string();
        assert!(unknown.contains("cublasLtMatmul: an unsupported value"), "{unknown}");
    }
}
