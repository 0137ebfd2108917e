//! A frozen base in few bits (QLoRA, arXiv 2305.14314): the matrices of its linear layers, rounded as they are read, so that
//! no more than one of them is ever there in f32. Embeddings, norms, biases and the head stay as they are.

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::loading::allocate;
use bso_engine::{Array, Engine, Quantisation, QuantisedWeight};
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// The matrices in few bits, by their places; in their stead there are empty arrays among the parameters.
#[derive(Clone, Debug)]
pub(crate) struct QuantisedBase {
    pub kind: Quantisation,
    weights: BTreeMap<usize, QuantisedWeight>,
}

impl QuantisedBase {
    pub(crate) fn new(kind: Quantisation) -> Self {
        Self { kind, weights: BTreeMap::new() }
    }

    pub(crate) fn weight(&self, place: usize) -> Option<&QuantisedWeight> {
        self.weights.get(&place)
    }

    /// Takes a parameter's numbers and leaves an empty array.
    pub(crate) fn take(
        &mut self,
        (name, place): (&str, usize),
        parameter: &mut Array,
        engine: &Engine,
    ) -> Result<(), ModelError> {
        let weight = engine.quantise(parameter, self.kind).map_err(|error| {
            ModelError::argument(format!("{name}: {error}"), "fetch or save the model again")
        })?;
        self.weights.insert(place, engine.place_quantised(weight)?);
        *parameter = Array::zeros(0, 0);
        Ok(())
    }
}

impl Decoder {
    /// As [`Decoder::load`] of a base model's directory, with the matrices of its linear layers in few bits, tensor by
    /// tensor: the base of an adapter, which is not trained, merged, saved or asked to generate.
    ///
    /// # Errors
    /// As [`Decoder::load`]; an adapter's directory; a weight that is not finite.
    pub fn load_quantised(base: &Path, kind: Quantisation, engine: Arc<Engine>) -> Result<Self, ModelError> {
        if crate::ModelDirectory::find(base)?.adapter.is_some() {
            return Err(ModelError::argument(
                format!("{} is an adapter, and the base is to be kept in few bits", base.display()),
                "load its base, then the adapter",
            ));
        }
        let mut decoder = Self::read(base, engine, Some(kind))?;
        decoder.place()?;
        Ok(decoder)
    }

    /// Puts the matrices of its linear layers in few bits.
    ///
    /// # Errors
    /// A weight that is not finite; a decoder that has an adapter, or is in few bits already.
    pub fn quantise(&mut self, kind: Quantisation) -> Result<(), ModelError> {
        self.refuse_quantised("load the whole model")?;
        if self.adapter.is_some() {
            return Err(ModelError::argument("the model has an adapter", "quantise its base first"));
        }
        self.refuse_rounded_base()?;
        self.fetch()?;
        let mut base = QuantisedBase::new(kind);
        for place in self.layout.linears().map(|linear| linear.weight).collect::<Vec<_>>() {
            let name = &self.layout.tensors[place].name;
            base.take((name, place), &mut self.parameters[place], &self.engine)?;
        }
        self.quantised = Some(base);
        self.compute_in(self.dtype, true)
    }

    /// How the matrices of its linear layers are kept, if in few bits.
    pub fn quantisation(&self) -> Option<Quantisation> {
        self.quantised.as_ref().map(|base| base.kind)
    }

    /// A copy whose matrices hold in f32 what they hold here in few bits.
    ///
    /// # Errors
    /// No memory.
    pub fn dequantised(&self) -> Result<Self, ModelError> {
        let mut decoder = self.clone();
        let Some(base) = decoder.quantised.take() else { return Ok(decoder) };
        for (place, weight) in &base.weights {
            decoder.parameters[*place] = self.engine().place(allocate(&decoder.layout.tensors[*place])?)?;
            self.engine().dequantise(weight, &mut decoder.parameters[*place])?;
        }
        decoder.compute_in(self.dtype, true)?;
        Ok(decoder)
    }

    /// Refuses what needs whole weights.
    pub(crate) fn refuse_quantised(&self, remedy: &str) -> Result<(), ModelError> {
        if self.quantised.is_none() {
            return Ok(());
        }
        Err(ModelError::argument(
            "the model's weights are kept in few bits (load_in_4bit, load_in_8bit)",
            remedy,
        ))
    }
}
