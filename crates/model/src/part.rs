//! Which rows the part of a layer that follows attention is computed on, and how many at a time: no such row needs
//! another, so that what is not kept takes the memory of few rows.

use crate::batch_size::BatchSize;
use crate::config::ModelConfig;
use crate::matrix::Matrix;
use bso_engine::{Array, DType, Device, Engine, EngineError};

/// Most rows at a time: all, or where their activations are not kept, enough for products at full speed. In bf16, whose
/// weights lie packed already, few are enough, and they are as many as products sum at once: weight gradients are the same
/// as of all rows together.
pub(crate) fn block(checkpointed: bool, dtype: DType, device: Device) -> usize {
    match (checkpointed, device, dtype) {
        (false, ..) => usize::MAX,
        // Fewer would leave most of a chip idle.
        (true, Device::Cuda(_), _) => 4096,
        (true, Device::Cpu, DType::Bf16) => 256,
        (true, Device::Cpu, _) => 1024,
    }
}

/// Rows that are computed together.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Part<'a> {
    /// The place of the first among all that are computed.
    pub first: usize,
    pub len: usize,
    /// Which rows of the layer's input they are; none: the same places.
    pub picked: Option<&'a [usize]>,
    /// Whether they are the layer's rows, all of them.
    pub whole: bool,
}

/// What a part is computed from, row by row.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RowInputs<'a> {
    /// The residual stream before the layer.
    pub residual: &'a Array,
    /// What attention gave.
    pub attended: &'a Array,
}

/// Copies of rows, where a part is not the whole.
#[derive(Debug, Default)]
pub(crate) struct PartCopies {
    pub residual: Matrix,
    pub attended: Matrix,
    /// Of the stream after the layer, or its gradient.
    pub stream: Matrix,
}

impl<'a> Part<'a> {
    /// The parts, of `block` rows at most, of `all` rows, or of those among them that `rows` names.
    pub(crate) fn of(rows: Option<&'a [usize]>, all: usize, block: usize) -> impl Iterator<Item = Self> {
        let picked = rows.filter(|rows| rows.len() < all);
        let count = picked.map_or(all, <[usize]>::len);
        (0..count).step_by(block).map(move |first| {
            let len = block.min(count - first);
            let picked = picked.map(|picked| &picked[first..first + len]);
            Self { first, len, picked, whole: picked.is_none() && len == all }
        })
    }

    /// Its rows of `residual` and `attended`: themselves where it is the whole, copies else.
    pub(crate) fn of_inputs<'b>(
        &self,
        engine: &Engine,
        RowInputs { residual, attended }: RowInputs<'b>,
        copies: (&'b mut Matrix, &'b mut Matrix),
    ) -> Result<RowInputs<'b>, EngineError> {
        if self.whole {
            return Ok(RowInputs { residual, attended });
        }
        copies.0.fit(engine, DType::F32, (self.len, residual.cols()))?;
        copies.1.fit(engine, attended.dtype(), (self.len, attended.cols()))?;
        self.read(engine, residual, copies.0)?;
        self.read(engine, attended, copies.1)?;
        Ok(RowInputs { residual: copies.0, attended: copies.1 })
    }

    fn read(&self, engine: &Engine, x: &Array, out: &mut Array) -> Result<(), EngineError> {
        match self.picked {
            Some(rows) => engine.gather_rows(x, rows, out),
            None => engine.read_rows(x, self.first, out),
        }
    }

    /// Gives its rows of a gradient to all rows; those that no part has are zero before.
    pub(crate) fn give(&self, engine: &Engine, rows: &Array, all: &mut Array) -> Result<(), EngineError> {
        match self.picked {
            Some(picked) => engine.scatter_add_rows(rows, picked, all),
            None => engine.write_rows(rows, self.first, all),
        }
    }
}

/// Most rows of a part in any layer of a pass.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PartRows {
    pub any: usize,
    /// That is not the whole, and reads copies.
    pub copied: usize,
    /// That is not all that its layer computes to the end.
    pub streamed: usize,
}

impl PartRows {
    pub(crate) fn of(size: BatchSize, config: &ModelConfig, block: usize) -> Self {
        let BatchSize { rows, head_rows, .. } = size;
        let most = if config.layers > 1 { rows } else { head_rows };
        let streamed = if most > block { block } else { 0 };
        let picked = if head_rows < rows { head_rows.min(block) } else { 0 };
        Self { any: most.min(block), copied: picked.max(streamed), streamed }
    }
}
