//! One output that several tasks write, each its own part: columns of a row-major matrix, which no safe split gives.

use std::marker::PhantomData;

/// A mutable slice whose parts are handed out by range.
pub(crate) struct SharedMut<'a, E = f32> {
    start: *mut E,
    len: usize,
    owner: PhantomData<&'a mut [E]>,
}

// SAFETY: it stands for an exclusive borrow of plain numbers; `part` leaves it to the caller that parts are apart.
unsafe impl<E: Send> Send for SharedMut<'_, E> {}
// SAFETY: as above.
unsafe impl<E: Send> Sync for SharedMut<'_, E> {}

impl<'a, E> SharedMut<'a, E> {
    pub(crate) fn new(values: &'a mut [E]) -> Self {
        Self { start: values.as_mut_ptr(), len: values.len(), owner: PhantomData }
    }

    /// Values `first..first + len`.
    ///
    /// # Safety
    /// While the part lives, no other part that overlaps it does.
    #[expect(clippy::mut_from_ref, reason = "that parts are apart is the caller's promise")]
    pub(crate) unsafe fn part(&self, first: usize, len: usize) -> &mut [E] {
        assert!(first.checked_add(len).is_some_and(|end| end <= self.len), "a part lies inside the whole");
        // SAFETY: inside the borrowed slice, and apart from other parts by the caller's promise.
        unsafe { std::slice::from_raw_parts_mut(self.start.add(first), len) }
    }

    /// Address of value `first`, from which `len` values are inside the whole: for parts that are not contiguous.
    pub(crate) fn pointer(&self, first: usize, len: usize) -> *mut E {
        assert!(first.checked_add(len).is_some_and(|end| end <= self.len), "a part lies inside the whole");
        self.start.wrapping_add(first)
    }
}

/// Neighbouring columns of a row-major matrix, to be written: from column `first` on, `stride` values from row to row.
pub(crate) struct ColumnsMut<'a, E = f32> {
    pub values: &'a mut [E],
    pub stride: usize,
    pub first: usize,
}

impl<'a, E> ColumnsMut<'a, E> {
    /// A whole matrix of `columns` columns.
    pub(crate) fn all(values: &'a mut [E], columns: usize) -> Self {
        Self { values, stride: columns, first: 0 }
    }

    /// Whether `rows` rows of the matrix have `columns` columns from here on.
    pub(crate) fn hold(&self, rows: usize, columns: usize) -> bool {
        self.values.len() == rows * self.stride && self.first + columns <= self.stride
    }
}

/// Cuts a buffer into consecutive parts of these sizes.
pub(crate) fn carve<const N: usize>(mut rest: &mut [f32], sizes: [usize; N]) -> [&mut [f32]; N] {
    sizes.map(|size| {
        let (part, tail) = std::mem::take(&mut rest).split_at_mut(size);
        rest = tail;
        part
    })
}
