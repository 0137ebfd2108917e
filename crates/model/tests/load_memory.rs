//! A base in few bits is never there in f32: while it is loaded, no more is allocated than what it is in the end and two of
//! its tensors (the numbers as they are read, and their codes in the making).
#![allow(clippy::unwrap_used, clippy::print_stdout, reason = "a failing test panics")]

use bso_durable::Seed;
use bso_model::{DType, Decoder, Engine, ModelConfig, Quantisation};
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::Arc;
use std::sync::atomic::{AtomicIsize, Ordering};

struct Counting;

static ALIVE: AtomicIsize = AtomicIsize::new(0);
static MOST: AtomicIsize = AtomicIsize::new(0);

fn note(change: isize) {
    let alive = ALIVE.fetch_add(change, Ordering::Relaxed) + change;
    MOST.fetch_max(alive, Ordering::Relaxed);
}

// SAFETY: hands everything on to the system's allocator and counts beside it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout.size() as isize);
        // SAFETY: by the caller.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        note(-(layout.size() as isize));
        // SAFETY: by the caller.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn loading_in_few_bits_takes_little_more_than_the_base_itself() {
    let dir = tempfile::tempdir().unwrap();
    let config = serde_json::json!({"model_type": "llama", "vocab_size": 64, "hidden_size": 256, "intermediate_size": 688,
        "num_hidden_layers": 12, "num_attention_heads": 4, "num_key_value_heads": 2, "max_position_embeddings": 64,
        "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "hidden_act": "silu"});
    std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
    let engine = Arc::new(Engine::cpu(Some(1)).unwrap());
    let config = ModelConfig::from_dir(dir.path()).unwrap();
    let model = Decoder::random(config, Seed::new(1), engine.clone()).unwrap();
    let (whole, largest) = (4 * model.parameter_count() as isize, 4 * 256 * 688);
    model.save(dir.path(), DType::Bf16).unwrap();
    drop(model);
    for (kind, share) in [(Quantisation::Int8, 3.8), (Quantisation::Nf4 { nested: false }, 6.5)] {
        let before = ALIVE.load(Ordering::Relaxed);
        MOST.store(before, Ordering::Relaxed);
        let decoder = Decoder::load_quantised(dir.path(), kind, engine.clone()).unwrap();
        let (most, left) = (MOST.load(Ordering::Relaxed) - before, ALIVE.load(Ordering::Relaxed) - before);
        println!("{kind:?}: {whole} bytes in f32, {left} loaded, at most {most} meanwhile");
        assert!((left as f64) < whole as f64 / share, "{kind:?}: {left} of {whole}");
        assert!(
            most < left + 2 * largest,
            "{kind:?}: {most} with {left} left, the largest tensor has {largest}"
        );
        drop(decoder);
    }
}
