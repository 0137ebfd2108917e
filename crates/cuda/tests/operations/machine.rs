//! Where the operations' tests run: the emulation of the kernels on the CPU, and every GPU that is here. What is not
//! here is said; with `BSO_REQUIRE_GPU` set a missing GPU is a failure.

use std::env;
use std::sync::OnceLock;

use bso_cuda::{Buffer, Gpu, KernelCache, Launcher, Number, View};
use bso_engine::{Array, DType};
use half::bf16;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::emulator::{Emulator, InOrder};

/// One place to compute.
pub enum Machine<'a> {
    Emulated(InOrder<'a>),
    Gpu(&'a Gpu),
}

/// Numbers on a machine.
pub struct Held {
    view: View<'static>,
    memory: Memory,
}

enum Memory {
    /// With a margin on either side.
    Host(Vec<u64>),
    Gpu(#[expect(dead_code, reason = "kept alive")] Buffer),
}

/// Words on either side of a buffer of the emulation: NaN to whoever reads them, and still the same at the end.
const MARGIN: usize = 64;
const GUARD: u64 = 0xffff_ffff_ffff_ffff;

impl Machine<'_> {
    pub fn on(&self) -> &dyn Launcher {
        match self {
            Self::Emulated(emulated) => emulated,
            Self::Gpu(gpu) => *gpu,
        }
    }

    pub fn name(&self) -> String {
        match self {
            Self::Emulated(order) => format!("emulation, backwards: {}", order.backwards),
            Self::Gpu(gpu) => gpu.chip().name.clone(),
        }
    }

    fn hold(&self, number: Number, rows: usize, cols: usize, bytes: &[u8]) -> Held {
        assert_eq!(bytes.len(), rows * cols * number.size_in_bytes());
        match self {
            Self::Emulated(_) => {
                // An odd number of values ends inside a word: the rest of the word is margin as well.
                let mut words = vec![GUARD; bytes.len().div_ceil(8) + 2 * MARGIN];
                let address = words.as_mut_ptr() as u64 + 8 * MARGIN as u64;
                // SAFETY: inside the words just made, which live as long as what holds them.
                let view = unsafe {
                    std::ptr::copy_nonoverlapping(bytes.as_ptr(), address as *mut u8, bytes.len());
                    View::at(address, number, rows, cols)
                };
                Held { view, memory: Memory::Host(words) }
            }
            Self::Gpu(gpu) => {
                let buffer = gpu.buffer(bytes.len()).unwrap();
                let view = buffer.view(number, rows, cols).unwrap();
                gpu.upload(bytes, view).unwrap();
                // SAFETY: the buffer is kept beside it.
                let view = unsafe { View::at(view.address(), number, rows, cols) };
                Held { view, memory: Memory::Gpu(buffer) }
            }
        }
    }

    /// An array as it is.
    pub fn array(&self, array: &Array) -> Held {
        let values = array.to_f32_vec();
        let (number, bytes): (Number, Vec<u8>) = match array.dtype() {
            DType::Bf16 => {
                let bits = values.iter().flat_map(|value| bf16::from_f32(*value).to_bits().to_ne_bytes());
                (Number::Bf16, bits.collect())
            }
            _ => (Number::F32, values.iter().flat_map(|value| value.to_ne_bytes()).collect()),
        };
        self.hold(number, array.rows(), array.cols(), &bytes)
    }

    /// A row of numbers in f32.
    pub fn floats(&self, values: &[f32]) -> Held {
        self.array(&Array::from_vec(1, values.len(), values.to_vec()).unwrap())
    }

    /// A row of indices.
    pub fn indices(&self, values: &[u32]) -> Held {
        self.index_rows(1, values)
    }

    /// A row of bytes.
    pub fn bytes(&self, values: &[u8]) -> Held {
        self.hold(Number::U8, 1, values.len(), values)
    }

    /// Rows of indices.
    pub fn index_rows(&self, rows: usize, values: &[u32]) -> Held {
        let bytes: Vec<u8> = values.iter().flat_map(|value| value.to_ne_bytes()).collect();
        self.hold(Number::U32, rows, values.len() / rows, &bytes)
    }

    /// Room for a matrix, full of NaN.
    pub fn room(&self, number: Number, rows: usize, cols: usize) -> Held {
        self.hold(number, rows, cols, &vec![0xff; rows * cols * number.size_in_bytes()])
    }

    /// Zeros.
    pub fn zeros(&self, number: Number, rows: usize, cols: usize) -> Held {
        self.hold(number, rows, cols, &vec![0; rows * cols * number.size_in_bytes()])
    }

    /// The values, as f64 holds them all.
    pub fn values(&self, held: &Held) -> Vec<f64> {
        let (view, size) = (held.view, held.view.number().size_in_bytes());
        let mut bytes = vec![0; view.len() * size];
        match (&held.memory, self) {
            (Memory::Host(words), _) => {
                // SAFETY: the same words, read as bytes.
                let all = unsafe { std::slice::from_raw_parts(words.as_ptr().cast::<u8>(), 8 * words.len()) };
                let (before, rest) = all.split_at(8 * MARGIN);
                let (own, behind) = rest.split_at(bytes.len());
                assert!(before.iter().chain(behind).all(|byte| *byte == 0xff), "written outside the buffer");
                bytes.copy_from_slice(own);
            }
            (Memory::Gpu(_), Self::Gpu(gpu)) => gpu.download(view, &mut bytes).unwrap(),
            (Memory::Gpu(_), Self::Emulated(_)) => unreachable!("held by the machine that reads it"),
        }
        let chunks = bytes.chunks_exact(size);
        match view.number() {
            Number::F32 => chunks.map(|x| f64::from(f32::from_ne_bytes(x.try_into().unwrap()))).collect(),
            Number::F64 => chunks.map(|x| f64::from_ne_bytes(x.try_into().unwrap())).collect(),
            Number::U32 => chunks.map(|x| f64::from(u32::from_ne_bytes(x.try_into().unwrap()))).collect(),
            Number::U8 => chunks.map(|x| f64::from(x[0])).collect(),
            Number::Bf16 => chunks
                .map(|x| f64::from(bf16::from_bits(u16::from_ne_bytes(x.try_into().unwrap()))))
                .collect(),
        }
    }
}

impl Held {
    pub fn view(&self) -> View<'_> {
        self.view
    }
}

