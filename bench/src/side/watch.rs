//! Looks at a GPU's memory while other processes use it, as the driver counts it: whatever program takes it is seen in
//! the same way. A line `begin` on standard input starts anew from what is in use then, `end` is answered with the most
//! that was in use beyond it, MiB.

use super::engine;
use bso_model::Engine;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::io::BufRead;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Whom to watch.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// A GPU.
    pub device: String,
}

/// Between two looks.
const PAUSE: Duration = Duration::from_millis(4);

/// Until standard input ends; the answer says no more.
pub fn run(settings: &Settings) -> anyhow::Result<Value> {
    let engine = engine(&settings.device, 1)?;
    let (least, done) = (Mutex::new(usize::MAX), AtomicBool::new(false));
    let mut before = 0;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                note(&engine, &least);
                std::thread::sleep(PAUSE);
            }
        });
        let answers = std::io::stdin().lock().lines().try_for_each(|line| -> anyhow::Result<()> {
            if line? == "begin" {
                before = free(&engine)?;
                *lock(&least) = before;
            } else {
                note(&engine, &least);
                let used = before.saturating_sub(*lock(&least));
                println!("{}", used as f64 / f64::from(1 << 20));
            }
            Ok(())
        });
        done.store(true, Ordering::Relaxed);
        answers
    })?;
    Ok(json!({}))
}

fn note(engine: &Engine, least: &Mutex<usize>) {
    if let Ok(free) = free(engine) {
        let mut least = lock(least);
        *least = free.min(*least);
    }
}

fn free(engine: &Engine) -> anyhow::Result<usize> {
    Ok(engine.device_memory()?.map_or(0, |[free, _]| free))
}

fn lock(least: &Mutex<usize>) -> std::sync::MutexGuard<'_, usize> {
    least.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
