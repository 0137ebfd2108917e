//! Sums and scalings of whole arrays.

use crate::{Array, Engine, EngineError};

impl Engine {
    /// `y += x`.
    ///
    /// # Errors
    /// Shapes that do not fit.
    pub fn add_assign(&self, y: &mut Array, x: &Array) -> Result<(), EngineError> {
        let _ = (y, x);
        todo!()
    }

    /// `x *= factor`.
    pub fn scale(&self, x: &mut Array, factor: f32) {
        let _ = (x, factor);
        todo!()
    }
}
