//! What can go wrong between this program and a GPU, each with what was looked for and what to do.

use thiserror::Error;

/// A GPU, or what it takes to use one, that is not there or said no.
#[derive(Debug, Error, Clone, PartialEq, Eq)]
pub enum CudaError {
    /// A library that no place holds.
    #[error("{library} was not found; looked for {searched}. {remedy}")]
    LibraryMissing {
        /// In words.
        library: &'static str,
        /// Names and folders, in the order in which they were tried.
        searched: String,
        /// What to do.
        remedy: &'static str,
    },
    /// A library that was found and cannot be used.
    #[error("{library} at {place} cannot be used: {reason}. {remedy}")]
    LibraryUnusable {
        /// In words.
        library: &'static str,
        /// Where it is.
        place: String,
        /// What is wrong with it.
        reason: String,
        /// What to do.
        remedy: &'static str,
    },
    /// Fewer GPUs than asked for.
    #[error(
        "GPU {asked} was asked for (`cuda:{asked}`), and the driver shows {found}, numbered from 0; CUDA_VISIBLE_DEVICES is {visible}"
    )]
    NoSuchDevice {
        /// Its number.
        asked: u32,
        /// How many there are.
        found: u32,
        /// The environment variable that hides GPUs.
        visible: String,
    },
    /// A GPU that the kernels are not written for.
    #[error(
        "GPU {ordinal} is a {name} of compute capability {}.{}; 8.0 (Ampere) or newer is needed: use `device: cpu`",
        capability.0, capability.1
    )]
    UnsupportedChip {
        /// Its number.
        ordinal: u32,
        /// What the driver calls it.
        name: String,
        /// Major and minor.
        capability: (u32, u32),
    },
    /// A call of the driver that failed.
    #[error("the CUDA driver refused {call}: {reason}")]
    Driver {
        /// The function.
        call: &'static str,
        /// The driver's own words.
        reason: String,
    },
    /// Less memory than asked for.
    #[error(
        "device cuda:{ordinal} has not got {asked} bytes more: {free} of {all} are free. Lower \
         per_device_train_batch_size (raise gradient_accumulation_steps instead), max_length, or batch_size of answers; set \
         gradient_checkpointing, train an adapter (use_peft), compute in bf16, or use `device: cpu`"
    )]
    OutOfMemory {
        /// The GPU's number.
        ordinal: u32,
        /// Bytes.
        asked: usize,
        /// Bytes.
        free: usize,
        /// Bytes.
        all: usize,
    },
    /// A kernel that does not compile.
    #[error("{source_name} does not compile for {architecture}:\n{log}")]
    Compile {
        /// The file.
        source_name: String,
        /// As `sm_90`.
        architecture: String,
        /// What the compiler said.
        log: String,
    },
    /// Shapes or kinds of numbers that an operation does not take.
    #[error("{operation}: {reason}")]
    Shape {
        /// The operation.
        operation: &'static str,
        /// What does not fit.
        reason: String,
    },
}

impl CudaError {
    /// Something about an operation's arguments that does not fit.
    pub(crate) fn shape(operation: &'static str, reason: impl Into<String>) -> Self {
        Self::Shape { operation, reason: reason.into() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentences_say_what_was_found_and_what_to_do() {
        let old = CudaError::UnsupportedChip { ordinal: 1, name: "Tesla T4".into(), capability: (7, 5) };
        let sentence = "GPU 1 is a Tesla T4 of compute capability 7.5; 8.0 (Ampere) or newer is needed: use `device: cpu`";
        assert_eq!(old.to_string(), sentence);
        let hidden = CudaError::NoSuchDevice { asked: 3, found: 1, visible: "0".into() };
        let sentence = "GPU 3 was asked for (`cuda:3`), and the driver shows 1, numbered from 0; CUDA_VISIBLE_DEVICES is 0";
        assert_eq!(hidden.to_string(), sentence);
        assert_eq!(crate::version_text(12_080), "12.8");
    }
}
