//! Products by cuBLASLt on a GPU that is here, or on the stand-in for one: every way that factors can lie, every mix of
//! precisions, against sums in f64, beside the kernels' own. Where there is no GPU, or no cuBLASLt, the tests say so;
//! with `BSO_REQUIRE_GPU` set a missing GPU is a failure.

#![allow(clippy::unwrap_used, clippy::panic, reason = "a test stops where something is not as it should be")]
#![allow(clippy::print_stdout, reason = "what is skipped, and how near a success was, is shown")]

use std::env;

use bso_cuda::operation::{Factor, product};
use bso_cuda::{Buffer, Call, CudaError, Gpu, KernelCache, Launcher, Number, View};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use Number::{Bf16, F32};

/// A GPU whose products go through cuBLASLt.
fn gpu() -> Option<Gpu> {
    let gpu = match Gpu::open(0, &KernelCache::of_user()) {
        Ok(gpu) => gpu,
        Err(error) => {
            assert!(env::var_os("BSO_REQUIRE_GPU").is_none(), "{error}");
            println!("skipped: {error}");
            return None;
        }
    };
    if gpu.blas().is_none() {
        assert!(!is_stand_in(&gpu), "the stand-in has cuBLASLt");
        println!("skipped: there is no cuBLASLt; products are those of the kernels");
        return None;
    }
    Some(gpu)
}

fn is_stand_in(gpu: &Gpu) -> bool {
    gpu.chip().name.starts_with("stand-in")
}

fn plans(gpu: &Gpu) -> u64 {
    gpu.blas().unwrap().plans()
}

/// The GPU's kernels without its cuBLASLt.
struct Kernels<'a>(&'a Gpu);

impl Launcher for Kernels<'_> {
    unsafe fn launch(&self, call: &Call<'_>) -> Result<(), CudaError> {
        // SAFETY: by the caller.
        unsafe { self.0.launch(call) }
    }
}

/// A matrix on the GPU and its values.
struct Matrix {
    buffer: Buffer,
    values: Vec<f32>,
    number: Number,
    rows: usize,
    cols: usize,
}

impl Matrix {
    /// Values in [-1, 1) that the precision holds.
    fn random(gpu: &Gpu, seed: u64, number: Number, rows: usize, cols: usize) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        let values: Vec<f32> = (0..rows * cols)
            .map(|_| rng.random_range(-1.0_f32..1.0))
            .map(|value| if number == Bf16 { bf16::from_f32(value).to_f32() } else { value })
            .collect();
        let bytes: Vec<u8> = match number {
            Bf16 => values.iter().flat_map(|x| bf16::from_f32(*x).to_bits().to_ne_bytes()).collect(),
            _ => values.iter().flat_map(|x| x.to_ne_bytes()).collect(),
        };
        let buffer = gpu.buffer(bytes.len()).unwrap();
        gpu.upload(&bytes, buffer.view(number, rows, cols).unwrap()).unwrap();
        Self { buffer, values, number, rows, cols }
    }

    fn view(&self) -> View<'_> {
        self.buffer.view(self.number, self.rows, self.cols).unwrap()
    }

    fn factor(&self, transposed: bool) -> Factor<'_> {
        Factor { matrix: self.view(), transposed }
    }

    /// Number (row, col) of the matrix, or of it turned round; rounded where the other factor is in bf16.
    fn at(&self, transposed: bool, rounded: bool, row: usize, col: usize) -> f64 {
        let (row, col) = if transposed { (col, row) } else { (row, col) };
        let value = self.values[row * self.cols + col];
        f64::from(if rounded { bf16::from_f32(value).to_f32() } else { value })
    }

    fn download(&self, gpu: &Gpu) -> Vec<f64> {
        let size = self.number.size_in_bytes();
        let mut bytes = vec![0; size * self.rows * self.cols];
        gpu.download(self.view(), &mut bytes).unwrap();
        let chunks = bytes.chunks_exact(size);
        match self.number {
            Bf16 => chunks.map(|x| bf16::from_ne_bytes(x.try_into().unwrap()).to_f64()).collect(),
            _ => chunks.map(|x| f64::from(f32::from_ne_bytes(x.try_into().unwrap()))).collect(),
        }
    }
}

