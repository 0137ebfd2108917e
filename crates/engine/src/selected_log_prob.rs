//! Output head and log-softmax in one: the log-probability of one chosen token per row. Logits exist for a block of
//! rows and a chunk of the vocabulary at a time, in the forward and again in the backward; never all of them.

use rayon::prelude::*;

use crate::accelerator::{DeviceHead, DeviceHeadUpdate};
use crate::array::Values;
use crate::bf16_panels::Lines;
use crate::bf16_product::Right;
use crate::cpu::vectorised;
use crate::error::{expect_indices, expect_same_shape, expect_size};
use crate::head_update::{HeadAdapter, HeadAdapterGrads, HeadUpdate, UpdateGrads};
use crate::matmul::Operand;
use crate::soft_cap::{cap_in_place, cap_slope};
use crate::vector::{exp, exp_shifted_in_place, max};
use crate::{Accumulate, Array, CpuPath, Engine, EngineError, RowLengths, Weight};

/// What the head sees.
#[derive(Debug, Clone, Copy)]
pub struct HeadInputs<'a> {
    /// Final hidden rows, `[m, d]`; where they are in bf16, the head must be packed.
    pub hidden: &'a Array,
    /// Output weight, `[vocab, d]`.
    pub head: Weight<'a>,
    /// The token whose log-probability is asked for, one per row.
    pub targets: &'a [u32],
    /// Soft cap: a logit `x` becomes `cap * tanh(x / cap)` before the softmax.
    pub cap: Option<f32>,
    /// An adapter beside the head.
    pub update: Option<HeadAdapter<'a>>,
}

/// Arguments of [`Engine::selected_log_prob_backward`].
#[derive(Debug)]
pub struct SelectedLogProbGrads<'a> {
    /// Log-sum-exp of each row's logits, as the forward stored it, `[m]`.
    pub lse: &'a Array,
    /// Gradient of each row's log-probability, `[m]`.
    pub weights: &'a [f32],
    /// Gradient of the hidden rows, `[m, d]`; overwritten.
    pub dhidden: &'a mut Array,
    /// Gradient of the head, `[vocab, d]`; added to.
    pub dhead: Option<&'a mut Array>,
    /// Gradients of the adapter's tensors, where there is one.
    pub dupdate: Option<HeadAdapterGrads<'a>>,
}

/// Rows whose logits exist at a time, and tokens of the vocabulary that they exist for: 4 MB of logits, which stay in
/// the last cache, while each side of the product is long enough to run at full speed.
const ROWS: usize = 2048;
const CHUNK: usize = 1024;

impl Engine {
    /// `log_probs[r] = log softmax(hidden[r] head^T)[targets[r]]` in nats, and each row's log-sum-exp for the
    /// backward; both `[m]`.
    ///
    /// # Errors
    /// A target outside the vocabulary; shapes that do not fit.
    pub fn selected_log_prob(
        &self,
        inputs: HeadInputs<'_>,
        log_probs: &mut [f64],
        lse: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "selected_log_prob";
        inputs.check(OP)?;
        expect_size(OP, "number of log_probs", inputs.targets.len(), log_probs.len())?;
        expect_size(OP, "values of lse", inputs.targets.len(), lse.len())?;
        if let Some(gpu) = inputs.hidden.accelerator() {
            return gpu.selected_log_prob(inputs.on_device(OP)?, log_probs, lse);
        }
        let lse = lse.as_mut_slice();
        let path = self.path();
        let mut room = HeadUpdate::room(self, inputs);
        let update = HeadUpdate::of(self, OP, inputs, &mut room)?;
        let mut row_sums = [RowSum::EMPTY; ROWS];
        let values = HeadInputs::logits_at_a_time(inputs.targets.len(), inputs.head.rows());
        let mut logits = self.scratch.take(values);
        let mut parts = self.scratch.take(update.as_ref().map_or(0, |update| update.parts(values)));
        for first in (0..inputs.targets.len()).step_by(ROWS) {
            let targets = &inputs.targets[first..inputs.targets.len().min(first + ROWS)];
            let row_sums = &mut row_sums[..targets.len()];
            row_sums.fill(RowSum::EMPTY);
            for chunk in inputs.chunks(first, targets.len()) {
                let logits = &mut logits[..chunk.values()];
                self.logits(OP, (inputs.own(), update.as_ref()), chunk, (logits, &mut parts))?;
                let add = |((row_sum, logits), &target): ((&mut RowSum, &mut [f32]), &u32)| {
                    let target = (target as usize).wrapping_sub(chunk.first);
                    if let Some(cap) = inputs.cap {
                        cap_in_place(path, logits, cap);
                    }
                    row_sum.add(path, logits, target);
                };
                if self.parallel(logits.len()) {
                    self.install(|| {
                        let rows = row_sums.par_iter_mut().zip(logits.par_chunks_mut(chunk.width));
                        rows.zip(targets).with_min_len(16).for_each(add);
                    });
                } else {
                    row_sums.iter_mut().zip(logits.chunks_mut(chunk.width)).zip(targets).for_each(add);
                }
            }
            let results = log_probs[first..].iter_mut().zip(&mut lse[first..]);
            for (row_sum, (log_prob, lse)) in row_sums.iter().zip(results) {
                let exact = f64::from(row_sum.max) + row_sum.sum.ln();
                *log_prob = f64::from(row_sum.target) - exact;
                *lse = exact as f32;
            }
        }
        Ok(())
    }

