//! A data set from its files to checked examples, every row accounted for.

use crate::error::DataError;
use crate::ledger::{Count, Ledger};
use crate::origin::Origin;
use crate::pair::{PreferencePair, SftExample, UnpairedExample};
use crate::preference::Preference;
use crate::read::for_each_row;
use crate::record::{Fields, PreferenceRecord, sft_example, unpaired_example};
use crate::rejection::Rejection;
use crate::safety_transform::{SafetyTransform, Transformed};
use crate::schema::{Detected, Schema, rename};
use bso_durable::{Event, Observer};
use std::collections::BTreeMap;
use std::path::Path;

/// What the loss needs of every row, each with who needs it ("loss bso"), for the error that says so.
#[derive(Clone, Debug, Default)]
pub struct Needs {
    /// Both safety labels.
    pub safety_labels: Option<String>,
    /// Both margins (MODPO).
    pub margins: Option<String>,
}

/// How to read a data set.
#[derive(Clone, Debug, Default)]
pub struct LoadOptions {
    /// The schema, if the user forced one.
    pub format: Option<Schema>,
    /// Canonical column name to actual column name.
    pub columns: BTreeMap<String, String>,
    /// Which judgement orders the pairs.
    pub preference: Preference,
    /// Applied after ordering.
    pub transform: SafetyTransform,
    /// What must not be missing.
    pub needs: Needs,
    /// Count broken lines instead of stopping at the first.
    pub skip_bad_rows: bool,
    /// The split to read of data that comes in splits; none: the whole, or `train` where there are several.
    pub split: Option<String>,
}

/// Examples with the account of where they came from.
#[derive(Clone, Debug)]
pub struct Loaded<T> {
    /// What is used, in the order of the files.
    pub examples: Vec<T>,
    /// The account of every row.
    pub ledger: Ledger,
    /// The schema and how it was found.
    pub detected: Detected,
}

/// Reads preference pairs: schema, order, transform. The detected schema is said through `observer`.
///
/// # Errors
/// An unreadable file, a broken row (unless skipped), an unknown schema, missing labels or margins that are
/// needed (all rows counted, ten named), or no usable row at all.
pub fn load_pairs(
    path: &Path,
    options: &LoadOptions,
    observer: &dyn Observer,
) -> Result<Loaded<PreferencePair>, DataError> {
    let mut missing = Missing::new(options);
    let mut loaded = load(path, options, observer, |schema, row, origin, ledger| {
        if matches!(schema, Schema::Sft | Schema::Unpaired) {
            return Err(DataError::Schema(format!(
                "{}: rows of format {} hold no pair of responses, which preference training needs; use stage sft{}",
                path.display(),
                schema.name(),
                if schema == Schema::Unpaired { " or loss_type kto" } else { "" }
            )));
        }
        let pair = PreferenceRecord::parse(schema, row, origin).and_then(|r| r.into_pair(options.preference));
        let pair = match pair {
            Ok(pair) => pair,
            Err((reason, detail)) => {
                ledger.reject(reason, || detail, origin);
                return Ok(None);
            }
        };
        if missing.notes(&pair, ledger) {
            return Ok(None);
        }
        Ok(oriented(pair, options, ledger))
    })?;
    missing.refuse(loaded.ledger.read)?;
    finish(path, &mut loaded)?;
    Ok(loaded)
}

/// Reads text to imitate: `messages`, `prompt` with a response, or the chosen responses of preference rows.
///
/// # Errors
/// As [`load_pairs`], labels aside (a transform applies to preference rows and then needs their labels).
pub fn load_sft(
    path: &Path,
    options: &LoadOptions,
    observer: &dyn Observer,
) -> Result<Loaded<SftExample>, DataError> {
    let mut missing = Missing::new(options);
    let mut loaded = load(path, options, observer, |schema, row, origin, ledger| {
        let example = if matches!(schema, Schema::Sft | Schema::Unpaired) {
            sft_example(schema, row, origin).map(Some)
        } else {
            let pair =
                PreferenceRecord::parse(schema, row, origin).and_then(|r| r.into_pair(options.preference));
            pair.map(|pair| {
                let pair = if missing.notes(&pair, ledger) { None } else { oriented(pair, options, ledger) };
                pair.map(|p| SftExample { prompt: p.prompt, response: p.chosen, origin: p.origin })
            })
        };
        Ok(example.unwrap_or_else(|(reason, detail)| {
            ledger.reject(reason, || detail, origin);
            None
        }))
    })?;
    missing.refuse(loaded.ledger.read)?;
    finish(path, &mut loaded)?;
    Ok(loaded)
}

/// Reads unpaired examples: `prompt, completion, label`, or both responses of preference rows.
///
/// # Errors
/// As [`load_pairs`].
pub fn load_unpaired(
    path: &Path,
    options: &LoadOptions,
    observer: &dyn Observer,
) -> Result<Loaded<UnpairedExample>, DataError> {
    let mut missing = Missing::new(options);
    let mut loaded = load(path, options, observer, |schema, row, origin, ledger| {
        if schema == Schema::Sft {
            return Err(DataError::Schema(format!(
                "{}: rows of format sft carry no label of what is desirable; kto needs prompt, completion, label or preference pairs",
                path.display()
            )));
        }
        if schema == Schema::Unpaired {
            return Ok(match unpaired_example(row, origin) {
                Ok(example) => vec![example],
                Err((reason, detail)) => {
                    ledger.reject(reason, || detail, origin);
                    Vec::new()
                }
            });
        }
        let pair = PreferenceRecord::parse(schema, row, origin).and_then(|r| r.into_pair(options.preference));
        Ok(match pair {
            Ok(pair) if missing.notes(&pair, ledger) => Vec::new(),
            Ok(pair) => oriented(pair, options, ledger)
                .map(|p| UnpairedExample::from_pair(&p).into())
                .unwrap_or_default(),
            Err((reason, detail)) => {
                ledger.reject(reason, || detail, origin);
                Vec::new()
            }
        })
    })?;
    missing.refuse(loaded.ledger.read)?;
    finish(path, &mut loaded)?;
    Ok(loaded)
}

