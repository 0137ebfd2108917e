//! Keys of the model, the reference and the arithmetic.

use super::super::choices::LossType::{self, *};
use super::super::key::{Category::Model, Choice, Key, Kind, known_as, later};
use super::{HERE, HF, TRL};

pub(super) const WITH_REFERENCE: &[LossType] =
    &[Bso, Dpo, Cdpo, Ipo, IpoMean, Hinge, SafeDpo, Bfpo, Modpo, Kto];
/// The losses that read it beside those on log-ratios.
const REFERENCED: &[LossType] = &[Bso, Dpo, Cdpo, Ipo, IpoMean, Hinge, SafeDpo, Bfpo, Modpo, Kto, PpoLag];

const DTYPES: &[Choice] = &[
    known_as("f32", &["float32", "fp32"]),
    known_as("bf16", &["bfloat16"]),
    later(
        "f16",
        &["float16", "fp16", "half"],
        "f16 is a storage format here (weights in it are read); compute in `dtype: bf16` or `f32`",
    ),
];

pub(super) const KEYS: &[Key] = &[
    Key::required("model_name_or_path", Model, Kind::Source, "models/my-sft-model")
        .says(TRL, "Model to start from: a folder in Hugging Face layout (config.json, safetensors, tokenizer.json), or a name on the hub; families: docs/families.md.")
        .aliases(&["base_model", "model"]),
    Key::optional("ref_model", Model, Kind::Source, &["none"], "the model as it is before training")
        .says("DPO", "Folder, or name on the hub, of the frozen reference that log-ratios are taken against.")
        .only(REFERENCED)
        .aliases(&["ref_model_name_or_path"]),
    Key::new("precompute_ref_log_probs", Model, Kind::Bool, "true")
        .says("bso (TRL: false)", "The reference's log-probs are computed once, before training, and kept on disk under a fingerprint.")
        .only(WITH_REFERENCE)
        .not_yet("the reference is always computed once and cached, which gives the same numbers and costs half the memory; leave it out")
        .bookkeeping(),
    Key::new("device", Model, Kind::Device, "auto")
        .says(HERE, "Where the arithmetic runs: `auto` is an NVIDIA GPU where one is found and compiled in (docs/gpu.md), else the processor."),
    Key::optional("dtype", Model, Kind::Choice(DTYPES), &["auto"], "bf16 on a GPU and where the processor has AVX512-BF16, else f32")
        .says("TRL", "Number format of the arithmetic: f32, or products of bf16 with sums, weights and optimiser in f32.")
        .aliases(&["torch_dtype"]),
    Key::optional("bf16", Model, Kind::Bool, &["auto"], "as `dtype` says")
        .says("TRL", "Mixed bfloat16 precision: true is `dtype: bf16`, false is `dtype: f32`.")
        .bookkeeping(),
    Key::new("tf32", Model, Kind::Bool, "false")
        .says(HF, "On a GPU products in f32 may round their factors to TF32, for tensor cores: faster, and no longer the processor's numbers.")
        .bookkeeping(),
    Key::optional("num_threads", Model, Kind::Integer { min: 1, max: 4096 }, &["auto"], "one for each core the process may use")
        .says(HERE, "Threads of the arithmetic. Equal bytes need an equal number, because sums are grouped by thread.")
        .bookkeeping(),
    Key::new("gradient_checkpointing", Model, Kind::Bool, "false")
        .says("bso (TRL: true)", "Recompute activations in the backward pass: less memory, more time, the same numbers.")
        .bookkeeping(),
    Key::new("seed", Model, Kind::Integer { min: 0, max: u64::MAX }, "42")
        .says(HF, "Seed of the data order and the held-out split."),
];
