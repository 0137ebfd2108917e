//! The output head with its log-softmax, in blocks of rows and chunks of the vocabulary; and the scalar head.

use bso_cuda::operation::{self, Factor, Logits, RowSums};
use bso_cuda::{CudaError, Gpu, Number, View};

use super::head_update::{HeadUpdate, Parts, Written};
use super::lists::Lists;
use super::views::{failed, view};
use super::{Cuda, State};
use crate::accelerator::{DeviceHead, LOGITS};
use crate::{Array, EngineError, ScoreGrads};

const ROWS: usize = LOGITS[0];
const CHUNK: usize = LOGITS[1];

/// Views of a head's inputs.
pub(super) struct Inputs<'a> {
    pub hidden: View<'a>,
    pub head: View<'a>,
    targets: View<'a>,
    cap: Option<f32>,
}

/// Rows and tokens whose logits are at hand.
#[derive(Clone, Copy)]
pub(super) struct Chunk {
    pub row: usize,
    pub rows: usize,
    pub first: usize,
    pub width: usize,
}

impl Chunk {
    /// The room of a chunk's logits as their matrix.
    pub(super) fn shaped<'a>(&self, room: View<'a>) -> Result<View<'a>, CudaError> {
        room.part(0, self.rows, self.width)
    }

    /// Its rows of a matrix with a row for each hidden row.
    pub(super) fn rows_of<'a>(&self, matrix: View<'a>) -> Result<View<'a>, CudaError> {
        matrix.part(self.row * matrix.cols(), self.rows, matrix.cols())
    }

    /// Its rows of a matrix with a row for each token.
    pub(super) fn tokens_of<'a>(&self, matrix: View<'a>) -> Result<View<'a>, CudaError> {
        matrix.part(self.first * matrix.cols(), self.width, matrix.cols())
    }

    /// Its values of a list with one for each hidden row.
    fn of_rows<'a>(&self, list: View<'a>) -> Result<View<'a>, CudaError> {
        list.part(self.row, 1, self.rows)
    }

    /// Its values of a list with one for each token.
    pub(super) fn of_tokens<'a>(&self, list: View<'a>) -> Result<View<'a>, CudaError> {
        list.part(self.first, 1, self.width)
    }
}

impl<'a> Inputs<'a> {
    fn of(gpu: &Gpu, lists: &mut Lists, head: DeviceHead<'a>) -> Result<Self, EngineError> {
        let targets = lists.view(gpu, head.targets).map_err(failed)?;
        Ok(Self { hidden: view(head.hidden)?, head: view(head.head)?, targets, cap: head.cap })
    }

    /// Rows and columns of the most logits at a time.
    fn block(&self) -> (usize, usize) {
        (self.hidden.rows().min(ROWS), self.head.rows().min(CHUNK))
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

    /// Leaves a chunk's logits in `room`, and their parts in `parts`.
    fn logits<'b>(
        &self,
        gpu: &Gpu,
        update: Option<&HeadUpdate<'_>>,
        chunk: Chunk,
        (room, parts): (View<'b>, Parts<'_>),
    ) -> Result<Logits<'b>, CudaError> {
        let values = chunk.shaped(room)?;
        let hidden = Factor::plain(chunk.rows_of(self.hidden)?);
        let head = Factor::transposed(chunk.tokens_of(self.head)?);
        operation::product(gpu, hidden, head, values, false)?;
        update.map_or(Ok(()), |update| update.add_logits(gpu, self, (chunk, values), parts))?;
        Ok(Logits { values, first: chunk.first, cap: self.cap })
    }
}

