//! An optimiser's state on disk, in f32 to the last bit, so that a resumed run takes the same steps.

use crate::decoder::Decoder;
use crate::error::ModelError;
use crate::optimiser::{Optimiser, OptimiserKind};
use crate::weights::{SafetensorsFile, TensorData, TensorToWrite, write_safetensors};
use bso_engine::{Array, DType};
use std::borrow::Cow;
use std::io;
use std::path::Path;

impl Optimiser {
    /// Writes the state as safetensors, atomically: tensors `SLOT.PARAMETER`, rule and steps as metadata.
    ///
    /// # Errors
    /// The I/O error with the path.
    pub fn save(&self, path: &Path, decoder: &Decoder) -> Result<(), ModelError> {
        let mut tensors = Vec::new();
        for (slot, arrays) in self.kind.slots().iter().zip(&self.state) {
            for ((name, _), array) in decoder.parameters().zip(arrays).skip(decoder.first_trained()) {
                let (name, shape) = (format!("{slot}.{name}"), vec![array.rows(), array.cols()]);
                tensors.push(TensorToWrite {
                    name,
                    shape,
                    data: TensorData::Made(Box::new(|| values(array))),
                });
            }
        }
        let metadata = [("optimiser", self.kind.name().to_owned()), ("steps", self.steps.to_string())];
        Ok(write_safetensors(path, &tensors, DType::F32, &metadata)?)
    }

    /// Reads a state written by [`Optimiser::save`]; the constants are those given now.
    ///
    /// # Errors
    /// A damaged file, or the state of another rule or model.
    pub fn load(
        path: &Path,
        kind: OptimiserKind,
        weight_decay: f64,
        decoder: &Decoder,
    ) -> Result<Self, ModelError> {
        let file = SafetensorsFile::open(path)?;
        let wrong = |problem: String| ModelError::File {
            file: path.to_owned(),
            problem,
            remedy: "resume with the settings the checkpoint was written with".into(),
        };
        let found = file.metadata("optimiser").unwrap_or("nothing");
        if found != kind.name() {
            return Err(wrong(format!("holds the state of {found}, the run uses {}", kind.name())));
        }
        let steps = file.metadata("steps").and_then(|s| s.parse().ok());
        let steps = steps.ok_or_else(|| wrong("does not say how many steps were done".into()))?;
        let mut names = Vec::new();
        for slot in kind.slots() {
            for (name, parameter) in decoder.parameters().skip(decoder.first_trained()) {
                let name = format!("{slot}.{name}");
                file.check_exact(&name, &[parameter.rows(), parameter.cols()])?;
                names.push(name);
            }
        }
        if file.names().count() != names.len() {
            return Err(wrong("holds tensors that this model does not have".into()));
        }
        let mut optimiser = Self::new(kind, weight_decay, decoder)?;
        optimiser.steps = steps;
        let arrays = optimiser.state.iter_mut().flatten().filter(|array| !array.is_empty());
        for (name, array) in names.iter().zip(arrays) {
            let shape = [array.rows(), array.cols()];
            let mut values = Array::zeros(array.rows(), array.cols());
            file.read(name, &shape, values.as_mut_slice())?;
            array.set(&values)?;
        }
        Ok(optimiser)
    }
}

/// The numbers of an array, wherever it is.
fn values(array: &Array) -> io::Result<Cow<'_, [f32]>> {
    Ok(match array.on_host().map_err(io::Error::other)? {
        Cow::Borrowed(array) => Cow::Borrowed(array.as_slice()),
        Cow::Owned(array) => Cow::Owned(array.into_vec()),
    })
}
