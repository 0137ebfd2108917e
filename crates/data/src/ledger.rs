//! The account of every row: read, kept, swapped, or left out and why.

use crate::error::list;
use crate::origin::Origin;
use crate::rejection::Rejection;
use serde::Serialize;
use std::collections::BTreeMap;
use std::fmt;

/// How many rows a line of the ledger keeps by name.
const NAMED: usize = 10;

/// A number of rows and the first few of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Count {
    /// How many.
    pub rows: usize,
    /// The first ten.
    pub first: Vec<Origin>,
}

impl Count {
    pub(crate) fn add(&mut self, origin: &Origin) {
        self.rows += 1;
        if self.first.len() < NAMED {
            self.first.push(origin.clone());
        }
    }

    fn absorb(&mut self, other: Self) {
        self.rows += other.rows;
        let room = NAMED - self.first.len();
        self.first.extend(other.first.into_iter().take(room));
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.rows)?;
        if !self.first.is_empty() {
            let more = if self.rows > self.first.len() { ", ..." } else { "" };
            write!(f, " ({}{more})", list(&self.first))?;
        }
        Ok(())
    }
}

/// What became of the rows of a data set, from the file to the token sequences.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub struct Ledger {
    /// Rows read from files.
    pub read: usize,
    /// Pairs (or examples) that are used in the end.
    pub kept: usize,
    /// Pairs whose chosen and rejected responses the safety transform exchanged.
    pub swapped: Count,
    /// Rows that cannot be used, by reason.
    pub rejected: BTreeMap<Rejection, Count>,
    /// What a rejected row's first case said, by reason: the field and what was found.
    pub details: BTreeMap<Rejection, String>,
    /// Usable pairs left out by a setting, by that setting's reason.
    pub dropped: BTreeMap<String, Count>,
    /// Sequences that were cut, by kind of cut.
    pub truncated: BTreeMap<String, Count>,
    /// Where several data sets are mixed: each of them.
    pub sources: Vec<SourceCount>,
}

/// What one data set gave to a mixture.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct SourceCount {
    /// Its name.
    pub name: String,
    /// Rows read from its files.
    pub read: usize,
    /// Examples used, before anything is cut or dropped for its length.
    pub used: usize,
}

impl Ledger {
    /// Counts a row that cannot be used; the first `detail` of a reason is kept.
    pub fn reject(&mut self, reason: Rejection, detail: impl FnOnce() -> String, origin: &Origin) {
        self.rejected.entry(reason).or_default().add(origin);
        self.details.entry(reason).or_insert_with(detail);
    }

    /// Counts a usable row left out by a setting.
    pub fn drop(&mut self, reason: &str, origin: &Origin) {
        entry(&mut self.dropped, reason).add(origin);
    }

    /// Counts a cut sequence.
    pub fn cut(&mut self, kind: &str, origin: &Origin) {
        entry(&mut self.truncated, kind).add(origin);
    }

    /// Adds the counts of another part of the data.
    pub fn absorb(&mut self, other: Self) {
        self.read += other.read;
        self.kept += other.kept;
        self.swapped.absorb(other.swapped);
        for (reason, count) in other.rejected {
            self.rejected.entry(reason).or_default().absorb(count);
        }
        for (reason, detail) in other.details {
            self.details.entry(reason).or_insert(detail);
        }
        for (reason, count) in other.dropped {
            entry(&mut self.dropped, &reason).absorb(count);
        }
        for (kind, count) in other.truncated {
            entry(&mut self.truncated, &kind).absorb(count);
        }
        self.sources.extend(other.sources);
    }

    /// Rows that cannot be used.
    pub fn rejected_rows(&self) -> usize {
        self.rejected.values().map(|c| c.rows).sum()
    }

    /// Usable rows left out by a setting.
    pub fn dropped_rows(&self) -> usize {
        self.dropped.values().map(|c| c.rows).sum()
    }

    /// Everything as lines of a table: label, number, first rows and details (possibly empty).
    pub fn lines(&self) -> Vec<(String, usize, String)> {
        let mut lines = vec![("read".to_owned(), self.read, String::new())];
        let named = |label: String, count: &Count, detail: Option<&String>| {
            let mut note = list(&count.first);
            if count.rows > count.first.len() {
                note.push_str(", ...");
            }
            if let Some(detail) = detail {
                note = format!("{detail}; {note}");
            }
            (label, count.rows, note)
        };
        for (reason, count) in &self.rejected {
            lines.push(named(format!("rejected: {reason}"), count, self.details.get(reason)));
        }
        for (reason, count) in &self.dropped {
            lines.push(named(format!("dropped: {reason}"), count, None));
        }
        if self.swapped.rows > 0 {
            lines.push(named("swapped (chosen unsafe, rejected safe)".to_owned(), &self.swapped, None));
        }
        for (kind, count) in &self.truncated {
            lines.push(named(format!("truncated: {kind}"), count, None));
        }
        for source in &self.sources {
            lines.push((format!("from {}", source.name), source.used, format!("{} read", source.read)));
        }
        lines.push(("kept".to_owned(), self.kept, String::new()));
        lines
    }
}

/// One line: `1383 read, 520 swapped, 1383 kept`.
impl fmt::Display for Ledger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} read", self.read)?;
        for (reason, count) in &self.rejected {
            write!(f, ", {} rejected ({reason})", count.rows)?;
        }
        for (reason, count) in &self.dropped {
            write!(f, ", {} dropped ({reason})", count.rows)?;
        }
        if self.swapped.rows > 0 {
            write!(f, ", {} swapped", self.swapped.rows)?;
        }
        for (kind, count) in &self.truncated {
            write!(f, ", {} truncated ({kind})", count.rows)?;
        }
        write!(f, ", {} kept", self.kept)
    }
}

fn entry<'a>(map: &'a mut BTreeMap<String, Count>, key: &str) -> &'a mut Count {
    map.entry(key.to_owned()).or_default()
}
