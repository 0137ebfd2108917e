//! Our sides of the measurements: what a child process of this program does. Settings come as JSON, the answer goes
//! to standard output as one JSON line.

pub mod generate;
pub mod inputs;
pub mod job;
pub mod peak;
pub mod profile;
pub mod shared_prompts;
pub mod step;
pub mod tokenise;
pub mod watch;
pub mod weights;

use anyhow::bail;
use bso_model::{DType, Decoder, Device, Engine};
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;

/// The first argument of a child process.
pub const COMMAND: &str = "side";

/// Does `task` and prints its answer.
///
/// # Errors
/// An unknown task, settings that are not its own, or what it meets.
pub fn run(task: &str, settings: &str) -> anyhow::Result<()> {
    let answer = match task {
        "inputs" => inputs::run(&read(settings)?),
        "peak" => peak::run(&read(settings)?),
        "step" => step::run(&read(settings)?),
        "job" => job::run(&read(settings)?),
        "shared_prompts" => shared_prompts::run(&read(settings)?),
        "generate" => generate::run(&read(settings)?),
        "stops" => generate::stops(&read(settings)?),
        "tokenise" => tokenise::run(&read(settings)?),
        "profile" => profile::run(&read(settings)?),
        "watch" => watch::run(&read(settings)?),
        _ => bail!("no task {task:?}"),
    }?;
    println!("{answer}");
    Ok(())
}

fn read<T: DeserializeOwned>(settings: &str) -> anyhow::Result<T> {
    Ok(serde_json::from_str(settings)?)
}

/// What computes on the device of this name.
fn engine(device: &str, threads: usize) -> anyhow::Result<Engine> {
    Ok(Engine::on(Device::parse(device)?, Some(threads))?)
}

/// A model that computes in the precision of this name.
fn load(dir: &Path, dtype: &str, engine: Engine, gradients: bool) -> anyhow::Result<Decoder> {
    let mut decoder = Decoder::load(dir, Arc::new(engine))?;
    decoder.compute_in(DType::parse(dtype)?, gradients)?;
    Ok(decoder)
}

/// A rounded number, so that lines stay readable.
fn rounded(x: f64) -> Value {
    serde_json::json!((x * 1e6).round() / 1e6)
}
