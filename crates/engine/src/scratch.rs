//! Working memory that operations borrow and give back, so that a step in the steady state allocates nothing.

use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

/// Buffers at rest.
#[derive(Debug, Default)]
pub(crate) struct ScratchPool {
    free: Mutex<Vec<Vec<f32>>>,
}

impl ScratchPool {
    /// Borrows `len` values. Their contents are what the last borrower left.
    pub(crate) fn take(&self, len: usize) -> Scratch<'_> {
        let mut free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        // The smallest buffer that fits, else the largest: sizes settle after one step of the largest shape.
        let fit = (0..free.len()).filter(|&i| free[i].len() >= len).min_by_key(|&i| free[i].len());
        let choice = fit.or_else(|| (0..free.len()).max_by_key(|&i| free[i].len()));
        let mut buffer = choice.map_or_else(Vec::new, |index| free.swap_remove(index));
        drop(free);
        if buffer.len() < len {
            buffer.resize(len, 0.0);
        }
        Scratch { pool: self, buffer, len }
    }

    /// Bytes of the buffers at rest.
    pub(crate) fn size_in_bytes(&self) -> usize {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        free.iter().map(|buffer| buffer.len() * size_of::<f32>()).sum()
    }
}

/// A borrowed buffer; returns to its pool when dropped.
#[derive(Debug)]
pub(crate) struct Scratch<'a> {
    pool: &'a ScratchPool,
    buffer: Vec<f32>,
    len: usize,
}

impl Deref for Scratch<'_> {
    type Target = [f32];
    fn deref(&self) -> &[f32] {
        &self.buffer[..self.len]
    }
}

impl DerefMut for Scratch<'_> {
    fn deref_mut(&mut self) -> &mut [f32] {
        &mut self.buffer[..self.len]
    }
}

impl Drop for Scratch<'_> {
    fn drop(&mut self) {
        let buffer = std::mem::take(&mut self.buffer);
        self.pool.free.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}
