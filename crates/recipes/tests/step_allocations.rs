//! Memory is taken once per shape: after its first steps a training step allocates nothing that grows with tokens or
//! parameters, on any thread.
//!
//! What is left is small and counted per sequence, not per token: lists of the batch's examples, weights and
//! observations (which outlive the step), segments, and now and then a block of the thread pool's queue. The one
//! exception is f32 on the fastest path: the `gemm` crate packs the right factor of a product into memory that it takes
//! and frees in each call, and offers no way to lend it any. There the test asserts that all is given back but a buffer
//! that each thread keeps, and that no allocation is larger than such a packed factor.
#![allow(clippy::unwrap_used, clippy::panic, clippy::print_stdout, reason = "a failing test panics")]

mod support;

use bso_durable::Seed;
use bso_model::{CpuPath, DType, Decoder, Engine, Optimiser, OptimiserKind};
use bso_recipes::step::{MicroBatch, Step, StepMemory, optimise};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicIsize, AtomicUsize, Ordering};
use support::{examples, objective};

struct Counting;

static ON: AtomicBool = AtomicBool::new(false);
static LARGEST: AtomicUsize = AtomicUsize::new(0);
static ALIVE: AtomicIsize = AtomicIsize::new(0);

fn note(size: usize) {
    if ON.load(Ordering::Relaxed) {
        LARGEST.fetch_max(size, Ordering::Relaxed);
        ALIVE.fetch_add(size as isize, Ordering::Relaxed);
    }
}

fn unnote(size: usize) {
    if ON.load(Ordering::Relaxed) {
        ALIVE.fetch_sub(size as isize, Ordering::Relaxed);
    }
}

// SAFETY: hands everything on to the system's allocator and counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size());
        // SAFETY: by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unnote(layout.size());
        // SAFETY: by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(size);
        unnote(layout.size());
        // SAFETY: by the caller.
        unsafe { System.realloc(pointer, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes: less than one u32 for each of the batch's rows, so that nothing per token or per parameter passes.
const TINY: usize = 2048;

/// Steps that must be seen without growth of the working memory, and among how many.
const QUIET: (usize, usize) = (5, 100);

/// The largest allocation within steps, and the bytes that they left alive. Steps in which the engine's working memory
/// grew do not count: threads that borrow from it at the same time for the first time make it grow, whenever that is.
fn measure(path: CpuPath, dtype: DType, checkpointed: bool, loss: &str) -> (usize, isize) {
    let engine = Arc::new(Engine::cpu_with_path(Some(2), path).unwrap());
    let shape = support::decoder(DType::F32).config().clone();
    let mut policy = Decoder::random(shape, Seed::new(1), engine.clone()).unwrap();
    policy.compute_in(dtype, true).unwrap();
    let (objective, examples) = (objective(loss), examples(4, 150, support::is_kto(loss)));
    let reference: Vec<Vec<f64>> = examples.iter().map(|e| vec![-5.0; e.scored().count()]).collect();
    let rows: usize = examples.iter().map(|e| e.tokens()).sum();
    assert!(4 * rows > TINY, "the batch is too small to show an allocation per token");
    let mut optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.0, &policy).unwrap();
    let mut memory = StepMemory::new(&policy, checkpointed).unwrap();
    let (mut largest, mut alive, mut quiet) = (0, 0, 0);
    for count in 0..QUIET.1 {
        let micro = || MicroBatch {
            examples: examples.iter().collect(),
            reference: reference.iter().map(Vec::as_slice).collect(),
        };
        let step = Step {
            micro_batches: vec![micro(), micro()],
            replay: Vec::new(),
            rate: 1e-5,
            max_grad_norm: Some(1.0),
            dropout: bso_durable::Seed::new(0),
        };
        let before = engine.scratch_bytes();
        LARGEST.store(0, Ordering::Relaxed);
        ALIVE.store(0, Ordering::Relaxed);
        ON.store(true, Ordering::Relaxed);
        let outcome = optimise(&mut policy, &mut optimiser, &mut memory, &objective, &step, |_| Ok(()));
        ON.store(false, Ordering::Relaxed);
        assert!(outcome.unwrap().grad_norm.is_finite());
        if count >= 2 && engine.scratch_bytes() == before {
            largest = largest.max(LARGEST.load(Ordering::Relaxed));
            alive = alive.max(ALIVE.load(Ordering::Relaxed));
            quiet += 1;
        }
        if quiet == QUIET.0 {
            return (largest, alive);
        }
    }
    panic!("in {} steps the working memory came to no rest", QUIET.1)
}

#[test]
fn a_step_in_the_steady_state_allocates_nothing_that_grows() {
    for path in CpuPath::EVERY.into_iter().filter(|path| path.is_available()) {
        for dtype in [DType::F32, DType::Bf16] {
            for checkpointed in [false, true] {
                for loss in ["loss_type: bso\nsafety_penalty: 2", "loss_type: kto"] {
                    let (largest, alive) = measure(path, dtype, checkpointed, loss);
                    let (name, dtype_name) = (path.name(), dtype.name());
                    println!(
                        "{name} {dtype_name} checkpointed {checkpointed}: largest {largest}, alive {alive}"
                    );
                    let library = dtype == DType::F32 && path == CpuPath::best();
                    // A right factor of at most 512 by 1300, in whole strips.
                    let limit = if library { 4 * 512 * 1408 } else { TINY };
                    assert!(largest <= limit, "{name} {dtype_name} {checkpointed} {loss}: {largest} bytes");
                    // Its threads keep a buffer as large as the second cache from their first product on.
                    let kept = if library { 2 * (4 << 20) } else { 4 * TINY };
                    assert!(alive <= kept as isize, "{name} {dtype_name} {checkpointed} {loss}: {alive}");
                }
            }
        }
    }
}
