//! Weights in bfloat16 as the products read them: packed once after each update, used by every row until the next.

use crate::accelerator::DeviceWeight;
use crate::bf16_panels::{Lines, RIGHT};
use crate::bf16_product::RightPanels;
use crate::error::expect_size;
use crate::{Array, DType, Device, Engine, EngineError, QuantisedWeight};

/// A weight `[o, i]` rounded to bf16, in the layout of the forward product and, for training, that of the input's
/// gradient: 2 bytes a value each. On a device it is one matrix in bf16, which serves both.
#[derive(Debug, Clone)]
pub struct PackedWeight {
    rows: usize,
    cols: usize,
    on_device: Option<Array>,
    /// Columns of the forward product: the weight's rows.
    forward: Vec<u32>,
    /// Columns of the gradient's product: the weight's columns. Empty where no gradient is asked for.
    backward: Vec<u32>,
}

impl PackedWeight {
    /// Room on the host for a weight `[rows, cols]` ([`Engine::packed_weight`] makes it where the engine computes); with `gradients` also for the product that gives its input's gradient.
    pub fn new(rows: usize, cols: usize, gradients: bool) -> Self {
        let (forward, backward) = Self::words(rows, cols, gradients);
        Self { rows, cols, on_device: None, forward: vec![0; forward], backward: vec![0; backward] }
    }

    /// Bytes that the copies of a weight `[rows, cols]` take.
    pub fn bytes_of(rows: usize, cols: usize, gradients: bool) -> usize {
        let (forward, backward) = Self::words(rows, cols, gradients);
        4 * (forward + backward)
    }

    /// As [`PackedWeight::bytes_of`] on a device.
    pub fn device_bytes_of(rows: usize, cols: usize) -> usize {
        rows * cols * DType::Bf16.size_in_bytes()
    }

    fn words(rows: usize, cols: usize, gradients: bool) -> (usize, usize) {
        (Engine::right_words(rows, cols), if gradients { Engine::right_words(cols, rows) } else { 0 })
    }

    /// Rows `first..` of the weight (`first` a multiple of 32) as columns of the forward product.
    pub(crate) fn forward(&self, first: usize, count: usize) -> RightPanels<'_> {
        let pairs = self.cols.div_ceil(2);
        let words = &self.forward[first / RIGHT * RIGHT * pairs..];
        RightPanels { words, panel_stride: RIGHT * pairs, pairs, cols: count }
    }

    /// Rows `first..first + count` (`first` even) as the depth of the gradient's product.
    pub(crate) fn backward(&self, first: usize, count: usize) -> RightPanels<'_> {
        let words = self.backward.get(first / 2 * RIGHT..).unwrap_or_default();
        let panel_stride = RIGHT * self.rows.div_ceil(2);
        RightPanels { words, panel_stride, pairs: count.div_ceil(2), cols: self.cols }
    }
}

impl Engine {
    /// As [`PackedWeight::new`], where the engine computes.
    ///
    /// # Errors
    /// A device has not got the memory.
    pub fn packed_weight(
        &self,
        rows: usize,
        cols: usize,
        gradients: bool,
    ) -> Result<PackedWeight, EngineError> {
        if self.device() == Device::Cpu {
            return Ok(PackedWeight::new(rows, cols, gradients));
        }
        let on_device = Some(self.zeros(DType::Bf16, rows, cols)?);
        Ok(PackedWeight { rows, cols, on_device, forward: Vec::new(), backward: Vec::new() })
    }

    /// Rounds `w` into `packed`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn pack_weight(&self, w: &Array, packed: &mut PackedWeight) -> Result<(), EngineError> {
        const OP: &str = "pack_weight";
        expect_size(OP, "rows of w", packed.rows, w.rows())?;
        expect_size(OP, "columns of w", packed.cols, w.cols())?;
        if let Some(copy) = &mut packed.on_device {
            return if w.device() == Device::Cpu {
                copy.set(&w.to_dtype(DType::Bf16)?)
            } else {
                self.copy(w, copy)
            };
        }
        self.pack_right(Lines::rows(w.as_slice(), w.cols()), &mut packed.forward);
        if !packed.backward.is_empty() {
            self.pack_right(Lines::columns(w.as_slice(), w.cols()), &mut packed.backward);
        }
        Ok(())
    }
}

