//! Which weights, which reference, which arithmetic.

use super::super::choices::{DTypeChoice, LossType};
use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::super::value::Setting;
use super::Settings;
use bso_model::{CpuPath, Device, EngineError};
use std::path::PathBuf;

/// The model, the reference and the arithmetic.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelSection {
    /// Folder of the weights to start from.
    pub model_name_or_path: PathBuf,
    /// Folder of the frozen reference; `None`: the model as it is before training.
    pub ref_model: Option<PathBuf>,
    /// Where the arithmetic runs, as it was asked for: `auto` may be another device elsewhere.
    pub device: String,
    /// Number format of the arithmetic; `bf16` is read into it, and what this processor is fast in where neither is given.
    pub dtype: DTypeChoice,
    /// Whether products in f32 may round their factors to TF32 on a GPU.
    pub tf32: bool,
    /// Whether activations are computed again in the backward pass instead of kept.
    pub gradient_checkpointing: bool,
    /// Threads; `None`: one per physical core.
    pub num_threads: Option<usize>,
    /// Seed of data order and held-out split.
    pub seed: u64,
}

impl ModelSection {
    pub(in super::super) fn read(r: &Resolver) -> Result<Self, ConfigError> {
        Ok(Self {
            model_name_or_path: r.path("model_name_or_path")?,
            ref_model: match r.loss {
                LossType::Nll | LossType::Reward | LossType::Cost => None,
                _ => r.optional_path("ref_model")?,
            },
            device: r.text("device")?,
            dtype: dtype(r)?,
            tf32: r.bool("tf32")?,
            gradient_checkpointing: r.bool("gradient_checkpointing")?,
            num_threads: r.optional_integer("num_threads")?.map(|n| n as usize),
            seed: r.integer("seed")?,
        })
    }

    pub(in super::super) fn write(&self, out: &mut Settings) {
        out.path("model_name_or_path", &self.model_name_or_path);
        if let Some(reference) = &self.ref_model {
            out.path("ref_model", reference);
        }
        out.put("device", Setting::Text(self.device.clone()));
        out.choice("dtype", self.dtype);
        out.bool("bf16", self.dtype == DTypeChoice::Bf16);
        out.bool("tf32", self.tf32);
        out.bool("gradient_checkpointing", self.gradient_checkpointing);
        out.optional_integer("num_threads", self.num_threads.map(|n| n as u64));
        out.integer("seed", self.seed);
    }

    /// The device that `device` means here.
    ///
    /// # Errors
    /// It is not there.
    pub fn device(&self) -> Result<Device, EngineError> {
        Device::parse(&self.device)
    }

    /// The precision that the decoder computes in.
    pub fn compute_dtype(&self) -> bso_model::DType {
        match self.dtype {
            DTypeChoice::F32 => bso_model::DType::F32,
            DTypeChoice::Bf16 => bso_model::DType::Bf16,
        }
    }

    /// The reference in words, for the start of a run.
    pub fn reference_in_words(&self) -> String {
        match &self.ref_model {
            Some(path) => format!("the frozen model in {}", path.display()),
            None => format!("{} as it is before training", self.model_name_or_path.display()),
        }
    }
}

/// `dtype`, or `bf16` in its place: the stronger layer wins.
fn dtype(r: &Resolver) -> Result<DTypeChoice, ConfigError> {
    let (named, flag) = (r.optional_choice("dtype")?, r.optional_bool("bf16")?);
    let of = |bf16| if bf16 { DTypeChoice::Bf16 } else { DTypeChoice::F32 };
    Ok(match (named, flag.map(of)) {
        (Some(named), Some(flag)) if named != flag && r.layer_of("dtype") == r.layer_of("bf16") => {
            let problem = format!("`bf16` and `dtype: {named}` contradict each other; keep one");
            return Err(ConfigError::Conflict { place: r.place("bf16"), problem });
        }
        (Some(named), Some(_)) if r.layer_of("dtype") >= r.layer_of("bf16") => named,
        (_, Some(flag)) => flag,
        (Some(named), None) => named,
        (None, None) => of(fast_in_bf16(&r.text("device")?)),
    })
}

/// Whether the device has instructions for products of bf16.
fn fast_in_bf16(device: &str) -> bool {
    match Device::parse(device) {
        Ok(Device::Cpu) | Err(_) => CpuPath::detect().is_ok_and(CpuPath::has_bf16_instructions),
        Ok(Device::Cuda(_)) => true,
    }
}
