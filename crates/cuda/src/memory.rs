//! Memory of a GPU, and of the host as far as the GPU reads it by itself. All work goes through one stream, so that memory
//! is written anew only after whoever read it before is done.

use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use crate::CudaError;
use crate::device::Context;
use crate::driver::expect;
use crate::view::{Number, View};

/// A piece of a GPU's memory, zero at first; freed when dropped.
#[derive(Debug)]
pub struct Buffer {
    context: Arc<Context>,
    address: u64,
    bytes: usize,
}

impl Buffer {
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CudaError> {
        let mut address = 0;
        context.make_current()?;
        // SAFETY: a context is current; the pointer is to a live value. The driver refuses a size of 0.
        unsafe {
            let taken = sys::cuMemAlloc_v2(&raw mut address, bytes.max(1));
            if taken == CUresult::CUDA_ERROR_OUT_OF_MEMORY {
                let [free, all] = memory_info(context)?;
                return Err(CudaError::OutOfMemory { ordinal: context.ordinal, asked: bytes, free, all });
            }
            expect("cuMemAlloc", taken)?;
        }
        let buffer = Self { context: context.clone(), address, bytes };
        // SAFETY: the memory was just taken.
        unsafe {
            expect("cuMemsetD8Async", sys::cuMemsetD8Async(address, 0, bytes.max(1), context.stream))?;
        }
        Ok(buffer)
    }

    /// Size.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Where it begins.
    pub fn address(&self) -> u64 {
        self.address
    }

    /// The first `rows * cols` numbers.
    ///
    /// # Errors
    /// The buffer is smaller.
    pub fn view(&self, number: Number, rows: usize, cols: usize) -> Result<View<'_>, CudaError> {
        let bytes = rows.checked_mul(cols).and_then(|len| len.checked_mul(number.size_in_bytes()));
        if bytes.is_none_or(|bytes| bytes > self.bytes) {
            let reason = format!("{rows} x {cols} values in {number:?} do not fit {} bytes", self.bytes);
            return Err(CudaError::shape("view", reason));
        }
        // SAFETY: inside the buffer, which the view borrows; copies to and from the host go through the stream.
        Ok(unsafe { View::at(self.address, number, rows, cols) })
    }
}

impl Drop for Buffer {
    fn drop(&mut self) {
        // SAFETY: taken by `new`, freed once, after the work that uses it.
        let freed = self.context.make_current().and_then(|()| unsafe {
            expect("cuStreamSynchronize", sys::cuStreamSynchronize(self.context.stream))?;
            expect("cuMemFree", sys::cuMemFree_v2(self.address))
        });
        if let Err(error) = freed {
            log::warn!("{} bytes of GPU memory are not given back: {error}", self.bytes);
        }
    }
}

/// Bytes of a GPU's memory: free, and in all.
pub(crate) fn memory_info(context: &Context) -> Result<[usize; 2], CudaError> {
    let (mut free, mut all) = (0, 0);
    context.make_current()?;
    // SAFETY: a context is current; the pointers are to live values.
    unsafe { expect("cuMemGetInfo", sys::cuMemGetInfo_v2(&raw mut free, &raw mut all))? };
    Ok([free, all])
}

/// Memory of the host that the GPU reads by itself, so that a copy to the GPU waits for nothing.
#[derive(Debug)]
pub struct Pinned {
    context: Arc<Context>,
    start: *mut u8,
    bytes: usize,
}

// SAFETY: plain memory that belongs to this value alone.
unsafe impl Send for Pinned {}
// SAFETY: as above; it is written through `&mut` only.
unsafe impl Sync for Pinned {}

impl Pinned {
    pub(crate) fn new(context: &Arc<Context>, bytes: usize) -> Result<Self, CudaError> {
        let mut start = ptr::null_mut();
        context.make_current()?;
        // SAFETY: a context is current; the pointer is to a live value.
        unsafe { expect("cuMemAllocHost", sys::cuMemAllocHost_v2(&raw mut start, bytes.max(1)))? };
        let pinned = Self { context: context.clone(), start: start.cast(), bytes };
        // SAFETY: the memory was just taken.
        unsafe { pinned.start.write_bytes(0, bytes) };
        Ok(pinned)
    }

    /// What is in it.
    pub fn as_slice(&self) -> &[u8] {
        // SAFETY: as many bytes were taken and written.
        unsafe { std::slice::from_raw_parts(self.start, self.bytes) }
    }

    /// To be written. A copy to the GPU that was started and not waited for may still read it: whoever writes knows
    /// that it is done.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        // SAFETY: as above.
        unsafe { std::slice::from_raw_parts_mut(self.start, self.bytes) }
    }
}

impl Drop for Pinned {
    fn drop(&mut self) {
        // SAFETY: taken by `new`, freed once, after the copies that read it.
        let freed = self.context.make_current().and_then(|()| unsafe {
            expect("cuStreamSynchronize", sys::cuStreamSynchronize(self.context.stream))?;
            expect("cuMemFreeHost", sys::cuMemFreeHost(self.start.cast()))
        });
        if let Err(error) = freed {
            log::warn!("{} pinned bytes are not given back: {error}", self.bytes);
        }
    }
}