/// Runs `test` on every machine that is here.
pub fn on_every_machine(test: impl Fn(&Machine<'_>)) {
    static EMULATOR: OnceLock<Result<Emulator, String>> = OnceLock::new();
    static GPU: OnceLock<Result<Gpu, String>> = OnceLock::new();
    let mut machines = Vec::new();
    match EMULATOR.get_or_init(Emulator::build) {
        Ok(emulator) => {
            machines.extend([false, true].map(|backwards| Machine::Emulated(InOrder { emulator, backwards })))
        }
        Err(reason) => println!("the emulation is skipped: {reason}"),
    }
    let open = || Gpu::open(0, &KernelCache::of_user()).map_err(|error| error.to_string());
    match GPU.get_or_init(open) {
        Ok(gpu) => machines.push(Machine::Gpu(gpu)),
        Err(reason) if env::var_os("BSO_REQUIRE_GPU").is_some() => panic!("{reason}"),
        Err(reason) => println!("the GPU is skipped: {reason}"),
    }
    for machine in &machines {
        println!("on {}", machine.name());
        test(machine);
    }
}

/// Values in [-1, 1).
pub fn random(seed: u64, rows: usize, cols: usize) -> Array {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let data = (0..rows * cols).map(|_| rng.random_range(-1.0_f32..1.0)).collect();
    Array::from_vec(rows, cols, data).unwrap()
}

/// In f32 or bf16.
pub fn random_of(dtype: DType, seed: u64, rows: usize, cols: usize) -> Array {
    random(seed, rows, cols).to_dtype(dtype).unwrap()
}

pub fn zeros_of(dtype: DType, rows: usize, cols: usize) -> Array {
    Array::zeros_of(dtype, rows, cols).unwrap()
}

/// Both sides within `tolerance` of the largest wanted magnitude.
pub fn assert_close(what: &str, machine: &Machine<'_>, got: &Held, want: &[f32], tolerance: f64) {
    assert_near(what, machine, got, (want, 1e-30), tolerance);
}

/// As [`assert_close`], of magnitudes of at least `least`: where terms of that size cancel out.
pub fn assert_near(
    what: &str,
    machine: &Machine<'_>,
    got: &Held,
    (want, least): (&[f32], f64),
    tolerance: f64,
) {
    let got = machine.values(got);
    assert_eq!(got.len(), want.len(), "{what}: number of values");
    let size = want.iter().fold(least, |size, value| size.max(f64::from(value.abs())));
    let (name, mut largest) = (machine.name(), 0.0_f64);
    for (index, (got, want)) in got.iter().zip(want).enumerate() {
        let difference = (got - f64::from(*want)).abs();
        assert!(difference <= tolerance * size, "{name}: {what}[{index}] is {got} instead of {want}");
        largest = largest.max(difference / size);
    }
    // Seen with `--nocapture`: how near a success was.
    println!("{largest:.1e} of {tolerance:.1e} {what}");
}

/// What f32 may differ by, relative to the largest value: sums are in another order than the CPU's.
pub const F32: f64 = 1e-5;

/// What one rounding to bf16 may differ by where both sides round nearly the same number.
pub const BF16: f64 = 1.0 / 128.0;

pub fn tolerance(dtype: DType) -> f64 {
    if dtype == DType::Bf16 { BF16 } else { F32 }
}
