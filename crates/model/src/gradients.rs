//! One gradient per parameter, added to by every backward pass until it is zeroed.

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::stored::StoredTensor;
use bso_engine::{Array, DType, Engine, EngineError};
use std::borrow::Cow;
use std::sync::Arc;

/// Gradients of a decoder's trained parameters, in the decoder's order.
#[derive(Clone, Debug)]
pub struct Gradients {
    /// One per parameter, empty for a frozen one.
    pub(crate) arrays: Vec<Array>,
    names: Arc<[String]>,
    engine: Arc<Engine>,
}

impl Gradients {
    /// Zeros for every trained parameter.
    ///
    /// # Errors
    /// A device has not got the memory.
    pub fn zeros(decoder: &Decoder) -> Result<Self, ModelError> {
        let arrays = zeros_of_trained(decoder)?;
        let names = decoder.parameters().map(|(name, _)| name.to_owned()).collect();
        Ok(Self { arrays, names, engine: decoder.engine().clone() })
    }

    /// Sets all to zero.
    ///
    /// # Errors
    /// A device fails.
    pub fn zero(&mut self) -> Result<(), ModelError> {
        Ok(self.arrays.iter_mut().try_for_each(|a| self.engine.zero(a))?)
    }

    /// Multiplies all by `factor` (a power of two keeps every bit).
    ///
    /// # Errors
    /// A device fails.
    pub fn rescale(&mut self, factor: f32) -> Result<(), ModelError> {
        Ok(self.arrays.iter_mut().try_for_each(|a| self.engine.scale(a, factor))?)
    }

    /// Sum of squares over all parameters, in f64: exact to f64 rounding, whatever the size of the gradients.
    /// It is finite if and only if every gradient is.
    ///
    /// # Errors
    /// A device fails.
    pub fn squared_norm(&self) -> Result<f64, ModelError> {
        let arrays: Vec<&Array> = self.arrays.iter().filter(|a| !a.is_empty()).collect();
        Ok(self.engine.squared_norm(&arrays)?)
    }

    /// The first parameter whose gradient holds a NaN or an infinity.
    ///
    /// # Errors
    /// A device fails.
    pub fn non_finite(&self) -> Result<Option<&str>, ModelError> {
        for (name, gradient) in self.iter() {
            if !self.engine.all_finite(gradient)? {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// The parameters whose gradients are zero throughout.
    ///
    /// # Errors
    /// A device fails.
    pub fn all_zero(&self) -> Result<Vec<&str>, ModelError> {
        let mut names = Vec::new();
        for (name, gradient) in self.iter() {
            // Squares of f32 do not vanish in f64.
            if self.engine.squared_norm(&[gradient])? == 0.0 {
                names.push(name);
            }
        }
        Ok(names)
    }

    /// Names and gradients in order; frozen parameters have none.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.names.iter().map(String::as_str).zip(&self.arrays).filter(|(_, gradient)| !gradient.is_empty())
    }

    /// Names and gradients as parameters are stored: in the names and arrangement of Hugging Face, an adapter's of PEFT.
    /// Frozen ones have none.
    ///
    /// # Errors
    /// Gradients of another model.
    pub fn stored<'a>(&'a self, decoder: &'a Decoder) -> Result<Vec<Stored<'a>>, ModelError> {
        self.fits(decoder)?;
        let is_trained =
            |stored: &&StoredTensor| stored.parts.iter().all(|part| !self.arrays[*part].is_empty());
        let own = decoder.layout().stored.iter().filter(is_trained);
        let own = own.map(|stored| (stored, &*self.arrays));
        let of_adapter = decoder.adapter.iter().flat_map(|adapter| {
            let arrays = &self.arrays[adapter.first..];
            adapter.stored.iter().map(move |stored| (stored, arrays))
        });
        let gather = |(stored, arrays): (&'a StoredTensor, &'a [Array])| {
            Ok((stored.name.as_str(), stored.gather(arrays)?))
        };
        own.chain(of_adapter).map(gather).collect()
    }

    /// Refuses gradients made for another model.
    pub(crate) fn fits(&self, decoder: &Decoder) -> Result<(), ModelError> {
        let first = decoder.first_trained();
        let same = |(i, (g, p)): (usize, (&Array, &Array))| {
            (g.rows(), g.cols()) == if i < first { (0, 0) } else { (p.rows(), p.cols()) }
        };
        let mut pairs = self.arrays.iter().zip(decoder.arrays()).enumerate();
        if self.arrays.len() == decoder.arrays().len() && pairs.all(same) {
            return Ok(());
        }
        Err(ModelError::argument("the gradients belong to another model", "make them with Gradients::zeros"))
    }
}

/// Name and numbers of a gradient, as its tensor is stored.
type Stored<'a> = (&'a str, Cow<'a, [f32]>);

/// An array of zeros for each trained parameter, an empty one for each frozen.
pub(crate) fn zeros_of_trained(decoder: &Decoder) -> Result<Vec<Array>, EngineError> {
    let first = decoder.first_trained();
    let zeros = |(i, p): (usize, &Array)| {
        let (rows, cols) = if i < first { (0, 0) } else { (p.rows(), p.cols()) };
        decoder.engine().zeros(DType::F32, rows, cols)
    };
    decoder.arrays().iter().enumerate().map(zeros).collect()
}

/// The gradient to add to; none of a frozen parameter.
pub(crate) fn trained(gradient: &mut Array) -> Option<&mut Array> {
    (!gradient.is_empty()).then_some(gradient)
}
