//! The pass over the rows and the report that comes of it.

use super::contradictions::{Contradictions, Seen};
use super::lengths::{Lengths, Measured};
use super::preview::{PreviewRow, of_text, of_tokens};
use crate::error::DataError;
use crate::ledger::{Count, Ledger};
use crate::pair::PreferencePair;
use crate::preference::Preference;
use crate::read::for_each_row;
use crate::record::PreferenceRecord;
use crate::rejection::Rejection;
use crate::safety_transform::{SafetyTransform, Transformed};
use crate::schema::{Detected, Schema, rename};
use crate::tokenizer::ChatTokenizer;
use bso_durable::Observer;
use rayon::prelude::*;
use serde::Serialize;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// What to check and how.
#[derive(Debug, Default)]
pub struct CheckOptions<'a> {
    /// The schema, if forced.
    pub format: Option<Schema>,
    /// Canonical to actual column names.
    pub columns: BTreeMap<String, String>,
    /// The judgement that orders pairs.
    pub preference: Preference,
    /// Gives lengths in tokens and the true loss mask.
    pub tokenizer: Option<&'a ChatTokenizer>,
    /// Rows longer than this are counted (needs a tokenizer).
    pub max_length: Option<usize>,
    /// The split to check of data that comes in splits; none: the whole, or `train` where there are several.
    pub split: Option<String>,
}

/// Pairs by the safety labels of their responses.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Quadrants {
    /// Both responses are safe.
    pub both_safe: usize,
    /// Only the chosen response is unsafe.
    pub chosen_unsafe: usize,
    /// Only the rejected response is unsafe.
    pub rejected_unsafe: usize,
    /// Both responses are unsafe.
    pub both_unsafe: usize,
    /// A label is missing.
    pub unlabelled: usize,
}

/// How often the two judgements name different responses.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Disagreement {
    /// Rows with both judgements.
    pub judged_twice: usize,
    /// Of these, rows whose better response is not the safer one.
    pub differ: Count,
}

/// What a transform would do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TransformEffect {
    /// Its name in configs.
    pub transform: &'static str,
    /// Pairs used as they are.
    pub kept: usize,
    /// Pairs used with their responses exchanged.
    pub swapped: usize,
    /// Pairs not used.
    pub dropped: usize,
    /// Pairs without both labels: an error for this transform.
    pub unlabelled: usize,
}

/// Everything that the check found.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// The file or folder.
    pub path: PathBuf,
    /// The schema and how it was found.
    pub detected: Detected,
    /// The judgement that orders the pairs below.
    pub preference: &'static str,
    /// Rows read, rejected and usable.
    pub ledger: Ledger,
    /// Usable pairs by safety labels.
    pub quadrants: Quadrants,
    /// Better against safer.
    pub disagreement: Disagreement,
    /// Rows that repeat or contradict one another.
    pub contradictions: Contradictions,
    /// Lengths in characters.
    pub characters: Lengths,
    /// Lengths in tokens, template included, with a tokenizer.
    pub tokens: Option<Lengths>,
    /// Pairs longer than max_length, where both a tokenizer and a limit are given.
    pub longer_than_max: Option<usize>,
    /// Rows that the template refused, with the first refusal.
    pub template_refusals: Option<(Count, String)>,
    /// What is odd about the template beside its tokenizer.
    pub template_oddities: Vec<String>,
    /// Pairs whose prompt begins with BOS twice.
    pub double_bos: Count,
    /// What each transform would do with these pairs.
    pub transforms: Vec<TransformEffect>,
    /// The first three pairs with their loss mask.
    pub preview: Vec<PreviewRow>,
}

const PREVIEW: usize = 3;
/// Pairs tokenised at a time, on all cores.
const BATCH: usize = 512;

