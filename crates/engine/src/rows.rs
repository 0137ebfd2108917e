//! Picking rows out of a matrix, and adding rows back into one.

use rayon::prelude::*;

use crate::array::{Values, ValuesMut};
use crate::element::Element;
use crate::error::{expect_indices, expect_size};
use crate::{Array, Engine, EngineError};

impl Engine {
    /// `out[i] = x[index[i]]`.
    ///
    /// # Errors
    /// An index outside `x`; shapes that do not fit.
    pub fn gather_rows(&self, x: &Array, index: &[usize], out: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "gather_rows";
        expect_size(OP, "rows of out", index.len(), out.rows())?;
        expect_size(OP, "columns of out", x.cols(), out.cols())?;
        expect_indices(OP, "row", index.iter().copied(), x.rows())?;
        if let Some(gpu) = out.accelerator() {
            return gpu.gather_rows(x, &narrow(index), out);
        }
        self.copy_rows(x, |i| index[i], out)
    }

    /// `x[index[i]] += rows[i]`, in the order of `i` where an index repeats: the backward of
    /// [`Engine::gather_rows`].
    ///
    /// # Errors
    /// An index outside `x`; shapes that do not fit.
    pub fn scatter_add_rows(&self, rows: &Array, index: &[usize], x: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "scatter_add_rows";
        expect_size(OP, "rows to add", index.len(), rows.rows())?;
        expect_size(OP, "columns of the rows to add", x.cols(), rows.cols())?;
        expect_indices(OP, "row", index.iter().copied(), x.rows())?;
        if let Some(gpu) = x.accelerator() {
            return gpu.scatter_add_rows(rows, &narrow(index), x);
        }
        self.add_rows(rows, |i| index[i], x);
        Ok(())
    }

    /// `out = x[first..first + rows of out]`.
    ///
    /// # Errors
    /// Rows that `x` does not have; shapes that do not fit.
    pub fn read_rows(&self, x: &Array, first: usize, out: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "read_rows";
        expect_size(OP, "columns of out", x.cols(), out.cols())?;
        expect_indices(OP, "row", last_of(first, out.rows()), x.rows())?;
        if out.device_memory().is_some() {
            return copy_on_device(OP, (x, first), (out, 0), out.rows());
        }
        self.copy_rows(x, |i| first + i, out)
    }

    /// `x[first..first + rows of rows] = rows`.
    ///
    /// # Errors
    /// Rows that `x` does not have; shapes that do not fit.
    pub fn write_rows(&self, rows: &Array, first: usize, x: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "write_rows";
        let cols = x.cols();
        expect_size(OP, "columns of the rows to write", cols, rows.cols())?;
        expect_indices(OP, "row", last_of(first, rows.rows()), x.rows())?;
        if x.device_memory().is_some() {
            return copy_on_device(OP, (rows, 0), (x, first), rows.rows());
        }
        match (rows.values(), x.values_mut()) {
            (Values::F32(rows), ValuesMut::F32(x)) => {
                self.copy_values(rows, cols, |i| i, &mut x[first * cols..][..rows.len()]);
            }
            (Values::Bf16(rows), ValuesMut::Bf16(x)) => {
                self.copy_values(rows, cols, |i| i, &mut x[first * cols..][..rows.len()]);
            }
            _ => return Err(EngineError::mixed(OP)),
        }
        Ok(())
    }

    /// `out[i] = x[index(i)]` for indices already checked.
    pub(crate) fn copy_rows(
        &self,
        x: &Array,
        index: impl Fn(usize) -> usize + Sync,
        out: &mut Array,
    ) -> Result<(), EngineError> {
        let cols = out.cols();
        match (x.values(), out.values_mut()) {
            (Values::F32(x), ValuesMut::F32(out)) => self.copy_values(x, cols, index, out),
            (Values::Bf16(x), ValuesMut::Bf16(out)) => self.copy_values(x, cols, index, out),
            _ => return Err(EngineError::mixed("gather_rows")),
        }
        Ok(())
    }

    fn copy_values<E: Element>(
        &self,
        x: &[E],
        cols: usize,
        index: impl Fn(usize) -> usize + Sync,
        out: &mut [E],
    ) {
        if out.is_empty() {
            return;
        }
        let copy = |(i, row): (usize, &mut [E])| row.copy_from_slice(&x[index(i) * cols..][..cols]);
        if self.parallel(out.len()) {
            self.install(|| out.par_chunks_mut(cols).with_min_len(64).enumerate().for_each(copy));
        } else {
            out.chunks_mut(cols).enumerate().for_each(copy);
        }
    }

