//! The output head with its log-softmax, in blocks of rows and chunks of the vocabulary.

use bso_cuda::operation::{self, Factor, Logits, RowSums};
use bso_cuda::{CudaError, Number, View};

use super::gpu::Cuda;
use super::views::{failed, reshaped, rows_of, view};
use crate::EngineError;
use crate::accelerator::DeviceHead;

/// Rows whose logits exist at a time, and tokens of the vocabulary that they exist for: 128 MiB of logits, and products
/// that are large enough for the whole chip.
const ROWS: usize = 4096;
const CHUNK: usize = 8192;

/// Views of a head's inputs.
struct Inputs<'a> {
    hidden: View<'a>,
    head: View<'a>,
    targets: View<'a>,
    cap: Option<f32>,
}

/// Rows and tokens whose logits are at hand.
#[derive(Clone, Copy)]
struct Chunk {
    row: usize,
    rows: usize,
    first: usize,
    width: usize,
}

impl<'a> Inputs<'a> {
    fn block(&self, rows: usize) -> usize {
        rows.min(ROWS)
    }

    fn chunk(&self) -> usize {
        self.head.rows().min(CHUNK)
    }

    /// The vocabulary beside each block of rows.
    fn chunks(&self) -> impl Iterator<Item = Chunk> + use<> {
        let (rows, vocab) = (self.hidden.rows(), self.head.rows());
        (0..rows).step_by(ROWS).flat_map(move |row| {
            (0..vocab).step_by(CHUNK).map(move |first| Chunk {
                row,
                rows: ROWS.min(rows - row),
                first,
                width: CHUNK.min(vocab - first),
            })
        })
    }

    /// Leaves a chunk's logits in `room`.
    fn logits<'b>(&self, gpu: &bso_cuda::Gpu, chunk: Chunk, room: View<'b>) -> Result<Logits<'b>, CudaError> {
        let values = reshaped(room, chunk.rows, chunk.width);
        let hidden = Factor::plain(rows_of(self.hidden, chunk.row, chunk.rows));
        let head = Factor::transposed(rows_of(self.head, chunk.first, chunk.width));
        operation::product(gpu, hidden, head, values, false)?;
        Ok(Logits { values, first: chunk.first, cap: self.cap })
    }
}

/// Values `first..first + count` of a row.
fn part(row: View<'_>, first: usize, count: usize) -> View<'_> {
    let column = rows_of(reshaped(row, row.len(), 1), first, count);
    reshaped(column, 1, column.len())
}

impl Cuda {
    pub(super) fn log_probs_of(
        &self,
        head: DeviceHead<'_>,
        log_probs: &mut [f64],
        lse: View<'_>,
    ) -> Result<(), EngineError> {
        let rows = head.hidden.rows();
        if rows == 0 {
            return Ok(());
        }
        let mut state = self.state();
        let targets = state.lists.view(&self.gpu, head.targets).map_err(failed)?;
        let inputs = Inputs { hidden: view(head.hidden)?, head: view(head.head)?, targets, cap: head.cap };
        let wanted = [
            (Number::F32, inputs.block(rows), inputs.chunk()),
            (Number::F32, 1, rows),
            (Number::F64, 1, rows),
            (Number::F32, 1, rows),
            (Number::F64, 1, rows),
        ];
        let [room, largest, sums, target_logits, found] =
            state.room.views(&self.gpu, wanted).map_err(failed)?;
        let sums = RowSums { largest, sums, target_logits };
        self.sum_chunks(&inputs, room, sums)
            .and_then(|()| operation::log_prob_end(&self.gpu, sums, found, lse))
            .map_err(failed)?;
        // Read before anyone else gets the room.
        self.gpu.download(found, bytemuck::cast_slice_mut(log_probs)).map_err(failed)?;
        state.lists.synchronised();
        Ok(())
    }

    fn sum_chunks(&self, inputs: &Inputs<'_>, room: View<'_>, sums: RowSums<'_>) -> Result<(), CudaError> {
        operation::log_prob_begin(&self.gpu, sums)?;
        for chunk in inputs.chunks() {
            let logits = inputs.logits(&self.gpu, chunk, room)?;
            let of = |row| part(row, chunk.row, chunk.rows);
            let sums = RowSums {
                largest: of(sums.largest),
                sums: of(sums.sums),
                target_logits: of(sums.target_logits),
            };
            operation::log_prob_chunk(&self.gpu, logits, of(inputs.targets), sums)?;
        }
        Ok(())
    }

    pub(super) fn log_probs_backward_of(
        &self,
        head: DeviceHead<'_>,
        (lse, weights): (View<'_>, &[f32]),
        dhidden: View<'_>,
        dhead: Option<View<'_>>,
    ) -> Result<(), EngineError> {
        let rows = head.hidden.rows();
        if rows == 0 {
            return Ok(());
        }
        let mut state = self.state();
        let targets = state.lists.view(&self.gpu, head.targets).map_err(failed)?;
        let weights = state.lists.floats(&self.gpu, weights).map_err(failed)?;
        let inputs = Inputs { hidden: view(head.hidden)?, head: view(head.head)?, targets, cap: head.cap };
        let (block, chunk) = (inputs.block(rows), inputs.chunk());
        // In f32 a gradient takes the place of its logit.
        let in_place = inputs.hidden.number() == Number::F32;
        let wanted = [(Number::F32, block, chunk), (Number::Bf16, if in_place { 0 } else { block }, chunk)];
        let [room, narrow] = state.room.views(&self.gpu, wanted).map_err(failed)?;
        let lse = reshaped(lse, 1, lse.len());
        let through = |chunk: Chunk| {
            let logits = inputs.logits(&self.gpu, chunk, room)?;
            let of = |row| part(row, chunk.row, chunk.rows);
            let gradients = if in_place { logits.values } else { reshaped(narrow, chunk.rows, chunk.width) };
            operation::log_prob_gradient(
                &self.gpu,
                logits,
                of(inputs.targets),
                [of(lse), of(weights)],
                gradients,
            )?;
            let head = rows_of(inputs.head, chunk.first, chunk.width);
            let drows = rows_of(dhidden, chunk.row, chunk.rows);
            let (plain, turned) = (Factor::plain(gradients), Factor::transposed(gradients));
            operation::product(&self.gpu, plain, Factor::plain(head), drows, chunk.first > 0)?;
            let Some(dhead) = dhead else { return Ok(()) };
            let dhead = rows_of(dhead, chunk.first, chunk.width);
            let hidden = Factor::plain(rows_of(inputs.hidden, chunk.row, chunk.rows));
            operation::product(&self.gpu, turned, hidden, dhead, true)
        };
        inputs.chunks().try_for_each(through).map_err(failed)
    }
}
