//! A GPU that is here: it opens, keeps its kernels, copies, and refuses what does not fit. Where there is none the test
//! says why; with `BSO_REQUIRE_GPU` set that is a failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "what is skipped, and how long things took, is shown")]

use std::env;
use std::fs;
use std::time::Instant;

use bso_cuda::operation::{add_assign, scale};
use bso_cuda::{Argument, Call, CudaError, Driver, Gpu, KernelCache, Launcher, Number};

#[test]
fn a_gpu_opens_twice_copies_and_computes() {
    if let Err(error) = Driver::open().and_then(|driver| driver.chip(0)) {
        assert!(env::var_os("BSO_REQUIRE_GPU").is_none(), "{error}");
        return println!("skipped: {error}");
    }
    let folder = tempfile::tempdir().unwrap();
    let cache = KernelCache::at(folder.path());
    let open = |what: &str| {
        let start = Instant::now();
        let gpu = Gpu::open(0, &cache).unwrap();
        println!("{what}: {:.2} s, {:?}", start.elapsed().as_secs_f64(), gpu.chip());
        gpu
    };
    drop(open("with every kernel compiled"));
    drop(open("with kernels from the cache"));
    let entries: Vec<_> = fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().path()).collect();
    let whole: Vec<_> = entries.iter().map(|path| fs::read(path).unwrap()).collect();
    for (path, whole) in entries.iter().zip(&whole) {
        fs::write(path, &whole[..whole.len() / 2]).unwrap();
    }
    let gpu = open("with every entry of the cache cut in half");
    for (path, whole) in entries.iter().zip(&whole) {
        assert_eq!(&fs::read(path).unwrap(), whole, "mended");
    }

    let numbers: Vec<f32> = (0..100_003).map(|i| i as f32).collect();
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_ne_bytes()).collect();
    let buffer = gpu.buffer(bytes.len()).unwrap();
    let x = buffer.view(Number::F32, 1, numbers.len()).unwrap();
    gpu.upload(&bytes, x).unwrap();
    let mut arena = gpu.arena(1 << 20).unwrap();
    for _ in 0..3 {
        let frame = arena.frame();
        let y = frame.take(Number::F32, 1, numbers.len()).unwrap();
        gpu.upload(&bytes, y).unwrap();
        add_assign(&gpu, y, x).unwrap();
        scale(&gpu, y, 0.25).unwrap();
        let mut back = vec![0; bytes.len()];
        gpu.download(y, &mut back).unwrap();
        let back: Vec<f32> =
            back.chunks_exact(4).map(|x| f32::from_ne_bytes(x.try_into().unwrap())).collect();
        assert!(back.iter().zip(&numbers).all(|(got, x)| *got == x / 2.0));
        assert!(matches!(frame.take(Number::F64, 1 << 10, 1 << 10), Err(CudaError::ArenaFull { .. })));
    }
    assert!(arena.peak() >= bytes.len());
    assert!(buffer.view(Number::F64, 1, numbers.len()).is_err());
    assert!(gpu.upload(&bytes[1..], x).is_err());
    let call = Call { kernel: "no_such_kernel", grid: [1, 1], threads: 32, arguments: &[Argument::U32(1)] };
    // SAFETY: there is no such kernel to go wrong.
    assert!(unsafe { gpu.launch(&call) }.is_err());
    assert!(gpu.buffer(usize::MAX / 2).is_err(), "more memory than there is");
}
