//! A low-rank update beside the output head (`selected_log_prob`): what of it does not depend on the vocabulary's chunks.

use crate::array::{Values, ValuesMut, with_values};
use crate::dropout::Mask;
use crate::low_rank::Numbers;
use crate::selected_log_prob::{Factor, HeadInputs};
use crate::{Accumulate, Array, DType, Engine, EngineError, LowRank};

/// The update with its inner rows `scale drop(hidden) a^T`, `[m, r]`, computed once for all chunks.
pub(crate) struct HeadUpdate<'a> {
    engine: &'a Engine,
    update: LowRank<'a>,
    /// The hidden rows after dropout.
    seen: Values<'a>,
    inner: Numbers<'a>,
}

impl<'a> HeadUpdate<'a> {
    /// Room for the hidden rows after dropout; nothing where nothing is dropped.
    pub(crate) fn room(engine: &'a Engine, inputs: HeadInputs<'_>) -> Numbers<'a> {
        Numbers::of_dropout(engine, inputs.hidden, inputs.update.and_then(|update| update.dropout))
    }

    /// Of these inputs, where they have one.
    pub(crate) fn of(
        engine: &'a Engine,
        operation: &'static str,
        inputs: HeadInputs<'a>,
        room: &'a mut Numbers<'_>,
    ) -> Result<Option<Self>, EngineError> {
        let Some(update) = inputs.update else { return Ok(None) };
        let seen = engine.seen(inputs.hidden, update.dropout, room);
        let inner = engine.inner(operation, (seen, inputs.hidden), update)?;
        Ok(Some(Self { engine, update, seen, inner }))
    }

    /// The product that gives the update's logits.
    pub(crate) fn factor(&self) -> Factor<'_> {
        Factor { rows: self.inner.values(), cols: self.update.rank(), weight: self.update.b }
    }

    /// Number of values of the inner rows.
    pub(crate) fn values(&self) -> usize {
        self.inner.len()
    }

    /// From the gradient of `drop(hidden) a^T b^T`'s inner rows: `dhidden += drop'(dinner a)` and `da += dinner^T drop(hidden)`.
    pub(crate) fn through_inner(
        &self,
        operation: &'static str,
        hidden: &Array,
        dinner: &mut [f32],
        (dhidden, dupdate): (&mut Array, Option<[&mut Array; 2]>),
    ) -> Result<(), EngineError> {
        let Self { engine, update, .. } = self;
        let (cols, bf16) = (hidden.cols(), hidden.dtype() == DType::Bf16);
        dinner.iter_mut().for_each(|x| *x *= update.scale);
        if let Some([da, _]) = dupdate {
            let rank = update.rank();
            engine.add_weight_gradient((Values::F32(dinner), rank), (self.seen, cols), da.as_mut_slice());
        }
        let dinner = (Values::F32(dinner), bf16);
        let Some(dropout) = update.dropout else {
            let dhidden = dhidden.values_mut();
            return engine.gradient_times_weight(operation, dinner, update.a, dhidden, Accumulate::Add);
        };
        let mut dseen = engine.scratch.take(hidden.len());
        let overwrite = Accumulate::Overwrite;
        engine.gradient_times_weight(operation, dinner, update.a, ValuesMut::F32(&mut dseen), overwrite)?;
        with_values!(ValuesMut, dhidden.values_mut(), |dhidden| {
            engine.drop_out(dropout, (&dseen, cols), dhidden, Mask::Add);
        });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dropout::Dropout;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, rounded, wide};
    use crate::{PackedWeight, SelectedLogProbGrads, Weight};

    const SCALE: f32 = 1.5;
    const CAP: f64 = 2.0;

    /// Log-probs of the targets in f64, of the hidden rows, `a` and `b`.
    fn reference(
        [hidden, mask, head, a, b]: [&[f64]; 5],
        targets: &[u32],
        cap: bool,
        (d, r): (usize, usize),
    ) -> Vec<f64> {
        let row = |(row, target): (usize, &u32)| {
            let x = &hidden[row * d..][..d];
            let seen: Vec<f64> = x.iter().zip(&mask[row * d..]).map(|(x, m)| x * m).collect();
            let inner: Vec<f64> = a.chunks(d).map(|a| f64::from(SCALE) * dot(&seen, a)).collect();
            let sums = head.chunks(d).zip(b.chunks(r)).map(|(head, b)| dot(x, head) + dot(&inner, b));
            let logits: Vec<f64> = sums.map(|x| if cap { CAP * (x / CAP).tanh() } else { x }).collect();
            let sum: f64 = logits.iter().map(|x| x.exp()).sum();
            logits[*target as usize] - sum.ln()
        };
        targets.iter().enumerate().map(row).collect()
    }

    fn run(engine: &Engine, inputs: HeadInputs<'_>, weights: &[f32]) -> [Vec<f32>; 4] {
        let (m, d) = (inputs.targets.len(), inputs.hidden.cols());
        let update = inputs.update.unwrap();
        let (mut log_probs, mut lse) = (vec![0.0; m], vec![0.0; m]);
        engine.selected_log_prob(inputs, &mut log_probs, &mut lse).unwrap();
        let mut dhidden = random(9, m, d);
        let (mut da, mut db) = (Array::zeros(update.rank(), d), Array::zeros(update.b.rows(), update.rank()));
        let dupdate = Some([&mut da, &mut db]);
        let grads = SelectedLogProbGrads { lse: &lse, weights, dhidden: &mut dhidden, dhead: None, dupdate };
        engine.selected_log_prob_backward(inputs, grads).unwrap();
        let log_probs = log_probs.iter().map(|x| *x as f32).collect();
        [log_probs, dhidden.to_f32_vec(), da.to_f32_vec(), db.to_f32_vec()]
    }

    #[test]
    fn log_probs_and_gradients_agree_with_finite_differences() {
        let dropout = Dropout { rate: 0.3, key: 5, first_row: 0 };
        for engine in engines() {
            for (dropout, cap) in [(None, false), (Some(dropout), false), (Some(dropout), true)] {
                let (m, d, r, vocab) = (4, 5, 2, 11);
                let (hidden, head) = (random(1, m, d), random(2, vocab, d));
                let (a, b, weights) = (random(3, r, d), random(4, vocab, r), random(5, 1, m).into_vec());
                let (targets, mut mask) = ([3, 0, 10, 7], vec![1.0_f32; m * d]);
                if let Some(dropout) = dropout {
                    engine.drop_out(dropout, (&vec![1.0_f32; m * d], d), &mut mask, Mask::Replace);
                }
                let update = LowRank { a: (&a).into(), b: (&b).into(), scale: SCALE, dropout };
                let inputs = HeadInputs {
                    hidden: &hidden,
                    head: (&head).into(),
                    targets: &targets,
                    cap: cap.then_some(CAP as f32),
                    update: Some(update),
                };
                let found = run(&engine, inputs, &weights);
                let mask: Vec<f64> = mask.into_iter().map(f64::from).collect();
                let [h, w, a, b] = [&hidden, &head, &a, &b].map(wide);
                let of =
                    |h: &[f64], a: &[f64], b: &[f64]| reference([h, &mask, &w, a, b], &targets, cap, (d, r));
                let weights: Vec<f64> = weights.into_iter().map(f64::from).collect();
                let loss = |h: &[f64], a: &[f64], b: &[f64]| dot(&weights, &of(h, a, b));
                assert_close("log_probs", &found[0], &of(&h, &a, &b), 1e-6);
                assert_close("dhidden", &found[1], &numeric_gradient(&h, |h| loss(h, &a, &b)), 1e-5);
                assert_close("da", &found[2], &numeric_gradient(&a, |a| loss(&h, a, &b)), 1e-5);
                assert_close("db", &found[3], &numeric_gradient(&b, |b| loss(&h, &a, b)), 1e-5);
            }
        }
    }

    #[test]
    fn bf16_and_many_chunks_of_rows_and_tokens_agree_with_an_update_added_to_the_head() {
        let (m, d, r, vocab) = (2100, 8, 3, 1500);
        let (hidden, head) = (rounded(&random(1, m, d)), random(2, vocab, d));
        let (a, b, weights) = (random(3, r, d), random(4, vocab, r), random(5, 1, m).into_vec());
        let targets: Vec<u32> = (0..m as u32).map(|row| row * 7919 % vocab as u32).collect();
        for engine in engines() {
            let mut whole = head.clone();
            engine.add_low_rank(&a, &b, SCALE, &mut whole).unwrap();
            let wide_hidden = hidden.to_dtype(DType::F32).unwrap();
            let inputs =
                |hidden, head, update| HeadInputs { hidden, head, targets: &targets, cap: None, update };
            let (mut log_probs, mut lse) = (vec![0.0; m], vec![0.0; m]);
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
            // With w = head + s b a: db = s dw a^T, da = s b^T dw.
            let (dw, wa, wb, s) = (wide(&dhead), wide(&a), wide(&b), f64::from(SCALE));
            let db: Vec<f64> =
                (0..vocab * r).map(|i| s * dot(&dw[i / r * d..][..d], &wa[i % r * d..][..d])).collect();
            let da: Vec<f64> = (0..r * d)
                .map(|i| s * (0..vocab).map(|t| wb[t * r + i / d] * dw[t * d + i % d]).sum::<f64>())
                .collect();
            let want = [log_probs.clone(), wide(&dhidden), da, db];

            let [mut ph, mut pa, mut pb] =
                [&head, &a, &b].map(|w| PackedWeight::new(w.rows(), w.cols(), true));
            for (w, packed) in [(&head, &mut ph), (&a, &mut pa), (&b, &mut pb)] {
                engine.pack_weight(w, packed).unwrap();
            }
            let exact = LowRank { a: (&a).into(), b: (&b).into(), scale: SCALE, dropout: None };
            let coarse = LowRank { a: Weight::new(&a, Some(&pa)), b: Weight::new(&b, Some(&pb)), ..exact };
            let head_packed = Weight::new(&head, Some(&ph));
            for (inputs, tolerance) in [
                (inputs(&wide_hidden, (&head).into(), Some(exact)), 2e-5),
                (inputs(&hidden, head_packed, Some(coarse)), 1.0 / 32.0),
            ] {
                let found = run(&engine, inputs, &weights);
                for (what, (found, want)) in
                    ["log_probs", "dhidden", "da", "db"].iter().zip(found.iter().zip(&want))
                {
                    assert_close(what, found, want, tolerance);
                }
            }
        }
    }
}
