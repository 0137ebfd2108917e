//! An adapter beside the output head (`selected_log_prob`): a low-rank update, whose logits are added to the head's, and with
//! trained lengths (DoRA, `dora.rs`) the scaling of every token's logit. What does not depend on the vocabulary's chunks is
//! computed once for all.

use rayon::prelude::*;

use crate::array::{Values, ValuesMut, with_values};
use crate::dropout::Mask;
use crate::low_rank::Numbers;
use crate::scratch::Scratch;
use crate::selected_log_prob::{Chunk, Factor, HeadInputs};
use crate::{Accumulate, Array, DType, Engine, EngineError, LowRank, RowLengths};

/// An adapter of the head `[vocab, d]`.
#[derive(Debug, Clone, Copy)]
pub struct HeadAdapter<'a> {
    /// Its update.
    pub update: LowRank<'a>,
    /// The lengths of the updated head's rows, where they are trained.
    pub lengths: Option<RowLengths<'a>>,
}

/// Gradients of a [`HeadAdapter`]'s tensors; added to.
#[derive(Debug)]
pub struct HeadAdapterGrads<'a> {
    /// Of `a`.
    pub da: &'a mut Array,
    /// Of `b`.
    pub db: &'a mut Array,
    /// Of the rows' lengths, where they are trained, `[1, vocab]`.
    pub dmagnitude: Option<&'a mut Array>,
}

/// The update with its inner rows `scale drop(hidden) a^T`, `[m, r]`, computed once for all chunks.
pub(crate) struct HeadUpdate<'a> {
    engine: &'a Engine,
    update: LowRank<'a>,
    lengths: Option<(RowLengths<'a>, Vec<f32>)>,
    /// The hidden rows after dropout.
    seen: Values<'a>,
    inner: Numbers<'a>,
}

/// Gradients of an update, and of what it reads, in the making.
pub(crate) struct UpdateGrads<'a> {
    adapter: Option<HeadAdapterGrads<'a>>,
    /// Of the inner rows, `[m, r]`.
    dinner: Scratch<'a>,
    /// Of the hidden rows after dropout where the head reads them (DoRA), `[m, d]`.
    dseen: Scratch<'a>,
}

impl<'a> UpdateGrads<'a> {
    pub(crate) fn of(update: &HeadUpdate<'a>, hidden: &Array, adapter: Option<HeadAdapterGrads<'a>>) -> Self {
        let dinner = update.engine.scratch.take(update.inner.len());
        let dropped = if update.update.dropout.is_some() { hidden.len() } else { 0 };
        Self { adapter, dinner, dseen: update.engine.scratch.take(dropped) }
    }
}

