//! What the measurements ran on, as far as the system tells.

use serde_json::{Value, json};
use std::fs::read_to_string;

/// Processor, cores, memory, system; the instruction path that bso takes.
pub fn describe() -> Value {
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| std::env::consts::ARCH.to_owned());
    let kilobytes = field("/proc/meminfo", "MemTotal").and_then(|m| m.split(' ').next()?.parse::<f64>().ok());
    json!({
        "processor": cpu,
        "cores": std::thread::available_parallelism().map_or(0, |n| n.get()),
        "memory_gib": kilobytes.map(|kb| (kb / (1 << 20) as f64).round()),
        "system": std::env::consts::OS,
        "instructions": bso_engine::CpuPath::detect().map_or("unknown", |path| path.name()),
    })
}

fn field(file: &str, name: &str) -> Option<String> {
    let text = read_to_string(file).ok()?;
    let (_, value) = text.lines().find(|line| line.starts_with(name))?.split_once(':')?;
    Some(value.trim().to_owned())
}