    /// `x[index(i)] += rows[i]` for indices already checked. Each thread owns a range of the rows of `x` and walks
    /// all of `rows`: the order of additions into a row is that of `i`, whatever the number of threads.
    pub(crate) fn add_rows(&self, rows: &Array, index: impl Fn(usize) -> usize + Sync, x: &mut Array) {
        let cols = x.cols();
        if x.is_empty() {
            return;
        }
        let parallel = self.parallel(rows.len());
        let owned = if parallel { x.rows().div_ceil(self.num_threads()) } else { x.rows() };
        let add = |(part, x): (usize, &mut [f32])| {
            let first = part * owned;
            let range = first..first + x.len() / cols;
            for (i, row) in rows.as_slice().chunks_exact(cols).enumerate() {
                let target = index(i);
                if range.contains(&target) {
                    let target = &mut x[(target - first) * cols..][..cols];
                    target.iter_mut().zip(row).for_each(|(sum, value)| *sum += value);
                }
            }
        };
        let x = x.as_mut_slice();
        if parallel {
            self.install(|| x.par_chunks_mut(owned * cols).enumerate().for_each(add));
        } else {
            add((0, x));
        }
    }
}

/// Indices that were checked against rows of an array on a device, which are fewer than 2^32.
fn narrow(index: &[usize]) -> Vec<u32> {
    index.iter().map(|&index| index as u32).collect()
}

/// Rows in sequence from one array on a device to another.
fn copy_on_device(
    operation: &'static str,
    (from, from_row): (&Array, usize),
    (to, to_row): (&Array, usize),
    rows: usize,
) -> Result<(), EngineError> {
    let memories = from.device_memory().zip(to.device_memory());
    let Some((source, target)) = memories.filter(|(source, target)| source.dtype == target.dtype) else {
        return Err(EngineError::mixed(operation));
    };
    let row_bytes = from.cols() * source.dtype.size_in_bytes();
    let (source_at, target_at) = (from_row * row_bytes, to_row * row_bytes);
    target.owner().copy((source.memory(), source_at), (target.memory(), target_at), rows * row_bytes)
}

/// The last of `count` rows from `first` on, if there is any: the one to check.
fn last_of(first: usize, count: usize) -> Option<usize> {
    count.checked_sub(1).map(|last| first.saturating_add(last))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{engines, random};

    #[test]
    fn gathered_rows_are_copies_and_scattered_rows_add_up() {
        for engine in engines() {
            for (rows, cols, picks) in [(7, 3, 19), (301, 67, 1009)] {
                let x = random(1, rows, cols);
                let index: Vec<usize> = (0..picks).map(|i| (i * i + 3) % rows).collect();
                let mut out = Array::zeros(picks, cols);
                engine.gather_rows(&x, &index, &mut out).unwrap();
                let mut sum = random(2, rows, cols);
                let mut want = sum.clone();
                engine.scatter_add_rows(&out, &index, &mut sum).unwrap();
                for (i, &row) in index.iter().enumerate() {
                    assert_eq!(out.row(i), x.row(row));
                    want.row_mut(row).iter_mut().zip(x.row(row)).for_each(|(sum, value)| *sum += value);
                }
                assert_eq!(sum, want);
            }
        }
    }

    #[test]
    fn rows_in_sequence_are_read_and_written_back() {
        for engine in engines() {
            for (rows, cols, first, count) in [(7, 3, 2, 4), (301, 67, 100, 201), (5, 2, 5, 0)] {
                let (x, mut part) = (random(1, rows, cols), Array::zeros(count, cols));
                engine.read_rows(&x, first, &mut part).unwrap();
                assert_eq!(part.as_slice(), &x.as_slice()[first * cols..(first + count) * cols]);
                let mut whole = random(2, rows, cols);
                let mut want = whole.clone();
                engine.write_rows(&part, first, &mut whole).unwrap();
                want.as_mut_slice()[first * cols..(first + count) * cols].copy_from_slice(part.as_slice());
                assert_eq!(whole, want);
                let mut more = Array::zeros(rows - first + 1, cols);
                assert!(engine.read_rows(&x, first, &mut more).is_err());
                assert!(engine.write_rows(&more, first, &mut whole).is_err());
            }
        }
    }

    #[test]
    fn a_row_that_is_not_there_is_named() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let error = engine.gather_rows(&Array::zeros(4, 2), &[0, 4], &mut Array::zeros(2, 2)).unwrap_err();
        assert_eq!(error.to_string(), "gather_rows: row 4 at entry 1 is outside the 4 there are");
        assert!(engine.scatter_add_rows(&Array::zeros(1, 2), &[9], &mut Array::zeros(2, 2)).is_err());
    }
}