/// The part of the room for a chunk's sums over its rows.
fn partial_of(room: View<'_>, chunk: Chunk) -> Result<View<'_>, CudaError> {
    let count = if room.is_empty() { 0 } else { operation::partial_sums(chunk.rows, chunk.width) };
    room.part(0, 1, count)
}

impl Cuda {
    pub(super) fn log_probs_of(
        &self,
        head: DeviceHead<'_>,
        log_probs: &mut [f64],
        lse: View<'_>,
    ) -> Result<(), EngineError> {
        let (gpu, rows) = (&self.gpu, head.hidden.rows());
        if rows == 0 {
            return Ok(());
        }
        let mut guard = self.state();
        let State { lists, room, outer } = &mut *guard;
        let inputs = Inputs::of(gpu, lists, head)?;
        let update =
            head.update.map(|update| HeadUpdate::of(gpu, outer, inputs.hidden, update)).transpose()?;
        let (block, chunk) = inputs.block();
        let apart = if update.as_ref().is_some_and(HeadUpdate::has_lengths) { block } else { 0 };
        let wanted = [
            (Number::F32, block, chunk),
            (Number::F32, apart, chunk),
            (Number::F32, apart, chunk),
            (Number::F32, 1, rows),
            (Number::F64, 1, rows),
            (Number::F32, 1, rows),
            (Number::F64, 1, rows),
        ];
        let [logits, straight, turned, largest, sums, target_logits, found] =
            room.views(gpu, wanted).map_err(failed)?;
        let sums = RowSums { largest, sums, target_logits };
        let room = (logits, [straight, turned]);
        self.sum_chunks((&inputs, update.as_ref()), room, sums)
            .and_then(|()| operation::log_prob_end(gpu, sums, found, lse))
            // Read before anyone else gets the room.
            .and_then(|()| gpu.download(found, bytemuck::cast_slice_mut(log_probs)))
            .map_err(failed)?;
        lists.synchronised();
        Ok(())
    }

    fn sum_chunks(
        &self,
        (inputs, update): (&Inputs<'_>, Option<&HeadUpdate<'_>>),
        room: (View<'_>, Parts<'_>),
        sums: RowSums<'_>,
    ) -> Result<(), CudaError> {
        operation::log_prob_begin(&self.gpu, sums)?;
        for chunk in inputs.chunks() {
            let logits = inputs.logits(&self.gpu, update, chunk, room)?;
            let sums = RowSums {
                largest: chunk.of_rows(sums.largest)?,
                sums: chunk.of_rows(sums.sums)?,
                target_logits: chunk.of_rows(sums.target_logits)?,
            };
            operation::log_prob_chunk(&self.gpu, logits, chunk.of_rows(inputs.targets)?, sums)?;
        }
        Ok(())
    }

    pub(super) fn log_probs_backward_of(
        &self,
        head: DeviceHead<'_>,
        (lse, weights): (View<'_>, &[f32]),
        dhidden: View<'_>,
        (dhead, written): (Option<View<'_>>, Option<Written<'_>>),
    ) -> Result<(), EngineError> {
        let (gpu, rows) = (&self.gpu, head.hidden.rows());
        if rows == 0 {
            return Ok(());
        }
        let mut guard = self.state();
        let State { lists, room, outer } = &mut *guard;
        let inputs = Inputs::of(gpu, lists, head)?;
        let weights = lists.floats(gpu, weights).map_err(failed)?;
        let update =
            head.update.map(|update| HeadUpdate::of(gpu, outer, inputs.hidden, update)).transpose()?;
        let (block, chunk) = inputs.block();
        let apart = if update.as_ref().is_some_and(HeadUpdate::has_lengths) { block } else { 0 };
        // In f32, which an adapter reads, a gradient takes the place of its logit.
        let in_place = inputs.hidden.number() == Number::F32 || update.is_some();
        let wanted = [
            (Number::F32, block, chunk),
            (Number::F32, apart, chunk),
            (Number::F32, apart, chunk),
            (Number::Bf16, if in_place { 0 } else { block }, chunk),
            (Number::F64, apart.min(1), operation::partial_sums(block, chunk)),
        ];
        let [room, straight, turned, narrow, partial] = room.views(gpu, wanted).map_err(failed)?;
        let parts = [straight, turned];
        let through = |chunk: Chunk| {
            let logits = inputs.logits(gpu, update.as_ref(), chunk, (room, parts))?;
            let gradients = if in_place { logits.values } else { chunk.shaped(narrow)? };
            let sides = [chunk.of_rows(lse)?, chunk.of_rows(weights)?];
            operation::log_prob_gradient(gpu, logits, chunk.of_rows(inputs.targets)?, sides, gradients)?;
            if let Some((update, written)) = update.as_ref().zip(written) {
                let (gradients, partial) = ((chunk, gradients), partial_of(partial, chunk));
                return update.through_logits(gpu, &inputs, gradients, (parts, partial?), (dhidden, written));
            }
            let (head, drows) = (chunk.tokens_of(inputs.head)?, chunk.rows_of(dhidden)?);
            let (plain, turned) = (Factor::plain(gradients), Factor::transposed(gradients));
            operation::product(gpu, plain, Factor::plain(head), drows, chunk.first > 0)?;
            let Some(dhead) = dhead else { return Ok(()) };
            let hidden = Factor::plain(chunk.rows_of(inputs.hidden)?);
            operation::product(gpu, turned, hidden, chunk.tokens_of(dhead)?, true)
        };
        inputs.chunks().try_for_each(through).map_err(failed)?;
        let inner = |(update, written): (&HeadUpdate<'_>, Written<'_>)| {
            update.through_inner(gpu, dhidden, written).map_err(failed)
        };
        update.as_ref().zip(written).map_or(Ok(()), inner)
    }

    pub(super) fn score_of(
        &self,
        hidden: &Array,
        head: &Array,
        bias: Option<&Array>,
        scores: &mut [f64],
    ) -> Result<(), EngineError> {
        let bias = bias.map(view).transpose()?;
        let mut state = self.state();
        let [found] = state.room.views(&self.gpu, [(Number::F64, 1, scores.len())]).map_err(failed)?;
        operation::score(&self.gpu, view(hidden)?, view(head)?, bias, found)
            .and_then(|()| self.gpu.download(found, bytemuck::cast_slice_mut(scores)))
            .map_err(failed)?;
        state.lists.synchronised();
        Ok(())
    }

    pub(super) fn score_backward_of(&self, grads: ScoreGrads<'_>) -> Result<(), EngineError> {
        let ScoreGrads { weights, hidden, head, dhidden, dhead, dbias } = grads;
        let mut state = self.state();
        let grads = operation::ScoreGrads {
            weights: state.lists.floats(&self.gpu, weights).map_err(failed)?,
            hidden: view(hidden)?,
            head: view(head)?,
            dhidden: view(dhidden)?,
            dhead: dhead.as_deref().map(view).transpose()?,
            dbias: dbias.as_deref().map(view).transpose()?,
        };
        operation::score_backward(&self.gpu, grads).map_err(failed)
    }
}
