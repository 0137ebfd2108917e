//! One gradient per parameter, added to by every backward pass until it is zeroed.

use crate::decoder::Decoder;
use crate::error::ModelError;
use bso_engine::{Array, Engine};
use std::borrow::Cow;
use std::sync::Arc;

/// Gradients of a decoder's parameters, in the decoder's order.
#[derive(Clone, Debug)]
pub struct Gradients {
    pub(crate) arrays: Vec<Array>,
    names: Arc<[String]>,
    engine: Arc<Engine>,
}

impl Gradients {
    /// Zeros for every parameter.
    pub fn zeros(decoder: &Decoder) -> Self {
        let arrays = decoder.arrays().iter().map(|p| Array::zeros(p.rows(), p.cols())).collect();
        let names = decoder.parameters().map(|(name, _)| name.to_owned()).collect();
        Self { arrays, names, engine: decoder.engine().clone() }
    }

    /// Sets all to zero.
    pub fn zero(&mut self) {
        self.arrays.iter_mut().for_each(|a| a.fill(0.0));
    }

    /// Multiplies all by `factor` (a power of two keeps every bit).
    pub fn rescale(&mut self, factor: f32) {
        self.arrays.iter_mut().for_each(|a| self.engine.scale(a, factor));
    }

    /// Sum of squares over all parameters, in f64: exact to f64 rounding, whatever the size of the gradients.
    pub fn squared_norm(&self) -> f64 {
        self.arrays.iter().map(|a| self.engine.squared_norm(&[a])).sum()
    }

    /// The first parameter whose gradient holds a NaN or an infinity.
    pub fn non_finite(&self) -> Option<&str> {
        self.iter().find(|(_, a)| !self.engine.all_finite(a)).map(|(name, _)| name)
    }

    /// The parameters whose gradients are zero throughout.
    pub fn all_zero(&self) -> Vec<&str> {
        self.iter().filter(|(_, a)| a.as_slice().iter().all(|x| *x == 0.0)).map(|(name, _)| name).collect()
    }

    /// Names and gradients in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Array)> {
        self.names.iter().map(String::as_str).zip(&self.arrays)
    }

    /// Names and gradients as the parameters are stored: in Hugging Face's names and arrangement.
    ///
    /// # Errors
    /// Gradients of another model.
    pub fn stored<'a>(
        &'a self,
        decoder: &'a Decoder,
    ) -> Result<impl Iterator<Item = (&'a str, Cow<'a, [f32]>)>, ModelError> {
        self.fits(decoder)?;
        let stored = decoder.layout().stored.iter();
        Ok(stored.map(|stored| (stored.name.as_str(), stored.gather(&self.arrays))))
    }

    /// Refuses gradients made for another model.
    pub(crate) fn fits(&self, decoder: &Decoder) -> Result<(), ModelError> {
        let same = |(g, p): (&Array, &Array)| (g.rows(), g.cols()) == (p.rows(), p.cols());
        if self.arrays.len() == decoder.arrays().len() && self.arrays.iter().zip(decoder.arrays()).all(same) {
            return Ok(());
        }
        Err(ModelError::argument("the gradients belong to another model", "make them with Gradients::zeros"))
    }
}
