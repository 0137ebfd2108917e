//! Every kernel compiles for every generation of chips that is served, with NVRTC alone: no GPU, no driver. Where NVRTC
//! is not found the tests say so and check nothing; `.ci/run` installs it.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "what is skipped, and how long things took, is shown")]

use std::env;
use std::path::{Path, PathBuf};

use bso_cuda::{CudaError, Nvrtc, every_file, wheel_folders};

/// Ampere, Hopper, and the two kinds of Blackwell.
const ARCHITECTURES: [u32; 4] = [80, 90, 100, 120];

/// NVRTC where the system, `BSO_CUDA_LIBRARIES` or the tests' own Python (`BSO_PYTHON`) has it.
fn nvrtc() -> Option<Nvrtc> {
    let python = env::var_os("BSO_PYTHON").map(PathBuf::from);
    let home = python.as_deref().and_then(Path::parent).and_then(Path::parent);
    match Nvrtc::open_also_in(&home.map(wheel_folders).unwrap_or_default()) {
        // The stand-in's compiler (`crates/cuda/stand-in`) is that of the CPU.
        Ok(nvrtc) if nvrtc.version().0 == 0 => {
            println!("skipped: {} is a stand-in", nvrtc.place());
            None
        }
        Ok(nvrtc) => Some(nvrtc),
        Err(error) => {
            println!("skipped: {error}");
            None
        }
    }
}

#[test]
fn every_kernel_compiles_for_every_architecture() {
    let Some(nvrtc) = nvrtc() else { return };
    println!("NVRTC {:?} at {}", nvrtc.version(), nvrtc.place());
    let known = nvrtc.architectures().unwrap();
    let (known, unknown): (Vec<u32>, Vec<u32>) = ARCHITECTURES.iter().partition(|chip| known.contains(chip));
    if !unknown.is_empty() {
        println!("skipped: sm_{unknown:?}, which this NVRTC does not know; 12.8 and newer do");
    }
    assert!(!known.is_empty(), "an NVRTC that knows none of {ARCHITECTURES:?}");
    std::thread::scope(|scope| {
        for chip in known {
            let nvrtc = &nvrtc;
            scope.spawn(move || compile_all(nvrtc, &format!("sm_{chip}")));
        }
    });
}

fn compile_all(nvrtc: &Nvrtc, architecture: &str) {
    for file in every_file() {
        let code =
            nvrtc.compile(file.name, &file.source, architecture).unwrap_or_else(|error| panic!("{error}"));
        for kernel in file.kernels {
            // The entry's section in the ELF file.
            let section = format!(".text.{kernel}\0");
            assert!(
                code.windows(section.len()).any(|window| window == section.as_bytes()),
                "{} defines no kernel {kernel}",
                file.name
            );
        }
        // Arrays that are indexed by what only the running kernel knows, and more numbers than there are registers, go to
        // memory: nothing fails, all is slow.
        let frames = frames(&code);
        assert!(frames.len() >= file.kernels.len(), "{}: {} frames", file.name, frames.len());
        let kept = frames.iter().all(|(_, bytes)| *bytes == 0);
        assert!(kept, "{} for {architecture}: {frames:?}", file.name);
    }
}

/// Bytes that each thread of a kernel keeps in memory for want of registers: the frame sizes of the ELF file's `.nv.info`,
/// by the kernels' symbols.
fn frames(code: &[u8]) -> Vec<(u32, u32)> {
    const FRAME_SIZE: u8 = 0x11;
    let u16_at = |at: usize| u16::from_le_bytes(code[at..at + 2].try_into().unwrap()) as usize;
    let u32_at = |at: usize| u32::from_le_bytes(code[at..at + 4].try_into().unwrap());
    let u64_at = |at: usize| u64::from_le_bytes(code[at..at + 8].try_into().unwrap()) as usize;
    let section = |index: usize| u64_at(40) + index * u16_at(58);
    let names = u64_at(section(u16_at(62)) + 24);
    let named = |index: &usize| code[names + u32_at(section(*index)) as usize..].starts_with(b".nv.info\0");
    let info = section((0..u16_at(60)).find(named).unwrap());
    let (mut at, end) = (u64_at(info + 24), u64_at(info + 24) + u64_at(info + 32));
    let mut frames = Vec::new();
    while at < end {
        // Format 4 has a size, the others a value in its place.
        let (format, kind, size) = (code[at], code[at + 1], u16_at(at + 2));
        at += 4;
        if format == 4 {
            if kind == FRAME_SIZE {
                frames.push((u32_at(at), u32_at(at + 4)));
            }
            at += size;
        }
    }
    frames
}

#[test]
fn numbers_that_do_not_stay_in_registers_are_found() {
    let Some(nvrtc) = nvrtc() else { return };
    let indexed = "extern \"C\" __global__ void indexed(const unsigned *at, float *x) {
        float room[16];
        for (unsigned i = 0; i < 16; i++) room[at[i]] = x[i];
        x[0] = room[at[16]];
    }";
    let frames = frames(&nvrtc.compile("indexed.cu", indexed, "sm_80").unwrap());
    assert!(matches!(frames[..], [(_, 64..)]), "{frames:?}");
}

#[test]
fn a_kernel_that_does_not_compile_is_refused_with_file_and_line() {
    let Some(nvrtc) = nvrtc() else { return };
    let file = every_file().remove(0);
    let broken = file.source.replace("y[i] += x[i];", "y[i] += z[i];");
    assert_ne!(broken, file.source);
    let error = nvrtc.compile(file.name, &broken, "sm_80").unwrap_err();
    let CudaError::Compile { log, .. } = &error else { panic!("{error}") };
    assert!(log.contains("elementwise.cu(") && log.contains("\"z\" is undefined"), "{log}");
}

#[test]
fn an_architecture_that_does_not_exist_is_refused() {
    let Some(nvrtc) = nvrtc() else { return };
    let file = every_file().remove(0);
    let error = nvrtc.compile(file.name, &file.source, "sm_1").unwrap_err();
    assert!(error.to_string().contains("sm_1"), "{error}");
}