    /// Gradients of `sum_r weights[r] * log_probs[r]`.
    ///
    /// # Errors
    /// A target outside the vocabulary; shapes that do not fit.
    pub fn selected_log_prob_backward(
        &self,
        inputs: HeadInputs<'_>,
        grads: SelectedLogProbGrads<'_>,
    ) -> Result<(), EngineError> {
        const OP: &str = "selected_log_prob_backward";
        let SelectedLogProbGrads { lse, weights, dhidden, mut dhead, dupdate } = grads;
        inputs.check(OP)?;
        expect_size(OP, "values of lse", inputs.targets.len(), lse.len())?;
        expect_size(OP, "values of weights", inputs.targets.len(), weights.len())?;
        expect_same_shape(OP, ("rows of dhidden", "columns of dhidden"), inputs.hidden, dhidden)?;
        if let Some(dhead) = &dhead {
            expect_same_shape(OP, ("rows of dhead", "columns of dhead"), inputs.head.values(OP)?, dhead)?;
        }
        if let Some(gpu) = inputs.hidden.accelerator() {
            let head = inputs.on_device(OP)?;
            return gpu.selected_log_prob_backward(head, (lse, weights), dhidden, dhead, dupdate);
        }
        let lse = lse.as_slice();
        let (path, d) = (self.path(), inputs.hidden.cols());
        let mut room = HeadUpdate::room(self, inputs);
        let update = HeadUpdate::of(self, OP, inputs, &mut room)?;
        let mut update_grads = update.as_ref().map(|update| UpdateGrads::of(update, inputs.hidden, dupdate));
        let values = HeadInputs::logits_at_a_time(inputs.targets.len(), inputs.head.rows());
        let mut logits = self.scratch.take(values);
        let mut parts = self.scratch.take(update.as_ref().map_or(0, |update| update.parts(values)));
        for first in (0..inputs.targets.len()).step_by(ROWS) {
            let count = ROWS.min(inputs.targets.len() - first);
            let rows = &mut dhidden.as_mut_slice()[first * d..][..count * d];
            for chunk in inputs.chunks(first, count) {
                let logits = &mut logits[..chunk.values()];
                self.logits(OP, (inputs.own(), update.as_ref()), chunk, (logits, &mut parts))?;
                let differentiate = |(row, logits): (usize, &mut [f32])| {
                    let (lse, weight) = (lse[first + row], weights[first + row]);
                    let target = (inputs.targets[first + row] as usize).wrapping_sub(chunk.first);
                    let Some(cap) = inputs.cap else {
                        logit_gradients(path, logits, lse, weight);
                        return logits.get_mut(target).into_iter().for_each(|logit| *logit += weight);
                    };
                    cap_in_place(path, logits, cap);
                    let own = logits.get(target).map(|logit| weight * cap_slope(*logit, 1.0 / cap));
                    capped_logit_gradients(path, logits, lse, weight, cap);
                    logits.get_mut(target).into_iter().zip(own).for_each(|(logit, own)| *logit += own);
                };
                if self.parallel(logits.len()) {
                    self.install(|| {
                        logits
                            .par_chunks_mut(chunk.width)
                            .with_min_len(16)
                            .enumerate()
                            .for_each(differentiate);
                    });
                } else {
                    logits.chunks_mut(chunk.width).enumerate().for_each(differentiate);
                }
                match (&update, &mut update_grads) {
                    (Some(update), Some(grads)) => {
                        let logits = (chunk, logits, &mut *parts);
                        update.through_logits(OP, inputs.own(), logits, rows, grads)?;
                    }
                    _ => {
                        self.through_product(OP, inputs.own(), (chunk, logits), (rows, dhead.as_deref_mut()))?
                    }
                }
            }
        }
        match (&update, update_grads) {
            (Some(update), Some(grads)) => update.through_inner(OP, inputs.hidden, (dhidden, grads)),
            _ => Ok(()),
        }
    }

