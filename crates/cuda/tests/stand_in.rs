//! The stand-in for a GPU (`crates/cuda/stand-in`) keeps to what a GPU promises and no more: fresh memory is not zero,
//! nothing is done before somebody waits, and damage is an error that stays. Skipped where there is no C++ compiler.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "what is skipped is said")]

use std::ffi::{CString, c_char, c_int, c_void};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::ptr::{self, null_mut};
use std::sync::OnceLock;

use libloading::Library;
use tempfile::TempDir;

const ILLEGAL_ADDRESS: c_int = 700;
const LAUNCH_FAILED: c_int = 719;

/// Built once; each test opens a copy, for damage stays with the process.
static BUILT: OnceLock<Option<TempDir>> = OnceLock::new();

struct StandIn {
    library: Library,
    _folder: TempDir,
}

type Handle = *mut c_void;

/// Calls a function of the library and gives its status.
macro_rules! call {
    ($on:expr, $name:ident ( $($argument:expr => $kind:ty),* $(,)? )) => {{
        // SAFETY: the types are those of cuda.h or nvrtc.h; pointers are to live values.
        unsafe {
            let name = stringify!($name).as_bytes();
            $on.library.get::<unsafe extern "C" fn($($kind),*) -> c_int>(name).unwrap()($($argument),*)
        }
    }};
}

