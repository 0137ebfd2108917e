//! A frozen weight in few bits: eight with a scale for each row (LLM.int8(), Dettmers et al. 2022, arXiv 2208.07339,
//! section 2.1), or four with a scale for each 64 numbers (`nf4`). The numbers and their arrangement are those of
//! bitsandbytes. Products read it a block at a time (`quantised_product`).

use std::ops::Range;

use rayon::prelude::*;

use crate::accelerator::{DeviceCodes, Shared};
use crate::array::wrong_place;
use crate::cpu::vectorised;
use crate::device_memory::DeviceMemory;
use crate::element::Element;
use crate::error::expect_size;
use crate::nested_scales::NestedScales;
use crate::vector::narrow;
use crate::{Array, CpuPath, Engine, EngineError, nf4};

/// How a frozen weight is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quantisation {
    /// Eight bits, from -127 to 127 times a 127th of the largest magnitude of its row.
    Int8,
    /// Four bits, levels of NormalFloat times the largest magnitude of a block of 64.
    Nf4 {
        /// Whether these magnitudes are kept in eight bits themselves (QLoRA's double quantisation).
        nested: bool,
    },
}

impl std::fmt::Display for Quantisation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Int8 => "8 bits (int8)",
            Self::Nf4 { nested: false } => "4 bits (nf4)",
            Self::Nf4 { nested: true } => "4 bits (nf4, nested)",
        })
    }
}

/// A weight `[o, i]` in few bits.
#[derive(Debug, Clone)]
pub struct QuantisedWeight {
    rows: usize,
    cols: usize,
    codes: Codes,
}

#[derive(Debug, Clone)]
enum Codes {
    /// `scales` one a row.
    Int8 { values: Vec<i8>, scales: Vec<f32> },
    /// Rows one after another, so that a block may reach into the next row.
    Nf4 { pairs: Vec<u8>, absmax: Absmax },
    /// Either of them on a device.
    Device(DeviceCodes),
}

#[derive(Debug, Clone)]
enum Absmax {
    Plain(Vec<f32>),
    Nested(NestedScales),
}

/// Blocks that one task rounds.
const BLOCKS: usize = 256;
/// Numbers that are widened at a time.
const PIECE: usize = 256;

impl QuantisedWeight {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Number of columns.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// Bytes that a weight `[rows, cols]` takes.
    pub fn bytes_of(rows: usize, cols: usize, kind: Quantisation) -> usize {
        let blocks = (rows * cols).div_ceil(nf4::BLOCK);
        match kind {
            Quantisation::Int8 => rows * cols + 4 * rows,
            Quantisation::Nf4 { nested: false } => nf4::BLOCK / 2 * blocks + 4 * blocks,
            Quantisation::Nf4 { nested: true } => nf4::BLOCK / 2 * blocks + NestedScales::bytes_of(blocks),
        }
    }

    /// The weight on a device, if it is on one.
    pub(crate) fn on_device(&self) -> Option<&DeviceCodes> {
        if let Codes::Device(codes) = &self.codes { Some(codes) } else { None }
    }

    /// The same on a device.
    fn placed(&self, owner: &Shared) -> Result<Self, EngineError> {
        let (rows, cols) = (self.rows, self.cols);
        let floats = |values: &[f32]| DeviceMemory::of_bytes(owner, bytemuck::cast_slice(values));
        let bytes = |values: &[u8]| DeviceMemory::of_bytes(owner, values);
        let (kind, parts, mean) = match &self.codes {
            Codes::Device(_) => return Ok(self.clone()),
            Codes::Int8 { values, scales } => {
                (Quantisation::Int8, vec![bytes(bytemuck::cast_slice(values))?, floats(scales)?], 0.0)
            }
            Codes::Nf4 { pairs, absmax: Absmax::Plain(absmax) } => {
                (Quantisation::Nf4 { nested: false }, vec![bytes(pairs)?, floats(absmax)?], 0.0)
            }
            Codes::Nf4 { pairs, absmax: Absmax::Nested(scales) } => {
                let (codes, absmax, mean, levels) = scales.parts();
                let parts = vec![bytes(pairs)?, bytes(codes)?, floats(absmax)?, floats(levels)?];
                (Quantisation::Nf4 { nested: true }, parts, mean)
            }
        };
        Ok(Self { rows, cols, codes: Codes::Device(DeviceCodes { rows, cols, kind, parts, mean }) })
    }

