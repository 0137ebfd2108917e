//! Weights in few bits, in the arrangement in which the engine keeps them.

use super::{arguments, blocks, fit, kernel_of, start};
use crate::CudaError;
use crate::view::{Argument, Launcher, Number, View};

/// Numbers that share a scale, as in `quantised.cu`.
const BLOCK: usize = 64;
/// Scales in eight bits that share a scale of their own, likewise.
const SCALES: usize = 256;

/// A weight `[rows, cols]` in few bits.
#[derive(Debug, Clone, Copy)]
pub struct Quantised<'a> {
    /// Number of rows.
    pub rows: usize,
    /// Number of columns.
    pub cols: usize,
    /// Its numbers.
    pub codes: Codes<'a>,
}

/// The numbers of a weight, row after row.
#[derive(Debug, Clone, Copy)]
pub enum Codes<'a> {
    /// Whole numbers from -127 to 127.
    Int8 {
        /// One a number, signed, in [`Number::U8`].
        values: View<'a>,
        /// One a row, f32.
        scales: View<'a>,
    },
    /// Levels of NormalFloat in four bits.
    Nf4 {
        /// Two numbers a byte, the first in the high half; whole blocks of 64 numbers.
        pairs: View<'a>,
        /// The scales of the blocks.
        scales: Scales<'a>,
    },
}

/// One scale for each 64 numbers, which may reach into the next row.
#[derive(Debug, Clone, Copy)]
pub enum Scales<'a> {
    /// In f32.
    Plain(View<'a>),
    /// In eight bits: `levels[codes[block]] * absmax[block / 256] + mean`.
    Nested {
        /// One a block, [`Number::U8`].
        codes: View<'a>,
        /// One for 256 blocks, f32.
        absmax: View<'a>,
        /// The 256 levels of the dynamic map, f32, ascending.
        levels: View<'a>,
        /// What the levels are distances from.
        mean: f32,
    },
}

impl Codes<'_> {
    /// The one for these numbers, of those for eight bits, four, and four with nested scales; and what it reads.
    fn arguments<K>(&self, [int8, nf4, nested]: [K; 3]) -> (K, Vec<Argument>) {
        match *self {
            Self::Int8 { values, scales } => (int8, vec![values.into(), scales.into()]),
            Self::Nf4 { pairs, scales: Scales::Plain(scales) } => (nf4, vec![pairs.into(), scales.into()]),
            Self::Nf4 { pairs, scales: Scales::Nested { codes, absmax, levels, mean } } => {
                (nested, arguments![pairs, codes, absmax, levels, mean].to_vec())
            }
        }
    }
}

impl Quantised<'_> {
    /// Whether kernels may read eight numbers of a row at a time.
    fn in_eights(&self) -> bool {
        let (Codes::Int8 { values: codes, .. } | Codes::Nf4 { pairs: codes, .. }) = self.codes;
        self.cols.is_multiple_of(8) && codes.address().is_multiple_of(4)
    }

    fn check(&self, operation: &'static str) -> Result<(), CudaError> {
        let len = self.rows * self.cols;
        let count = len.div_ceil(BLOCK);
        match self.codes {
            Codes::Int8 { values, scales } => {
                values.expect(operation, "values", Number::U8, len)?;
                scales.expect(operation, "scales", Number::F32, self.rows)
            }
            Codes::Nf4 { pairs, scales } => {
                pairs.expect(operation, "pairs", Number::U8, count * BLOCK / 2)?;
                match scales {
                    Scales::Plain(scales) => scales.expect(operation, "scales", Number::F32, count),
                    Scales::Nested { codes, absmax, levels, .. } => {
                        codes.expect(operation, "codes of the scales", Number::U8, count)?;
                        absmax.expect(
                            operation,
                            "scales of the scales",
                            Number::F32,
                            count.div_ceil(SCALES),
                        )?;
                        levels.expect(operation, "levels", Number::F32, 256)
                    }
                }
            }
        }
    }
}

/// `out` becomes the part of the weight that begins at row and column `corner` and is as large as `out`, in f32 or rounded to
/// bf16: the numbers that the CPU's products see.
///
/// # Errors
/// A part that leaves the weight; sizes that do not fit.
pub fn dequantise(
    on: &dyn Launcher,
    w: Quantised<'_>,
    corner: [usize; 2],
    out: View<'_>,
) -> Result<(), CudaError> {
    const OP: &str = "dequantise";
    w.check(OP)?;
    let [row, col] = corner;
    if row.saturating_add(out.rows()) > w.rows || col.saturating_add(out.cols()) > w.cols {
        let reason =
            format!("[{}, {}] from {corner:?} on leave [{}, {}]", out.rows(), out.cols(), w.rows, w.cols);
        return Err(CudaError::shape(OP, reason));
    }
    let (width, cols) = (fit(OP, "columns", out.cols())?, fit(OP, "columns", w.cols)?);
    let (at, len) = ((row * w.cols + col) as u64, out.len() as u64);
    if out.cols() == w.cols && w.in_eights() && out.address().is_multiple_of(16) {
        let (kernels, read) = w.codes.arguments([
            ["widen_eights_int8_f32", "widen_eights_int8_bf16"],
            ["widen_eights_nf4_f32", "widen_eights_nf4_bf16"],
            ["widen_eights_nested_nf4_f32", "widen_eights_nested_nf4_bf16"],
        ]);
        let kernel = kernel_of(OP, out.number(), kernels)?;
        let list = &[&*read, arguments![out, cols, at, len]].concat();
        return start(on, kernel, [blocks(OP, out.len() / 8)?, 1], list);
    }
    let (kernels, read) = w.codes.arguments([
        ["widen_int8_f32", "widen_int8_bf16"],
        ["widen_nf4_f32", "widen_nf4_bf16"],
        ["widen_nested_nf4_f32", "widen_nested_nf4_bf16"],
    ]);
    let kernel = kernel_of(OP, out.number(), kernels)?;
    let list = &[&*read, arguments![out, width, cols, at, len]].concat();
    start(on, kernel, [blocks(OP, out.len())?, 1], list)
}
