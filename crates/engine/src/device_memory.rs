//! The numbers of an array on a device: memory, its precision and whose it is. Kept and grown as a `Vec` is.

use crate::accelerator::{Memory, Shared};
use crate::{DType, EngineError};

/// Numbers on a device.
pub(crate) struct DeviceMemory {
    memory: Box<dyn Memory>,
    owner: Shared,
    pub dtype: DType,
}

impl DeviceMemory {
    /// `len` zeros.
    pub(crate) fn zeros(owner: &Shared, dtype: DType, len: usize) -> Result<Self, EngineError> {
        let memory = owner.allocate(len.saturating_mul(dtype.size_in_bytes()))?;
        Ok(Self { memory, owner: owner.clone(), dtype })
    }

    /// These bytes, for kernels that know what they are.
    #[allow(dead_code, reason = "for devices, if any are compiled in")]
    pub(crate) fn of_bytes(owner: &Shared, bytes: &[u8]) -> Result<Self, EngineError> {
        let memory = owner.allocate(bytes.len().next_multiple_of(size_of::<f32>()))?;
        owner.upload(bytes, (&*memory, 0))?;
        Ok(Self { memory, owner: owner.clone(), dtype: DType::F32 })
    }

    pub(crate) fn owner(&self) -> &Shared {
        &self.owner
    }

    pub(crate) fn memory(&self) -> &dyn Memory {
        &*self.memory
    }

    /// Room for `len` numbers, of which the first `kept` stay. What is newly there is zero only if `kept` were all.
    pub(crate) fn resize(&mut self, kept: usize, len: usize) -> Result<(), EngineError> {
        let size = self.dtype.size_in_bytes();
        if len.saturating_mul(size) <= self.memory.bytes() {
            return Ok(());
        }
        // The old memory goes first where nothing of it is kept: there may be no room for both.
        if kept == 0 {
            self.memory = self.owner.allocate(0)?;
        }
        let memory = self.owner.allocate(len.saturating_mul(size))?;
        if kept > 0 {
            self.owner.copy((&*self.memory, 0), (&*memory, 0), kept * size)?;
        }
        self.memory = memory;
        Ok(())
    }

    /// The first `len` numbers as bytes.
    pub(crate) fn read(&self, len: usize) -> Result<Vec<u8>, EngineError> {
        let mut bytes = vec![0; len * self.dtype.size_in_bytes()];
        self.owner.download((&*self.memory, 0), &mut bytes)?;
        Ok(bytes)
    }
}

impl Clone for DeviceMemory {
    /// A copy. Where the device has no room for one it holds nothing, and whoever uses it is told.
    fn clone(&self) -> Self {
        let bytes = self.memory.bytes();
        let copied = self.owner.allocate(bytes).and_then(|memory| {
            self.owner.copy((&*self.memory, 0), (&*memory, 0), bytes)?;
            Ok(memory)
        });
        let memory = copied.unwrap_or_else(|error| {
            log::error!("{bytes} bytes on the device could not be copied: {error}");
            Box::new(Nothing(error))
        });
        Self { memory, owner: self.owner.clone(), dtype: self.dtype }
    }
}

/// Memory that could not be taken, and why.
#[derive(Debug)]
struct Nothing(EngineError);

impl Memory for Nothing {
    fn address(&self) -> u64 {
        0
    }

    fn bytes(&self) -> usize {
        0
    }

    fn missing(&self) -> Option<&EngineError> {
        Some(&self.0)
    }
}

impl std::fmt::Debug for DeviceMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DeviceMemory").field("memory", &self.memory).field("dtype", &self.dtype).finish()
    }
}
