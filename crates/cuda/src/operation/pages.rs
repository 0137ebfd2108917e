//! Which page of a pool holds which rows of which slot, known on the host: pages go to slots as these grow, and come back
//! when a slot is cleared. One set of tables serves the pools of every layer.

use super::fit;
use crate::CudaError;

/// Rows of a page, as in `cached_attention.cu`.
pub const PAGE: usize = 64;

const OP: &str = "page tables";

/// Rows `start..start + len` of a batch are the newest rows of the sequence in `slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedRows {
    /// Slot of the cache.
    pub slot: usize,
    /// First row of the batch.
    pub start: usize,
    /// Number of rows.
    pub len: usize,
}

/// The pages of every slot.
#[derive(Debug, Clone)]
pub struct PageTables {
    /// `[slots, each]`.
    tables: Vec<u32>,
    /// Pages that a slot may have.
    each: usize,
    lengths: Vec<usize>,
    /// Pages of the pool.
    pages: usize,
    free: Vec<u32>,
}

impl PageTables {
    /// Empty slots of at most `most` rows each, over a pool of `pages` pages.
    ///
    /// # Errors
    /// A pool of more rows than 32 bits count.
    pub fn new(slots: usize, most: usize, pages: usize) -> Result<Self, CudaError> {
        let mut tables =
            Self { tables: Vec::new(), each: 0, lengths: vec![0; slots], pages: 0, free: Vec::new() };
        tables.grow(most, pages)?;
        Ok(tables)
    }

    /// Lets slots have `most` rows and the pool `pages` pages, if that is more than they may have: what is there stays where it
    /// is, and a larger pool begins with the rows of the smaller one.
    ///
    /// # Errors
    /// A pool of more rows than 32 bits count.
    pub fn grow(&mut self, most: usize, pages: usize) -> Result<(), CudaError> {
        fit(OP, "rows of the pool", pages.saturating_mul(PAGE))?;
        let each = most.div_ceil(PAGE).max(self.each);
        let mut tables = vec![0; self.slots() * each];
        if self.each > 0 {
            for (new, old) in tables.chunks_exact_mut(each).zip(self.tables.chunks_exact(self.each)) {
                new[..self.each].copy_from_slice(old);
            }
        }
        (self.tables, self.each) = (tables, each);
        // The first page is handed out first.
        let added = (self.pages..pages).rev().map(|page| page as u32);
        self.free.splice(..0, added);
        self.pages = self.pages.max(pages);
        Ok(())
    }

    /// What [`PageTables::grow`] must be asked for before [`PageTables::extend`] takes these rows: rows of the longest slot, and
    /// pages.
    ///
    /// # Errors
    /// A slot that is not there.
    pub fn needs(&self, rows: &[CachedRows]) -> Result<[usize; 2], CudaError> {
        let mut lengths = self.lengths.clone();
        for entry in rows {
            let Some(length) = lengths.get_mut(entry.slot) else {
                return Err(CudaError::shape(OP, format!("no slot {}; {} there", entry.slot, self.slots())));
            };
            *length = length.saturating_add(entry.len);
        }
        let pages = lengths.iter().map(|length| length.div_ceil(PAGE)).sum();
        Ok([lengths.into_iter().max().unwrap_or(0), pages])
    }

    /// Pages of the pool.
    pub fn pages(&self) -> usize {
        self.pages
    }

    /// The tables as the kernels read them, `[slots, pages of a slot]`: page of a slot's rows `PAGE i..PAGE (i + 1)`, 0 where
    /// it has not got so many.
    pub fn tables(&self) -> &[u32] {
        &self.tables
    }

    /// Number of slots.
    pub fn slots(&self) -> usize {
        self.lengths.len()
    }

    /// Number of rows in a slot (0 where there is no such slot).
    pub fn len(&self, slot: usize) -> usize {
        self.lengths.get(slot).copied().unwrap_or(0)
    }

    /// Whether a slot holds nothing.
    pub fn is_empty(&self, slot: usize) -> bool {
        self.len(slot) == 0
    }

    /// Pages that no slot has.
    pub fn free_pages(&self) -> usize {
        self.free.len()
    }

    /// Forgets a slot's rows; its pages are free.
    pub fn clear(&mut self, slot: usize) {
        if slot < self.slots() {
            let pages = self.len(slot).div_ceil(PAGE);
            let table = &mut self.tables[slot * self.each..][..pages];
            self.free.extend(table.iter().rev());
            table.fill(0);
            self.lengths[slot] = 0;
        }
    }