/// Reads a preference data set once and reports on it. Broken lines are counted rather than fatal: finding them is the point.
///
/// # Errors
/// An unreadable file, an unknown schema, rows that hold no pairs, or no row at all.
pub fn check(
    path: &Path,
    options: &CheckOptions<'_>,
    observer: &dyn Observer,
) -> Result<CheckReport, DataError> {
    let mut pass = Pass::new(options);
    let mut detected =
        options.format.map(|schema| Detected { schema, because: "dataset_format says so".to_owned() });
    let task = format!("checking {}", path.display());
    for_each_row(path, options.split.as_deref(), (task, observer), |row| {
        let (origin, fields) = match row {
            Ok(row) => row,
            Err(DataError::BadRow { origin, problem, .. }) => {
                pass.ledger.read += 1;
                pass.ledger.reject(Rejection::NotJson, || problem, &origin);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        pass.ledger.read += 1;
        let fields = rename(fields, &options.columns);
        let schema = match &detected {
            Some(detected) => detected.schema,
            None => {
                let found =
                    Schema::detect(&fields).map_err(|e| DataError::Schema(format!("{origin}: {e}")))?;
                detected.insert(found).schema
            }
        };
        if matches!(schema, Schema::Sft | Schema::Unpaired) {
            return Err(DataError::Schema(format!(
                "{}: rows of format {} hold no pair of responses; `bso data check` looks at preference pairs",
                path.display(),
                schema.name()
            )));
        }
        match PreferenceRecord::parse(schema, &fields, &origin) {
            Ok(record) => pass.record(record),
            Err((reason, detail)) => {
                pass.ledger.reject(reason, || detail, &origin);
                Ok(())
            }
        }
    })?;
    pass.tokenise()?;
    match detected {
        Some(detected) => Ok(pass.report(path, detected)),
        None => Err(DataError::NothingLeft {
            path: path.to_owned(),
            why: if pass.ledger.read == 0 { "it is empty".to_owned() } else { pass.ledger.to_string() },
        }),
    }
}

/// The state of the pass.
struct Pass<'a> {
    options: &'a CheckOptions<'a>,
    ledger: Ledger,
    quadrants: Quadrants,
    disagreement: Disagreement,
    seen: Seen,
    characters: Measured,
    tokens: Measured,
    refusals: Count,
    first_refusal: String,
    double_bos: Count,
    preview: Vec<PreviewRow>,
    /// Pairs waiting to be tokenised.
    waiting: Vec<PreferencePair>,
}

impl<'a> Pass<'a> {
    fn new(options: &'a CheckOptions<'a>) -> Self {
        Self {
            options,
            ledger: Ledger::default(),
            quadrants: Quadrants::default(),
            disagreement: Disagreement::default(),
            seen: Seen::default(),
            characters: Measured::default(),
            tokens: Measured::default(),
            refusals: Count::default(),
            first_refusal: String::new(),
            double_bos: Count::default(),
            preview: Vec::new(),
            waiting: Vec::new(),
        }
    }

    fn record(&mut self, record: PreferenceRecord) -> Result<(), DataError> {
        self.seen.add(&record);
        if let (Some(better), Some(safer)) = (record.better, record.safer) {
            self.disagreement.judged_twice += 1;
            if better != safer {
                self.disagreement.differ.add(&record.origin);
            }
        }
        let origin = record.origin.clone();
        let pair = match record.into_pair(self.options.preference) {
            Ok(pair) => pair,
            Err((reason, detail)) => {
                self.ledger.reject(reason, || detail, &origin);
                return Ok(());
            }
        };
        if self.options.preference == Preference::SafeBetter && pair.chosen_unsafe != Some(false) {
            self.ledger.drop("preference safe_better: chosen is not labelled safe", &origin);
            return Ok(());
        }
        self.ledger.kept += 1;
        *match pair.labels() {
            None => &mut self.quadrants.unlabelled,
            Some((false, false)) => &mut self.quadrants.both_safe,
            Some((true, false)) => &mut self.quadrants.chosen_unsafe,
            Some((false, true)) => &mut self.quadrants.rejected_unsafe,
            Some((true, true)) => &mut self.quadrants.both_unsafe,
        } += 1;
        let prompt = pair.prompt.iter().map(|m| m.content.chars().count()).sum();
        self.characters.add([prompt, pair.chosen.chars().count(), pair.rejected.chars().count()]);
        if self.options.tokenizer.is_some() {
            self.waiting.push(pair);
            if self.waiting.len() >= BATCH {
                self.tokenise()?;
            }
        } else if self.preview.len() < PREVIEW {
            self.preview.push(of_text(&pair));
        }
        Ok(())
    }

    fn tokenise(&mut self) -> Result<(), DataError> {
        let Some(tokenizer) = self.options.tokenizer else { return Ok(()) };
        let waiting = std::mem::take(&mut self.waiting);
        let encoded: Vec<_> =
            waiting.par_iter().map(|p| tokenizer.encode_pair(&p.prompt, [&p.chosen, &p.rejected])).collect();
        for (pair, encoded) in waiting.iter().zip(encoded) {
            match encoded {
                Ok(encoded) => {
                    let (chosen, rejected) = (encoded.first, encoded.second);
                    self.tokens.add([chosen.prompt.len(), chosen.response.len(), rejected.response.len()]);
                    if tokenizer.doubles_bos(&chosen.prompt) {
                        self.double_bos.add(&pair.origin);
                    }
                    if self.preview.len() < PREVIEW {
                        self.preview.push(of_tokens(tokenizer, &pair.origin, &chosen, &rejected));
                    }
                }
                Err(error @ DataError::Template { .. }) => {
                    if self.refusals.rows == 0 {
                        self.first_refusal = error.to_string();
                    }
                    self.refusals.add(&pair.origin);
                }
                Err(error) => return Err(error.at(&pair.origin)),
            }
        }
        Ok(())
    }

    fn report(self, path: &Path, detected: Detected) -> CheckReport {
        let transforms = SafetyTransform::ALL.map(|t| effect(t, &self.quadrants)).to_vec();
        let limit = self.options.max_length.filter(|_| self.options.tokenizer.is_some());
        CheckReport {
            path: path.to_owned(),
            detected,
            preference: self.options.preference.name(),
            ledger: self.ledger,
            quadrants: self.quadrants,
            disagreement: self.disagreement,
            contradictions: self.seen.finish(),
            characters: self.characters.finish(),
            tokens: (!self.tokens.is_empty()).then(|| self.tokens.finish()),
            longer_than_max: limit.map(|limit| self.tokens.longer_than(limit)),
            template_refusals: (self.refusals.rows > 0).then_some((self.refusals, self.first_refusal)),
            template_oddities: self.options.tokenizer.map(ChatTokenizer::oddities).unwrap_or_default(),
            double_bos: self.double_bos,
            transforms,
            preview: self.preview,
        }
    }
}

/// A transform looks at the labels alone, so the quadrants say what it does.
fn effect(transform: SafetyTransform, quadrants: &Quadrants) -> TransformEffect {
    let mut effect =
        TransformEffect { transform: transform.name(), kept: 0, swapped: 0, dropped: 0, unlabelled: 0 };
    for (rows, chosen_unsafe, rejected_unsafe) in [
        (quadrants.both_safe, false, false),
        (quadrants.chosen_unsafe, true, false),
        (quadrants.rejected_unsafe, false, true),
        (quadrants.both_unsafe, true, true),
    ] {
        *match transform.apply(chosen_unsafe, rejected_unsafe) {
            Transformed::Keep => &mut effect.kept,
            Transformed::Swap => &mut effect.swapped,
            Transformed::Drop => &mut effect.dropped,
        } += rows;
    }
    if transform.needs_labels() {
        effect.unlabelled = quadrants.unlabelled;
    } else {
        effect.kept += quadrants.unlabelled;
    }
    effect
}
