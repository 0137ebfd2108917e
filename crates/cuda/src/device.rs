//! A GPU in use: its context, one stream, and the kernels compiled for it.

use std::collections::BTreeMap;
use std::ffi::{CString, c_void};
use std::ptr;
use std::sync::{Arc, Once};

use cudarc::driver::sys::{self, CUresult};

use crate::CudaError;
use crate::blas::Blas;
use crate::cache::{KernelCache, Key};
use crate::driver::{Chip, Driver, expect};
use crate::kernels::{KernelFile, every_file};
use crate::memory::{Buffer, Pinned, memory_info};
use crate::nvrtc::{Nvrtc, OPTIONS};
use crate::view::{Argument, Call, Launcher, Product, View};

/// The primary context of a GPU and the stream that all work goes through.
#[derive(Debug)]
pub(crate) struct Context {
    /// The GPU's number.
    pub(crate) ordinal: u32,
    handle: sys::CUcontext,
    device: sys::CUdevice,
    pub(crate) stream: sys::CUstream,
}

// SAFETY: the driver's handles may be used from any thread; each use makes the context current first.
unsafe impl Send for Context {}
// SAFETY: as above; the driver orders calls on one stream itself.
unsafe impl Sync for Context {}

impl Context {
    fn open(chip: &Chip) -> Result<Arc<Self>, CudaError> {
        let (mut handle, mut stream) = (ptr::null_mut(), ptr::null_mut());
        // SAFETY: the driver is initialised and knows the device; pointers are to live values.
        unsafe {
            let retained = sys::cuDevicePrimaryCtxRetain(&raw mut handle, chip.handle);
            expect("cuDevicePrimaryCtxRetain", retained)?;
        }
        let mut context = Self { ordinal: chip.ordinal, handle, device: chip.handle, stream };
        context.make_current()?;
        let apart = sys::CUstream_flags::CU_STREAM_NON_BLOCKING as u32;
        // SAFETY: a context is current.
        unsafe { expect("cuStreamCreate", sys::cuStreamCreate(&raw mut stream, apart))? };
        context.stream = stream;
        Ok(Arc::new(context))
    }

    pub(crate) fn make_current(&self) -> Result<(), CudaError> {
        // SAFETY: the context is retained until `self` is dropped.
        unsafe { expect("cuCtxSetCurrent", sys::cuCtxSetCurrent(self.handle)) }
    }
}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: made by `open`, given back once. Nothing is left to do about a failure.
        unsafe {
            if !self.stream.is_null() {
                let _ = sys::cuStreamSynchronize(self.stream);
                let _ = sys::cuStreamDestroy_v2(self.stream);
            }
            let _ = sys::cuDevicePrimaryCtxRelease_v2(self.device);
        }
    }
}

/// A GPU with its kernels.
#[derive(Debug)]
pub struct Gpu {
    chip: Chip,
    modules: Vec<sys::CUmodule>,
    kernels: BTreeMap<&'static str, sys::CUfunction>,
    blas: Option<Blas>,
    // Last, so that it goes last: the modules live in it.
    context: Arc<Context>,
}

// SAFETY: as for `Context`: handles of the driver, used under their context.
unsafe impl Send for Gpu {}
// SAFETY: as above.
unsafe impl Sync for Gpu {}

impl Gpu {
    /// Opens GPU `ordinal`, and compiles the kernels for it or takes them from `cache`.
    ///
    /// # Errors
    /// No driver, no such GPU, too old a one; no NVRTC, or one that does not know the chip.
    pub fn open(ordinal: u32, cache: &KernelCache) -> Result<Self, CudaError> {
        let driver = Driver::open()?;
        let chip = driver.chip(ordinal)?;
        let nvrtc = Nvrtc::open()?;
        let context = Context::open(&chip)?;
        let blas = Blas::open(&context, &chip)?;
        let mut gpu = Self { chip, modules: Vec::new(), kernels: BTreeMap::new(), blas, context };
        let sources = Sources { nvrtc: &nvrtc, driver, cache, architecture: gpu.chip.architecture() };
        let files = every_file();
        // Each file takes the compiler a second or more, the first time: all at once.
        let codes = std::thread::scope(|scope| {
            let sources = &sources;
            let started: Vec<_> = files.iter().map(|file| scope.spawn(move || sources.code(file))).collect();
            started.into_iter().map(|code| code.join()).collect::<Vec<_>>()
        });
        for (file, code) in files.iter().zip(codes) {
            let code =
                code.map_err(|_| CudaError::shape("open", "a thread that compiles kernels stopped"))?;
            gpu.load(file, &code?, &sources)?;
        }
        Ok(gpu)
    }

    /// What it is.
    pub fn chip(&self) -> &Chip {
        &self.chip
    }

    /// What products go through; none where they are those of the kernels.
    pub fn blas(&self) -> Option<&Blas> {
        self.blas.as_ref()
    }

