//! The kernels on the CPU: their sources behind `emulate.hpp`, built by the system's C++ compiler.

use std::collections::BTreeMap;
use std::ffi::{CString, c_char, c_int, c_uint, c_void};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::ptr;
use std::sync::Mutex;

use bso_cuda::{Argument, Call, CudaError, KernelFile, Launcher, every_file};
use libloading::Library;

type Emulate = unsafe extern "C" fn(
    *const c_char,
    c_uint,
    c_uint,
    c_uint,
    *mut *mut c_void,
    c_uint,
    *const c_uint,
    bool,
) -> c_int;

/// Every file, built.
pub struct Emulator {
    kernels: BTreeMap<&'static str, usize>,
    libraries: Vec<Library>,
    /// The emulation is one block at a time, in globals.
    busy: Mutex<()>,
}

impl Emulator {
    /// Builds the kernels; the reason where that is not possible here.
    pub fn build() -> Result<Self, String> {
        let compiler = ["g++", "clang++"].into_iter().find(|name| {
            Command::new(name).arg("--version").output().is_ok_and(|output| output.status.success())
        });
        let compiler = compiler.ok_or("no C++ compiler (g++, clang++) is there")?;
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("emulate.hpp"), include_str!("../../stand-in/emulate.hpp")).unwrap();
        let files = every_file();
        std::thread::scope(|scope| {
            for file in &files {
                let folder = folder.path();
                scope.spawn(move || compile(compiler, folder, file));
            }
        });
        let (mut kernels, mut libraries) = (BTreeMap::new(), Vec::new());
        for (index, file) in files.iter().enumerate() {
            // SAFETY: just built from the sources here.
            libraries.push(unsafe { Library::new(folder.path().join(format!("{}.so", file.name))) }.unwrap());
            kernels.extend(file.kernels.iter().map(|kernel| (*kernel, index)));
        }
        Ok(Self { kernels, libraries, busy: Mutex::new(()) })
    }

    /// Carries a launch out, threads and blocks in order or backwards.
    fn carry_out(&self, call: &Call<'_>, backwards: bool) {
        let library = &self.libraries[self.kernels[call.kernel]];
        let name = CString::new(call.kernel).unwrap();
        let mut pointers: Vec<*mut c_void> = call.arguments.iter().map(address).collect();
        let sizes: Vec<c_uint> = call.arguments.iter().map(size).collect();
        let [x, y] = call.grid;
        let _busy = self.busy.lock().unwrap();
        // SAFETY: the signature is the generated one; sizes of arguments are compared with the kernel's there.
        let status = unsafe {
            let emulate = library.get::<Emulate>("emulate").unwrap();
            let (count, list) = (pointers.len() as c_uint, pointers.as_mut_ptr());
            emulate(name.as_ptr(), x, y, call.threads, list, count, sizes.as_ptr(), backwards)
        };
        let meaning = match status {
            0 => return,
            1 => "no such kernel",
            2 => "a barrier or shuffle that some threads do not take part in",
            _ => "arguments of other types than the kernel's",
        };
        panic!("{}: {meaning}", call.kernel);
    }
}

fn compile(compiler: &str, folder: &Path, file: &KernelFile) {
    let cases: String = file
        .kernels
        .iter()
        .map(|kernel| {
            format!(
                "    if (!strcmp(name, \"{kernel}\")) return emulator::start<{kernel}>(x, y, threads, list, count, sizes, back);\n"
            )
        })
        .collect();
    let text = format!(
        "#include \"emulate.hpp\"\n{}\nextern \"C\" int emulate(const char *name, unsigned x, unsigned y, unsigned threads, \
         void **list, unsigned count, const unsigned *sizes, bool back) {{\n{cases}    return 1;\n}}\n",
        file.source
    );
    let (source, library) =
        (folder.join(format!("{}.cpp", file.name)), folder.join(format!("{}.so", file.name)));
    fs::write(&source, text).unwrap();
    let built = Command::new(compiler)
        .args(["-std=c++17", "-O2", "-shared", "-fPIC", "-U_FORTIFY_SOURCE", "-Wno-unknown-pragmas", "-o"])
        .args([&library, &source])
        .output()
        .unwrap();
    assert!(built.status.success(), "{}: {}", file.name, String::from_utf8_lossy(&built.stderr));
}

fn address(argument: &Argument) -> *mut c_void {
    match argument {
        Argument::Address(value) | Argument::U64(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::U32(value) => ptr::from_ref(value).cast_mut().cast(),
        Argument::F32(value) => ptr::from_ref(value).cast_mut().cast(),
    }
}

fn size(argument: &Argument) -> c_uint {
    match argument {
        Argument::Address(_) | Argument::U64(_) => 8,
        Argument::U32(_) | Argument::F32(_) => 4,
    }
}

/// The emulator with an order of threads.
pub struct InOrder<'a> {
    pub emulator: &'a Emulator,
    pub backwards: bool,
}

impl Launcher for InOrder<'_> {
    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), CudaError> {
        self.emulator.carry_out(call, self.backwards);
        Ok(())
    }
}
