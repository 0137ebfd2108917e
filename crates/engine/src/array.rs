//! A dense matrix of numbers, row by row. It owns memory, a shape and a precision, and computes nothing.

use crate::accelerator::Shared;
use crate::device_memory::DeviceMemory;
use crate::element::Element;
use crate::{DType, Device, EngineError};
use half::bf16;
use std::borrow::Cow;

/// A contiguous row-major matrix `[rows, cols]`; a vector is `[1, cols]`. Its precision and its device are chosen where
/// it is allocated, and kept.
#[derive(Debug, Clone)]
pub struct Array {
    rows: usize,
    cols: usize,
    data: Data,
}

#[derive(Debug, Clone)]
enum Data {
    F32(Vec<f32>),
    Bf16(Vec<bf16>),
    Device(DeviceMemory),
}

/// The numbers of an array, by precision.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Values<'a> {
    F32(&'a [f32]),
    Bf16(&'a [bf16]),
}

/// The numbers of an array, by precision, to be written.
#[derive(Debug)]
pub(crate) enum ValuesMut<'a> {
    F32(&'a mut [f32]),
    Bf16(&'a mut [bf16]),
}

/// Runs the same code on the numbers of an array, whatever their precision.
macro_rules! with_values {
    ($kind:ident, $values:expr, |$name:ident| $body:expr) => {
        match $values {
            crate::array::$kind::F32($name) => $body,
            crate::array::$kind::Bf16($name) => $body,
        }
    };
}
pub(crate) use with_values;

impl Array {
    /// A matrix of zeros in f32.
    ///
    /// Sizes that come from a file are checked by who reads the file: this allocates what it is asked for.
    pub fn zeros(rows: usize, cols: usize) -> Self {
        Self { rows, cols, data: Data::F32(vec![0.0; rows * cols]) }
    }

    /// A matrix of zeros in f32 or bf16, on the host; [`crate::Engine::zeros`] makes them where the engine computes.
    ///
    /// # Errors
    /// f16, which no operation computes in.
    pub fn zeros_of(dtype: DType, rows: usize, cols: usize) -> Result<Self, EngineError> {
        let data = match dtype {
            DType::F32 => Data::F32(vec![0.0; rows * cols]),
            DType::Bf16 => Data::Bf16(vec![bf16::ZERO; rows * cols]),
            DType::F16 => return Err(EngineError::NoArithmetic(dtype)),
        };
        Ok(Self { rows, cols, data })
    }

    /// A matrix of zeros on a device.
    pub(crate) fn on_device(
        owner: &Shared,
        dtype: DType,
        (rows, cols): (usize, usize),
    ) -> Result<Self, EngineError> {
        if dtype == DType::F16 {
            return Err(EngineError::NoArithmetic(dtype));
        }
        let data = Data::Device(DeviceMemory::zeros(owner, dtype, rows.saturating_mul(cols))?);
        Ok(Self { rows, cols, data })
    }

    /// Takes numbers that are already in row-major order.
    ///
    /// # Errors
    /// The number of values is not `rows * cols`.
    pub fn from_vec(rows: usize, cols: usize, data: Vec<f32>) -> Result<Self, EngineError> {
        let expected = rows.saturating_mul(cols);
        crate::error::expect_size("array", "number of values", expected, data.len())?;
        Ok(Self { rows, cols, data: Data::F32(data) })
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
        self.rows * self.cols
    }

    /// Whether there is no value.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Precision of the stored values.
    pub fn dtype(&self) -> DType {
        match &self.data {
            Data::F32(_) => DType::F32,
            Data::Bf16(_) => DType::Bf16,
            Data::Device(memory) => memory.dtype,
        }
    }

    /// Where the values live.
    pub fn device(&self) -> Device {
        self.device_memory().map_or(Device::Cpu, |memory| memory.owner().device())
    }

    /// The memory of an array on a device.
    pub(crate) fn device_memory(&self) -> Option<&DeviceMemory> {
        if let Data::Device(memory) = &self.data { Some(memory) } else { None }
    }

    /// The device that the array is on, if not the host.
    pub(crate) fn accelerator(&self) -> Option<Shared> {
        self.device_memory().map(|memory| memory.owner().clone())
    }

    /// The array itself where it is on the host, else a copy there.
    ///
    /// # Errors
    /// The device fails.
    pub fn on_host(&self) -> Result<Cow<'_, Self>, EngineError> {
        let Some(memory) = self.device_memory() else { return Ok(Cow::Borrowed(self)) };
        let bytes = memory.read(self.len())?;
        let data = match memory.dtype {
            DType::Bf16 => {
                let values = bytes.as_chunks::<2>().0;
                Data::Bf16(values.iter().map(|value| bf16::from_ne_bytes(*value)).collect())
            }
            _ => {
                let values = bytes.as_chunks::<4>().0;
                Data::F32(values.iter().map(|value| f32::from_ne_bytes(*value)).collect())
            }
        };
        Ok(Cow::Owned(Self { rows: self.rows, cols: self.cols, data }))
    }

    /// Overwrites the values of an array, wherever it is, with those of one of its shape and precision on the host.
    ///
    /// # Errors
    /// Another shape or precision; the device fails.
    pub fn set(&mut self, values: &Self) -> Result<(), EngineError> {
        crate::error::expect_same_shape("set", ("rows", "columns"), self, values)?;
        if self.dtype() != values.dtype() {
            return Err(EngineError::mixed("set"));
        }
        match (&self.data, &values.data) {
            (Data::Device(memory), Data::F32(values)) => {
                memory.owner().upload(bytemuck::cast_slice(values), (memory.memory(), 0))
            }
            (Data::Device(memory), Data::Bf16(values)) => {
                memory.owner().upload(bytemuck::cast_slice(values), (memory.memory(), 0))
            }
            _ => {
                self.clone_from(values);
                Ok(())
            }
        }
    }

    /// The values of an f32 array, row by row.
    ///
    /// # Panics
    /// The array holds another precision, or is on a device: where it was allocated decides, as with a shape.
    pub fn as_slice(&self) -> &[f32] {
        match &self.data {
            Data::F32(data) => data,
            Data::Bf16(_) => wrong_precision(),
            Data::Device(_) => wrong_place(),
        }
    }

    /// The values of an f32 array, row by row.
    ///
    /// # Panics
    /// As [`Array::as_slice`].
    pub fn as_mut_slice(&mut self) -> &mut [f32] {
        match &mut self.data {
            Data::F32(data) => data,
            Data::Bf16(_) => wrong_precision(),
            Data::Device(_) => wrong_place(),
        }
    }

    /// A copy on the host in another precision, rounded to nearest.
    ///
    /// # Errors
    /// As [`Array::zeros_of`].
    pub fn to_dtype(&self, dtype: DType) -> Result<Self, EngineError> {
        let mut copy = Self::zeros_of(dtype, self.rows, self.cols)?;
        with_values!(Values, self.values(), |from| {
            with_values!(ValuesMut, copy.values_mut(), |to| {
                to.iter_mut().zip(from).for_each(|(to, from)| *to = Element::from_f32(from.to_f32()));
            });
        });
        Ok(copy)
    }

    /// A copy of the values in f32, whatever is stored.
    pub fn to_f32_vec(&self) -> Vec<f32> {
        with_values!(Values, self.values(), |values| values.iter().map(|value| value.to_f32()).collect())
    }

    pub(crate) fn values(&self) -> Values<'_> {
        match &self.data {
            Data::F32(data) => Values::F32(data),
            Data::Bf16(data) => Values::Bf16(data),
            Data::Device(_) => wrong_place(),
        }
    }

    pub(crate) fn values_mut(&mut self) -> ValuesMut<'_> {
        match &mut self.data {
            Data::F32(data) => ValuesMut::F32(data),
            Data::Bf16(data) => ValuesMut::Bf16(data),
            Data::Device(_) => wrong_place(),
        }
    }

    /// One row of an f32 array.
    ///
    /// # Panics
    /// `row` is outside the matrix, as with any slice; as [`Array::as_slice`].
    pub fn row(&self, row: usize) -> &[f32] {
        &self.as_slice()[row * self.cols..(row + 1) * self.cols]
    }

    /// One row of an f32 array.
    ///
    /// # Panics
    /// As [`Array::row`].
    pub fn row_mut(&mut self, row: usize) -> &mut [f32] {
        let cols = self.cols;
        &mut self.as_mut_slice()[row * cols..(row + 1) * cols]
    }

    /// Changes the number of rows and keeps the allocation where it suffices. Kept rows keep their values; new ones
    /// are unspecified.
    ///
    /// # Errors
    /// A device has not got the memory.
    pub fn resize_rows(&mut self, rows: usize) -> Result<(), EngineError> {
        self.resize_keeping(self.rows.min(rows) * self.cols, (rows, self.cols))
    }

    /// Changes the shape and keeps the allocation where it suffices. The values are unspecified afterwards.
    ///
    /// # Errors
    /// A device has not got the memory.
    pub fn resize(&mut self, rows: usize, cols: usize) -> Result<(), EngineError> {
        self.resize_keeping(0, (rows, cols))
    }

    fn resize_keeping(&mut self, kept: usize, (rows, cols): (usize, usize)) -> Result<(), EngineError> {
        match &mut self.data {
            Data::F32(data) => data.resize(rows * cols, 0.0),
            Data::Bf16(data) => data.resize(rows * cols, bf16::ZERO),
            Data::Device(memory) => memory.resize(kept, rows.saturating_mul(cols))?,
        }
        (self.rows, self.cols) = (rows, cols);
        Ok(())
    }

    /// Sets every value (rounded to what the array holds) of an array on the host.
    ///
    /// # Panics
    /// As [`Array::as_slice`].
    pub fn fill(&mut self, value: f32) {
        with_values!(ValuesMut, self.values_mut(), |values| values.fill(Element::from_f32(value)));
    }

    /// The values of an f32 array; the shape is given up.
    ///
    /// # Panics
    /// As [`Array::as_slice`].
    pub fn into_vec(self) -> Vec<f32> {
        match self.data {
            Data::F32(data) => data,
            Data::Bf16(_) => wrong_precision(),
            Data::Device(_) => wrong_place(),
        }
    }
}

