//! The workloads: which sides run by turns, and which rows come out.

mod generation;
mod job;
mod memory;
mod profile;
mod scaling;
mod shared_prompts;
mod startup;
mod step;

use crate::arguments::{Arguments, Precision};
use crate::inputs::Inputs;
use crate::process::{Ended, Side};
use crate::row::{Ratio, Row};
use crate::sizes::Sizes;
use anyhow::{Context, ensure};
use clap::ValueEnum;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::PathBuf;
use std::process::Command;

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
            let found =
                Command::new(&python).args(["-c", "import torch, transformers, trl, datasets"]).output();
            let found = found.with_context(|| format!("cannot start {}", python.display()))?;
            ensure!(
                found.status.success(),
                "{} lacks the peers; install them (pip install torch transformers trl datasets), name another Python \
                 (--python or BSO_PYTHON), or leave --peer out",
                python.display()
            );
        }
        Ok(Self {
            repetitions: if arguments.quick { 1 } else { arguments.repetitions },
            threads: arguments.threads as usize,
            precisions: arguments.precisions(),
            sizes: if arguments.quick { Sizes::quick() } else { Sizes::full() },
            inputs: Inputs::new(arguments)?,
            quick: arguments.quick,
            python: arguments.peer.then_some(python),
        })
    }

    /// For the record.
    pub fn settings(&self) -> Value {
        json!({
            "repetitions": self.repetitions, "threads": self.threads, "data": self.inputs.about(),
            "quick": self.quick, "peer": self.python.is_some(),
        })
    }

    /// The peer's side of the same settings, where peers are measured.
    fn peer(&self, script: &str, settings: &impl Serialize) -> anyhow::Result<Option<Side>> {
        self.python.as_ref().map(|python| Side::peer(python, script, settings)).transpose()
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

/// Peak memory of both sides; `peer` is empty where it was not measured.
fn memory_row(workload: &str, what: String, peer_name: &str, (ours, peer): (&[Ended], &[Ended])) -> Row {
    let peaks = |ended: &[Ended]| ended.iter().map(|end| end.peak_mib).collect();
    Row::new(workload, what, "MiB", peaks(ours)).against(peer_name, peaks(peer), Ratio::Over)
}
