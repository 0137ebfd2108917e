//! Memory of a GPU: buffers that live as long as a model, and an arena whose parts live for a step. An arena is taken
//! once; a step hands out its parts and gives them all back at its end, so that no step allocates. All work goes
//! through one stream, so that a part is written anew only after whoever read it before is done.

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::Arc;

use cudarc::driver::sys::{self, CUresult};

use crate::CudaError;
use crate::device::Context;
use crate::driver::expect;
use crate::view::{Number, View};

/// Parts start at multiples of this many bytes: a row read by a warp, and what tensor cores ask for.
const ALIGNMENT: usize = 256;

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

/// Memory for what a step needs and then no more.
#[derive(Debug)]
pub struct Arena {
    buffer: Buffer,
    offsets: Offsets,
}

/// A step's use of an arena: parts live until it ends.
#[derive(Debug)]
pub struct Frame<'a> {
    base: u64,
    offsets: &'a Offsets,
    owner: PhantomData<&'a mut Arena>,
}

impl Arena {
    pub(crate) fn new(buffer: Buffer) -> Self {
        let offsets = Offsets::new(buffer.bytes);
        Self { buffer, offsets }
    }

    /// Begins a step: all of the arena is free.
    pub fn frame(&mut self) -> Frame<'_> {
        self.offsets.reset();
        Frame { base: self.buffer.address, offsets: &self.offsets, owner: PhantomData }
    }

    /// The most bytes that a step has used so far.
    pub fn peak(&self) -> usize {
        self.offsets.peak.get()
    }
}

impl<'a> Frame<'a> {
    /// Room for `rows * cols` numbers, holding what was last there.
    ///
    /// # Errors
    /// The arena is used up.
    pub fn take(&self, number: Number, rows: usize, cols: usize) -> Result<View<'a>, CudaError> {
        let bytes = rows.saturating_mul(cols).saturating_mul(number.size_in_bytes());
        let offset = self.offsets.take(bytes)?;
        // SAFETY: a part of the arena that no other view of this frame has; the frame borrows the arena.
        Ok(unsafe { View::at(self.base + offset as u64, number, rows, cols) })
    }
}

/// Which part comes next.
#[derive(Debug)]
struct Offsets {
    capacity: usize,
    used: Cell<usize>,
    peak: Cell<usize>,
}

impl Offsets {
    fn new(capacity: usize) -> Self {
        Self { capacity, used: Cell::new(0), peak: Cell::new(0) }
    }

    fn reset(&self) {
        self.used.set(0);
    }

    fn take(&self, bytes: usize) -> Result<usize, CudaError> {
        let (capacity, start) = (self.capacity, self.used.get());
        let free = capacity - start;
        if bytes > free {
            return Err(CudaError::ArenaFull { asked: bytes, free, capacity });
        }
        let end = (start + bytes).next_multiple_of(ALIGNMENT).min(capacity);
        self.used.set(end);
        self.peak.set(self.peak.get().max(end));
        Ok(start)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_of_a_step_are_apart_and_aligned_and_the_next_step_has_all_again() {
        let offsets = Offsets::new(1000);
        for _ in 0..2 {
            assert_eq!(offsets.take(1), Ok(0));
            assert_eq!(offsets.take(300), Ok(256));
            assert_eq!(offsets.take(0), Ok(768));
            assert_eq!(
                offsets.take(233),
                Err(CudaError::ArenaFull { asked: 233, free: 232, capacity: 1000 })
            );
            assert_eq!(offsets.take(232), Ok(768));
            assert_eq!(offsets.take(0), Ok(1000));
            offsets.reset();
        }
        assert_eq!(offsets.peak.get(), 1000);
        assert!(offsets.take(usize::MAX).is_err());
    }
}