    /// Lengthens the slots by these rows of a batch of `n`. The list, `[rows, 2]`, is what [`append_rows`](super::append_rows)
    /// reads: row of the batch, row of the pool.
    ///
    /// # Errors
    /// A slot or row that is not there, rows that do not ascend, a slot that is full, too few free pages; nothing is changed
    /// then.
    pub fn extend(&mut self, rows: &[CachedRows], n: usize) -> Result<Vec<u32>, CudaError> {
        check_rows(OP, rows, self.slots(), n)?;
        let [most, pages] = self.needs(rows)?;
        if most > self.each * PAGE || pages > self.pages {
            let reason = format!("{most} rows in a slot and {pages} pages in all are asked for");
            let there = format!("{} rows and {} pages at most", self.each * PAGE, self.pages);
            return Err(CudaError::shape(OP, format!("{reason}; {there}")));
        }
        let mut list = Vec::new();
        for entry in rows {
            for row in entry.start..entry.start + entry.len {
                let at = self.lengths[entry.slot];
                let page = &mut self.tables[entry.slot * self.each + at / PAGE];
                if at.is_multiple_of(PAGE)
                    && let Some(free) = self.free.pop()
                {
                    *page = free;
                }
                list.extend([fit(OP, "row", row)?, *page * PAGE as u32 + (at % PAGE) as u32]);
                self.lengths[entry.slot] += 1;
            }
        }
        Ok(list)
    }
}

/// Slots and rows that exist, rows ascending without overlap.
pub(super) fn check_rows(
    operation: &'static str,
    rows: &[CachedRows],
    slots: usize,
    n: usize,
) -> Result<(), CudaError> {
    let n = fit(operation, "rows", n)? as usize;
    let mut next = 0;
    for (index, entry) in rows.iter().enumerate() {
        let end = entry.start.checked_add(entry.len).filter(|&end| entry.start >= next && end <= n);
        let Some(end) = end.filter(|_| entry.slot < slots) else {
            let reason = format!("entry {index} ({entry:?}) of {n} rows and {slots} slots");
            return Err(CudaError::shape(operation, reason));
        };
        next = end;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(slot: usize, start: usize, len: usize) -> CachedRows {
        CachedRows { slot, start, len }
    }

    #[test]
    fn slots_grow_by_pages_and_give_them_back() {
        let mut tables = PageTables::new(2, 200, 5).unwrap();
        let list = tables.extend(&[entry(1, 1, 2), entry(0, 4, 65)], 69).unwrap();
        assert_eq!(list[..6], [1, 0, 2, 1, 4, 64]);
        assert_eq!(list[list.len() - 4..], [67, 127, 68, 128]);
        assert_eq!(tables.tables(), [1, 2, 0, 0, 0, 0, 0, 0]);
        assert_eq!((tables.len(0), tables.len(1), tables.free_pages()), (65, 2, 2));
        assert_eq!(tables.extend(&[entry(1, 0, 1)], 1).unwrap(), [0, 2]);
        tables.clear(0);
        tables.clear(7);
        assert!(tables.is_empty(0) && tables.free_pages() == 4);
        assert_eq!(tables.extend(&[entry(0, 0, 1)], 1).unwrap(), [0, 64]);
    }

    #[test]
    fn what_does_not_fit_changes_nothing() {
        let mut tables = PageTables::new(2, 128, 3).unwrap();
        tables.extend(&[entry(0, 0, 3)], 3).unwrap();
        for (rows, n) in [
            (vec![entry(2, 0, 1)], 1),
            (vec![entry(0, 0, 2)], 1),
            (vec![entry(0, usize::MAX, 2)], 1),
            (vec![entry(0, 0, 2), entry(1, 1, 1)], 2),
            (vec![entry(0, 0, 126)], 126),
            (vec![entry(0, 0, 125), entry(1, 125, 65)], 190),
        ] {
            assert!(tables.extend(&rows, n).is_err(), "{rows:?}");
            assert_eq!((tables.len(0), tables.len(1), tables.free_pages()), (3, 0, 2));
        }
        assert!(PageTables::new(1, 1, usize::MAX).is_err());
    }

    #[test]
    fn tables_grow_around_what_is_there() {
        let mut tables = PageTables::new(2, 0, 0).unwrap();
        let rows = [entry(1, 0, 65), entry(0, 65, 1)];
        assert_eq!(tables.needs(&rows).unwrap(), [65, 3]);
        assert!(tables.needs(&[entry(2, 0, 1)]).is_err());
        tables.grow(65, 3).unwrap();
        tables.extend(&rows, 66).unwrap();
        assert_eq!(tables.tables(), [2, 0, 0, 1]);
        let rows = [entry(0, 0, 130)];
        assert_eq!(tables.needs(&rows).unwrap(), [131, 5]);
        tables.grow(131, 5).unwrap();
        tables.grow(1, 1).unwrap();
        tables.extend(&rows, 130).unwrap();
        assert_eq!((tables.tables(), tables.pages(), tables.free_pages()), (&[2, 3, 4, 0, 1, 0][..], 5, 0));
    }
}
