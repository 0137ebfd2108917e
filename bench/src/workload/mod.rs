//! The workloads: which sides run by turns, and which rows come out.

mod experiment;
mod generation;
mod job;
mod memory;
mod profile;
mod scaling;
mod shared_prompts;
mod startup;
mod step;

use crate::arguments::{Arguments, Method, Precision};
use crate::inputs::Inputs;
use crate::process::{Ended, Side, by_turns};
use crate::row::{Ratio, Row};
use crate::sizes::{ModelShape, Sizes};
use crate::watcher::Watcher;
use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;
use std::sync::{Mutex, PoisonError};

/// What can be measured.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Workload {
    /// A preference step and a forward pass of a 12.6 M Llama; share of the machine's peak; memory
    W1,
    /// A whole training job on 96 pairs, from process start to saved model
    W2,
    /// Long prompts shared by both responses, against packing alone
    W3,
    /// As w2 with a vocabulary of 151,936 and 32 pairs
    W4,
    /// Gradient checkpointing: memory and time
    Memory,
    /// Greedy generation for prompts of mixed length, also with sequences that end early
    Generate,
    /// Time by number of tokens and of threads
    Scaling,
    /// Time to the first step; tokenising 100,000 pairs
    Startup,
    /// Where the time of a w1 step goes, by operation
    Profile,
    /// DPO on the model of --shape: time of a step, and of 30,000 pairs; only where it is named
    Experiment,
}

/// What every workload is given.
#[derive(Debug)]
pub struct Bench {
    /// How often each side runs.
    pub repetitions: u32,
    /// Threads of each side.
    pub threads: usize,
    /// Precisions to measure.
    pub precisions: Vec<Precision>,
    /// How large everything is.
    pub sizes: Sizes,
    /// What is read.
    pub inputs: Inputs,
    /// Models of workloads that can take several.
    pub shapes: Vec<ModelShape>,
    /// What steps train.
    pub methods: Vec<Method>,
    /// Where both sides compute.
    pub device: String,
    /// `adamw` or `rmsprop`.
    pub optimiser: String,
    /// Precision of the peers' weights where all are trained.
    pub peer_weights: Precision,
    watcher: Option<Mutex<Watcher>>,
    quick: bool,
    python: Option<PathBuf>,
}

impl Workload {
    /// As on the command line.
    pub fn name(self) -> String {
        self.to_possible_value().map(|v| v.get_name().to_owned()).unwrap_or_default()
    }

    /// As in the help.
    pub fn about(self) -> String {
        let value = self.to_possible_value();
        value.and_then(|v| v.get_help().map(ToString::to_string)).unwrap_or_default()
    }

    /// Measures.
    ///
    /// # Errors
    /// The first side that fails.
    pub fn run(self, bench: &Bench) -> anyhow::Result<Vec<Row>> {
        match self {
            Self::W1 => step::run(bench),
            Self::W2 => job::run(bench, &job::W2),
            Self::W3 => shared_prompts::run(bench),
            Self::W4 => job::run(bench, &job::W4),
            Self::Memory => memory::run(bench),
            Self::Generate => generation::run(bench),
            Self::Scaling => scaling::run(bench),
            Self::Startup => startup::run(bench),
            Self::Profile => profile::run(bench),
            Self::Experiment => experiment::run(bench),
        }
    }
}

impl Bench {
    /// Looks at what is there; measures nothing.
    ///
    /// # Errors
    /// Peers are asked for and Python lacks them; a data folder that is not one.
    pub fn prepare(arguments: &Arguments) -> anyhow::Result<Self> {
        let named = arguments.python.clone().or_else(|| std::env::var_os("BSO_PYTHON").map(PathBuf::from));
        let python = named.unwrap_or_else(|| PathBuf::from("python3"));
        if arguments.peer {
            let trains = |w: &Workload| {
                matches!(w, Workload::W2 | Workload::W4 | Workload::Startup | Workload::Experiment)
            };
            let trl = if arguments.workloads().iter().any(trains) { ", trl, datasets" } else { "" };
            let found =
                Command::new(&python).args(["-c", &format!("import torch, transformers{trl}")]).output();
            let found = found.with_context(|| format!("cannot start {}", python.display()))?;
            ensure!(
                found.status.success(),
                "{} lacks the peers; install them (pip install torch transformers trl datasets), name another Python \
                 (--python or BSO_PYTHON), or leave --peer out",
                python.display()
            );
        }
        let on_gpu = arguments.on_gpu();
        let watcher = on_gpu.then(|| Watcher::start(&arguments.device)).transpose()?;
        Ok(Self {
            repetitions: if arguments.quick { 1 } else { arguments.repetitions },
            threads: arguments.threads as usize,
            precisions: arguments.precisions(),
            sizes: Sizes::of(arguments),
            shapes: arguments.shapes(),
            methods: arguments.methods(),
            device: arguments.device.clone(),
            optimiser: arguments.optimiser.clone(),
            peer_weights: arguments.peer_weights,
            watcher: watcher.map(Mutex::new),
            inputs: Inputs::new(arguments)?,
            quick: arguments.quick,
            python: arguments.peer.then_some(python),
        })
    }

    /// For the record.
    pub fn settings(&self) -> Value {
        json!({
            "repetitions": self.repetitions, "threads": self.threads, "data": self.inputs.about(),
            "quick": self.quick, "peer": self.python.is_some(), "device": self.device, "optimiser": self.optimiser,
            "peer weights": self.peer_weights.name(),
        })
    }

    /// The peer's side of the same settings, where peers are measured.
    fn peer(&self, script: &str, settings: &impl Serialize) -> anyhow::Result<Option<Side>> {
        let side = self.python.as_ref().map(|python| Side::peer(python, script, settings)).transpose()?;
        // Where a peer has not got the memory on a GPU, that is a finding.
        Ok(side.map(|side| if self.on_gpu() { side.may_fail() } else { side }))
    }

    fn on_gpu(&self) -> bool {
        self.watcher.is_some()
    }

    fn by_turns(&self, sides: &[Side]) -> anyhow::Result<Vec<Vec<Ended>>> {
        let mut watcher =
            self.watcher.as_ref().map(|watcher| watcher.lock().unwrap_or_else(PoisonError::into_inner));
        by_turns(self.repetitions, sides, watcher.as_deref_mut())
    }
}

/// A figure of every repetition.
fn numbers(ended: &[Ended], name: &str) -> anyhow::Result<Vec<f64>> {
    ended.iter().map(|end| end.number(name)).collect()
}

/// The versions that a peer gave, for a row's remark.
fn versions(peer: &[Ended]) -> Option<&str> {
    peer.first()?.answer["versions"].as_str()
}

/// Peak memory of both sides, on a GPU what the driver counts there, beyond what was in use before; `peer` is empty where it was not measured.
fn memory_row(workload: &str, what: String, peer_name: &str, (ours, peer): (&[Ended], &[Ended])) -> Row {
    let peaks = |ended: &[Ended]| ended.iter().map(|end| end.device_mib.unwrap_or(end.peak_mib)).collect();
    Row::new(workload, what, "MiB", peaks(ours)).against(peer_name, peaks(peer), Ratio::Over)
}