impl StandIn {
    /// A context is current in it.
    fn open() -> Option<Self> {
        let built = BUILT.get_or_init(|| {
            if !Command::new("g++").arg("--version").output().is_ok_and(|output| output.status.success()) {
                println!("skipped: there is no g++");
                return None;
            }
            let folder = tempfile::tempdir().unwrap();
            let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.ci/stand-in-gpu");
            let output = Command::new(script).arg(folder.path()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            Some(folder)
        });
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("libcuda.so.1");
        fs::copy(built.as_ref()?.path().join("libcuda.so.1"), &path).unwrap();
        // SAFETY: just built from the sources here.
        let on = Self { library: unsafe { Library::new(&path) }.unwrap(), _folder: folder };
        let mut context: Handle = null_mut();
        assert_eq!(call!(on, cuMemFree_v2(0 => u64)), 201, "no context is current yet");
        assert_eq!(call!(on, cuDevicePrimaryCtxRetain(&raw mut context => *mut Handle, 0 => c_int)), 0);
        assert_eq!(call!(on, cuCtxSetCurrent(context => Handle)), 0);
        Some(on)
    }

    fn memory(&self, bytes: usize) -> u64 {
        let mut address = 0;
        assert_eq!(call!(self, cuMemAlloc_v2(&raw mut address => *mut u64, bytes => usize)), 0);
        address
    }

    fn pinned(&self, words: usize) -> *mut u32 {
        let mut address: Handle = null_mut();
        assert_eq!(call!(self, cuMemAllocHost_v2(&raw mut address => *mut Handle, 4 * words => usize)), 0);
        address.cast()
    }

    fn wait(&self) -> c_int {
        call!(self, cuStreamSynchronize(null_mut() => Handle))
    }

    fn up(&self, to: u64, from: *const u32) {
        let from = from.cast();
        assert_eq!(
            call!(self, cuMemcpyHtoDAsync_v2(to => u64, from => *const c_void, 4 => usize, null_mut() => Handle)),
            0
        );
    }

    fn down(&self, to: *mut u32, from: u64) -> c_int {
        let to = to.cast();
        call!(self, cuMemcpyDtoHAsync_v2(to => Handle, from => u64, 4 => usize, null_mut() => Handle))
    }

    fn word(&self, from: u64) -> u32 {
        let mut word = 0;
        assert_eq!(self.down(&raw mut word, from), 0);
        word
    }

    /// Compiled code, or the compiler's log.
    fn compile(&self, source: &str) -> Result<Vec<u8>, String> {
        let (source, option) =
            (CString::new(source).unwrap(), CString::new("--gpu-architecture=sm_90").unwrap());
        let options = [option.as_ptr()];
        let (mut program, mut bytes): (Handle, usize) = (null_mut(), 0);
        type Texts = *const *const c_char;
        assert_eq!(
            call!(self, nvrtcCreateProgram(&raw mut program => *mut Handle, source.as_ptr() => *const c_char,
                c"test.cu".as_ptr() => *const c_char, 0 => c_int, ptr::null() => Texts, ptr::null() => Texts)),
            0
        );
        let status =
            call!(self, nvrtcCompileProgram(program => Handle, 1 => c_int, options.as_ptr() => Texts));
        if status != 0 {
            call!(self, nvrtcGetProgramLogSize(program => Handle, &raw mut bytes => *mut usize));
            let mut log = vec![0; bytes];
            call!(self, nvrtcGetProgramLog(program => Handle, log.as_mut_ptr() => *mut u8));
            return Err(String::from_utf8(log).unwrap());
        }
        call!(self, nvrtcGetCUBINSize(program => Handle, &raw mut bytes => *mut usize));
        let mut code = vec![0; bytes];
        call!(self, nvrtcGetCUBIN(program => Handle, code.as_mut_ptr() => *mut u8));
        assert_eq!(call!(self, nvrtcDestroyProgram(&raw mut program => *mut Handle)), 0);
        Ok(code)
    }

    fn load(&self, code: &[u8]) -> Result<Handle, c_int> {
        let mut module: Handle = null_mut();
        let from = code.as_ptr().cast();
        match call!(self, cuModuleLoadData(&raw mut module => *mut Handle, from => *const c_void)) {
            0 => Ok(module),
            status => Err(status),
        }
    }

    /// Launches a kernel of one pointer.
    fn launch(&self, source: &str, name: &str, threads: u32, mut x: u64) -> c_int {
        let module = self.load(&self.compile(source).unwrap()).unwrap();
        let (mut function, name): (Handle, _) = (null_mut(), CString::new(name).unwrap());
        assert_eq!(
            call!(self, cuModuleGetFunction(&raw mut function => *mut Handle, module => Handle,
                name.as_ptr() => *const c_char)),
            0
        );
        let mut arguments: [Handle; 1] = [(&raw mut x).cast()];
        call!(self, cuLaunchKernel(function => Handle, 1 => u32, 1 => u32, 1 => u32, threads => u32, 1 => u32,
            1 => u32, 0 => u32, null_mut() => Handle, arguments.as_mut_ptr() => *mut Handle,
            null_mut() => *mut Handle))
    }
}

#[test]
fn copies_read_and_write_pinned_memory_when_somebody_waits_and_no_earlier() {
    let Some(on) = StandIn::open() else { return };
    let (device, host) = (on.memory(4), on.pinned(2));
    assert_eq!(on.word(device), u32::MAX, "fresh memory is not zero");
    // SAFETY: two words of pinned memory.
    unsafe {
        *host = 1;
        on.up(device, host);
        *host = 2;
        assert_eq!(on.word(device), 2, "read after it was overwritten");
        *host = 3;
        on.up(device, host);
        assert_eq!(on.down(host.add(1), device), 0);
        assert_eq!(*host.add(1), u32::MAX, "nobody has waited");
        assert_eq!(on.wait(), 0);
        assert_eq!(*host.add(1), 3);
    }
    let mut pageable = 4;
    on.up(device, &raw const pageable);
    pageable += 1;
    assert_eq!(on.word(device), 4, "other memory is read at once; {pageable}");
}

#[test]
fn an_event_orders_two_streams_and_nothing_else_does() {
    let Some(on) = StandIn::open() else { return };
    let (device, host) = (on.memory(4), on.pinned(1));
    let (mut other, mut event): (Handle, Handle) = (null_mut(), null_mut());
    assert_eq!(call!(on, cuStreamCreate(&raw mut other => *mut Handle, 1 => u32)), 0);
    assert_eq!(call!(on, cuEventCreate(&raw mut event => *mut Handle, 0 => u32)), 0);
    // SAFETY: a word of pinned memory.
    unsafe { *host = 7 };
    on.up(device, host);
    let fill = |value: u32| {
        assert_eq!(call!(on, cuMemsetD32Async(device => u64, value => u32, 1 => usize, other => Handle)), 0);
        assert_eq!(call!(on, cuStreamSynchronize(other => Handle)), 0);
    };
    fill(8);
    assert_eq!(on.word(device), 7, "the copy came after the other stream's work");
    on.up(device, host);
    assert_eq!(call!(on, cuEventRecord(event => Handle, null_mut() => Handle)), 0);
    assert_eq!(call!(on, cuEventQuery(event => Handle)), 600, "not ready");
    assert_eq!(call!(on, cuStreamWaitEvent(other => Handle, event => Handle, 0 => u32)), 0);
    fill(9);
    assert_eq!(on.word(device), 9);
    assert_eq!(call!(on, cuEventQuery(event => Handle)), 0);
}

#[test]
fn what_does_not_fit_is_refused_and_breaks_nothing() {
    let Some(on) = StandIn::open() else { return };
    let (mut free, mut total, mut beyond) = (0_usize, 0_usize, 0_u64);
    let x = on.memory(8);
    assert_eq!(call!(on, cuMemGetInfo_v2(&raw mut free => *mut usize, &raw mut total => *mut usize)), 0);
    assert_eq!(total - free, 8);
    assert_eq!(call!(on, cuMemAlloc_v2(&raw mut beyond => *mut u64, free + 1 => usize)), 2, "out of memory");
    for (from, words, status) in [(x, 2, 0), (x, 3, 1), (x + 4, 2, 1), (x - 4, 1, 1), (x + 8, 1, 1)] {
        let filled = call!(on, cuMemsetD32Async(from => u64, 5 => u32, words => usize, null_mut() => Handle));
        assert_eq!(filled, status, "{words} words from {}", from.wrapping_sub(x) as i64);
    }
    let source = "extern \"C\" __global__ void one(unsigned *x) { if (threadIdx.x == 1023) *x = 1; }";
    assert_eq!(on.launch(source, "one", 1025, x), 1);
    assert_eq!(on.word(x), 5);
    assert_eq!(on.launch(source, "one", 1024, x), 0);
    assert_eq!(on.word(x), 1);
    assert_eq!(call!(on, cuMemFree_v2(x => u64)), 0);
    assert_eq!(call!(on, cuMemFree_v2(x => u64)), 1);
}

#[test]
fn a_source_that_does_not_compile_gives_a_log_and_a_damaged_image_is_refused() {
    let Some(on) = StandIn::open() else { return };
    let log = on.compile("extern \"C\" __global__ void zero(float *x) {\n    y = 0; }").unwrap_err();
    assert!(log.contains("test.cu:2:") && log.contains("'y'"), "{log}");
    let code = on.compile("extern \"C\" __global__ void zero(float *x) { *x = 0; }").unwrap();
    assert!(on.load(&code).is_ok());
    for place in [0, 9, 17, 30, code.len() - 1] {
        let mut damaged = code.clone();
        damaged[place] ^= 1;
        assert_eq!(on.load(&damaged), Err(200), "byte {place}");
    }
}

#[test]
fn a_write_beside_an_allocation_is_an_error_that_stays() {
    let Some(on) = StandIn::open() else { return };
    let x = on.memory(12);
    let source = "extern \"C\" __global__ void fill(float *x) { x[threadIdx.x] = 1; }";
    assert_eq!(on.launch(source, "fill", 3, x), 0);
    assert_eq!(on.wait(), 0);
    assert_eq!(on.launch(source, "fill", 4, x), 0, "not carried out yet");
    assert_eq!(on.wait(), ILLEGAL_ADDRESS);
    assert_eq!(call!(on, cuMemFree_v2(x => u64)), ILLEGAL_ADDRESS);
}

#[test]
fn a_barrier_that_some_threads_do_not_reach_is_an_error_that_stays() {
    let Some(on) = StandIn::open() else { return };
    let x = on.memory(4);
    let source = "extern \"C\" __global__ void half(float *x) {\n\
                  if (threadIdx.x < 32) __syncthreads();\n    *x = 1; }";
    assert_eq!(on.launch(source, "half", 32, x), 0);
    assert_eq!(on.wait(), 0);
    assert_eq!(on.launch(source, "half", 64, x), 0);
    assert_eq!(on.wait(), LAUNCH_FAILED);
    assert_eq!(on.down(null_mut(), x), LAUNCH_FAILED);
}
