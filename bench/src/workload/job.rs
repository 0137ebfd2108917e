//! W2 and W4: a whole training job from process start to saved model, against TRL with a cached reference.

use super::{Bench, memory_row, numbers, versions};
use crate::arguments::{Method, Precision};
use crate::inputs::PAIRS;
use crate::process::{Ended, Side};
use crate::row::{Ratio, Row, Target};
use crate::side::job::Settings;
use crate::sizes::ModelShape;

/// A job and what it must reach.
#[derive(Debug)]
pub struct Job {
    name: &'static str,
    model: ModelShape,
    /// Times faster than the peer in f32, if that is asked.
    f32: Option<f64>,
    /// The same in bf16.
    bf16: f64,
    /// Most of the peer's peak memory.
    memory: f64,
}

/// 96 pairs, vocabulary 6,400.
pub const W2: Job = Job { name: "w2", model: ModelShape::W2, f32: Some(4.0), bf16: 6.0, memory: 0.25 };
/// 32 pairs, vocabulary 151,936.
pub const W4: Job = Job { name: "w4", model: ModelShape::W4, f32: None, bf16: 8.0, memory: 0.25 };

/// The job of a workload.
pub fn settings(
    bench: &Bench,
    shape: ModelShape,
    precision: Precision,
    whole: bool,
) -> anyhow::Result<Settings> {
    let model = bench.inputs.model(shape)?;
    Ok(Settings {
        pairs: model.join(PAIRS),
        model,
        dtype: precision.name().to_owned(),
        batch: bench.sizes.batch,
        max_length: bench.sizes.max_length,
        method: Method::Full,
        peer_weights: Precision::F32.name().to_owned(),
        peer_pairs: 0,
        device: bench.device.clone(),
        whole,
        threads: bench.threads,
    })
}

/// All precisions and their peers by turns.
pub fn run(bench: &Bench, job: &Job) -> anyhow::Result<Vec<Row>> {
    let mut sides = Vec::new();
    for precision in &bench.precisions {
        let settings = settings(bench, job.model, *precision, true)?;
        sides.push(Side::ours(&format!("{} {}", job.name, precision.name()), "job", &settings)?);
        sides.extend(bench.peer("trl_job.py", &settings)?);
    }
    let ended = bench.by_turns(&sides)?;
    let mut rows = Vec::new();
    let each = sides.len() / bench.precisions.len();
    for (precision, sides) in bench.precisions.iter().zip(ended.chunks(each)) {
        let peer = sides.get(1).map_or(&[][..], |peer| peer);
        rows.extend(rows_of(bench, job, *precision, (&sides[0], peer))?);
    }
    Ok(rows)
}

fn rows_of(
    bench: &Bench,
    job: &Job,
    precision: Precision,
    (ours, peer): (&[Ended], &[Ended]),
) -> anyhow::Result<Vec<Row>> {
    let dtype = precision.name();
    let name = versions(peer).unwrap_or("TRL");
    let walls = |ended: &[Ended]| ended.iter().map(|end| end.seconds).collect();
    let whole = Row::new(job.name, format!("whole job {dtype}"), "s", walls(ours));
    let whole = whole.against(name, walls(peer), Ratio::Under);
    // On a GPU the aims are 1.5 times the speed and 0.6 of the memory.
    let (least, most) = match (bench.on_gpu(), precision) {
        (true, _) => (Some(1.5), 0.6),
        (false, Precision::F32) => (job.f32, job.memory),
        (false, Precision::Bf16) => (Some(job.bf16), job.memory),
    };
    let mut rows = vec![match least {
        Some(least) => whole.target(Target::AtLeast(least)),
        None => whole,
    }];
    for (what, figure, unit, ratio) in [
        ("reference pass", "reference_seconds", "s", Ratio::Under),
        ("training", "training_seconds", "s", Ratio::Under),
        ("mean reference log-prob", "mean_reference_log_prob", "nats", Ratio::Over),
        ("first loss", "first_loss", "nats", Ratio::Over),
        ("last loss", "last_loss", "nats", Ratio::Over),
    ] {
        let row = Row::new(job.name, format!("{what} {dtype}"), unit, numbers(ours, figure)?);
        rows.push(row.against(name, numbers(peer, figure)?, ratio));
    }
    let what = format!("peak memory {dtype}");
    rows.push(memory_row(job.name, what, name, (ours, peer)).target(Target::AtMost(most)));
    Ok(rows)
}
