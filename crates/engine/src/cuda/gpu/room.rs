//! Working memory on the GPU that operations use and leave: one piece, grown to the largest need. All work is in one
//! order, so that an operation's room is free as soon as its last launch is queued.

use bso_cuda::{Buffer, CudaError, Gpu, Number, View, operation};

use crate::DType;
use crate::accelerator::{LOGITS, RoomFor};

/// The piece.
#[derive(Debug, Default)]
pub(super) struct Room {
    buffer: Option<Buffer>,
}

/// Bytes of the room that a training pass needs at most, adapters aside: what `head`, `attention` and `norm` ask for.
pub(super) fn room_for(pass: &RoomFor) -> usize {
    let RoomFor { rows, scored, vocab, heads, widest, dtype, .. } = *pass;
    let logits = scored.min(LOGITS[0]) * vocab.min(LOGITS[1]);
    let forward = 4 * logits + scored * (2 * size_of::<f32>() + 2 * size_of::<f64>());
    let backward = logits * if dtype == DType::Bf16 { 4 + 2 } else { 4 };
    let delta = 4 * rows * heads;
    let sums = 4 * (operation::partial_sums(rows, 2 * widest) + rows);
    // Lists of rows, tokens and tiles are small beside these, and kept.
    let lists = 16 * size_of::<u32>() * rows.next_power_of_two();
    forward.max(backward).max(delta).max(sums) + lists + 8 * ALIGNMENT
}

/// A matrix of working memory: kind, rows, columns.
pub(super) type Wanted = (Number, usize, usize);

/// Parts begin at multiples of this many bytes.
const ALIGNMENT: usize = 256;

impl Room {
    /// Its size.
    pub(super) fn bytes(&self) -> usize {
        self.buffer.as_ref().map_or(0, Buffer::bytes)
    }

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
