//! `bso merge --model ADAPTER --output DIR`, and `bso merge --model A --model B --weights 0.5,0.5 --output DIR`.

use super::export::parse_bytes;
use crate::exit::Outcome;
use crate::terminal::Terminal;
use bso_recipes::DType;
use bso_recipes::merge::{ModelOutput, combine_models, export_model};
use clap::Args;
use std::path::PathBuf;

/// What `bso merge` takes.
#[derive(Args, Debug)]
pub struct MergeArgs {
    /// An adapter's folder, to be merged into its base; or model directories to be combined, each with its own --model
    #[arg(long, value_name = "DIR", required = true)]
    model: Vec<PathBuf>,
    /// One weight for each model, adding up to 1: the linear combination of their weights
    #[arg(long, value_name = "W,W", value_delimiter = ',', allow_hyphen_values = true)]
    weights: Vec<f64>,
    /// Folder for the whole model; must be empty or absent
    #[arg(long, value_name = "DIR")]
    output: PathBuf,
    /// Number type on disk
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16"])]
    dtype: String,
    /// Largest shard, as 5GB; combinations are written with the default
    #[arg(long = "max_shard_size", alias = "max-shard-size", default_value = "5GB", value_parser = parse_bytes)]
    max_shard_size: u64,
    /// Threads; default: one per core
    #[arg(long = "num_threads", alias = "num-threads")]
    num_threads: Option<usize>,
}

/// Merges or combines.
pub fn run(args: &MergeArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let output = ModelOutput {
        dir: args.output.clone(),
        dtype: DType::parse(&args.dtype)?,
        max_shard_bytes: args.max_shard_size,
    };
    match args.model.as_slice() {
        [model] if args.weights.is_empty() => export_model(model, &output, args.num_threads, terminal)?,
        models => combine_models(models, &args.weights, &output)?,
    }
    Ok(Outcome::Done)
}