    /// The logits of a chunk; `parts` is room for what an update that trains lengths keeps beside them.
    fn logits(
        &self,
        operation: &'static str,
        (own, update): (Factor<'_>, Option<&HeadUpdate<'_>>),
        chunk: Chunk,
        (logits, parts): (&mut [f32], &mut [f32]),
    ) -> Result<(), EngineError> {
        self.chunk_product(operation, own, chunk, (logits, Accumulate::Overwrite))?;
        update.map_or(Ok(()), |update| update.add_logits(operation, own, chunk, (logits, parts)))
    }

    /// `out (+)= rows weight^T` of a chunk.
    pub(crate) fn chunk_product(
        &self,
        operation: &'static str,
        Factor { rows, cols, weight }: Factor<'_>,
        chunk: Chunk,
        (out, accumulate): (&mut [f32], Accumulate),
    ) -> Result<(), EngineError> {
        match rows {
            Values::F32(rows) => {
                let rows = Operand::rows_of(chunk.rows_of(rows, cols), cols);
                let weight = chunk.tokens_of(weight.values(operation)?.as_slice(), cols);
                self.matmul(rows, Operand::rows_of(weight, cols).transposed(), out, accumulate);
            }
            Values::Bf16(rows) => {
                let rows = Lines::rows(chunk.rows_of(rows, cols), cols);
                let weight = weight.packed(operation, false)?.forward(chunk.first, chunk.width);
                self.product_bf16(rows, Right::<f32>::Panels(weight), out, accumulate);
            }
        }
        Ok(())
    }

    /// `drows (+)= dlogits weight`, `dweight += dlogits^T rows` of a chunk; its first overwrites `drows`.
    pub(crate) fn through_product(
        &self,
        operation: &'static str,
        Factor { rows, cols, weight }: Factor<'_>,
        (chunk, dlogits): (Chunk, &[f32]),
        (drows, dweight): (&mut [f32], Option<&mut Array>),
    ) -> Result<(), EngineError> {
        let accumulate = if chunk.first == 0 { Accumulate::Overwrite } else { Accumulate::Add };
        let dweight =
            dweight.map(|dweight| &mut dweight.as_mut_slice()[chunk.first * cols..][..chunk.width * cols]);
        match rows {
            Values::F32(rows) => {
                let dlogits = Operand::rows_of(dlogits, chunk.width);
                let weight = chunk.tokens_of(weight.values(operation)?.as_slice(), cols);
                self.matmul(dlogits, Operand::rows_of(weight, cols), drows, accumulate);
                if let Some(dweight) = dweight {
                    let rows = Operand::rows_of(chunk.rows_of(rows, cols), cols);
                    self.matmul(dlogits.transposed(), rows, dweight, Accumulate::Add);
                }
            }
            Values::Bf16(rows) => {
                let weight = weight.packed(operation, true)?;
                let left = Lines::rows(dlogits, chunk.width);
                let right = Right::<f32>::Panels(weight.backward(chunk.first, chunk.width));
                self.product_bf16(left, right, drows, accumulate);
                if let Some(dweight) = dweight {
                    let rows = Lines::columns(chunk.rows_of(rows, cols), cols);
                    let dlogits = Lines::columns(dlogits, chunk.width);
                    self.product_bf16(dlogits, Right::Lines(rows), dweight, Accumulate::Add);
                }
            }
        }
        Ok(())
    }
}

impl<'a> HeadInputs<'a> {
    /// How many logits exist at a time, at most.
    pub fn logits_at_a_time(rows: usize, vocab: usize) -> usize {
        ROWS.min(rows) * CHUNK.min(vocab)
    }

    /// The same as a device takes it.
    fn on_device(&self, operation: &'static str) -> Result<DeviceHead<'a>, EngineError> {
        let Self { hidden, head, targets, cap, update } = *self;
        let dtype = hidden.dtype();
        let update = match update {
            None => None,
            Some(HeadAdapter { update, lengths }) => {
                let lengths = lengths.map(|RowLengths { magnitude, norm }| [magnitude, norm]);
                Some(DeviceHeadUpdate { update: update.on_device(operation, dtype)?, lengths })
            }
        };
        Ok(DeviceHead { hidden, head: head.whole_on_device(operation, dtype)?, targets, cap, update })
    }

    /// The product of the hidden rows with the head.
    fn own(&self) -> Factor<'a> {
        Factor { rows: self.hidden.values(), cols: self.hidden.cols(), weight: self.head }
    }

