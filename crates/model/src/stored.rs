//! How parameters lie in a weight file: as they are, several in one tensor, or turned round.

use crate::weights::{TensorData, TensorToWrite};
use bso_engine::{Array, Device, EngineError};
use std::borrow::Cow;
use std::io;

/// One tensor of a weight file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StoredTensor {
    /// In Hugging Face's state dict.
    pub name: String,
    pub shape: Vec<usize>,
    /// The parameters whose rows it holds.
    pub parts: Vec<usize>,
    /// Rows of each part at a time, part after part; all its rows where there is no number.
    pub turn: Option<usize>,
    /// Whether it lies `[in, out]`.
    pub transposed: bool,
}

/// Rows `first..first + rows` of a part, which are rows `at..at + rows` of the whole.
struct Run {
    part: usize,
    first: usize,
    rows: usize,
    at: usize,
}

impl StoredTensor {
    pub(crate) fn len(&self) -> usize {
        self.shape.iter().product()
    }

    /// Whether the parameter is stored number by number as it lies in memory.
    pub(crate) fn is_plain(&self) -> bool {
        self.parts.len() == 1 && !self.transposed
    }

    /// Rows of the whole, and numbers in each; of a vector each number is a row.
    fn rows_cols(&self) -> (usize, usize) {
        match *self.shape.as_slice() {
            [cols, rows] if self.transposed => (rows, cols),
            [rows, cols] => (rows, cols),
            _ => (self.len(), 1),
        }
    }

    fn runs(&self, arrays: &[Array]) -> Vec<Run> {
        let cols = self.rows_cols().1.max(1);
        let rows_of = |part: usize| arrays[part].len() / cols;
        let (mut runs, mut at) = (Vec::new(), 0);
        let turns = self.turn.map_or(1, |turn| rows_of(self.parts[0]) / turn.max(1));
        for turn in 0..turns {
            for &part in &self.parts {
                let rows = self.turn.unwrap_or_else(|| rows_of(part));
                runs.push(Run { part, first: turn * rows, rows, at });
                at += rows;
            }
        }
        runs
    }

    /// The tensor's numbers.
    ///
    /// # Errors
    /// A device that they are on fails.
    pub(crate) fn gather<'a>(&self, arrays: &'a [Array]) -> Result<Cow<'a, [f32]>, EngineError> {
        if self.is_plain() {
            return Ok(match arrays[self.parts[0]].on_host()? {
                Cow::Borrowed(array) => Cow::Borrowed(array.as_slice()),
                Cow::Owned(array) => Cow::Owned(array.into_vec()),
            });
        }
        let ((total, cols), mut values) = (self.rows_cols(), vec![0.0; self.len()]);
        for Run { part, first, rows, at } in self.runs(arrays) {
            let array = arrays[part].on_host()?;
            let from = &array.as_slice()[first * cols..][..rows * cols];
            if self.transposed {
                for (row, from) in from.chunks_exact(cols).enumerate() {
                    let column = values.iter_mut().skip(at + row).step_by(total);
                    column.zip(from).for_each(|(to, from)| *to = *from);
                }
            } else {
                values[at * cols..][..rows * cols].copy_from_slice(from);
            }
        }
        Ok(Cow::Owned(values))
    }

    /// The tensor to be written, put together when its turn comes.
    pub(crate) fn to_write<'a>(&'a self, arrays: &'a [Array]) -> TensorToWrite<'a> {
        let data = if self.is_plain() && arrays[self.parts[0]].device() == Device::Cpu {
            arrays[self.parts[0]].as_slice().into()
        } else {
            TensorData::Made(Box::new(|| self.gather(arrays).map_err(io::Error::other)))
        };
        TensorToWrite { name: self.name.clone(), shape: self.shape.clone(), data }
    }

    /// Shares the tensor's numbers out to its parts.
    pub(crate) fn scatter(&self, values: &[f32], arrays: &mut [Array]) {
        let (total, cols) = self.rows_cols();
        for Run { part, first, rows, at } in self.runs(arrays) {
            let to = &mut arrays[part].as_mut_slice()[first * cols..][..rows * cols];
            if self.transposed {
                for (row, to) in to.chunks_exact_mut(cols).enumerate() {
                    let column = values.iter().skip(at + row).step_by(total);
                    to.iter_mut().zip(column).for_each(|(to, from)| *to = *from);
                }
            } else {
                to.copy_from_slice(&values[at * cols..][..rows * cols]);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(shape: &[usize], turn: Option<usize>, transposed: bool) -> StoredTensor {
        StoredTensor { name: "x".into(), shape: shape.to_vec(), parts: vec![0, 1], turn, transposed }
    }

    #[test]
    fn parts_lie_one_after_another_in_turns_or_turned_round_and_come_back() {
        let array = |rows, cols, first: usize| {
            let values = (first..first + rows * cols).map(|x| x as f32).collect();
            Array::from_vec(rows, cols, values).unwrap()
        };
        let arrays = [array(2, 2, 0), array(2, 2, 10)];
        for (stored, expected) in [
            (stored(&[4, 2], None, false), [0., 1., 2., 3., 10., 11., 12., 13.]),
            (stored(&[4, 2], Some(1), false), [0., 1., 10., 11., 2., 3., 12., 13.]),
            (stored(&[2, 4], None, true), [0., 2., 10., 12., 1., 3., 11., 13.]),
        ] {
            assert_eq!(*stored.gather(&arrays).unwrap(), expected);
            let mut back = [Array::zeros(2, 2), Array::zeros(2, 2)];
            stored.scatter(&expected, &mut back);
            assert_eq!(back, arrays);
        }
        let vectors = [array(1, 4, 0), array(1, 2, 10)];
        assert_eq!(*stored(&[6], None, false).gather(&vectors).unwrap(), [0., 1., 2., 3., 10., 11.]);
        let vectors = [array(1, 4, 0), array(1, 4, 10)];
        assert_eq!(
            *stored(&[8], Some(2), false).gather(&vectors).unwrap(),
            [0., 1., 10., 11., 2., 3., 12., 13.]
        );
    }
}