    /// Memory that lives until it is dropped.
    ///
    /// # Errors
    /// There is not enough.
    pub fn buffer(&self, bytes: usize) -> Result<Buffer, CudaError> {
        Buffer::new(&self.context, bytes)
    }

    /// Memory of the host for copies that wait for nothing.
    ///
    /// # Errors
    /// There is not enough.
    pub fn pinned(&self, bytes: usize) -> Result<Pinned, CudaError> {
        Pinned::new(&self.context, bytes)
    }

    /// Bytes of memory: free, and in all.
    ///
    /// # Errors
    /// The driver refuses to say.
    pub fn memory(&self) -> Result<[usize; 2], CudaError> {
        memory_info(&self.context)
    }

    /// Copies the first bytes of `from` to `to` in the order of all work, and does not wait: `from` is not to be written
    /// before the next [`Gpu::synchronise`].
    ///
    /// # Errors
    /// `from` is smaller than `to`.
    pub fn upload_later(&self, from: &Pinned, to: View<'_>) -> Result<(), CudaError> {
        let bytes = to.len() * to.number().size_in_bytes();
        let Some(from) = from.as_slice().get(..bytes).filter(|from| !from.is_empty()) else {
            return same_size("upload_later", from.as_slice().len().min(bytes), to);
        };
        self.context.make_current()?;
        // SAFETY: the view has room for as many bytes; those of the host stay until they are freed, which waits.
        unsafe {
            let copied =
                sys::cuMemcpyHtoDAsync_v2(to.address(), from.as_ptr().cast(), bytes, self.context.stream);
            expect("cuMemcpyHtoD", copied)
        }
    }

    /// Copies numbers from one place of the GPU to another, in the order of all work; the two do not overlap.
    ///
    /// # Errors
    /// Different sizes.
    pub fn copy(&self, from: View<'_>, to: View<'_>) -> Result<(), CudaError> {
        let bytes = from.len() * from.number().size_in_bytes();
        same_size("copy", bytes, to)?;
        if bytes == 0 {
            return Ok(());
        }
        self.context.make_current()?;
        // SAFETY: both views have as many bytes.
        unsafe {
            let stream = self.context.stream;
            expect("cuMemcpyDtoD", sys::cuMemcpyDtoDAsync_v2(to.address(), from.address(), bytes, stream))
        }
    }

    /// Zeros, in the order of all work.
    ///
    /// # Errors
    /// An earlier kernel failed.
    pub fn clear(&self, view: View<'_>) -> Result<(), CudaError> {
        let bytes = view.len() * view.number().size_in_bytes();
        if bytes == 0 {
            return Ok(());
        }
        self.context.make_current()?;
        // SAFETY: the view has as many bytes.
        unsafe {
            expect("cuMemsetD8Async", sys::cuMemsetD8Async(view.address(), 0, bytes, self.context.stream))
        }
    }

    /// Copies bytes of the host to the start of `to`, after all work so far; returns when they are there.
    ///
    /// # Errors
    /// `to` has not this size.
    pub fn upload(&self, from: &[u8], to: View<'_>) -> Result<(), CudaError> {
        same_size("upload", from.len(), to)?;
        self.context.make_current()?;
        // SAFETY: the view has room for as many bytes; the host's are borrowed until the copy is done.
        unsafe {
            let copied = sys::cuMemcpyHtoDAsync_v2(
                to.address(),
                from.as_ptr().cast(),
                from.len(),
                self.context.stream,
            );
            expect("cuMemcpyHtoD", copied)?;
        }
        self.synchronise()
    }

    /// Copies `from` to the host, after all work so far; returns when it is there.
    ///
    /// # Errors
    /// `to` has not this size; an earlier kernel failed.
    pub fn download(&self, from: View<'_>, to: &mut [u8]) -> Result<(), CudaError> {
        same_size("download", to.len(), from)?;
        self.context.make_current()?;
        // SAFETY: as for `upload`.
        unsafe {
            let copied = sys::cuMemcpyDtoHAsync_v2(
                to.as_mut_ptr().cast(),
                from.address(),
                to.len(),
                self.context.stream,
            );
            expect("cuMemcpyDtoH", copied)?;
        }
        self.synchronise()
    }

    /// Waits for all work so far.
    ///
    /// # Errors
    /// Some of it failed.
    pub fn synchronise(&self) -> Result<(), CudaError> {
        self.context.make_current()?;
        // SAFETY: the stream lives as long as the context.
        unsafe { expect("cuStreamSynchronize", sys::cuStreamSynchronize(self.context.stream)) }
    }