/// The loop that all three share: rows in, at most a few examples each out.
fn load<T, Out: IntoIterator<Item = T>>(
    path: &Path,
    options: &LoadOptions,
    observer: &dyn Observer,
    mut example: impl FnMut(Schema, &Fields, &Origin, &mut Ledger) -> Result<Out, DataError>,
) -> Result<Loaded<T>, DataError> {
    let mut ledger = Ledger::default();
    let mut examples = Vec::new();
    let mut detected =
        options.format.map(|schema| Detected { schema, because: "dataset_format says so".to_owned() });
    let task = format!("reading {}", path.display());
    for_each_row(path, options.split.as_deref(), (task, observer), |row| {
        let (origin, fields) = match row {
            Ok(row) => row,
            Err(DataError::BadRow { origin, problem, .. }) if options.skip_bad_rows => {
                ledger.read += 1;
                ledger.reject(Rejection::NotJson, || problem, &origin);
                return Ok(());
            }
            Err(error) => return Err(error),
        };
        ledger.read += 1;
        let fields = rename(fields, &options.columns);
        let schema = match &detected {
            Some(detected) => detected.schema,
            None => {
                let found =
                    Schema::detect(&fields).map_err(|e| DataError::Schema(format!("{origin}: {e}")))?;
                observer.event(Event::Note(format!(
                    "{}: format {} ({}); dataset_format forces another",
                    path.display(),
                    found.schema.name(),
                    found.because
                )));
                detected.insert(found).schema
            }
        };
        examples.extend(example(schema, &fields, &origin, &mut ledger)?);
        Ok(())
    })?;
    let detected = detected.ok_or_else(|| DataError::NothingLeft {
        path: path.to_owned(),
        why: if ledger.read == 0 { "it is empty".to_owned() } else { ledger.to_string() },
    })?;
    Ok(Loaded { examples, ledger, detected })
}

fn finish<T>(path: &Path, loaded: &mut Loaded<T>) -> Result<(), DataError> {
    loaded.ledger.kept = loaded.examples.len();
    if loaded.examples.is_empty() {
        let mut why = loaded.ledger.to_string();
        if let Some(detail) = loaded.ledger.details.values().next() {
            why = format!("{why}; for example: {detail}");
        }
        return Err(DataError::NothingLeft { path: path.to_owned(), why });
    }
    Ok(())
}

/// Applies `safe_better` and the transform.
fn oriented(pair: PreferencePair, options: &LoadOptions, ledger: &mut Ledger) -> Option<PreferencePair> {
    if options.preference == Preference::SafeBetter && pair.chosen_unsafe == Some(true) {
        ledger.drop("preference safe_better: chosen is unsafe", &pair.origin);
        return None;
    }
    let Some((chosen_unsafe, rejected_unsafe)) = pair.labels() else { return Some(pair) };
    match options.transform.apply(chosen_unsafe, rejected_unsafe) {
        Transformed::Keep => Some(pair),
        Transformed::Swap => {
            ledger.swapped.add(&pair.origin);
            Some(pair.swapped())
        }
        Transformed::Drop => {
            ledger.drop("both responses are unsafe", &pair.origin);
            None
        }
    }
}

/// Rows without what the loss or the transform needs, gathered over the whole data before the error.
struct Missing {
    labels_for: Option<String>,
    margins_for: Option<String>,
    labels: Count,
    margins: Count,
}

impl Missing {
    fn new(options: &LoadOptions) -> Self {
        let labels_for = options.needs.safety_labels.clone().or_else(|| {
            if options.transform.needs_labels() {
                Some(format!("safety_transform {}", options.transform.name()))
            } else if options.preference == Preference::SafeBetter {
                Some("preference safe_better".to_owned())
            } else {
                None
            }
        });
        let margins_for = options.needs.margins.clone();
        Self { labels_for, margins_for, labels: Count::default(), margins: Count::default() }
    }

    /// Whether the pair lacks something needed; it is then noted.
    fn notes(&mut self, pair: &PreferencePair, ledger: &mut Ledger) -> bool {
        if self.labels_for.is_some() && pair.labels().is_none() {
            self.labels.add(&pair.origin);
            ledger.reject(
                Rejection::NoSafetyLabel,
                || "a safety label is missing or null".to_owned(),
                &pair.origin,
            );
            return true;
        }
        if self.margins_for.is_some() && pair.chosen_margin.zip(pair.rejected_margin).is_none() {
            self.margins.add(&pair.origin);
            ledger.reject(Rejection::NoMargin, || "a margin is missing or null".to_owned(), &pair.origin);
            return true;
        }
        false
    }

    fn refuse(self, read: usize) -> Result<(), DataError> {
        for (count, what, why) in [
            (self.labels, "safety labels", self.labels_for),
            (self.margins, "chosen_margin and rejected_margin", self.margins_for),
        ] {
            if let (1.., Some(why)) = (count.rows, why) {
                return Err(DataError::MissingLabels {
                    count: count.rows,
                    read,
                    what,
                    why,
                    first: count.first,
                });
            }
        }
        Ok(())
    }
}
