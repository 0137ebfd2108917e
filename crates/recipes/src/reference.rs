//! The reference: its log-probs are computed once and kept in the run directory under what they depend on, so
//! that the frozen model need not stay in memory and a stale file is refused instead of used.

use crate::RecipeError;
use crate::config::TrainConfig;
use crate::example::Example;
use crate::score::score_rest;
use bso_durable::{Event, Fingerprint, Interrupt, Observer, atomic_write, fingerprint_file};
use bso_model::{Decoder, ModelDirectory};
use serde::{Deserialize, Serialize};
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

/// For every example the log-probs (nats) of its [`Example::scored`] sequences under the reference.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ReferenceLogProbs {
    /// Of the training examples.
    pub train: Vec<Vec<f64>>,
    /// Of the held-out examples.
    pub eval: Vec<Vec<f64>>,
}

/// What the log-probs depend on, by role; shown when it does not match.
pub type Dependencies = BTreeMap<String, String>;

/// Fingerprints of the models that a run reads and does not train, by the config key that names them.
pub type ModelFingerprints = BTreeMap<String, String>;

/// Fingerprints of the models that `config` names.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn fingerprint_models(config: &TrainConfig) -> Result<ModelFingerprints, RecipeError> {
    let own = std::iter::once(("model_name_or_path", &config.model.model_name_or_path));
    let reference = config.model.ref_model.iter().map(|dir| ("ref_model", dir));
    let given = own.chain(reference).chain(config.objective.models());
    given.map(|(key, dir)| Ok((key.to_owned(), fingerprint_model(dir)?))).collect()
}

/// First line of the file; one line per example follows.
#[derive(Serialize, Deserialize)]
struct Header {
    format: u32,
    depends_on: Dependencies,
    train: usize,
    eval: usize,
}

const FORMAT: u32 = 1;

/// Fingerprint of a model folder: its configuration and its weights; of an adapter's, with those of its base.
///
/// # Errors
/// A folder or file that cannot be read.
pub fn fingerprint_model(dir: &Path) -> Result<String, RecipeError> {
    let found = ModelDirectory::find(dir)?;
    let mut fingerprint = Fingerprint::new();
    for dir in std::iter::once(&found.base).chain(&found.adapter) {
        add_weights(&mut fingerprint, dir)?;
    }
    Ok(fingerprint.finish())
}

fn add_weights(fingerprint: &mut Fingerprint, dir: &Path) -> Result<(), RecipeError> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .map_err(|e| RecipeError::input(format!("cannot read the model folder {}: {e}", dir.display())))?
        .filter_map(|entry| entry.ok().map(|e| e.file_name().to_string_lossy().into_owned()))
        .filter(|name| {
            ["config.json", "adapter_config.json"].contains(&name.as_str()) || name.ends_with(".safetensors")
        })
        .collect();
    names.sort();
    for name in names {
        fingerprint.part(&name).part(fingerprint_file(&dir.join(&name))?);
    }
    Ok(())
}

/// Fingerprint of everything that a loss reads of the examples beside their sequences: labels, margins, judgements.
pub fn fingerprint_labels(train: &[Example], eval: &[Example]) -> String {
    let mut fingerprint = Fingerprint::new();
    for examples in [train, eval] {
        fingerprint.part(examples.len().to_le_bytes());
        for example in examples {
            let labels = example.labels.map(|l| [u8::from(l.chosen_unsafe), u8::from(l.rejected_unsafe)]);
            fingerprint.part(labels.as_ref().map_or(&[][..], |l| l));
            let margins = example.margins.map(|(chosen, rejected)| [chosen, rejected].map(f64::to_le_bytes));
            fingerprint.part(margins.map(|m| m.concat()).unwrap_or_default());
            fingerprint.part([u8::from(example.desirable)]);
        }
    }
    fingerprint.finish()
}

/// Fingerprint of the token sequences: data, transform, template, truncation and split all show in it. All that the
/// reference's log-probs depend on; labels are apart in [`fingerprint_labels`].
pub fn fingerprint_sequences(train: &[Example], eval: &[Example]) -> String {
    let mut fingerprint = Fingerprint::new();
    for examples in [train, eval] {
        fingerprint.part(examples.len().to_le_bytes());
        for sequence in examples.iter().flat_map(Example::scored) {
            for ids in [&sequence.prompt, &sequence.response] {
                let bytes: Vec<u8> = ids.iter().flat_map(|id| id.to_le_bytes()).collect();
                fingerprint.part(bytes);
            }
        }
    }
    fingerprint.finish()
}

/// The same of pairs that are replayed; empty without any.
pub fn fingerprint_replay(pairs: &[Example]) -> String {
    if pairs.is_empty() { String::new() } else { fingerprint_sequences(pairs, &[]) }
}

