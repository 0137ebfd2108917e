//! Flags of the commands that read rows and add what a model makes of them.

use bso_recipes::{Device, Truncation, TruncationMode};
use clap::Args;

/// How rows are read, rendered and computed.
#[derive(Args, Debug)]
pub struct ScoringArgs {
    /// Chat template: auto (the tokenizer's), none, a name, or a Jinja file
    #[arg(long, value_name = "NAME|FILE|auto|none", default_value = "auto")]
    pub template: String,
    /// Arithmetic: f32, or bf16 (products of bf16, sums in f32; a scalar head is in f32)
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    pub dtype: String,
    /// Longest sequence in tokens; default: no limit
    #[arg(long = "max_length", alias = "max-length")]
    max_length: Option<usize>,
    /// What happens to longer ones: keep_start, keep_end, drop, raise
    #[arg(long = "truncation_mode", alias = "truncation-mode", default_value = "keep_start")]
    truncation_mode: TruncationMode,
    /// Count rows that cannot be used instead of stopping at the first
    #[arg(long = "skip_bad_rows", alias = "skip-bad-rows")]
    pub skip_bad_rows: bool,
    /// Where to compute: auto (a GPU where one is found and compiled in, else the CPU), cpu, cuda, cuda:N
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = Device::parse)]
    pub device: Device,
    /// Threads; default: one per core
    #[arg(long = "num_threads", alias = "num-threads")]
    pub num_threads: Option<usize>,
}

impl ScoringArgs {
    pub fn truncation(&self) -> Truncation {
        Truncation { max_length: self.max_length, mode: self.truncation_mode }
    }
}
