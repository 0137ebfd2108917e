//! Norms and finiteness of gradients, for clipping and for the check that a step is sound.

use crate::{Array, Engine};

impl Engine {
    /// Sum of the squares of all values of all arrays, accumulated in f64 in a fixed order.
    pub fn squared_norm(&self, arrays: &[&Array]) -> f64 {
        let _ = arrays;
        todo!()
    }

    /// Whether no value is infinite or NaN.
    pub fn all_finite(&self, array: &Array) -> bool {
        let _ = array;
        todo!()
    }
}
