//! Weights in few bits: widened into working memory for the product that reads them.

use bso_cuda::operation::{self, Codes, Factor, Quantised, Scales};
use bso_cuda::{CudaError, Gpu, Number, View};

use super::room::{Room, Wanted};
use super::views::{failed, number, view};
use crate::accelerator::{DeviceCodes, DeviceWeight};
use crate::device_memory::DeviceMemory;
use crate::{EngineError, Quantisation};

/// A weight in use by an operation, which has room for it where it must be widened.
#[derive(Clone, Copy)]
pub(super) enum Held<'a> {
    Whole(View<'a>),
    Codes(Quantised<'a>, Number),
}

impl<'a> Held<'a> {
    pub(super) fn of(weight: DeviceWeight<'a>) -> Result<Self, EngineError> {
        Ok(match weight {
            DeviceWeight::Whole(array) => Self::Whole(view(array)?),
            DeviceWeight::Codes(codes, dtype) => Self::Codes(quantised(codes)?, number(dtype)),
        })
    }

    /// The room that it needs.
    pub(super) fn wanted(&self) -> Wanted {
        match self {
            Self::Whole(_) => (Number::F32, 0, 0),
            Self::Codes(weight, number) => (*number, weight.rows, weight.cols),
        }
    }

    /// The matrix, in `room` where it must be widened.
    pub(super) fn widened(&self, gpu: &Gpu, room: View<'a>) -> Result<View<'a>, CudaError> {
        match *self {
            Self::Whole(matrix) => Ok(matrix),
            Self::Codes(weight, _) => {
                operation::dequantise(gpu, weight, [0, 0], room)?;
                Ok(room)
            }
        }
    }
}

/// `c = a w`, or `c += a w`.
pub(super) fn product(
    gpu: &Gpu,
    room: &mut Room,
    a: Factor<'_>,
    (weight, transposed): (DeviceWeight<'_>, bool),
    (c, add): (View<'_>, bool),
) -> Result<(), EngineError> {
    let weight = Held::of(weight)?;
    let [room] = room.views(gpu, [weight.wanted()]).map_err(failed)?;
    let matrix = weight.widened(gpu, room).map_err(failed)?;
    operation::product(gpu, a, Factor { matrix, transposed }, c, add).map_err(failed)
}

pub(super) fn dequantise(gpu: &Gpu, weight: &DeviceCodes, out: View<'_>) -> Result<(), EngineError> {
    operation::dequantise(gpu, quantised(weight)?, [0, 0], out).map_err(failed)
}

fn quantised(weight: &DeviceCodes) -> Result<Quantised<'_>, EngineError> {
    let part = |index: usize| {
        weight
            .parts
            .get(index)
            .ok_or_else(|| EngineError::Device("a weight in few bits is not whole".to_owned()))
    };
    let values = weight.rows * weight.cols;
    let blocks = values.div_ceil(BLOCK);
    let codes = match weight.kind {
        Quantisation::Int8 => Codes::Int8 {
            values: list(part(0)?, Number::U8, values)?,
            scales: list(part(1)?, Number::F32, weight.rows)?,
        },
        Quantisation::Nf4 { nested: false } => Codes::Nf4 {
            pairs: list(part(0)?, Number::U8, blocks * BLOCK / 2)?,
            scales: Scales::Plain(list(part(1)?, Number::F32, blocks)?),
        },
        Quantisation::Nf4 { nested: true } => Codes::Nf4 {
            pairs: list(part(0)?, Number::U8, blocks * BLOCK / 2)?,
            scales: Scales::Nested {
                codes: list(part(1)?, Number::U8, blocks)?,
                absmax: list(part(2)?, Number::F32, blocks.div_ceil(SCALES))?,
                levels: list(part(3)?, Number::F32, 256)?,
                mean: weight.mean,
            },
        },
    };
    Ok(Quantised { rows: weight.rows, cols: weight.cols, codes })
}

/// Numbers that share a scale.
const BLOCK: usize = crate::nf4::BLOCK;
/// Scales that share a scale of their own.
const SCALES: usize = crate::nested_scales::BLOCK;

fn list(memory: &DeviceMemory, number: Number, len: usize) -> Result<View<'_>, EngineError> {
    let memory = memory.memory();
    if let Some(error) = memory.missing() {
        return Err(error.clone());
    }
    if len * number.size_in_bytes() > memory.bytes() {
        return Err(EngineError::Device("a weight in few bits is smaller than its shape".to_owned()));
    }
    // SAFETY: as many numbers are there, and the view borrows their memory.
    Ok(unsafe { View::at(memory.address(), number, 1, len) })
}