    /// Columns `columns` of row `row`, rounded to what `out` holds.
    fn decode<E: Element>(&self, path: CpuPath, row: usize, columns: Range<usize>, out: &mut [E]) {
        let mut room = [0.0; PIECE];
        let (mut at, end) = (row * self.cols + columns.start, row * self.cols + columns.end);
        let mut out = out;
        while at < end {
            let most = match self.codes {
                Codes::Int8 { .. } => PIECE,
                Codes::Nf4 { .. } | Codes::Device(_) => nf4::BLOCK - at % nf4::BLOCK,
            };
            let room = &mut room[..most.min(end - at)];
            match &self.codes {
                Codes::Int8 { values, scales } => {
                    widen(path, &values[at..][..room.len()], scales[row], room);
                }
                Codes::Nf4 { pairs, absmax } => {
                    let block = at / nf4::BLOCK;
                    let absmax = match absmax {
                        Absmax::Plain(absmax) => absmax[block],
                        Absmax::Nested(nested) => nested.get(block),
                    };
                    nf4::decode(path, (pairs, at), absmax, room);
                }
                Codes::Device(_) => wrong_place(),
            }
            let (now, later) = out.split_at_mut(room.len());
            narrow(path, room, now);
            (at, out) = (at + room.len(), later);
        }
    }
}

vectorised! {
    fn widen(codes: &[i8], scale: f32, out: &mut [f32]) = widen_body
}

#[inline(always)]
fn widen_body<const FMA: bool>(codes: &[i8], scale: f32, out: &mut [f32]) {
    out.iter_mut().zip(codes).for_each(|(out, code)| *out = f32::from(*code) * scale);
}

vectorised! {
    fn round_row(row: &[f32], factor: f32, codes: &mut [i8]) = round_row_body
}

#[inline(always)]
fn round_row_body<const FMA: bool>(row: &[f32], factor: f32, codes: &mut [i8]) {
    codes.iter_mut().zip(row).for_each(|(code, value)| *code = (value * factor).round_ties_even() as i8);
}

impl Engine {
    /// `w` in few bits, each number at the nearest level.
    ///
    /// # Errors
    /// A number that is not finite, which would take its whole block with it.
    pub fn quantise(&self, w: &Array, kind: Quantisation) -> Result<QuantisedWeight, EngineError> {
        if !self.all_finite(w)? {
            let reason = "a weight that is not finite cannot be kept in few bits".to_owned();
            return Err(EngineError::Invalid { operation: "quantise", reason });
        }
        let codes = match kind {
            Quantisation::Int8 => self.int8(w),
            Quantisation::Nf4 { nested } => {
                let (pairs, absmax) = self.nf4(w.as_slice());
                let nested = nested.then(|| Absmax::Nested(NestedScales::of(&absmax)));
                Codes::Nf4 { pairs, absmax: nested.unwrap_or(Absmax::Plain(absmax)) }
            }
        };
        Ok(QuantisedWeight { rows: w.rows(), cols: w.cols(), codes })
    }

    /// Moves a weight from the host to where the engine computes.
    ///
    /// # Errors
    /// A device that has not got the memory.
    pub fn place_quantised(&self, weight: QuantisedWeight) -> Result<QuantisedWeight, EngineError> {
        match self.accelerator() {
            Some(owner) => weight.placed(owner),
            None => Ok(weight),
        }
    }

    fn int8(&self, w: &Array) -> Codes {
        let (mut values, mut scales) = (vec![0_i8; w.len()], vec![0.0; w.rows()]);
        let (path, cols) = (self.path(), w.cols().max(1));
        self.install(|| {
            let rows = values.par_chunks_mut(cols).zip(w.as_slice().par_chunks(cols));
            scales.par_iter_mut().zip(rows).for_each(|(scale, (codes, row))| {
                let absmax = row.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
                *scale = absmax / 127.0;
                round_row(path, row, 127.0 / absmax.max(1e-36), codes);
            });
        });
        Codes::Int8 { values, scales }
    }

    fn nf4(&self, values: &[f32]) -> (Vec<u8>, Vec<f32>) {
        let blocks = values.len().div_ceil(nf4::BLOCK);
        let (mut pairs, mut absmax) = (vec![0; blocks * nf4::BLOCK / 2], vec![0.0; blocks]);
        let path = self.path();
        self.install(|| {
            let tasks = values.par_chunks(BLOCKS * nf4::BLOCK);
            let results = pairs.par_chunks_mut(BLOCKS * nf4::BLOCK / 2).zip(absmax.par_chunks_mut(BLOCKS));
            tasks.zip(results).for_each(|(values, (pairs, absmax))| {
                let results = pairs.chunks_mut(nf4::BLOCK / 2).zip(absmax);
                for (values, (pairs, absmax)) in values.chunks(nf4::BLOCK).zip(results) {
                    *absmax = nf4::encode(path, values, pairs);
                }
            });
        });
        (pairs, absmax)
    }

