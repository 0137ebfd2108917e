//! The numbers of a packed batch that decide memory and time. Counts only: no tokens.

use crate::packed_batch::PackedBatch;

/// How large a [`PackedBatch`] is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct BatchSize {
    /// Rows that the decoder computes on.
    pub rows: usize,
    /// Rows that meet the head: the only ones that the last layer computes to its end.
    pub head_rows: usize,
    /// Scored tokens, or sequences with a score; more than `head_rows` where a row predicts the first token of several responses.
    pub scored: usize,
    /// Sequences.
    pub sequences: usize,
    /// Rows that the batch's longest-sighted row attends to.
    pub visible: usize,
    /// Pairs of a row and a row that it attends to: the work of attention.
    pub attended_pairs: u64,
}

impl BatchSize {
    /// Counts a batch.
    pub fn of(batch: &PackedBatch) -> Self {
        let segments = batch.segments().list();
        let pairs = |s: &bso_engine::Segment| {
            let (len, context) = (s.len as u64, s.context.map_or(0, |(_, len)| len as u64));
            len * context + len * (len + 1) / 2
        };
        Self {
            rows: batch.rows(),
            head_rows: batch.head_rows().len(),
            scored: batch.head_index().len(),
            sequences: batch.sequences(),
            visible: segments.iter().map(bso_engine::Segment::visible).max().unwrap_or(0),
            attended_pairs: segments.iter().map(pairs).sum(),
        }
    }

    /// The larger of each number: memory that suffices for both batches.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self {
            rows: self.rows.max(other.rows),
            head_rows: self.head_rows.max(other.head_rows),
            scored: self.scored.max(other.scored),
            sequences: self.sequences.max(other.sequences),
            visible: self.visible.max(other.visible),
            attended_pairs: self.attended_pairs.max(other.attended_pairs),
        }
    }
}
