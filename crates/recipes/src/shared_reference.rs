//! Log-probs that several runs share: one file for the same frozen model and the same set of examples, whatever their order,
//! their split and which response of a pair is chosen. Seeds, penalties and generators change none of these.

use crate::RecipeError;
use crate::example::Example;
use crate::reference::{Dependencies, ReferenceLogProbs};
use bso_data::TokenisedSequence;
use bso_durable::{Fingerprint, Interrupt, Observer, ensure_dir};
use bso_model::Decoder;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::{File, TryLockError};
use std::path::Path;
use std::time::Duration;

/// Between two tries to get at a folder that another run computes in.
const WAIT: Duration = Duration::from_millis(50);

/// As [`ReferenceLogProbs::obtain`], from the file in `dir` that all runs with these ingredients read. Whoever comes first
/// computes it, in an order that the examples alone decide, so that every run sees the same numbers whoever that was.
///
/// # Errors
/// As [`ReferenceLogProbs::obtain`]; [`RecipeError::Interrupted`] while another run computes.
pub fn obtain_shared<'a>(
    dir: &Path,
    depends_on: &Dependencies,
    (train, eval): (&[Example], &[Example]),
    reference: impl FnOnce() -> Result<Cow<'a, Decoder>, RecipeError>,
    (interrupt, observer): (&Interrupt, &dyn Observer),
) -> Result<ReferenceLogProbs, RecipeError> {
    let keys: Vec<String> = train.iter().chain(eval).map(key).collect();
    let distinct: BTreeMap<&str, &Example> =
        keys.iter().map(String::as_str).zip(train.iter().chain(eval)).collect();
    let (depends_on, path) = {
        let (mut set, mut name) = (Fingerprint::new(), Fingerprint::new());
        for key in distinct.keys() {
            set.part(key);
        }
        let mut depends_on = depends_on.clone();
        depends_on.insert("data in tokens".to_owned(), set.finish());
        for (role, value) in &depends_on {
            name.part(role).part(value);
        }
        let file = format!("{:.16}.jsonl", name.finish());
        (depends_on, dir.join(file))
    };
    let ordered: Vec<Example> = distinct.values().map(|example| in_order(example)).collect();
    let found = {
        ensure_dir(dir)?;
        let _lock = lock(dir, interrupt)?;
        ReferenceLogProbs::obtain(&path, &depends_on, (&ordered, &[]), reference, (interrupt, observer))?
    };
    let place: BTreeMap<&str, usize> = distinct.keys().copied().zip(0..).collect();
    let mut rows = keys.iter().zip(train.iter().chain(eval)).map(|(key, example)| {
        let at = place[key.as_str()];
        let known = &ordered[at].sequences;
        let of = |s: &TokenisedSequence| known.iter().position(|k| ids(k) == ids(s)).unwrap_or_default();
        example.scored().map(|s| found.train[at][of(s)]).collect::<Vec<f64>>()
    });
    Ok(ReferenceLogProbs { train: rows.by_ref().take(train.len()).collect(), eval: rows.collect() })
}

fn ids(sequence: &TokenisedSequence) -> (&[u32], &[u32]) {
    (&sequence.prompt, &sequence.response)
}

/// The scored sequences of `example` in the order of their tokens.
fn in_order(example: &Example) -> Example {
    let mut sequences: Vec<TokenisedSequence> = example.scored().cloned().collect();
    sequences.sort_by(|a, b| ids(a).cmp(&ids(b)));
    Example { sequences, mismatched: None, labels: None, margins: None, desirable: true }
}

fn key(example: &Example) -> String {
    let mut sequences: Vec<&TokenisedSequence> = example.scored().collect();
    sequences.sort_by(|a, b| ids(a).cmp(&ids(b)));
    let mut key = Fingerprint::new();
    for ids in sequences.iter().flat_map(|s| [&s.prompt, &s.response]) {
        key.part(ids.iter().flat_map(|id| id.to_le_bytes()).collect::<Vec<u8>>());
    }
    key.finish()
}

/// The folder's lock, once nobody else holds it; none where the system cannot lock folders: then two runs may do the same work.
fn lock(dir: &Path, interrupt: &Interrupt) -> Result<Option<File>, RecipeError> {
    let Ok(folder) = File::open(dir) else { return Ok(None) };
    loop {
        match folder.try_lock() {
            Ok(()) => return Ok(Some(folder)),
            Err(TryLockError::Error(_)) => return Ok(None),
            Err(TryLockError::WouldBlock) if interrupt.is_raised() => return Err(RecipeError::Interrupted),
            Err(TryLockError::WouldBlock) => std::thread::sleep(WAIT),
        }
    }
}