    fn load(&mut self, file: &KernelFile, code: &[u8], sources: &Sources<'_>) -> Result<(), CudaError> {
        let module = match self.module(code) {
            Ok(module) => module,
            Err(_) => {
                // Whole on disk and yet refused: compiled once more before it counts as a failure.
                sources.cache.forget(sources.key(file));
                self.module(&sources.code(file)?)?
            }
        };
        self.modules.push(module);
        for name in file.kernels {
            let mut function = ptr::null_mut();
            let text =
                CString::new(*name).map_err(|_| CudaError::shape("load", "a name with a zero byte"))?;
            // SAFETY: the module is loaded in the current context; pointers are to live values.
            unsafe {
                let found = sys::cuModuleGetFunction(&raw mut function, module, text.as_ptr());
                expect("cuModuleGetFunction", found)?;
            }
            self.kernels.insert(name, function);
        }
        Ok(())
    }

    fn module(&self, code: &[u8]) -> Result<sys::CUmodule, CudaError> {
        let mut module = ptr::null_mut();
        self.context.make_current()?;
        // SAFETY: the code came from NVRTC or, with its checksum, from the cache.
        let loaded = unsafe { sys::cuModuleLoadData(&raw mut module, code.as_ptr().cast()) };
        expect("cuModuleLoadData", loaded).map(|()| module)
    }
}

/// What kernels are compiled with, and where they are kept.
struct Sources<'a> {
    nvrtc: &'a Nvrtc,
    driver: Driver,
    cache: &'a KernelCache,
    architecture: String,
}

impl Sources<'_> {
    fn key<'a>(&'a self, file: &'a KernelFile) -> Key<'a> {
        Key {
            source: &file.source,
            options: OPTIONS,
            architecture: &self.architecture,
            driver: self.driver.version(),
            nvrtc: self.nvrtc.version(),
        }
    }

    /// A file's code, kept or compiled.
    fn code(&self, file: &KernelFile) -> Result<Vec<u8>, CudaError> {
        static SAID: Once = Once::new();
        self.cache.get(self.key(file), || {
            let architecture = &self.architecture;
            SAID.call_once(|| {
                log::warn!("compiling the GPU's kernels for {architecture}: once, some seconds")
            });
            self.nvrtc.compile(file.name, &file.source, architecture)
        })
    }
}

impl Launcher for Gpu {
    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), CudaError> {
        let Some(&function) = self.kernels.get(call.kernel) else {
            return Err(CudaError::shape("launch", format!("there is no kernel {}", call.kernel)));
        };
        let [x, y] = call.grid;
        if x == 0 || y == 0 {
            return Ok(());
        }
        // The driver reads each argument through a pointer, as many bytes as the kernel's parameter has.
        let mut pointers = [ptr::null_mut::<c_void>(); MOST_ARGUMENTS];
        if call.arguments.len() > MOST_ARGUMENTS {
            return Err(CudaError::shape("launch", format!("{} has too many arguments", call.kernel)));
        }
        for (pointer, argument) in pointers.iter_mut().zip(call.arguments) {
            *pointer = match argument {
                Argument::Address(value) | Argument::U64(value) => ptr::from_ref(value).cast_mut().cast(),
                Argument::U32(value) => ptr::from_ref(value).cast_mut().cast(),
                Argument::F32(value) => ptr::from_ref(value).cast_mut().cast(),
            };
        }
        self.context.make_current()?;
        // SAFETY: by the caller; the driver copies the arguments before it returns.
        let launched = unsafe {
            sys::cuLaunchKernel(
                function,
                x,
                y,
                1,
                call.threads,
                1,
                1,
                0,
                self.context.stream,
                pointers.as_mut_ptr(),
                ptr::null_mut(),
            )
        };
        if launched == CUresult::CUDA_SUCCESS {
            return Ok(());
        }
        let error = expect("cuLaunchKernel", launched);
        log::error!("{}: grid {:?}, {} threads", call.kernel, call.grid, call.threads);
        error
    }

    unsafe fn multiply(&self, product: &Product<'_>) -> Result<bool, CudaError> {
        match &self.blas {
            // SAFETY: by the caller.
            Some(blas) => unsafe { blas.multiply(self, product) },
            None => Ok(false),
        }
    }
}

/// More than any kernel takes.
const MOST_ARGUMENTS: usize = 24;

impl Drop for Gpu {
    fn drop(&mut self) {
        let current = self.context.make_current();
        for module in self.modules.drain(..) {
            if current.is_ok() {
                // SAFETY: loaded once, unloaded once, after the work that uses it.
                unsafe {
                    let _ = sys::cuStreamSynchronize(self.context.stream);
                    let _ = sys::cuModuleUnload(module);
                }
            }
        }
    }
}

fn same_size(operation: &'static str, bytes: usize, view: View<'_>) -> Result<(), CudaError> {
    let expected = view.len() * view.number().size_in_bytes();
    if bytes == expected {
        return Ok(());
    }
    Err(CudaError::shape(operation, format!("{bytes} bytes for a view of {expected}")))
}
