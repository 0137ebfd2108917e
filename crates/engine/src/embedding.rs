//! Token embedding: rows of a table by token id, and the gradient back into the table.

use crate::{Array, Engine, EngineError};

impl Engine {
    /// `out[i] = table[tokens[i]]`; `table` is `[vocab, d]`, `out` `[tokens, d]`.
    ///
    /// # Errors
    /// A token outside the vocabulary; shapes that do not fit.
    pub fn embedding(&self, tokens: &[u32], table: &Array, out: &mut Array) -> Result<(), EngineError> {
        let _ = (tokens, table, out);
        todo!()
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
        let _ = (tokens, dout, dtable);
        todo!()
    }
}
