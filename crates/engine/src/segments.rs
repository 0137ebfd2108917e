//! Which rows of a packed batch may see which. Rows and ranges only: no tokens, no heads.

use crate::EngineError;

/// A run of consecutive rows in which each row sees itself and the rows before it, and besides these every row of
/// one earlier range: the shared prompt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// First row.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
    /// `(start, len)` of the rows that every row of the segment also sees; they end at or before `start`.
    pub context: Option<(usize, usize)>,
}

impl Segment {
    /// Number of rows that the segment's last row sees.
    pub fn visible(&self) -> usize {
        self.len + self.context.map_or(0, |(_, len)| len)
    }
}

/// Segments that cover rows `0..tokens` in order, without gap or overlap.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segments {
    list: Vec<Segment>,
    tokens: usize,
    /// Group of each segment: segments with a common context range, or contexts that reach into one another,
    /// share a group; gradients of keys and values never leave it.
    groups: Vec<Vec<usize>>,
}

impl Segments {
    /// Checks the list against the number of rows.
    ///
    /// # Errors
    /// A segment that is empty, does not start where the one before it ended, or whose context does not end at or
    /// before its start; a last segment that does not end at `tokens`.
    pub fn new(list: Vec<Segment>, tokens: usize) -> Result<Self, EngineError> {
        let mut next = 0;
        for (index, segment) in list.iter().enumerate() {
            let end = segment.start.saturating_add(segment.len);
            let refuse = |reason| {
                Err(EngineError::Segment { segment: index, start: segment.start, end, tokens, reason })
            };
            if segment.len == 0 {
                return refuse("is empty; leave it out");
            }
            if segment.start != next {
                return refuse("does not start where the segment before it ended");
            }
            if end > tokens {
                return refuse("ends outside the rows");
            }
            if let Some((start, len)) = segment.context
                && start.checked_add(len).is_none_or(|end| end > segment.start)
            {
                return refuse("has a context that does not end at or before its start");
            }
            next = end;
        }
        if next != tokens {
            let reason = "is the last one and does not reach the last row";
            let (segment, start) = (list.len().saturating_sub(1), list.last().map_or(0, |s| s.start));
            return Err(EngineError::Segment { segment, start, end: next, tokens, reason });
        }
        let groups = connected_groups(&list);
        Ok(Self { list, tokens, groups })
    }

    /// Sequences of these lengths one after another, each seeing only itself. Empty ones are left out.
    pub fn independent(lengths: &[usize]) -> Self {
        let mut start = 0;
        let mut list = Vec::with_capacity(lengths.len());
        for &len in lengths.iter().filter(|&&len| len > 0) {
            list.push(Segment { start, len, context: None });
            start += len;
        }
        let groups = (0..list.len()).map(|index| vec![index]).collect();
        Self { list, tokens: start, groups }
    }

    /// The segments in row order.
    pub fn list(&self) -> &[Segment] {
        &self.list
    }

    /// Number of rows covered.
    pub fn tokens(&self) -> usize {
        self.tokens
    }

    /// Sets of segments (indices, ascending) between which no row sees a row of another set.
    pub(crate) fn groups(&self) -> &[Vec<usize>] {
        &self.groups
    }
}

/// Groups by first segment: a segment joins the group of every segment that its context touches.
fn connected_groups(list: &[Segment]) -> Vec<Vec<usize>> {
    // Union to the smallest index. Contexts point backwards, so one pass over ascending segments suffices once
    // roots are followed.
    let mut parent: Vec<usize> = (0..list.len()).collect();
    fn root(parent: &mut [usize], mut index: usize) -> usize {
        while parent[index] != index {
            parent[index] = parent[parent[index]];
            index = parent[index];
        }
        index
    }
    for (index, segment) in list.iter().enumerate() {
        let Some((start, len)) = segment.context else { continue };
        let first = list.partition_point(|other| other.start + other.len <= start);
        let touched = list[first..index].iter().take_while(|other| other.start < start + len).count();
        for touched in first..first + touched {
            let (a, b) = (root(&mut parent, touched), root(&mut parent, index));
            parent[a.max(b)] = a.min(b);
        }
    }
    let mut groups: Vec<Vec<usize>> = Vec::new();
    let mut group_of_root = vec![usize::MAX; list.len()];
    for index in 0..list.len() {
        let root = root(&mut parent, index);
        if group_of_root[root] == usize::MAX {
            group_of_root[root] = groups.len();
            groups.push(Vec::new());
        }
        groups[group_of_root[root]].push(index);
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;

    fn segment(start: usize, len: usize, context: Option<(usize, usize)>) -> Segment {
        Segment { start, len, context }
    }

    #[test]
    fn gaps_overlaps_and_forward_contexts_are_refused() {
        let bad = [
            (vec![segment(0, 3, None)], 4),
            (vec![segment(1, 3, None)], 4),
            (vec![segment(0, 5, None)], 4),
            (vec![segment(0, 2, None), segment(1, 3, None)], 4),
            (vec![segment(0, 2, None), segment(2, 2, Some((1, 2)))], 4),
            (vec![segment(0, 2, None), segment(2, 2, Some((usize::MAX, 2)))], 4),
            (vec![segment(0, usize::MAX, None)], 4),
            (vec![segment(0, 4, None), segment(4, 0, None)], 4),
            (vec![], 4),
        ];
        for (list, tokens) in bad {
            assert!(Segments::new(list.clone(), tokens).is_err(), "{list:?}");
        }
        assert!(Segments::new(vec![], 0).is_ok());
    }

    #[test]
    fn a_shared_prompt_and_its_responses_form_one_group() {
        let list = vec![
            segment(0, 3, None),
            segment(3, 2, Some((0, 3))),
            segment(5, 1, None),
            segment(6, 2, Some((0, 3))),
            segment(8, 2, Some((5, 1))),
        ];
        let segments = Segments::new(list, 10).unwrap();
        assert_eq!(segments.groups(), [vec![0, 1, 3], vec![2, 4]]);
    }

    #[test]
    fn independent_sequences_leave_empty_ones_out() {
        let segments = Segments::independent(&[2, 0, 3]);
        assert_eq!(segments.list(), [segment(0, 2, None), segment(2, 3, None)]);
        assert_eq!(segments.tokens(), 5);
    }
}
