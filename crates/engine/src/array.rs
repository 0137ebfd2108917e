//! A dense matrix of numbers, row by row. It owns memory and a shape, and computes nothing.

use crate::{DType, Device, EngineError};

/// A contiguous row-major matrix `[rows, cols]`; a vector is `[1, cols]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Array {
    rows: usize,
    cols: usize,
    data: Vec<f32>,
}

impl Array {
    /// A matrix of zeros.
    ///
    /// Sizes that come from a file are checked by who reads the file: this allocates what it is asked for.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: vec![0.0; rows * cols] }
    }

    /// Takes numbers that are already in row-major order.
    ///
    /// # Errors
    /// The number of values is not `rows * cols`.
    pub fn from_vec(rows: usize, cols: usize, data: Vec<f32>) -> Result<Self, EngineError> {
        let expected = rows.saturating_mul(cols);
        crate::error::expect_size("array", "number of values", expected, data.len())?;
        Ok(Self { rows, cols, data })
    }

    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Number of values.
    pub fn len(&self) -> usize {
        self.data.len()
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// Precision of the stored values.
    pub fn dtype(&self) -> DType {
        DType::F32
    }

    /// Where the values live.
    pub fn device(&self) -> Device {
        Device::Cpu
    }

    /// The values, row by row.
    pub fn as_slice(&self) -> &[f32] {
        &self.data
    }

    /// The values, row by row.
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        &mut self.data
    }

    /// One row.
    ///
    /// # Panics
    /// `row` is outside the matrix, as with any slice.
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// One row.
    ///
    /// # Panics
    /// `row` is outside the matrix, as with any slice.
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        &mut self.data[row * self.cols..(row + 1) * self.cols]
    }

    /// Changes the number of rows and keeps the allocation where it suffices. Kept rows keep their values, new
    /// ones are zero.
    pub fn resize_rows(&mut self, rows: usize) {
        self.data.resize(rows * self.cols, 0.0);
        self.rows = rows;
    }

    /// Changes the shape and keeps the allocation where it suffices. The values are unspecified afterwards.
    pub fn resize(&mut self, rows: usize, cols: usize) {
        self.data.resize(rows * cols, 0.0);
        (self.rows, self.cols) = (rows, cols);
    }

    /// Sets every value.
    pub fn fill(&mut self, value: f32) {
        self.data.fill(value);
    }

    /// The values; the shape is given up.
    pub fn into_vec(self) -> Vec<f32> {
        self.data
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn from_vec_refuses_a_wrong_count_and_an_overflowing_shape() {
        assert!(Array::from_vec(2, 3, vec![0.0; 5]).is_err());
        assert!(Array::from_vec(usize::MAX, 2, vec![]).is_err());
        assert_eq!(Array::from_vec(2, 3, vec![1.0; 6]).map(|a| a.len()), Ok(6));
    }

    #[test]
    fn resizing_rows_keeps_the_allocation() {
        let mut array = Array::zeros(8, 4);
        let before = array.as_slice().as_ptr();
        array.resize_rows(2);
        array.resize_rows(8);
        assert_eq!(array.as_slice().as_ptr(), before);
        assert_eq!((array.rows(), array.cols()), (8, 4));
    }
}
