//! Picking rows out of a matrix, and adding rows back into one.

use crate::{Array, Engine, EngineError};

impl Engine {
    /// `out[i] = x[index[i]]`.
    ///
    /// # Errors
    /// An index outside `x`; shapes that do not fit.
    pub fn gather_rows(&self, x: &Array, index: &[usize], out: &mut Array) -> Result<(), EngineError> {
        let _ = (x, index, out);
        todo!()
    }

    /// `x[index[i]] += rows[i]`, in the order of `i` where an index repeats: the backward of
    /// [`Engine::gather_rows`].
    ///
    /// # Errors
    /// An index outside `x`; shapes that do not fit.
    pub fn scatter_add_rows(&self, rows: &Array, index: &[usize], x: &mut Array) -> Result<(), EngineError> {
        let _ = (rows, index, x);
        todo!()
    }
}
