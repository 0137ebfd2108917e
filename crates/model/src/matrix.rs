//! Arrays that passes fit to each batch: their shapes, and what they are for.

use bso_engine::{Array, DType, Engine, EngineError};

/// Rows and columns of an array.
pub(crate) type Shape = (usize, usize);

/// An array that starts empty.
#[derive(Debug)]
pub(crate) struct Matrix(pub Array);

impl Default for Matrix {
    fn default() -> Self {
        Self(Array::zeros(0, 0))
    }
}

impl std::ops::Deref for Matrix {
    type Target = Array;
    fn deref(&self) -> &Array {
        &self.0
    }
}

impl std::ops::DerefMut for Matrix {
    fn deref_mut(&mut self) -> &mut Array {
        &mut self.0
    }
}

impl Matrix {
    /// This shape and precision, where the engine computes; the values are unspecified.
    pub(crate) fn fit(
        &mut self,
        engine: &Engine,
        dtype: DType,
        (rows, cols): Shape,
    ) -> Result<(), EngineError> {
        if self.0.dtype() != dtype || self.0.device() != engine.device() {
            self.0 = engine.zeros(dtype, 0, 0)?;
        }
        self.0.resize(rows, cols)
    }
}

/// Matrices of these shapes and uses.
pub(crate) fn fit_all<'a>(
    (engine, dtype): (&Engine, DType),
    matrices: impl IntoIterator<Item = &'a mut Matrix>,
    (uses, shapes): (&[Use], &[Shape]),
) -> Result<(), EngineError> {
    let taken = uses.iter().zip(shapes);
    matrices
        .into_iter()
        .zip(taken)
        .try_for_each(|(matrix, (used, shape))| matrix.fit(engine, used.in_precision(dtype), *shape))
}

/// Bytes that matrices of these shapes and uses take.
pub(crate) fn bytes(dtype: DType, uses: &[Use], shapes: &[Shape]) -> usize {
    let of = |(used, (rows, cols)): (&Use, &Shape)| rows * cols * used.in_precision(dtype).size_in_bytes();
    uses.iter().zip(shapes).map(of).sum()
}

/// What an array is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// Products read it: in the precision of products.
    Product,
    /// Numbers add up in it, or a logarithm is kept: in f32.
    Sum,
}

impl Use {
    fn in_precision(self, products: DType) -> DType {
        match self {
            Self::Product => products,
            Self::Sum => DType::F32,
        }
    }
}
