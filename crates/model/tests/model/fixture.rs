//! The tiny models that `fixtures/make_parity.py` wrote, with PyTorch's numbers beside them.

use bso_engine::Array;
use bso_model::{Decoder, Device, Engine, Gradients, PackedBatch, PromptResponse};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

pub const CASES: [&str; 18] = [
    "llama_tied_gqa",
    "llama_untied_biases_sharded",
    "qwen2_untied_yarn",
    "qwen3_untied_sliding",
    "mistral_sliding",
    "smollm3_no_rope",
    "phi3_partial_rotary",
    "gemma2_soft_capped",
    "gemma3_two_ropes",
    "olmo2_post_norms",
    "gpt_neox_parallel",
    "gpt_neox_sequential",
    "gpt2_learned_positions",
    // Other rotary scaling, or a tied head, of a family above.
    "llama_rope_linear",
    "llama_rope_llama3",
    "llama_rope_dynamic",
    "qwen2_tied_gqa",
    "qwen3_tied_gqa",
];

/// One case for each family and arrangement that differs in what it computes.
pub const FAMILIES: [&str; 13] = *CASES.first_chunk().expect("there are more cases");

/// One engine for all tests, on the processor or on the device that `BSO_TEST_DEVICE` names.
pub fn engine() -> Arc<Engine> {
    static ENGINE: OnceLock<Arc<Engine>> = OnceLock::new();
    let open = || {
        let name = std::env::var("BSO_TEST_DEVICE").unwrap_or_else(|_| "cpu".to_owned());
        let device = Device::parse(&name).unwrap_or_else(|error| panic!("BSO_TEST_DEVICE: {error}"));
        let engine = Engine::on(device, Some(2)).unwrap();
        println!("on {device}: {}", engine.description());
        Arc::new(engine)
    };
    ENGINE.get_or_init(open).clone()
}

/// Whether tests run on the processor; what it alone can do is skipped elsewhere, and said.
pub fn on_processor(what: &str) -> bool {
    let there = engine().device() == Device::Cpu;
    if !there {
        println!("{what} is for the processor: skipped on {}", engine().device());
    }
    there
}

/// The numbers of an array, wherever it is.
pub trait Numbers {
    fn numbers(&self) -> Vec<f32>;
}

impl Numbers for Array {
    fn numbers(&self) -> Vec<f32> {
        self.on_host().unwrap().to_f32_vec()
    }
}

/// Where a case lies: below `tests/fixtures`, or below `BSO_FIXTURES` where the tests run elsewhere than they were built.
pub fn directory(case: &str) -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures");
    std::env::var_os("BSO_FIXTURES").map_or(here, PathBuf::from).join(case)
}

pub fn decoder(case: &str) -> Decoder {
    Decoder::load(&directory(case), engine()).unwrap()
}

pub type Sequences = Vec<(Vec<u32>, Vec<u32>)>;

/// PyTorch's numbers for a case.
pub struct Expected(BTreeMap<String, Vec<f32>>);

impl Expected {
    pub fn of(case: &str) -> Self {
        Self::at(&directory(case))
    }

    pub fn at(dir: &Path) -> Self {
        Self::from_file(&dir.join("expected.safetensors"))
    }

    pub fn from_file(file: &Path) -> Self {
        let bytes = std::fs::read(file).unwrap();
        let tensors = safetensors::SafeTensors::deserialize(&bytes).unwrap();
        let floats = |data: &[u8]| data.as_chunks::<4>().0.iter().map(|b| f32::from_le_bytes(*b)).collect();
        Self(tensors.iter().map(|(name, view)| (name.to_owned(), floats(view.data()))).collect())
    }

    pub fn floats(&self, name: &str) -> &[f32] {
        &self.0[name]
    }

    pub fn ids(&self, name: &str) -> Vec<u32> {
        self.0[name].iter().map(|x| *x as u32).collect()
    }

    /// Names and values of all gradients.
    pub fn gradients(&self) -> impl Iterator<Item = (&str, &[f32])> {
        self.0.iter().filter_map(|(name, v)| Some((name.strip_prefix("grad.")?, v.as_slice())))
    }

    pub fn sequences(&self) -> Sequences {
        (0..4)
            .map(|i| (self.ids(&format!("tokens.{i}.prompt")), self.ids(&format!("tokens.{i}.response"))))
            .collect()
    }
}

pub fn pack(sequences: &[(Vec<u32>, Vec<u32>)], share_prompt: bool) -> PackedBatch {
    let borrowed: Vec<PromptResponse<'_>> = sequences.iter().map(|(p, r)| (&p[..], &r[..])).collect();
    PackedBatch::from_sequences(&borrowed, share_prompt).unwrap()
}

/// Log-probs of the batch, and the gradients of their weighted sum.
pub fn log_probs_and_gradients(
    decoder: &Decoder,
    batch: &PackedBatch,
    weights: &[f32],
) -> (Vec<f64>, Gradients) {
    let (mut activations, mut gradients) =
        (bso_model::Activations::new(), Gradients::zeros(decoder).unwrap());
    let log_probs = decoder.forward(batch, &mut activations).unwrap().to_vec();
    decoder.backward(batch, &mut activations, weights, &mut gradients).unwrap();
    (log_probs, gradients)
}

/// `|a - b| / |b|` in the Euclidean norm.
pub fn relative_l2(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let norm = |v: &mut dyn Iterator<Item = f64>| v.map(|x| x * x).sum::<f64>().sqrt();
    let difference = norm(&mut a.iter().zip(b).map(|(a, b)| f64::from(*a) - f64::from(*b)));
    difference / norm(&mut b.iter().map(|b| f64::from(*b))).max(1e-30)
}

/// As [`relative_l2`], of a gradient. One that is zero but for rounding, which a key's bias is where nothing rotates (a
/// softmax does not see a shift of all scores), is measured against the largest of the model's gradients.
pub fn gradient_distance(a: &[f32], b: &[f32], largest: f64) -> f64 {
    let norm = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>().sqrt();
    let (difference, size) = (relative_l2(a, b), norm(b));
    if size < 1e-5 * largest { difference * size.max(1e-30) / largest } else { difference }
}

/// Euclidean norm of the largest gradient.
pub fn largest_norm(gradients: impl Iterator<Item = impl AsRef<[f32]>>) -> f64 {
    let square = |v: &[f32]| v.iter().map(|x| f64::from(*x).powi(2)).sum::<f64>();
    gradients.map(|gradient| square(gradient.as_ref())).fold(0.0, f64::max).sqrt()
}

/// The largest `|a - b|` over the largest `|b|`.
pub fn relative_max(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let largest = b.iter().fold(0f64, |m, b| m.max(f64::from(b.abs())));
    let differences = a.iter().zip(b).map(|(a, b)| (f64::from(*a) - f64::from(*b)).abs());
    differences.fold(0f64, |m, d| if d.is_nan() { f64::NAN } else { m.max(d) }) / largest.max(1e-30)
}
