//! Working memory on the GPU that operations use and leave: one piece, grown to the largest need. All work is in one
//! order, so that an operation's room is free as soon as its last launch is queued.

use bso_cuda::{Buffer, CudaError, Gpu, Number, View};

/// The piece.
#[derive(Debug, Default)]
pub(super) struct Room {
    buffer: Option<Buffer>,
}

/// A matrix of working memory: kind, rows, columns.
pub(super) type Wanted = (Number, usize, usize);

/// Parts begin at multiples of this many bytes.
const ALIGNMENT: usize = 256;

impl Room {
    /// Room for these matrices, holding whatever was there. The views are good until room is asked for again.
    pub(super) fn views<const N: usize>(
        &mut self,
        gpu: &Gpu,
        wanted: [Wanted; N],
    ) -> Result<[View<'static>; N], CudaError> {
        let size = |(number, rows, cols): Wanted| {
            let bytes = rows.saturating_mul(cols).saturating_mul(number.size_in_bytes());
            bytes.saturating_add(ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT
        };
        let bytes = wanted.iter().fold(0_usize, |sum, wanted| sum.saturating_add(size(*wanted)));
        if self.buffer.as_ref().is_none_or(|buffer| buffer.bytes() < bytes) {
            // The old piece goes first: there may be no room for both.
            self.buffer = None;
            self.buffer = Some(gpu.buffer(bytes)?);
        }
        let mut address = self.buffer.as_ref().map_or(0, Buffer::address);
        Ok(wanted.map(|(number, rows, cols)| {
            // SAFETY: apart from the others and inside the piece, which operations hold locked.
            let view = unsafe { View::at(address, number, rows, cols) };
            address += size((number, rows, cols)) as u64;
            view
        }))
    }
}
