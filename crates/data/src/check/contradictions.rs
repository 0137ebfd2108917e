//! Rows that repeat or contradict one another, by hashes of their texts (64 bits of SHA-256: a false match among ten
//! million rows has a chance of about one in fifty thousand). Some 70 bytes a row are kept, and after [`REMEMBERED`] rows
//! no more: later rows are compared with those.

use crate::ledger::Count;
use crate::record::PreferenceRecord;
use serde::Serialize;
use sha2::{Digest, Sha256};
use std::collections::hash_map::Entry;
use std::collections::{HashMap, HashSet};
use std::hash::{BuildHasherDefault, Hasher};

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
    /// Distinct prompts among the rows remembered.
    pub distinct_prompts: usize,
    /// Rows that others were compared with; fewer than were read where there are more than are remembered.
    pub remembered: usize,
}

/// Rows whose hashes are kept.
const REMEMBERED: usize = 1 << 24;

/// Hashes need no hashing.
#[derive(Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn finish(&self) -> u64 {
        self.0
    }
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.0 = self.0.rotate_left(8) ^ u64::from(*byte));
    }
    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type Direct = BuildHasherDefault<AsItIs>;

/// What is known of earlier rows.
pub(super) struct Seen {
    prompts: HashSet<u64, Direct>,
    /// Prompt and response, the lowest bit saying whether it is unsafe.
    labels: HashSet<u64, Direct>,
    /// Prompt and both responses -> which of them (by the order of their hashes) is better, and which is safer.
    judgements: HashMap<u64, Judgement, Direct>,
    most: usize,
    found: Contradictions,
}

#[derive(Clone, Copy)]
struct Judgement {
    better: Which,
    safer: Which,
}

/// One of two responses, by the order of their hashes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Unknown,
    Low,
    High,
}

impl Which {
    fn of(chosen: Option<usize>, low: usize) -> Self {
        match chosen {
            None => Self::Unknown,
            Some(index) if index == low => Self::Low,
            Some(_) => Self::High,
        }
    }

    fn contradicts(self, other: Self) -> bool {
        self != Self::Unknown && other != Self::Unknown && self != other
    }
}

impl Default for Seen {
    fn default() -> Self {
        Self::remembering(REMEMBERED)
    }
}

impl Seen {
    fn remembering(most: usize) -> Self {
        Self {
            prompts: HashSet::default(),
            labels: HashSet::default(),
            judgements: HashMap::default(),
            most,
            found: Contradictions::default(),
        }
    }

    pub(super) fn add(&mut self, record: &PreferenceRecord) {
        let origin = &record.origin;
        let room = self.found.remembered < self.most;
        self.found.remembered += usize::from(room);
        let prompt = hash(record.prompt.iter().flat_map(|m| [m.role.as_bytes(), m.content.as_bytes()]));
        if room {
            self.prompts.insert(prompt);
        }
        let keys = [0, 1].map(|i: usize| hash([&prompt.to_le_bytes()[..], record.responses[i].as_bytes()]));
        let mut relabelled = false;
        for (key, label) in keys.iter().zip(record.is_unsafe) {
            let Some(label) = label else { continue };
            let (here, there) = (key & !1 | u64::from(label), key & !1 | u64::from(!label));
            let known = self.labels.contains(&there);
            relabelled |= known;
            if room && !known {
                self.labels.insert(here);
            }
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
        let low = usize::from(keys[1] < keys[0]);
        let judgement =
            Judgement { better: Which::of(record.better, low), safer: Which::of(record.safer, low) };
        let both = hash([keys[low].to_le_bytes(), keys[1 - low].to_le_bytes()].iter().map(|k| &k[..]));
        match self.judgements.entry(both) {
            Entry::Vacant(place) if room => {
                place.insert(judgement);
            }
            Entry::Vacant(_) => {}
            Entry::Occupied(earlier) => {
                let better = earlier.get().better.contradicts(judgement.better);
                let safer = earlier.get().safer.contradicts(judgement.safer);
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

fn hash<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> u64 {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    let mut key = [0; 8];
    key.copy_from_slice(&hasher.finalize()[..8]);
    u64::from_le_bytes(key)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::Message;
    use crate::origin::Origin;

    fn record(row: usize, prompt: usize, better: usize) -> PreferenceRecord {
        PreferenceRecord {
            prompt: vec![Message::user(prompt.to_string())],
            responses: ["a".to_owned(), "b".to_owned()],
            is_unsafe: [Some(false), Some(true)],
            better: Some(better),
            safer: Some(0),
            margins: [None, None],
            origin: Origin::new("d", row),
        }
    }

    #[test]
    fn memory_ends_and_later_rows_are_compared_with_what_is_remembered() {
        let mut seen = Seen::remembering(10);
        (0..1000).for_each(|i| seen.add(&record(i + 1, i, 0)));
        seen.add(&record(1001, 3, 1));
        seen.add(&record(1002, 500, 1));
        assert!(seen.prompts.len() == 10 && seen.judgements.len() == 10 && seen.labels.len() == 20);
        let found = seen.finish();
        assert_eq!((found.remembered, found.distinct_prompts, found.opposite_better.rows), (10, 10, 1));
        assert_eq!(found.opposite_better.first[0].row, 1001);
    }
}
