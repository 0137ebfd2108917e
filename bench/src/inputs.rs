//! Where the inputs of the workloads lie, made when a workload first asks for them.

use crate::arguments::Arguments;
use crate::process::Side;
use crate::side::inputs;
use crate::sizes::{ModelShape, Sizes};
use anyhow::{Context, ensure};
use std::path::PathBuf;
use tempfile::TempDir;

/// Preference pairs, in every folder but that of w1.
pub const PAIRS: &str = "pairs.jsonl";
/// Dialogues of several turns, in the folder of w2.
pub const LONG_PAIRS: &str = "long_pairs.jsonl";
/// Prompts in tokens, in every folder but those of w2 and w4.
pub const PROMPTS: &str = "prompts.json";

/// Files of a run; they go with it.
#[derive(Debug)]
pub struct Inputs {
    dir: TempDir,
    data: Option<PathBuf>,
    sizes: Sizes,
}

impl Inputs {
    /// Nothing made yet.
    ///
    /// # Errors
    /// A data folder that is not one; no room for temporary files.
    pub fn new(arguments: &Arguments) -> anyhow::Result<Self> {
        let named = arguments.data.clone().or_else(|| std::env::var_os("BSO_DATA").map(PathBuf::from));
        // Real texts do not fit the tiny sizes.
        let data = named.filter(|_| !arguments.quick);
        if let Some(dir) = &data {
            let parts = ["xstest", "hh_rlhf", "tokenizers"];
            let missing = parts.iter().find(|part| !dir.join(part).is_dir());
            ensure!(
                missing.is_none(),
                "{} has no folder {}; leave --data (BSO_DATA) out to measure on made data",
                dir.display(),
                missing.unwrap_or(&"")
            );
        }
        Ok(Self { dir: tempfile::tempdir()?, data, sizes: Sizes::of(arguments) })
    }

    /// In words.
    pub fn about(&self) -> &'static str {
        if self.data.is_some() { "real pairs and tokenizers" } else { "made pairs and tokenizers" }
    }

    /// The directory of a model, with what goes with it.
    ///
    /// # Errors
    /// It cannot be made.
    pub fn model(&self, model: ModelShape) -> anyhow::Result<PathBuf> {
        let dir = self.dir.path().join(model.name());
        if !dir.is_dir() {
            std::fs::create_dir(&dir)?;
            let settings =
                inputs::Settings { dir: dir.clone(), data: self.data.clone(), sizes: self.sizes, model };
            Side::ours("inputs", "inputs", &settings)?.run().context("making inputs")?;
        }
        Ok(dir)
    }

    /// Dialogues of several turns.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn long_pairs(&self) -> anyhow::Result<PathBuf> {
        match &self.data {
            Some(data) => Ok(data.join("hh_rlhf").join("helpful-base.test.jsonl.gz")),
            None => Ok(self.model(ModelShape::W2)?.join(LONG_PAIRS)),
        }
    }

    /// As many different pairs as there are.
    ///
    /// # Errors
    /// They cannot be made.
    pub fn many_pairs(&self) -> anyhow::Result<PathBuf> {
        match &self.data {
            Some(data) => Ok(data.join("xstest").join("derived_pairs_with_better.jsonl")),
            None => Ok(self.model(ModelShape::W2)?.join(PAIRS)),
        }
    }
}