    /// The numbers that products see, `[o, i]` in f32.
    ///
    /// # Errors
    /// An output of another shape.
    pub fn dequantise(&self, w: &QuantisedWeight, out: &mut Array) -> Result<(), EngineError> {
        expect_size("dequantise", "rows of out", w.rows, out.rows())?;
        expect_size("dequantise", "columns of out", w.cols, out.cols())?;
        if let Codes::Device(codes) = &w.codes {
            let gpu = out.accelerator().ok_or_else(|| EngineError::mixed("dequantise"))?;
            return gpu.dequantise(codes, out);
        }
        self.decode_block(w, 0, 0..w.cols, out.as_mut_slice());
        Ok(())
    }

    /// Rows from `first` on, as many as `out` holds, of these columns.
    pub(crate) fn decode_block<E: Element>(
        &self,
        w: &QuantisedWeight,
        first: usize,
        columns: Range<usize>,
        out: &mut [E],
    ) {
        let (path, width, steps) = (self.path(), columns.len().max(1), out.len());
        let decode = |(row, out): (usize, &mut [E])| w.decode(path, first + row, columns.clone(), out);
        if self.parallel(steps) {
            self.install(|| {
                let rows = out.par_chunks_mut(width).enumerate();
                rows.with_min_len((PIECE * 16).div_ceil(width)).for_each(decode);
            });
        } else {
            out.chunks_mut(width).enumerate().for_each(decode);
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::testing::{engines, random, wide};

    pub(crate) const KINDS: [Quantisation; 3] =
        [Quantisation::Int8, Quantisation::Nf4 { nested: false }, Quantisation::Nf4 { nested: true }];

    /// What may be lost, in shares of the largest magnitude that a number shares its scale with: half the widest step.
    fn half_step(kind: Quantisation) -> f64 {
        match kind {
            Quantisation::Int8 => 0.5 / 127.0 + 1e-6,
            Quantisation::Nf4 { nested: false } => 0.152,
            // The scale itself is off by up to 1 %.
            Quantisation::Nf4 { nested: true } => 0.165,
        }
    }

    #[test]
    fn numbers_come_back_within_half_a_step_in_whole_and_in_parts() {
        for engine in engines() {
            for (rows, cols) in [(3, 64), (5, 7), (1, 1), (70, 130), (9, 320), (0, 4), (2, 0)] {
                let w = random(7, rows, cols);
                for kind in KINDS {
                    let quantised = engine.quantise(&w, kind).unwrap();
                    let mut whole = Array::zeros(rows, cols);
                    engine.dequantise(&quantised, &mut whole).unwrap();
                    for (row, (found, given)) in wide(&whole).iter().zip(wide(&w)).enumerate() {
                        assert!((found - given).abs() <= half_step(kind), "{kind:?} {row}: {found} {given}");
                    }
                    for (first, columns) in
                        [(0, 0..cols), (rows / 2, cols / 3..cols), (rows / 3, 0..cols / 2)]
                    {
                        let mut part = vec![f32::NAN; (rows - first) * columns.len()];
                        engine.decode_block(&quantised, first, columns.clone(), &mut part);
                        let expected: Vec<f32> =
                            (first..rows).flat_map(|row| whole.row(row)[columns.clone()].to_vec()).collect();
                        assert_eq!(part, expected, "{kind:?} {rows} {cols} from {first}, {columns:?}");
                        let mut rounded = vec![half::bf16::NAN; part.len()];
                        engine.decode_block(&quantised, first, columns, &mut rounded);
                        assert!(rounded.iter().zip(&part).all(|(a, b)| *a == half::bf16::from_f32(*b)));
                    }
                }
            }
        }
    }

    #[test]
    fn the_bytes_are_those_that_are_counted() {
        let engine = Engine::cpu(Some(1)).unwrap();
        for (rows, cols) in [(70, 130), (5, 7), (512, 512)] {
            for kind in KINDS {
                let found = match engine.quantise(&random(1, rows, cols), kind).unwrap().codes {
                    Codes::Int8 { values, scales } => values.len() + 4 * scales.len(),
                    Codes::Nf4 { pairs, absmax: Absmax::Plain(absmax) } => pairs.len() + 4 * absmax.len(),
                    Codes::Nf4 { pairs, absmax: Absmax::Nested(nested) } => pairs.len() + nested.bytes(),
                    Codes::Device(_) => panic!("this engine is the processor's"),
                };
                assert_eq!(found, QuantisedWeight::bytes_of(rows, cols, kind), "{kind:?}");
            }
        }
    }

    #[test]
    fn numbers_that_are_not_finite_are_refused() {
        let engine = Engine::cpu(Some(1)).unwrap();
        for value in [f32::NAN, f32::INFINITY] {
            let mut w = random(1, 3, 64);
            w.as_mut_slice()[70] = value;
            for kind in KINDS {
                assert!(engine.quantise(&w, kind).unwrap_err().to_string().contains("finite"));
            }
        }
    }
}