#[derive(Debug, Clone, Copy)]
struct Case {
    sizes: [usize; 3],
    numbers: [Number; 3],
    turned: [bool; 2],
    add: bool,
}

/// The largest difference, relative to the largest value, of the product by `on`.
fn difference(gpu: &Gpu, on: &dyn Launcher, case: Case) -> f64 {
    let Case { sizes: [m, n, k], numbers, turned, add } = case;
    let shape = |rows, cols, turned| if turned { (cols, rows) } else { (rows, cols) };
    let ((a_rows, a_cols), (b_rows, b_cols)) = (shape(m, k, turned[0]), shape(k, n, turned[1]));
    let a = Matrix::random(gpu, 1, numbers[0], a_rows, a_cols);
    let b = Matrix::random(gpu, 2, numbers[1], b_rows, b_cols);
    let c = Matrix::random(gpu, 3, numbers[2], m, n);
    product(on, a.factor(turned[0]), b.factor(turned[1]), c.view(), add).unwrap();
    let (mut largest, mut size) = (0.0_f64, 0.0_f64);
    for (index, got) in c.download(gpu).into_iter().enumerate() {
        let (row, col) = (index / n, index % n);
        let old = if add { f64::from(c.values[index]) } else { 0.0 };
        let rounded = numbers[1] == Bf16;
        let terms = (0..k).map(|i| a.at(turned[0], rounded, row, i) * b.at(turned[1], false, i, col));
        let want = old + terms.sum::<f64>();
        largest = largest.max((got - want).abs());
        size = size.max(want.abs());
    }
    if size > 0.0 { largest / size } else { largest }
}

#[test]
fn factors_may_lie_either_way_in_every_precision() {
    let Some(gpu) = gpu() else { return };
    let blas = gpu.blas().unwrap();
    println!("cuBLASLt {} at {}", blas.version(), blas.place());
    let mixes = [[F32; 3], [Bf16, Bf16, F32], [Bf16; 3], [F32, Bf16, F32], [F32, Bf16, Bf16]];
    for numbers in mixes {
        let tolerance = if numbers[2] == Bf16 { 1.0 / 256.0 } else { 1e-5 };
        let mut largest = [0.0_f64; 2];
        for sizes in [[1, 1, 1], [3, 5, 7], [64, 32, 96], [65, 70, 33], [2, 130, 257]] {
            for (a, b, add) in (0..8).map(|bits| (bits & 1 > 0, bits & 2 > 0, bits & 4 > 0)) {
                let case = Case { sizes, numbers, turned: [a, b], add };
                let before = plans(&gpu);
                for (largest, on) in largest.iter_mut().zip([&gpu as &dyn Launcher, &Kernels(&gpu)]) {
                    let seen = difference(&gpu, on, case);
                    assert!(seen <= tolerance, "{seen:.1e} in {case:?}");
                    *largest = largest.max(seen);
                }
                // Adding or not is no other shape, and what is rounded to bf16 is as what was in bf16 before.
                let is_new = !add && numbers[0] == numbers[1];
                assert_eq!(plans(&gpu) - before, u64::from(is_new), "{case:?}");
            }
        }
        let [by_blas, by_kernels] = largest;
        println!(
            "{numbers:?}: {by_blas:.1e} by cuBLASLt, {by_kernels:.1e} by the kernels, of {tolerance:.1e}"
        );
    }
}

#[test]
fn a_shape_is_planned_once_and_gives_the_same_bits_each_time() {
    let Some(gpu) = gpu() else { return };
    let [a, b] = [4, 5].map(|seed| Matrix::random(&gpu, seed, F32, 40, 40));
    let b16 = Matrix::random(&gpu, 6, Bf16, 40, 40);
    let c = Matrix::random(&gpu, 7, F32, 40, 40);
    let mut seen = Vec::new();
    for (planned, b) in [(1, &b), (1, &b), (2, &b16), (2, &b16)] {
        product(&gpu, a.factor(false), b.factor(true), c.view(), false).unwrap();
        assert_eq!(plans(&gpu), planned);
        seen.push(c.download(&gpu));
    }
    assert!(seen[0] == seen[1] && seen[2] == seen[3] && seen[0] != seen[2]);
}

