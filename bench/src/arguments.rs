//! The command line.

use crate::workload::Workload;
use clap::{Parser, ValueEnum};
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
    /// What to measure; all of them if none is named
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
    /// Only this precision; both if not given
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
        all.filter(|w| self.workloads.is_empty() || self.workloads.contains(w)).collect()
    }

    /// The precisions to measure.
    pub fn precisions(&self) -> Vec<Precision> {
        self.dtype.map_or_else(|| vec![Precision::F32, Precision::Bf16], |one| vec![one])
    }
}
