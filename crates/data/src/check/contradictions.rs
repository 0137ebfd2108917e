//! Rows that repeat or contradict one another, by hashes of their texts (128 bits of SHA-256).

use crate::ledger::Count;
use crate::record::PreferenceRecord;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::{HashMap, HashSet};

/// Pairs of judgements that cannot all be right, and rows that say nothing new.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Contradictions {
    /// The same prompt and responses as an earlier row, the other response more helpful.
    pub opposite_better: Count,
    /// The same prompt and responses as an earlier row, the other response safer.
    pub opposite_safer: Count,
    /// Rows with a response that an earlier row labels the other way for the same prompt.
    pub different_label: Count,
    /// The response called safer is the one labelled unsafe, the other is labelled safe.
    pub safer_is_unsafe: Count,
    /// The same prompt and responses (in either order) as an earlier row, with nothing contradicted.
    pub duplicates: Count,
    /// Distinct prompts.
    pub distinct_prompts: usize,
}

type Key = [u8; 16];

/// What is known of earlier rows.
#[derive(Default)]
pub(super) struct Seen {
    prompts: HashSet<Key>,
    /// Prompt and response -> unsafe.
    labels: HashMap<Key, bool>,
    /// Prompt and both responses -> hash of the better one, of the safer one.
    judgements: HashMap<Key, (Option<Key>, Option<Key>)>,
    found: Contradictions,
}

impl Seen {
    pub(super) fn add(&mut self, record: &PreferenceRecord) {
        let origin = &record.origin;
        let prompt = hash(record.prompt.iter().flat_map(|m| [m.role.as_bytes(), m.content.as_bytes()]));
        self.prompts.insert(prompt);
        let response = |i: usize| hash([&prompt[..], record.responses[i].as_bytes()]);
        let keys = [response(0), response(1)];
        let mut relabelled = false;
        for (key, label) in keys.iter().zip(record.is_unsafe) {
            let Some(label) = label else { continue };
            relabelled |= *self.labels.entry(*key).or_insert(label) != label;
        }
        if relabelled {
            self.found.different_label.add(origin);
        }
        if let (Some(safer), [Some(first), Some(second)]) = (record.safer, record.is_unsafe) {
            let (of_safer, of_other) = if safer == 0 { (first, second) } else { (second, first) };
            if of_safer && !of_other {
                self.found.safer_is_unsafe.add(origin);
            }
        }
        let [low, high] = if keys[0] <= keys[1] { keys } else { [keys[1], keys[0]] };
        let judgement = (record.better.map(|i| keys[i]), record.safer.map(|i| keys[i]));
        match self.judgements.entry(hash([&low[..], &high[..]])) {
            std::collections::hash_map::Entry::Vacant(place) => {
                place.insert(judgement);
            }
            std::collections::hash_map::Entry::Occupied(earlier) => {
                let differ = |a: Option<Key>, b: Option<Key>| a.zip(b).is_some_and(|(a, b)| a != b);
                let better = differ(earlier.get().0, judgement.0);
                let safer = differ(earlier.get().1, judgement.1);
                if better {
                    self.found.opposite_better.add(origin);
                }
                if safer {
                    self.found.opposite_safer.add(origin);
                }
                if !better && !safer && !relabelled {
                    self.found.duplicates.add(origin);
                }
            }
        }
    }

    pub(super) fn finish(mut self) -> Contradictions {
        self.found.distinct_prompts = self.prompts.len();
        self.found
    }
}

fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Key {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut key = [0; 16];
    key.copy_from_slice(&hasher.finalize()[..16]);
    key
}