#[test]
fn a_factor_is_rounded_into_memory_that_grows() {
    let Some(gpu) = gpu() else { return };
    // Queued one behind another: a larger one must not take the memory from the work before it.
    let sizes = [[8, 8, 8], [33, 8, 65], [8, 8, 8], [128, 16, 64]];
    let held: Vec<_> = sizes
        .map(|[m, n, k]| {
            let a = Matrix::random(&gpu, 8, F32, m, k);
            (a, Matrix::random(&gpu, 9, Bf16, k, n), Matrix::random(&gpu, 10, F32, m, n))
        })
        .into();
    for (a, b, c) in &held {
        product(&gpu, a.factor(false), b.factor(false), c.view(), false).unwrap();
    }
    let queued: Vec<_> = held.iter().map(|(_, _, c)| c.download(&gpu)).collect();
    for ((a, b, c), queued) in held.iter().zip(queued) {
        product(&Kernels(&gpu), a.factor(false), b.factor(false), c.view(), false).unwrap();
        let near = c.download(&gpu).iter().zip(&queued).all(|(kernel, blas)| (kernel - blas).abs() < 1e-4);
        assert!(near, "{:?}", (a.rows, b.cols, a.cols));
    }
}

#[test]
fn what_cublaslt_does_not_do_the_kernels_do() {
    let Some(gpu) = gpu() else { return };
    let (a, b) = (Matrix::random(&gpu, 11, Bf16, 9, 20), Matrix::random(&gpu, 12, Bf16, 1, 201));
    let c = Matrix::random(&gpu, 13, F32, 9, 10);
    // From its second number on: an address that is no multiple of 4.
    // SAFETY: 200 of its 201 numbers.
    let shifted = unsafe { View::at(b.view().address() + 2, Bf16, 10, 20) };
    for _ in 0..2 {
        product(&gpu, a.factor(false), Factor::transposed(shifted), c.view(), false).unwrap();
        assert_eq!(plans(&gpu), 1, "a refusal is remembered");
    }
    for (index, got) in c.download(&gpu).into_iter().enumerate() {
        let (row, col) = (index / 10, index % 10);
        let want: f64 =
            (0..20).map(|i| a.at(false, false, row, i) * f64::from(b.values[1 + 20 * col + i])).sum();
        assert!((got - want).abs() < 1e-4, "{got} instead of {want}");
    }
    // Nothing to add up is zero, or what was there.
    let empty = gpu.buffer(0).unwrap();
    let [x, y] = [(9, 0), (0, 10)].map(|(rows, cols)| empty.view(F32, rows, cols).unwrap());
    let before = c.download(&gpu);
    product(&gpu, Factor::plain(x), Factor::plain(y), c.view(), true).unwrap();
    assert_eq!(c.download(&gpu), before);
    product(&gpu, Factor::plain(x), Factor::plain(y), c.view(), false).unwrap();
    assert!(c.download(&gpu).iter().all(|value| *value == 0.0));
}

#[test]
fn tf32_is_used_only_where_it_was_asked_for() {
    let Some(gpu) = gpu() else { return };
    let case = Case { sizes: [64, 64, 64], numbers: [F32; 3], turned: [false, true], add: false };
    let exact = difference(&gpu, &gpu, case);
    gpu.blas().unwrap().set_tf32(true);
    let rounded = difference(&gpu, &gpu, case);
    gpu.blas().unwrap().set_tf32(false);
    println!("{exact:.1e} in f32, {rounded:.1e} in TF32");
    assert!(exact < 1e-5 && rounded < 1e-2);
    // A GPU may find f32 as fast for so small a product.
    assert!(rounded > 1e-5 || !is_stand_in(&gpu));
    assert_eq!(difference(&gpu, &gpu, case), exact);
    assert_eq!(plans(&gpu), 2);
}
