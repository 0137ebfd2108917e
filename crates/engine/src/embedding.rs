//! Token embedding: rows of a table by token id, and the gradient back into the table.

use crate::error::{expect_indices, expect_size};
use crate::{Array, Engine, EngineError};

impl Engine {
    /// `out[i] = table[tokens[i]]`; `table` is `[vocab, d]`, `out` `[tokens, d]`.
    ///
    /// # Errors
    /// A token outside the vocabulary; shapes that do not fit.
    pub fn embedding(&self, tokens: &[u32], table: &Array, out: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "embedding";
        expect_size(OP, "rows of out", tokens.len(), out.rows())?;
        expect_size(OP, "columns of out", table.cols(), out.cols())?;
        expect_indices(OP, "token", tokens.iter().map(|&token| token as usize), table.rows())?;
        if let Some(gpu) = out.accelerator() {
            return gpu.gather_rows(table, tokens, out);
        }
        self.copy_rows(table, |i| tokens[i] as usize, out)
    }

    /// `out[i] += table[index[i]]`: a second embedding of the same rows, as of their positions. Its backward is
    /// [`Engine::embedding_backward`].
    ///
    /// # Errors
    /// An index outside the table; shapes that do not fit.
    pub fn add_embedding(&self, index: &[u32], table: &Array, out: &mut Array) -> Result<(), EngineError> {
        const OP: &str = "add_embedding";
        expect_size(OP, "rows of out", index.len(), out.rows())?;
        expect_size(OP, "columns of out", table.cols(), out.cols())?;
        expect_indices(OP, "index", index.iter().map(|&index| index as usize), table.rows())?;
        if let Some(gpu) = out.accelerator() {
            return gpu.add_gathered_rows(table, index, out);
        }
        for (row, &index) in index.iter().enumerate() {
            let from = table.row(index as usize);
            out.row_mut(row).iter_mut().zip(from).for_each(|(out, value)| *out += value);
        }
        Ok(())
    }

    /// `dtable[tokens[i]] += dout[i]`.
    ///
    /// # Errors
    /// A token outside the vocabulary; shapes that do not fit.
    pub fn embedding_backward(
        &self,
        tokens: &[u32],
        dout: &Array,
        dtable: &mut Array,
    ) -> Result<(), EngineError> {
        const OP: &str = "embedding_backward";
        expect_size(OP, "rows of dout", tokens.len(), dout.rows())?;
        expect_size(OP, "columns of dout", dtable.cols(), dout.cols())?;
        expect_indices(OP, "token", tokens.iter().map(|&token| token as usize), dtable.rows())?;
        if let Some(gpu) = dtable.accelerator() {
            return gpu.scatter_add_rows(dout, tokens, dtable);
        }
        self.add_rows(dout, |i| tokens[i] as usize, dtable);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{assert_close, dot, engines, numeric_gradient, random, wide};

    #[test]
    fn the_gradient_of_a_repeated_token_is_the_sum_over_its_places() {
        let (tokens, vocab, d) = ([4_u32, 0, 4, 2, 4], 6, 3);
        for engine in engines() {
            let (table, dout) = (random(1, vocab, d), random(2, tokens.len(), d));
            let mut out = Array::zeros(tokens.len(), d);
            engine.embedding(&tokens, &table, &mut out).unwrap();
            let mut dtable = Array::zeros(vocab, d);
            engine.embedding_backward(&tokens, &dout, &mut dtable).unwrap();
            let look_up = |table: &[f64]| -> Vec<f64> {
                tokens.iter().flat_map(|&token| table[token as usize * d..][..d].to_vec()).collect()
            };
            assert_close("out", out.as_slice(), &look_up(&wide(&table)), 0.0);
            engine.add_embedding(&tokens, &table, &mut out).unwrap();
            let twice: Vec<f64> = look_up(&wide(&table)).iter().map(|value| 2.0 * value).collect();
            assert_close("added", out.as_slice(), &twice, 0.0);
            let want = numeric_gradient(&wide(&table), |table| dot(&wide(&dout), &look_up(table)));
            assert_close("dtable", dtable.as_slice(), &want, 1e-6);
        }
    }

    #[test]
    fn a_token_outside_the_vocabulary_is_refused() {
        let engine = Engine::cpu(Some(1)).unwrap();
        let error = engine.embedding(&[1, 7], &Array::zeros(7, 2), &mut Array::zeros(2, 2)).unwrap_err();
        assert_eq!(error.to_string(), "embedding: token 7 at entry 1 is outside the 7 there are");
        assert!(engine.add_embedding(&[7], &Array::zeros(7, 2), &mut Array::zeros(1, 2)).is_err());
        assert!(engine.embedding_backward(&[7], &Array::zeros(1, 2), &mut Array::zeros(7, 2)).is_err());
    }
}