    fn check(&self, operation: &'static str) -> Result<(), EngineError> {
        if self.hidden.cols() == 0 {
            let reason = "hidden rows have no columns".to_owned();
            return Err(EngineError::Invalid { operation, reason });
        }
        self.head.refuse_codes(operation)?;
        expect_size(operation, "columns of head", self.hidden.cols(), self.head.cols())?;
        expect_size(operation, "number of targets", self.hidden.rows(), self.targets.len())?;
        if let Some(HeadAdapter { update, lengths }) = self.update {
            expect_size(operation, "columns of a", self.hidden.cols(), update.a.cols())?;
            expect_size(operation, "columns of b (rows of a)", update.a.rows(), update.b.cols())?;
            expect_size(operation, "rows of b", self.head.rows(), update.b.rows())?;
            lengths.map_or(Ok(()), |lengths| lengths.check(operation, self.head.rows()))?;
        }
        let targets = self.targets.iter().map(|&target| target as usize);
        expect_indices(operation, "target", targets, self.head.rows())
    }

    /// The vocabulary in chunks, beside `rows` hidden rows from `row`.
    fn chunks(&self, row: usize, rows: usize) -> impl Iterator<Item = Chunk> + use<> {
        let vocab = self.head.rows();
        let chunk = move |first| Chunk { first, width: CHUNK.min(vocab - first), row, rows };
        (0..vocab).step_by(CHUNK).map(chunk)
    }
}

/// Rows, and a matrix of a row for each token: their product is of the logits' shape.
#[derive(Clone, Copy)]
pub(crate) struct Factor<'a> {
    /// `[m, cols]`.
    pub rows: Values<'a>,
    pub cols: usize,
    /// `[vocab, cols]`.
    pub weight: Weight<'a>,
}

/// Tokens `first..first + width` of the vocabulary, and the rows `row..row + rows` whose logits they give.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    pub first: usize,
    pub width: usize,
    pub row: usize,
    pub rows: usize,
}

impl Chunk {
    pub fn values(&self) -> usize {
        self.rows * self.width
    }

    fn rows_of<'a, E>(&self, hidden: &'a [E], d: usize) -> &'a [E] {
        &hidden[self.row * d..][..self.rows * d]
    }

    fn tokens_of<'a>(&self, head: &'a [f32], d: usize) -> &'a [f32] {
        &head[self.first * d..][..self.width * d]
    }
}

/// A row's log-sum-exp in the making: `sum` of `e^(logit - max)` over the chunks so far.
#[derive(Clone, Copy)]
struct RowSum {
    max: f32,
    sum: f64,
    target: f32,
}

impl RowSum {
    const EMPTY: Self = Self { max: f32::NEG_INFINITY, sum: 0.0, target: f32::NAN };

    /// Takes in a chunk of logits (which it overwrites); `target` is the target's place where it is in the chunk.
    fn add(&mut self, path: CpuPath, logits: &mut [f32], target: usize) {
        if let Some(&logit) = logits.get(target) {
            self.target = logit;
        }
        let (max, sum) = max_and_sum(path, logits, self.max);
        self.sum = self.sum * f64::from(self.max - max).exp() + f64::from(sum);
        self.max = max;
    }
}

vectorised! {
    /// The larger of `floor` and the largest logit, and the sum of `e^(logit - that)`.
    fn max_and_sum(logits: &mut [f32], floor: f32) -> (f32, f32) = max_and_sum_body
}

#[inline(always)]
fn max_and_sum_body<const FMA: bool>(logits: &mut [f32], floor: f32) -> (f32, f32) {
    let largest = max(logits);
    let largest = if largest > floor { largest } else { floor };
    (largest, exp_shifted_in_place::<FMA>(logits, largest))
}

vectorised! {
    /// `logits = -weight * e^(logits - lse)`: the gradient but for the target's own term.
    fn logit_gradients(logits: &mut [f32], lse: f32, weight: f32) = logit_gradients_body
}

#[inline(always)]
fn logit_gradients_body<const FMA: bool>(logits: &mut [f32], lse: f32, weight: f32) {
    for logit in logits {
        *logit = -weight * exp::<FMA>(*logit - lse);
    }
}

vectorised! {
    /// The same for capped logits, which [`cap_slope`] leads back through their cap.
    fn capped_logit_gradients(logits: &mut [f32], lse: f32, weight: f32, cap: f32) = capped_logit_gradients_body
}

#[inline(always)]
fn capped_logit_gradients_body<const FMA: bool>(logits: &mut [f32], lse: f32, weight: f32, cap: f32) {
    let inverse = 1.0 / cap;
    for logit in logits {
        *logit = -weight * exp::<FMA>(*logit - lse) * cap_slope(*logit, inverse);
    }
}

#[cfg(test)]
#[path = "selected_log_prob_tests.rs"]
mod tests;
