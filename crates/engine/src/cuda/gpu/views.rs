//! Arrays as kernels see them, and the GPU's errors as the engine's.

use bso_cuda::{CudaError, Number, View};

use crate::accelerator::Memory;
use crate::{Array, DType, EngineError};

impl Memory for bso_cuda::Buffer {
    fn address(&self) -> u64 {
        bso_cuda::Buffer::address(self)
    }

    fn bytes(&self) -> usize {
        bso_cuda::Buffer::bytes(self)
    }
}

/// The engine's word for what a GPU refused.
pub(super) fn failed(error: CudaError) -> EngineError {
    EngineError::Device(error.to_string())
}

/// The kind of an array's numbers.
pub(super) fn number(dtype: DType) -> Number {
    if dtype == DType::Bf16 { Number::Bf16 } else { Number::F32 }
}

/// The numbers of an array on the GPU.
pub(super) fn view(array: &Array) -> Result<View<'_>, EngineError> {
    let Some(memory) = array.device_memory() else {
        return Err(EngineError::Device(
            "an operation on the GPU was handed an array of the host".to_owned(),
        ));
    };
    bytes_at(memory.memory(), 0, array.len() * memory.dtype.size_in_bytes())?;
    let (number, address) = (number(memory.dtype), memory.memory().address());
    // SAFETY: the memory holds as many numbers, and the view borrows the array; the host reads and writes it through the
    // stream only.
    Ok(unsafe { View::at(address, number, array.rows(), array.cols()) })
}

/// Bytes `first..first + count` of a memory, for copies that know no numbers.
pub(super) fn bytes_at(memory: &dyn Memory, first: usize, count: usize) -> Result<View<'_>, EngineError> {
    if let Some(error) = memory.missing() {
        return Err(error.clone());
    }
    if first.checked_add(count).is_none_or(|end| end > memory.bytes()) {
        let reason =
            format!("{count} bytes from {first} on lie outside an array of {} on the GPU", memory.bytes());
        return Err(EngineError::Device(reason));
    }
    // SAFETY: inside the memory, which the view borrows.
    Ok(unsafe { View::at(memory.address() + first as u64, Number::U8, 1, count) })
}