/// Same shape, precision and values, wherever they are; a device that cannot be read holds nothing equal.
impl PartialEq for Array {
    fn eq(&self, other: &Self) -> bool {
        let same = (self.rows, self.cols, self.dtype()) == (other.rows, other.cols, other.dtype());
        same && match (self.on_host(), other.on_host()) {
            (Ok(own), Ok(other)) => match (&own.data, &other.data) {
                (Data::F32(own), Data::F32(other)) => own == other,
                (Data::Bf16(own), Data::Bf16(other)) => own == other,
                _ => false,
            },
            _ => false,
        }
    }
}

/// An operation or a caller that reads f32 was handed an array allocated in bf16: an error in the program, not in its
/// input, like an index out of bounds.
#[expect(clippy::panic, reason = "see above")]
#[cold]
fn wrong_precision() -> ! {
    panic!("an array in bf16 is read as f32")
}

/// The host was handed an array on a device: likewise.
#[expect(clippy::panic, reason = "see above")]
#[cold]
pub(crate) fn wrong_place() -> ! {
    panic!("an array on a device is read on the host")
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
        array.resize_rows(2).unwrap();
        array.resize_rows(8).unwrap();
        assert_eq!(array.as_slice().as_ptr(), before);
        assert_eq!((array.rows(), array.cols()), (8, 4));
    }
}
