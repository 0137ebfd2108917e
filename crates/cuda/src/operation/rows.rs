//! Rows of a table by index, and rows added back into it.

use super::{THREADS, arguments, blocks, expect_alike, fit, kernel_of, start};
use crate::CudaError;
use crate::view::{Launcher, Number, View};

/// Which rows are added into which: made on the host from the list of targets, so that a target that is named often
/// gets its rows in their order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RowGroups {
    /// Each target once, ascending.
    pub targets: Vec<u32>,
    /// Where each target's rows begin in `order`, and where the last one's end.
    pub starts: Vec<u32>,
    /// Rows by target, then ascending.
    pub order: Vec<u32>,
}

impl RowGroups {
    /// Row `i` goes to `targets[i]`.
    pub fn of(targets: &[u32]) -> Self {
        let mut order: Vec<u32> = (0..targets.len() as u32).collect();
        order.sort_by_key(|&row| targets[row as usize]);
        let mut groups = Self { targets: Vec::new(), starts: Vec::new(), order };
        for (place, &row) in groups.order.iter().enumerate() {
            let target = targets[row as usize];
            if groups.targets.last() != Some(&target) {
                groups.targets.push(target);
                groups.starts.push(place as u32);
            }
        }
        groups.starts.push(targets.len() as u32);
        groups
    }
}

/// `out[i] = x[index[i]]`; the host has checked the indices.
///
/// # Errors
/// Sizes that do not fit.
pub fn gather_rows(on: &dyn Launcher, x: View<'_>, index: View<'_>, out: View<'_>) -> Result<(), CudaError> {
    const OP: &str = "gather_rows";
    index.expect(OP, "index", Number::U32, out.rows())?;
    out.expect(OP, "out", x.number(), index.len() * x.cols())?;
    let kernel = kernel_of(OP, x.number(), ["gather_rows_f32", "gather_rows_bf16"])?;
    let cols = fit(OP, "columns", x.cols())?;
    start(on, kernel, [blocks(OP, out.len())?, 1], arguments![x, index, out, cols, out.len() as u64])
}

/// `out[i] += x[index[i]]`, in f32; the host has checked the indices.
///
/// # Errors
/// Sizes that do not fit.
pub fn add_gathered_rows(
    on: &dyn Launcher,
    x: View<'_>,
    index: View<'_>,
    out: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "add_gathered_rows";
    x.expect(OP, "x", Number::F32, x.len())?;
    index.expect(OP, "index", Number::U32, out.rows())?;
    out.expect(OP, "out", Number::F32, index.len() * x.cols())?;
    let cols = fit(OP, "columns", x.cols())?;
    start(on, OP, [blocks(OP, out.len())?, 1], arguments![x, index, out, cols, out.len() as u64])
}

/// `x[targets] += rows` as [`RowGroups`] says, whose lists are `[targets, starts, order]`; in f32.
///
/// # Errors
/// Sizes that do not fit.
pub fn add_row_groups(
    on: &dyn Launcher,
    rows: View<'_>,
    [targets, starts, order]: [View<'_>; 3],
    x: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "add_row_groups";
    targets.expect(OP, "targets", Number::U32, targets.len())?;
    starts.expect(OP, "starts", Number::U32, targets.len() + 1)?;
    order.expect(OP, "order", Number::U32, rows.rows())?;
    rows.expect(OP, "rows", Number::F32, order.len() * x.cols())?;
    expect_alike(OP, rows, &[("rows", rows)])?;
    x.expect(OP, "x", Number::F32, x.len())?;
    let cols = fit(OP, "columns", x.cols())?;
    let grid = [fit(OP, "targets", targets.len())?, cols.div_ceil(THREADS)];
    start(on, OP, grid, arguments![rows, targets, starts, order, x, cols])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_hold_every_row_once_in_order() {
        let groups = RowGroups::of(&[4, 0, 4, 2, 4]);
        assert_eq!(groups.targets, [0, 2, 4]);
        assert_eq!(groups.starts, [0, 1, 2, 5]);
        assert_eq!(groups.order, [1, 3, 0, 2, 4]);
        assert_eq!(RowGroups::of(&[]), RowGroups { targets: vec![], starts: vec![0], order: vec![] });
    }
}
