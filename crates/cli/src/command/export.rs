//! `bso export --model DIR --output DIR|FILE`: whole weights in a chosen number type, or one GGUF file.

use crate::exit::Outcome;
use crate::terminal::Terminal;
use bso_recipes::merge::{ModelOutput, export_gguf, export_model};
use bso_recipes::{DType, GgufType};
use clap::{Args, ValueEnum};
use std::path::PathBuf;

/// What `bso export` takes.
#[derive(Args, Debug)]
pub struct ExportArgs {
    /// Model directory, or an adapter's, which is merged into its base
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// A folder that is empty or absent; for gguf a file that is not there yet
    #[arg(long, value_name = "DIR|FILE")]
    output: PathBuf,
    /// Layout
    #[arg(long, value_enum, default_value_t = Format::Safetensors)]
    format: Format,
    /// Number type: f32, bf16 or f16 in safetensors; f32, f16 or q8_0 in gguf
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16", "f16", "q8_0"])]
    dtype: String,
    /// Largest shard of safetensors, as 5GB or 500MB
    #[arg(long = "max_shard_size", alias = "max-shard-size", default_value = "5GB", value_parser = parse_bytes)]
    max_shard_size: u64,
    /// Threads; default: one per core
    #[arg(long = "num_threads", alias = "num-threads")]
    num_threads: Option<usize>,
}

/// Layouts of a model on disk.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Format {
    /// Hugging Face's model directory
    Safetensors,
    /// llama.cpp's single file
    Gguf,
}

/// Exports.
pub fn run(args: &ExportArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    match args.format {
        Format::Safetensors => {
            let dtype = DType::parse(&args.dtype)
                .map_err(|_| bso_recipes::RecipeError::input("--dtype q8_0 needs --format gguf"))?;
            let output =
                ModelOutput { dir: args.output.clone(), dtype, max_shard_bytes: args.max_shard_size };
            export_model(&args.model, &output, args.num_threads, terminal)?;
        }
        Format::Gguf => {
            let kind = GgufType::ALL.into_iter().find(|kind| kind.name() == args.dtype).ok_or_else(|| {
                bso_recipes::RecipeError::input("--format gguf takes --dtype f32, f16 or q8_0")
            })?;
            export_gguf(&args.model, &args.output, kind, args.num_threads, terminal)?;
        }
    }
    Ok(Outcome::Done)
}

/// `5GB`, `500MB`, `2KB` or a number of bytes.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let upper = text.trim().to_uppercase();
    let units = [("GB", 1_000_000_000), ("MB", 1_000_000), ("KB", 1_000), ("B", 1)];
    let (digits, unit) =
        units.iter().find_map(|(end, unit)| Some((upper.strip_suffix(end)?, *unit))).unwrap_or((&upper, 1));
    let count: Option<u64> = digits.trim().parse().ok();
    count
        .and_then(|count| count.checked_mul(unit))
        .filter(|bytes| *bytes > 0)
        .ok_or_else(|| format!("{text:?} is not a size such as 5GB or 500MB"))
}