impl<'a> HeadUpdate<'a> {
    /// Room for the hidden rows after dropout; nothing where nothing is dropped.
    pub(crate) fn room(engine: &'a Engine, inputs: HeadInputs<'_>) -> Numbers<'a> {
        Numbers::of_dropout(engine, inputs.hidden, inputs.update.and_then(|adapter| adapter.update.dropout))
    }

    /// Of these inputs, where they have one.
    pub(crate) fn of(
        engine: &'a Engine,
        operation: &'static str,
        inputs: HeadInputs<'a>,
        room: &'a mut Numbers<'_>,
    ) -> Result<Option<Self>, EngineError> {
        let Some(HeadAdapter { update, lengths }) = inputs.update else { return Ok(None) };
        let seen = engine.seen(inputs.hidden, update.dropout, room);
        let inner = engine.inner(operation, (seen, inputs.hidden), update)?;
        let lengths = lengths.map(|lengths| (lengths, lengths.factors()));
        Ok(Some(Self { engine, update, lengths, seen, inner }))
    }

    /// The product that gives the update's logits.
    fn factor(&self) -> Factor<'_> {
        Factor { rows: self.inner.values(), cols: self.update.rank(), weight: self.update.b }
    }

    /// Numbers that stand beside so many logits: with lengths those of the head and of the update apart.
    pub(crate) fn parts(&self, logits: usize) -> usize {
        if self.lengths.is_some() { 2 * logits } else { 0 }
    }

    /// Makes the head's logits of a chunk those of the adapted head. With lengths these are
    /// `w x + (m / norm - 1) w seen + m / norm scale b a seen`, so that lengths that are as they were leave the bits of `w x`;
    /// `w seen` and `scale b a seen` stay in `parts`.
    pub(crate) fn add_logits(
        &self,
        operation: &'static str,
        own: Factor<'_>,
        chunk: Chunk,
        (logits, parts): (&mut [f32], &mut [f32]),
    ) -> Result<(), EngineError> {
        let (engine, overwrite) = (self.engine, Accumulate::Overwrite);
        let Some((_, factors)) = &self.lengths else {
            return engine.chunk_product(operation, self.factor(), chunk, (logits, Accumulate::Add));
        };
        let (straight, turned) = split(parts, logits.len());
        match self.update.dropout {
            None => straight.copy_from_slice(logits),
            Some(_) => {
                let seen = Factor { rows: self.seen, ..own };
                engine.chunk_product(operation, seen, chunk, (straight, overwrite))?;
            }
        }
        engine.chunk_product(operation, self.factor(), chunk, (turned, overwrite))?;
        let factors = &factors[chunk.first..][..chunk.width];
        self.each_row(chunk, [logits, straight, turned], |[logits, straight, turned]| {
            for (i, factor) in factors.iter().enumerate() {
                logits[i] += (factor - 1.0) * straight[i] + factor * turned[i];
            }
        });
        Ok(())
    }

    /// From the gradient of a chunk's logits: adds to `drows` that of the hidden rows, as far as they are read past dropout, and
    /// to `grads`. `parts` is as [`HeadUpdate::add_logits`] left it.
    pub(crate) fn through_logits(
        &self,
        operation: &'static str,
        own: Factor<'_>,
        (chunk, dlogits, parts): (Chunk, &mut [f32], &mut [f32]),
        drows: &mut [f32],
        grads: &mut UpdateGrads<'_>,
    ) -> Result<(), EngineError> {
        let (engine, rank) = (self.engine, self.update.rank());
        let UpdateGrads { adapter, dinner, dseen } = grads;
        let dinner = &mut dinner[chunk.row * rank..][..chunk.rows * rank];
        let (db, dmagnitude) = match adapter {
            Some(HeadAdapterGrads { db, dmagnitude, .. }) => (Some(&mut **db), dmagnitude.as_deref_mut()),
            None => (None, None),
        };
        let Some((lengths, factors)) = &self.lengths else {
            engine.through_product(operation, own, (chunk, dlogits), (drows, None))?;
            return engine.through_product(operation, self.factor(), (chunk, dlogits), (dinner, db));
        };
        let (straight, turned) = split(parts, dlogits.len());
        if let Some(dmagnitude) = dmagnitude {
            let mut sums = vec![0.0_f64; chunk.width];
            for (row, dlogits) in dlogits.chunks_exact(chunk.width).enumerate() {
                let at = row * chunk.width;
                for (i, (sum, d)) in sums.iter_mut().zip(dlogits).enumerate() {
                    *sum += f64::from((straight[at + i] + turned[at + i]) * d);
                }
            }
            lengths.add_gradient(chunk.first, &sums, dmagnitude);
        }
        let factors = &factors[chunk.first..][..chunk.width];
        let dropped = self.update.dropout.is_some();
        self.each_row(chunk, [&mut *dlogits, straight, turned], |[dlogits, straight, turned]| {
            for (i, factor) in factors.iter().enumerate() {
                turned[i] = factor * dlogits[i];
                straight[i] = if dropped { turned[i] - dlogits[i] } else { turned[i] };
            }
        });
        if dropped {
            engine.through_product(operation, own, (chunk, dlogits), (drows, None))?;
            let cols = own.cols;
            let dseen = &mut dseen[chunk.row * cols..][..chunk.rows * cols];
            let seen = Factor { rows: self.seen, ..own };
            engine.through_product(operation, seen, (chunk, straight), (dseen, None))?;
        } else {
            engine.through_product(operation, own, (chunk, straight), (drows, None))?;
        }
        engine.through_product(operation, self.factor(), (chunk, turned), (dinner, db))
    }

    /// From the gradients that [`HeadUpdate::through_logits`] gathered: `da += dinner^T drop(hidden)` and
    /// `dhidden += drop'(dseen + dinner a)`.
    pub(crate) fn through_inner(
        &self,
        operation: &'static str,
        hidden: &Array,
        (dhidden, grads): (&mut Array, UpdateGrads<'_>),
    ) -> Result<(), EngineError> {
        let Self { engine, update, .. } = self;
        let UpdateGrads { adapter, mut dinner, mut dseen } = grads;
        let (cols, bf16) = (hidden.cols(), hidden.dtype() == DType::Bf16);
        dinner.iter_mut().for_each(|x| *x *= update.scale);
        if let Some(HeadAdapterGrads { da, .. }) = adapter {
            let rank = update.rank();
            engine.add_weight_gradient((Values::F32(&dinner), rank), (self.seen, cols), da.as_mut_slice());
        }
        let dinner = (Values::F32(&dinner), bf16);
        let Some(dropout) = update.dropout else {
            let dhidden = dhidden.values_mut();
            return engine.gradient_times_weight(operation, dinner, update.a, dhidden, Accumulate::Add);
        };
        let accumulate = if self.lengths.is_some() { Accumulate::Add } else { Accumulate::Overwrite };
        engine.gradient_times_weight(operation, dinner, update.a, ValuesMut::F32(&mut dseen), accumulate)?;
        with_values!(ValuesMut, dhidden.values_mut(), |dhidden| {
            engine.drop_out(dropout, (&dseen, cols), dhidden, Mask::Add);
        });
        Ok(())
    }

    /// Calls `task` with each row of a chunk's logits and of its parts.
    fn each_row(
        &self,
        chunk: Chunk,
        [a, b, c]: [&mut [f32]; 3],
        task: impl Fn([&mut [f32]; 3]) + Sync + Send,
    ) {
        let width = chunk.width;
        self.engine.install(|| {
            let rows = a.par_chunks_exact_mut(width).zip(b.par_chunks_exact_mut(width));
            let rows = rows.zip(c.par_chunks_exact_mut(width)).with_min_len(16);
            rows.for_each(|((a, b), c)| task([a, b, c]));
        });
    }
}

