//! A GPU that is here: it opens, keeps its kernels, copies, and refuses what does not fit. Where there is none the tests
//! say why; with `BSO_REQUIRE_GPU` set that is a failure. They also run on the stand-in (`crates/cuda/stand-in`).

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "what is skipped, and how long things took, is shown")]

use std::env;
use std::fs;
use std::path::Path;
use std::time::Instant;

use bso_cuda::operation::{add_assign, scale};
use bso_cuda::{Argument, Call, CudaError, Driver, Gpu, KernelCache, Launcher, Number, View};
use bso_durable::fingerprint_bytes;

/// Whether there is a GPU; if not, says why.
fn is_here() -> bool {
    let Err(error) = Driver::open().and_then(|driver| driver.chip(0)) else { return true };
    assert!(env::var_os("BSO_REQUIRE_GPU").is_none(), "{error}");
    println!("skipped: {error}");
    false
}

fn bytes_of(numbers: &[f32]) -> Vec<u8> {
    numbers.iter().flat_map(|x| x.to_ne_bytes()).collect()
}

fn download(gpu: &Gpu, from: View<'_>) -> Vec<f32> {
    let mut back = vec![0; 4 * from.len()];
    gpu.download(from, &mut back).unwrap();
    back.chunks_exact(4).map(|x| f32::from_ne_bytes(x.try_into().unwrap())).collect()
}

/// The content of every file.
fn contents(folder: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let paths = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let mut contents: Vec<_> = paths.map(|path| (path.clone(), fs::read(path).unwrap())).collect();
    contents.sort();
    contents
}

#[test]
fn a_gpu_opens_with_and_without_its_cache_and_mends_a_damaged_one() {
    if !is_here() {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path());
    let open = |what: &str| {
        let start = Instant::now();
        let gpu = Gpu::open(0, &cache).unwrap();
        println!("{what}: {:.2} s, {:?}", start.elapsed().as_secs_f64(), gpu.chip());
    };
    open("with every kernel compiled");
    open("with kernels from the cache");
    let whole = contents(folder.path());
    for (number, (path, entry)) in whole.iter().enumerate() {
        if number % 2 == 0 {
            fs::write(path, &entry[..entry.len() / 2]).unwrap();
        } else {
            // Whole by its checksum, and yet nothing that a driver takes.
            let code = b"no code at all\0".repeat(20);
            let mark = entry.split(|byte| *byte == b'\n').next().unwrap();
            let head = format!("{}\n{}\n", String::from_utf8_lossy(mark), fingerprint_bytes(&code));
            fs::write(path, [head.as_bytes(), &code].concat()).unwrap();
        }
    }
    open("with every entry of the cache damaged");
    assert!(contents(folder.path()) == whole, "mended");
}

#[test]
fn a_gpu_copies_computes_and_refuses_what_does_not_fit() {
    if !is_here() {
        return;
    }
    let gpu = Gpu::open(0, &KernelCache::of_user()).unwrap();
    let numbers: Vec<f32> = (0..100_003).map(|i| i as f32).collect();
    let bytes = bytes_of(&numbers);
    let buffer = gpu.buffer(bytes.len()).unwrap();
    let x = buffer.view(Number::F32, 1, numbers.len()).unwrap();
    assert!(download(&gpu, x).iter().all(|x| *x == 0.0), "zero at first");
    gpu.upload(&bytes, x).unwrap();
    let other = gpu.buffer(bytes.len()).unwrap();
    let y = other.view(Number::F32, 1, numbers.len()).unwrap();
    for _ in 0..3 {
        gpu.upload(&bytes, y).unwrap();
        add_assign(&gpu, y, x).unwrap();
        scale(&gpu, y, 0.25).unwrap();
        assert!(download(&gpu, y).iter().zip(&numbers).all(|(got, x)| *got == x / 2.0));
    }
    assert!(buffer.view(Number::F64, 1, numbers.len()).is_err());
    assert!(gpu.upload(&bytes[1..], x).is_err());
    let call = Call { kernel: "no_such_kernel", grid: [1, 1], threads: 32, arguments: &[Argument::U32(1)] };
    // SAFETY: there is no such kernel to go wrong.
    assert!(unsafe { gpu.launch(&call) }.is_err());
    for bytes in [gpu.chip().memory + 1, usize::MAX / 2] {
        let refused = gpu.buffer(bytes).unwrap_err();
        assert!(matches!(refused, CudaError::OutOfMemory { asked, .. } if asked == bytes), "{refused}");
    }
    // Nothing of this has broken it.
    add_assign(&gpu, x, x).unwrap();
    assert!(download(&gpu, x).iter().zip(&numbers).all(|(got, x)| *got == 2.0 * x));
}

#[test]
fn several_threads_launch_on_one_gpu() {
    if !is_here() {
        return;
    }
    let gpu = Gpu::open(0, &KernelCache::of_user()).unwrap();
    std::thread::scope(|scope| {
        for thread in 1..=4_u16 {
            let gpu = &gpu;
            scope.spawn(move || {
                let [x, y] = [(); 2].map(|()| gpu.buffer(4 * 1000).unwrap());
                let [x, y] = [&x, &y].map(|buffer| buffer.view(Number::F32, 1, 1000).unwrap());
                gpu.upload(&bytes_of(&[f32::from(thread); 1000]), x).unwrap();
                for round in 1..=300_u16 {
                    add_assign(gpu, y, x).unwrap();
                    if round % 100 == 0 {
                        assert!(download(gpu, y).iter().all(|sum| *sum == f32::from(thread * round)));
                    }
                }
            });
        }
    });
}
