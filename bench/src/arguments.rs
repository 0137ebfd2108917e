//! The command line.

use crate::sizes::ModelShape;
use crate::workload::Workload;
use clap::{Parser, ValueEnum};
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// Measures bso's workloads, and their peers in Python beside them.
#[derive(Parser, Debug)]
#[command(
    name = "bso-bench",
    after_help = "Peers need Python with torch, transformers, trl and datasets. Without --data the program makes models, \
                  tokenizers and texts of its own, of the same sizes. Repeat on a machine that does nothing else: \
                  timings vary by 20 to 30 % on shared ones."
)]
pub struct Arguments {
    /// What to measure; all but experiment if none is named
    #[arg(value_enum, value_name = "WORKLOAD")]
    workloads: Vec<Workload>,
    /// Measure the peers too, by turns with bso
    #[arg(long)]
    pub peer: bool,
    /// How often each side runs; medians of paired ratios are shown
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    pub repetitions: u32,
    /// Threads of each side
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..))]
    pub threads: u32,
    /// Where both sides compute: cpu, cuda or cuda:N (docs/gpu.md)
    #[arg(long, value_name = "DEVICE", default_value = "cpu")]
    pub device: String,
    /// Models of w1, memory, generate, profile and experiment; on a GPU Qwen2.5-0.5B if not given
    #[arg(long = "shape", value_enum, value_name = "SHAPE")]
    shapes: Vec<ModelShape>,
    /// What w1 and experiment train, and how; on a GPU checkpointed and lora if not given
    #[arg(long = "method", value_enum, value_name = "METHOD")]
    methods: Vec<Method>,
    /// Sequences of w1's batch in place of its own number, an even one
    #[arg(long, value_name = "N")]
    pub sequences: Option<usize>,
    /// Pairs of experiment; the peer does at most as many as without this, and its time is extrapolated
    #[arg(long, value_name = "N")]
    pub pairs: Option<usize>,
    /// The rule that updates weights in w1
    #[arg(long, value_name = "RULE", default_value = "adamw", value_parser = ["adamw", "rmsprop"])]
    pub optimiser: String,
    /// Precision of the peers' weights where all are trained: f32 is what bso keeps; bf16 takes less and rounds updates
    #[arg(long, value_enum, default_value = "f32")]
    pub peer_weights: Precision,
    /// Only this precision; both if not given, bf16 on a GPU
    #[arg(long, value_enum)]
    pub dtype: Option<Precision>,
    /// Folder with xstest/, hh_rlhf/ and tokenizers/: real pairs and tokenizers (or BSO_DATA)
    #[arg(long, value_name = "DIR")]
    pub data: Option<PathBuf>,
    /// The peers' Python (or BSO_PYTHON; python3)
    #[arg(long, value_name = "PATH")]
    pub python: Option<PathBuf>,
    /// Write every measured value as JSON
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Tiny sizes, once, in seconds: shows that everything runs; its figures mean nothing
    #[arg(long)]
    pub quick: bool,
    /// Print the tables of files that --json wrote; measures nothing
    #[arg(long, value_name = "FILE", num_args = 1.., conflicts_with_all = ["workloads", "peer", "json", "quick"])]
    pub markdown: Vec<PathBuf>,
}

/// What a step trains.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Method {
    /// All weights, activations kept
    Full,
    /// All weights, activations computed again
    Checkpointed,
    /// A low-rank adapter on every linear layer, activations kept
    Lora,
    /// The same, activations computed again
    LoraCheckpointed,
}

impl Method {
    /// As on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Checkpointed => "checkpointed",
            Self::Lora => "lora",
            Self::LoraCheckpointed => "lora-checkpointed",
        }
    }

    /// Whether an adapter is trained in place of all weights.
    pub fn is_lora(self) -> bool {
        matches!(self, Self::Lora | Self::LoraCheckpointed)
    }

    /// Whether activations are computed again.
    pub fn is_checkpointed(self) -> bool {
        matches!(self, Self::Checkpointed | Self::LoraCheckpointed)
    }
}

/// Precision of products.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Precision {
    /// f32 throughout
    F32,
    /// Factors in bf16, sums in f32
    Bf16,
}

impl Precision {
    /// As in configurations.
    pub fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::Bf16 => "bf16",
        }
    }
}

impl Arguments {
    /// The workloads to run, in their own order.
    pub fn workloads(&self) -> Vec<Workload> {
        let all = Workload::value_variants().iter().copied();
        all.filter(|w| match self.workloads.as_slice() {
            [] => *w != Workload::Experiment,
            some => some.contains(w),
        })
        .collect()
    }

    /// Whether both sides compute on a GPU.
    pub fn on_gpu(&self) -> bool {
        self.device != "cpu"
    }

    /// The precisions to measure.
    pub fn precisions(&self) -> Vec<Precision> {
        match self.dtype {
            Some(one) => vec![one],
            None if self.on_gpu() => vec![Precision::Bf16],
            None => vec![Precision::F32, Precision::Bf16],
        }
    }

    /// The models of workloads that can take several.
    pub fn shapes(&self) -> Vec<ModelShape> {
        match self.shapes.as_slice() {
            [] if self.on_gpu() => vec![ModelShape::Qwen05],
            [] => vec![ModelShape::W1],
            some => some.to_vec(),
        }
    }

    /// What steps train.
    pub fn methods(&self) -> Vec<Method> {
        match self.methods.as_slice() {
            [] if self.on_gpu() => vec![Method::Checkpointed, Method::Lora],
            [] => vec![Method::Full],
            some => some.to_vec(),
        }
    }
}