/// A weight `[o, i]` as products take it.
#[derive(Debug, Clone, Copy)]
pub enum Weight<'a> {
    /// Its values in f32, and rounded and packed by [`Engine::pack_weight`] where the other factor is in bf16.
    Whole(&'a Array, Option<&'a PackedWeight>),
    /// A frozen one of which the rounded copy is all that is kept.
    Rounded(&'a PackedWeight),
    /// A frozen one in few bits.
    Quantised(&'a QuantisedWeight),
}

impl<'a> From<&'a Array> for Weight<'a> {
    fn from(values: &'a Array) -> Self {
        Self::Whole(values, None)
    }
}

impl<'a> From<&'a QuantisedWeight> for Weight<'a> {
    fn from(weight: &'a QuantisedWeight) -> Self {
        Self::Quantised(weight)
    }
}

impl<'a> Weight<'a> {
    /// A weight in f32, with its packed copy where there is one.
    pub fn new(values: &'a Array, packed: Option<&'a PackedWeight>) -> Self {
        Self::Whole(values, packed)
    }

    /// Outputs.
    pub fn rows(self) -> usize {
        match self {
            Self::Whole(values, _) => values.rows(),
            Self::Rounded(packed) => packed.rows,
            Self::Quantised(weight) => weight.rows(),
        }
    }

    /// Inputs.
    pub fn cols(self) -> usize {
        match self {
            Self::Whole(values, _) => values.cols(),
            Self::Rounded(packed) => packed.cols,
            Self::Quantised(weight) => weight.cols(),
        }
    }

    /// The values in f32.
    ///
    /// # Errors
    /// A weight in few bits or in bf16 alone, which this operation does not read.
    pub(crate) fn values(self, operation: &'static str) -> Result<&'a Array, EngineError> {
        let kept = match self {
            Self::Whole(values, _) => return Ok(values),
            Self::Rounded(_) => "in bf16 alone",
            Self::Quantised(_) => "in few bits",
        };
        let reason = format!("takes a whole weight, and this one is frozen {kept}");
        Err(EngineError::Invalid { operation, reason })
    }

    /// Refuses a weight in few bits.
    pub(crate) fn refuse_codes(self, operation: &'static str) -> Result<(), EngineError> {
        if let Self::Quantised(_) = self { self.values(operation).map(|_| ()) } else { Ok(()) }
    }

    /// Its rounded copy, if it has one.
    fn rounded(self) -> Option<&'a PackedWeight> {
        match self {
            Self::Whole(_, packed) => packed,
            Self::Rounded(packed) => Some(packed),
            Self::Quantised(_) => None,
        }
    }

    /// As a device multiplies rows in this precision with it.
    ///
    /// # Errors
    /// A weight that is not packed, or is on the host.
    pub(crate) fn on_device(
        self,
        operation: &'static str,
        dtype: DType,
    ) -> Result<DeviceWeight<'a>, EngineError> {
        match self {
            Self::Whole(..) | Self::Rounded(_) => {
                self.whole_on_device(operation, dtype).map(DeviceWeight::Whole)
            }
            Self::Quantised(weight) => {
                let codes = weight.on_device().ok_or_else(|| EngineError::Invalid {
                    operation,
                    reason: "the weight in few bits is on the host".to_owned(),
                })?;
                Ok(DeviceWeight::Codes(codes, dtype))
            }
        }
    }

    /// The matrix on a device that rows in this precision are multiplied with.
    ///
    /// # Errors
    /// A weight in few bits, or one that is not packed.
    pub(crate) fn whole_on_device(
        self,
        operation: &'static str,
        dtype: DType,
    ) -> Result<&'a Array, EngineError> {
        self.refuse_codes(operation)?;
        if dtype == DType::F32 {
            return self.values(operation);
        }
        let on_device = self.rounded().and_then(|packed| packed.on_device.as_ref());
        on_device.ok_or_else(|| EngineError::Invalid {
            operation,
            reason: "rows in bf16 need the weight packed (pack_weight) on their device".to_owned(),
        })
    }

    /// The packed copy.
    ///
    /// # Errors
    /// There is none, or it is of another shape; `gradients` asks for the backward layout.
    pub(crate) fn packed(
        self,
        operation: &'static str,
        gradients: bool,
    ) -> Result<&'a PackedWeight, EngineError> {
        let fits = |packed: &&PackedWeight| {
            (packed.rows, packed.cols) == (self.rows(), self.cols())
                && !(gradients && packed.backward.is_empty())
        };
        self.rounded().filter(fits).ok_or_else(|| EngineError::Invalid {
            operation,
            reason: "rows in bf16 need the weight packed (pack_weight), for gradients with their layout"
                .to_owned(),
        })
    }
}
