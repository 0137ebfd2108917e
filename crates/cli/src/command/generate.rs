//! `bso generate --model DIR --input FILE --output FILE`.

use crate::exit::Outcome;
use crate::signal;
use crate::terminal::Terminal;
use bso_recipes::generate::{AnswerSettings, GenerateTask, generate};
use bso_recipes::lines::ReadRows;
use bso_recipes::{DType, Device, GenerateConfig, TemplateChoice};
use clap::Args;
use std::path::PathBuf;

/// What `bso generate` takes.
#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Model directory (Hugging Face layout), or org/name or org/name@revision on the hub
    #[arg(long, value_name = "DIR")]
    model: PathBuf,
    /// Rows with `prompt` or `messages`, one JSON object a line; `-` is standard input
    #[arg(long, value_name = "FILE", default_value = "-")]
    input: PathBuf,
    /// Where the rows go, with `response`, `finish_reason` and `new_tokens` added; `-` is standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// Sampling
    #[command(flatten)]
    sampling: SamplingArgs,
    /// Count rows that cannot be used instead of stopping at the first
    #[arg(long = "skip_bad_rows", alias = "skip-bad-rows")]
    skip_bad_rows: bool,
}

/// How to answer; shared with `bso chat`.
#[derive(Args, Debug)]
pub struct SamplingArgs {
    /// Chat template: auto (the tokenizer's), none, a name, or a Jinja file
    #[arg(long, value_name = "NAME|FILE|auto|none", default_value = "auto")]
    template: String,
    /// Arithmetic: f32, or bf16 (products of bf16, sums in f32)
    #[arg(long, default_value = "f32", value_parser = ["f32", "bf16"])]
    dtype: String,
    /// 0 takes the most likely token; above 0 samples
    #[arg(long, default_value_t = 0.0, allow_negative_numbers = true)]
    temperature: f64,
    /// Sample from the fewest tokens whose probability reaches this
    #[arg(long = "top_p", alias = "top-p", default_value_t = 1.0, allow_negative_numbers = true)]
    top_p: f64,
    /// Sample from this many most likely tokens; 0 is all
    #[arg(long = "top_k", alias = "top-k", default_value_t = 0, allow_negative_numbers = true)]
    top_k: usize,
    /// Most tokens of one answer
    #[arg(
        long = "max_new_tokens",
        alias = "max-new-tokens",
        default_value_t = 256,
        allow_negative_numbers = true
    )]
    max_new_tokens: usize,
    /// Seed of sampling
    #[arg(long, default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// Text that ends an answer; can be given several times
    #[arg(long, value_name = "TEXT", allow_hyphen_values = true)]
    stop: Vec<String>,
    /// Sequences in progress at a time
    #[arg(long = "batch_size", alias = "batch-size", default_value_t = 16)]
    batch_size: usize,
    /// Where to compute: auto (a GPU where one is found and compiled in, else the CPU), cpu, cuda, cuda:N
    #[arg(long, value_name = "NAME", default_value = "auto", value_parser = Device::parse)]
    pub device: Device,
    /// Threads; default: one per core
    #[arg(long = "num_threads", alias = "num-threads")]
    pub num_threads: Option<usize>,
}

impl SamplingArgs {
    /// The template named.
    pub fn template(&self) -> TemplateChoice {
        TemplateChoice::parse(&self.template)
    }

    /// The precision named.
    pub fn dtype(&self) -> anyhow::Result<DType> {
        Ok(DType::parse(&self.dtype)?)
    }

    /// The settings named.
    pub fn settings(&self) -> AnswerSettings {
        AnswerSettings {
            sampling: GenerateConfig {
                max_new_tokens: self.max_new_tokens,
                temperature: self.temperature,
                top_p: self.top_p,
                top_k: self.top_k,
                seed: self.seed,
                stop_ids: Vec::new(),
                batch_size: self.batch_size,
            },
            stop_texts: self.stop.clone(),
        }
    }
}

/// Answers every row.
pub fn run(args: &GenerateArgs, terminal: &Terminal) -> anyhow::Result<Outcome> {
    let interrupt = signal::on_ctrl_c()?;
    let task = GenerateTask {
        model: args.model.clone(),
        input: args.input.clone(),
        output: args.output.clone(),
        template: args.sampling.template(),
        rows: ReadRows { skip_bad_rows: args.skip_bad_rows },
        settings: args.sampling.settings(),
        dtype: args.sampling.dtype()?,
        device: args.sampling.device,
        num_threads: args.sampling.num_threads,
    };
    generate(&task, &interrupt, terminal)?;
    Ok(Outcome::Done)
}