impl ReferenceLogProbs {
    /// Reads the file at `path` if it was made from the same ingredients; computes and writes it if there is none. Where the user
    /// stops the computation, what is done is kept beside it (`.part`), and the next call goes on from there.
    ///
    /// # Errors
    /// A file made from other ingredients (they are named) or damaged; what the model refuses or does not answer in
    /// finite numbers; a full disk.
    pub fn obtain<'a>(
        path: &Path,
        depends_on: &Dependencies,
        examples: (&[Example], &[Example]),
        reference: impl FnOnce() -> Result<Cow<'a, Decoder>, RecipeError>,
        (interrupt, observer): (&Interrupt, &dyn Observer),
    ) -> Result<Self, RecipeError> {
        if path.exists() {
            let found = read(path, depends_on, examples, Extent::Whole)?;
            observer.event(Event::Note(format!("reference log-probs: read from {}", path.display())));
            return Ok(found);
        }
        log::info!("{} is not there: the log-probs are computed", path.display());
        let mut part = path.as_os_str().to_owned();
        part.push(".part");
        let part = PathBuf::from(part);
        let mut computed = Self::default();
        if part.exists() {
            computed = read(&part, depends_on, examples, Extent::Part)?;
            observer.event(Event::Note(format!(
                "reference log-probs: {} of {} read from {}",
                computed.len(),
                examples.0.len() + examples.1.len(),
                part.display()
            )));
        }
        let decoder = reference()?;
        let Self { train, eval } = &mut computed;
        let watch = (interrupt, observer);
        let outcome = score_rest(&decoder, examples.0, train, "reference log-probs", watch)
            .and_then(|()| score_rest(&decoder, examples.1, eval, "reference log-probs, held out", watch));
        if let Err(error) = outcome {
            if matches!(error, RecipeError::Interrupted) && computed.len() > 0 {
                computed.write(&part, depends_on)?;
                observer.event(Event::Note(format!(
                    "stopped     before the first step: the log-probs of {} of {} examples are kept in {}; the same command goes on \
                     from there",
                    computed.len(),
                    examples.0.len() + examples.1.len(),
                    part.display()
                )));
            }
            return Err(error);
        }
        computed.refuse_non_finite()?;
        computed.write(path, depends_on)?;
        if part.exists() {
            fs::remove_file(&part)?;
        }
        Ok(computed)
    }

    fn len(&self) -> usize {
        self.train.len() + self.eval.len()
    }

    fn refuse_non_finite(&self) -> Result<(), RecipeError> {
        let rows = self.train.iter().chain(&self.eval);
        match rows.flatten().find(|log_prob| !log_prob.is_finite()) {
            None => Ok(()),
            Some(bad) => Err(RecipeError::failed(format!(
                "the reference gives a sequence the log-prob {bad}: its weights are not finite or overflow in f32; fetch \
                 or save the model again, or choose another ref_model"
            ))),
        }
    }

    fn write(&self, path: &Path, depends_on: &Dependencies) -> Result<(), RecipeError> {
        let header = Header {
            format: FORMAT,
            depends_on: depends_on.clone(),
            train: self.train.len(),
            eval: self.eval.len(),
        };
        Ok(atomic_write(path, |out| {
            serde_json::to_writer(&mut *out, &header)?;
            for row in self.train.iter().chain(&self.eval) {
                out.write_all(b"\n")?;
                serde_json::to_writer(&mut *out, row)?;
            }
            out.write_all(b"\n")
        })?)
    }
}

/// How much of a file there must be.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Extent {
    /// The log-probs of every example.
    Whole,
    /// Of the first ones.
    Part,
}

fn read(
    path: &Path,
    depends_on: &Dependencies,
    (train, eval): (&[Example], &[Example]),
    extent: Extent,
) -> Result<ReferenceLogProbs, RecipeError> {
    let counts = (train.len(), eval.len());
    let remedy = "delete the file to compute it anew";
    let damaged = |line: usize, why: &dyn std::fmt::Display| {
        RecipeError::input(format!("{}, line {line}: {why}; {remedy}", path.display()))
    };
    let mut lines = BufReader::new(File::open(path)?).lines();
    let first = lines.next().ok_or_else(|| damaged(1, &"the file is empty"))??;
    let header: Header = serde_json::from_str(&first).map_err(|e| damaged(1, &e))?;
    if header.format != FORMAT {
        return Err(damaged(1, &format!("format {} instead of {FORMAT}", header.format)));
    }
    let differing: Vec<&str> = depends_on
        .keys()
        .chain(header.depends_on.keys())
        .filter(|role| depends_on.get(*role) != header.depends_on.get(*role))
        .map(String::as_str)
        .collect::<std::collections::BTreeSet<_>>()
        .into_iter()
        .collect();
    let all = extent == Extent::Whole;
    let other = |there: usize, wanted: usize| there > wanted || (all && there < wanted);
    if !differing.is_empty() || other(header.train, counts.0) || other(header.eval, counts.1) {
        return Err(RecipeError::input(format!(
            "{} was made from other ingredients (differing: {}); {remedy}, or choose another output_dir",
            path.display(),
            if differing.is_empty() { "number of examples".to_owned() } else { differing.join(", ") }
        )));
    }
    let mut rows = Vec::with_capacity(counts.0 + counts.1);
    if header.eval > 0 && header.train < train.len() {
        return Err(damaged(1, &"held-out examples before all of the others"));
    }
    let mut sequences = train.iter().chain(eval).map(|example| example.scored().count());
    for (i, line) in lines.enumerate() {
        let row: Vec<f64> = serde_json::from_str(&line?).map_err(|e| damaged(i + 2, &e))?;
        if let Some(expected) = sequences.next().filter(|expected| *expected != row.len()) {
            return Err(damaged(i + 2, &format!("{} log-probs instead of {expected}", row.len())));
        }
        rows.push(row);
    }
    let held = header.train + header.eval;
    if rows.len() != held {
        return Err(damaged(rows.len() + 2, &format!("{} examples instead of {held}", rows.len())));
    }
    let eval = rows.split_off(header.train);
    Ok(ReferenceLogProbs { train: rows, eval })
}