fn split(parts: &mut [f32], logits: usize) -> (&mut [f32], &mut [f32]) {
    parts[..2 * logits].split_at_mut(logits)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropout::Dropout;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};
    use crate::{PackedWeight, SelectedLogProbGrads, Weight};

    const SCALE: f32 = 1.5;
    const CAP: f64 = 2.0;

    /// Log-probs of the targets in f64, of the hidden rows, `a`, `b` and the factors of the rows, if they have any.
    fn reference(
        [hidden, mask, head, a, b]: [&[f64]; 5],
        factors: Option<&[f64]>,
        targets: &[u32],
        cap: bool,
        (d, r): (usize, usize),
    ) -> Vec<f64> {
        let row = |(row, target): (usize, &u32)| {
            let x = &hidden[row * d..][..d];
            let seen: Vec<f64> = x.iter().zip(&mask[row * d..]).map(|(x, m)| x * m).collect();
            let inner: Vec<f64> = a.chunks(d).map(|a| f64::from(SCALE) * dot(&seen, a)).collect();
            let sums = head.chunks(d).zip(b.chunks(r)).enumerate().map(|(token, (head, b))| match factors {
                None => dot(x, head) + dot(&inner, b),
                Some(factors) => {
                    let updated = dot(&seen, head) + dot(&inner, b);
                    dot(x, head) - dot(&seen, head) + factors[token] * updated
                }
            });
            let logits: Vec<f64> = sums.map(|x| if cap { CAP * (x / CAP).tanh() } else { x }).collect();
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            logits[*target as usize] - sum.ln()
        };
        targets.iter().enumerate().map(row).collect()
    }

    /// Log-probs, and the gradients of the hidden rows, `a`, `b` and the lengths.
    fn run(engine: &Engine, inputs: HeadInputs<'_>, weights: &[f32]) -> [Vec<f32>; 5] {
        let (m, d) = (inputs.targets.len(), inputs.hidden.cols());
        let HeadAdapter { update, lengths } = inputs.update.unwrap();
        let (mut log_probs, mut lse) = (vec![0.0; m], Array::zeros(m, 1));
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
        let mut dhidden = random(9, m, d);
        let (mut da, mut db) = (Array::zeros(update.rank(), d), Array::zeros(update.b.rows(), update.rank()));
        let mut dm = Array::zeros(1, update.b.rows());
        let dmagnitude = lengths.map(|_| &mut dm);
        let dupdate = Some(HeadAdapterGrads { da: &mut da, db: &mut db, dmagnitude });
        let grads = SelectedLogProbGrads { lse: &lse, weights, dhidden: &mut dhidden, dhead: None, dupdate };
        engine.selected_log_prob_backward(inputs, grads).unwrap();
        let log_probs = log_probs.iter().map(|x| *x as f32).collect();
        [log_probs, dhidden.to_f32_vec(), da.to_f32_vec(), db.to_f32_vec(), dm.to_f32_vec()]
    }

    #[test]
    fn log_probs_and_gradients_agree_with_finite_differences() {
        let dropout = Dropout { rate: 0.3, key: 5, first_row: 0 };
        for engine in engines() {
            let cases = [None, Some(dropout)].into_iter().flat_map(|dropout| {
                let lengths = [false, true].into_iter();
                lengths.flat_map(move |lengths| [false, true].map(|cap| (dropout, lengths, cap)))
            });
            for (dropout, with_lengths, cap) in cases {
                let (m, d, r, vocab) = (4, 5, 2, 11);
                let (hidden, head) = (random(1, m, d), random(2, vocab, d));
                let (a, b, weights) = (random(3, r, d), random(4, vocab, r), random(5, 1, m).into_vec());
                let (targets, mut mask) = ([3, 0, 10, 7], vec![1.0_f32; m * d]);
                if let Some(dropout) = dropout {
                    engine.drop_out(dropout, (&vec![1.0_f32; m * d], d), &mut mask, Mask::Replace);
                }
                let update = LowRank { a: (&a).into(), b: (&b).into(), scale: SCALE, dropout };
                let (magnitude, mut norm) = (random(6, 1, vocab), Array::zeros(1, vocab));
                engine.updated_row_norms(&head, (&a, &b, SCALE), &mut norm).unwrap();
                let lengths = with_lengths.then_some(RowLengths { magnitude: &magnitude, norm: &norm });
                let inputs = HeadInputs {
                    hidden: &hidden,
                    head: (&head).into(),
                    targets: &targets,
                    cap: cap.then_some(CAP as f32),
                    update: Some(HeadAdapter { update, lengths }),
                };
                let found = run(&engine, inputs, &weights);
                let mask: Vec<f64> = mask.into_iter().map(f64::from).collect();
                let [h, w, a, b] = [&hidden, &head, &a, &b].map(wide);
                let [lengths, norm] = [&magnitude, &norm].map(wide);
                let of = |h: &[f64], a: &[f64], b: &[f64], m: &[f64]| {
                    let factors: Vec<f64> = m.iter().zip(&norm).map(|(m, norm)| m / norm).collect();
                    let factors = with_lengths.then_some(&*factors);
                    reference([h, &mask, &w, a, b], factors, &targets, cap, (d, r))
                };
                let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
                let loss = |h: &[f64], a: &[f64], b: &[f64], m: &[f64]| dot(&weights, &of(h, a, b, m));
                let (h, a, b, m) = (&*h, &*a, &*b, &*lengths);
                assert_close("log_probs", &found[0], &of(h, a, b, m), 2e-6);
                assert_close("dhidden", &found[1], &numeric_gradient(h, |h| loss(h, a, b, m)), 1e-5);
                assert_close("da", &found[2], &numeric_gradient(a, |a| loss(h, a, b, m)), 1e-5);
                assert_close("db", &found[3], &numeric_gradient(b, |b| loss(h, a, b, m)), 1e-5);
                if with_lengths {
                    assert_close("dmagnitude", &found[4], &numeric_gradient(m, |m| loss(h, a, b, m)), 1e-5);
                }
            }
        }
    }

    #[test]
    fn bf16_and_many_chunks_of_rows_and_tokens_agree_with_an_update_added_to_the_head() {
        let (m, d, r, vocab) = (2100, 8, 3, 1500);
        let (hidden, head) = (rounded(&random(1, m, d)), random(2, vocab, d));
        let (a, b, weights) = (random(3, r, d), random(4, vocab, r), random(5, 1, m).into_vec());
        let targets: Vec<u32> = (0..m as u32).map(|row| row * 7919 % vocab as u32).collect();
        let engines = engines();
        for (engine, with_lengths) in engines.iter().flat_map(|engine| [(engine, false), (engine, true)]) {
            let (mut whole, mut norm) = (head.clone(), Array::zeros(1, vocab));
            engine.add_low_rank(&a, &b, SCALE, &mut whole).unwrap();
            engine.updated_row_norms(&head, (&a, &b, SCALE), &mut norm).unwrap();
            let updated = wide(&whole);
            let mut magnitude = random(6, 1, vocab);
            for (m, norm) in magnitude.as_mut_slice().iter_mut().zip(norm.as_slice()) {
                *m = norm * (1.0 + 0.3 * *m);
            }
            let lengths = with_lengths.then_some(RowLengths { magnitude: &magnitude, norm: &norm });
            if with_lengths {
                engine.set_row_norms(&mut whole, &magnitude).unwrap();
            }
            let wide_hidden = hidden.to_dtype(DType::F32).unwrap();
            let update = |update| Some(HeadAdapter { update, lengths });
            let inputs =
                |hidden, head, update| HeadInputs { hidden, head, targets: &targets, cap: None, update };
            let (mut log_probs, mut lse) = (vec![0.0; m], Array::zeros(m, 1));
            let added = inputs(&wide_hidden, (&whole).into(), None);
            engine.selected_log_prob(added, &mut log_probs, &mut lse).unwrap();
            let (mut dhidden, mut dhead) = (Array::zeros(m, d), Array::zeros(vocab, d));
            let grads = SelectedLogProbGrads {
                lse: &lse,
                weights: &weights,
                dhidden: &mut dhidden,
                dhead: Some(&mut dhead),
                dupdate: None,
            };
            engine.selected_log_prob_backward(added, grads).unwrap();
            // With w = f (head + s b a): dm = (head + s b a) dw / norm, db = s f dw a^T, da = s b^T f dw.
            let mut dw = wide(&dhead);
            let norms = wide(&norm);
            let dm: Vec<f64> =
                (0..vocab).map(|t| dot(&dw[t * d..][..d], &updated[t * d..][..d]) / norms[t]).collect();
            if let Some(lengths) = lengths {
                let factors = lengths.factors();
                dw.iter_mut().enumerate().for_each(|(i, x)| *x *= f64::from(factors[i / d]));
            }
            let (wa, wb, s) = (wide(&a), wide(&b), f64::from(SCALE));
            let db: Vec<f64> =
                (0..vocab * r).map(|i| s * dot(&dw[i / r * d..][..d], &wa[i % r * d..][..d])).collect();
            let da: Vec<f64> = (0..r * d)
                .map(|i| s * (0..vocab).map(|t| wb[t * r + i / d] * dw[t * d + i % d]).sum::<f64>())
                .collect();
            let dm = if with_lengths { dm } else { vec![0.0; vocab] };
            let want = [log_probs.clone(), wide(&dhidden), da, db, dm];

            let [mut ph, mut pa, mut pb] =
                [&head, &a, &b].map(|w| PackedWeight::new(w.rows(), w.cols(), true));
            for (w, packed) in [(&head, &mut ph), (&a, &mut pa), (&b, &mut pb)] {
                engine.pack_weight(w, packed).unwrap();
            }
            let exact = LowRank { a: (&a).into(), b: (&b).into(), scale: SCALE, dropout: None };
            let coarse = LowRank { a: Weight::new(&a, Some(&pa)), b: Weight::new(&b, Some(&pb)), ..exact };
            let head_packed = Weight::new(&head, Some(&ph));
            for (inputs, tolerance) in [
                (inputs(&wide_hidden, (&head).into(), update(exact)), 2e-5),
                (inputs(&hidden, head_packed, update(coarse)), 1.0 / 32.0),
            ] {
                let found = run(engine, inputs, &weights);
                for (what, (found, want)) in
                    ["log_probs", "dhidden", "da", "db", "dmagnitude"].iter().zip(found.iter().zip(&want))
                {
                    assert_close(what, found, want, tolerance);
                }
            }
        }
    }
}
