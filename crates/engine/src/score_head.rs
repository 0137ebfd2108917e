//! A scalar head: one number a row, and its gradients. Rows are few (one a sequence), so that numbers add up in f64 on
//! one thread.

use crate::error::expect_size;
use crate::{Array, DType, Engine, EngineError};

/// What [`Engine::score_backward`] reads and writes.
#[derive(Debug)]
pub struct ScoreGrads<'a> {
    /// The loss's derivative by each score.
    pub weights: &'a [f32],
    /// `[rows, d]`, as in the forward.
    pub hidden: &'a Array,
    /// `[1, d]`, as in the forward.
    pub head: &'a Array,
    /// `[rows, d]`, overwritten.
    pub dhidden: &'a mut Array,
    /// `[1, d]`, added to; none: the head is frozen.
    pub dhead: Option<&'a mut Array>,
    /// `[1, 1]`, added to; none: there is no bias, or it is frozen.
    pub dbias: Option<&'a mut Array>,
}

impl Engine {
    /// `scores[i] = hidden[i] . head + bias`; `hidden` is `[rows, d]` in f32, `head` `[1, d]`, `bias` `[1, 1]`.
    ///
    /// # Errors
    /// Shapes that do not fit; `hidden` in another precision than f32.
    pub fn score(
        &self,
        hidden: &Array,
        head: &Array,
        bias: Option<&Array>,
        scores: &mut [f64],
    ) -> Result<(), EngineError> {
        const OP: &str = "score";
        expect_size(OP, "scores", hidden.rows(), scores.len())?;
        check(OP, hidden, head, bias)?;
        if let Some(gpu) = hidden.accelerator() {
            return gpu.score(hidden, head, bias, scores);
        }
        let bias = bias.map_or(0.0, |bias| f64::from(bias.as_slice()[0]));
        for (row, score) in scores.iter_mut().enumerate() {
            let products = hidden.row(row).iter().zip(head.as_slice());
            *score = bias + products.map(|(x, w)| f64::from(*x) * f64::from(*w)).sum::<f64>();
        }
        Ok(())
    }

    /// The gradients of `sum_i weights[i] * scores[i]`.
    ///
    /// # Errors
    /// As [`Engine::score`].
    pub fn score_backward(&self, grads: ScoreGrads<'_>) -> Result<(), EngineError> {
        const OP: &str = "score_backward";
        let ScoreGrads { weights, hidden, head, dhidden, dhead, dbias } = grads;
        check(OP, hidden, head, dbias.as_deref())?;
        expect_size(OP, "weights", hidden.rows(), weights.len())?;
        expect_size(OP, "rows of dhidden", hidden.rows(), dhidden.rows())?;
        expect_size(OP, "columns of dhidden", hidden.cols(), dhidden.cols())?;
        if let Some(dhead) = &dhead {
            expect_size(OP, "size of dhead", hidden.cols(), dhead.len())?;
        }
        if let Some(gpu) = hidden.accelerator() {
            return gpu.score_backward(ScoreGrads { weights, hidden, head, dhidden, dhead, dbias });
        }
        for (row, &weight) in weights.iter().enumerate() {
            dhidden.row_mut(row).iter_mut().zip(head.as_slice()).for_each(|(dx, w)| *dx = weight * w);
        }
        if let Some(dhead) = dhead {
            for (column, dw) in dhead.as_mut_slice().iter_mut().enumerate() {
                let products = weights.iter().enumerate().map(|(row, w)| (*w, hidden.row(row)[column]));
                *dw += products.map(|(w, x)| f64::from(w) * f64::from(x)).sum::<f64>() as f32;
            }
        }
        if let Some(dbias) = dbias {
            dbias.as_mut_slice()[0] += weights.iter().map(|w| f64::from(*w)).sum::<f64>() as f32;
        }
        Ok(())
    }
}

fn check(
    operation: &'static str,
    hidden: &Array,
    head: &Array,
    bias: Option<&Array>,
) -> Result<(), EngineError> {
    if hidden.dtype() != DType::F32 {
        return Err(EngineError::mixed(operation));
    }
    expect_size(operation, "size of head", hidden.cols(), head.len())?;
    expect_size(operation, "size of bias", 1, bias.map_or(1, Array::len))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, wide};

    #[test]
    fn scores_and_gradients_agree_with_the_definition_and_its_differences() {
        let (rows, d) = (5, 37);
        for engine in engines() {
            let (hidden, head, bias) = (random(1, rows, d), random(2, 1, d), random(3, 1, 1));
            let weights = random(4, 1, rows);
            let score = |hidden: &[f64], head: &[f64], bias: f64| -> Vec<f64> {
                hidden.chunks(d).map(|row| bias + dot(row, head)).collect()
            };
            let mut scores = vec![0.0; rows];
            engine.score(&hidden, &head, Some(&bias), &mut scores).unwrap();
            let (x, w, b) = (wide(&hidden), wide(&head), wide(&bias));
            let want = score(&x, &w, b[0]);
            assert!(scores.iter().zip(&want).all(|(got, want)| (got - want).abs() < 1e-12));
            engine.score(&hidden, &head, None, &mut scores).unwrap();
            assert!(scores.iter().zip(&want).all(|(got, want)| (got + b[0] - want).abs() < 1e-12));

            let (mut dhidden, mut dhead, mut dbias) = (random(5, rows, d), random(6, 1, d), random(7, 1, 1));
            let (head_before, bias_before) = (wide(&dhead), wide(&dbias));
            let grads = ScoreGrads {
                weights: weights.as_slice(),
                hidden: &hidden,
                head: &head,
                dhidden: &mut dhidden,
                dhead: Some(&mut dhead),
                dbias: Some(&mut dbias),
            };
            engine.score_backward(grads).unwrap();
            let upstream = wide(&weights);
            let want = numeric_gradient(&x, |x| dot(&upstream, &score(x, &w, b[0])));
            assert_close("dhidden", dhidden.as_slice(), &want, 1e-6);
            let mut want = numeric_gradient(&w, |w| dot(&upstream, &score(&x, w, b[0])));
            want.iter_mut().zip(head_before).for_each(|(want, before)| *want += before);
            assert_close("dhead", dhead.as_slice(), &want, 1e-6);
            let mut want = numeric_gradient(&b, |b| dot(&upstream, &score(&x, &w, b[0])));
            want[0] += bias_before[0];
            assert_close("dbias", dbias.as_slice(), &want, 1e-6);
        }
    }

    #[test]
    fn shapes_that_do_not_fit_are_refused() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let (hidden, head) = (Array::zeros(2, 3), Array::zeros(1, 3));
        assert!(engine.score(&hidden, &head, None, &mut [0.0]).is_err());
        assert!(engine.score(&hidden, &Array::zeros(1, 4), None, &mut [0.0; 2]).is_err());
        assert!(engine.score(&hidden, &head, Some(&Array::zeros(1, 2)), &mut [0.0; 2]).is_err());
        let narrow = hidden.to_dtype(DType::Bf16).unwrap();
        assert!(engine.score(&narrow, &head, None, &mut [0.0; 2]).is_err());
        let grads = |weights, dhidden| ScoreGrads {
            weights,
            hidden: &hidden,
            head: &head,
            dhidden,
            dhead: None,
            dbias: None,
        };
        let (mut fitting, mut short) = (Array::zeros(2, 3), Array::zeros(1, 3));
        assert!(engine.score_backward(grads(&[0.0], &mut fitting)).is_err());
        assert!(engine.score_backward(grads(&[0.0; 2], &mut short)).is_err());
    }
}
