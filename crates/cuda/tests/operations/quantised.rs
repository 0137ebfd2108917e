//! Weights in eight and in four bits. What the CPU keeps of a weight is found again from the numbers that it gives back.

use bso_cuda::Number;
use bso_cuda::operation::{Codes, Quantised, Scales, dequantise};
use bso_engine::{Array, DType, Engine, Quantisation};

use crate::machine::{Held, Machine, assert_close, on_every_machine, random};

const NF4: [f32; 16] = [
    -1.0,
    -0.696_192_8,
    -0.525_073_05,
    -0.394_917_5,
    -0.284_441_38,
    -0.184_773_43,
    -0.091_050_036,
    0.0,
    0.079_580_3,
    0.160_930_2,
    0.246_112_3,
    0.337_915_24,
    0.440_709_83,
    0.562_617,
    0.722_956_84,
    1.0,
];

/// The dynamic map: seven ranges, each ten times as wide as the one before and cut into twice as many parts.
fn nested_levels() -> Vec<f32> {
    let mut levels = vec![0.0, 1.0];
    for range in 0..7 {
        for part in 0..1 << range {
            let middle = 0.1 + 0.9 * (f64::from(part) + 0.5) / f64::from(1 << range);
            levels.extend([1.0, -1.0].map(|sign| (sign * 10f64.powi(range - 6) * middle) as f32));
        }
    }
    levels.sort_by(f32::total_cmp);
    levels
}

const KINDS: [Quantisation; 3] =
    [Quantisation::Int8, Quantisation::Nf4 { nested: false }, Quantisation::Nf4 { nested: true }];

/// Which of these is `value`.
fn found(value: f32, among: impl Iterator<Item = f32>) -> u8 {
    among.enumerate().find(|(_, x)| *x == value).map(|(i, _)| i as u8).unwrap()
}

fn absmax(values: &[f32]) -> f32 {
    values.iter().fold(0.0, |most, x| most.max(x.abs()))
}

/// A weight in few bits on a machine.
struct Kept {
    held: Vec<Held>,
    mean: f32,
}

impl Kept {
    /// Of a weight and of the numbers that the CPU made of it.
    fn of(machine: &Machine<'_>, w: &Array, seen: &Array, kind: Quantisation) -> Self {
        let bytes = |values: &[u8]| machine.bytes(values);
        let Quantisation::Nf4 { nested } = kind else {
            let scales: Vec<f32> = (0..w.rows()).map(|row| absmax(w.row(row)) / 127.0).collect();
            let code = |(i, x): (usize, &f32)| (x / scales[i / w.cols()]).round() as i8 as u8;
            let codes: Vec<u8> = seen.as_slice().iter().enumerate().map(code).collect();
            return Self { held: vec![bytes(&codes), machine.floats(&scales)], mean: 0.0 };
        };
        // The largest number of a block is its scale.
        let scales: Vec<f32> = seen.as_slice().chunks(64).map(absmax).collect();
        let code = |(i, x): (usize, &f32)| found(*x, NF4.iter().map(|level| level * scales[i / 64]));
        let mut codes: Vec<u8> = seen.as_slice().iter().enumerate().map(code).collect();
        codes.resize(scales.len() * 64, 0);
        let pairs: Vec<u8> = codes.chunks(2).map(|pair| pair[0] << 4 | pair[1]).collect();
        if !nested {
            return Self { held: vec![bytes(&pairs), machine.floats(&scales)], mean: 0.0 };
        }
        let exact: Vec<f32> = w.as_slice().chunks(64).map(absmax).collect();
        let sum: f64 = exact.iter().map(|x| f64::from(*x)).sum();
        let mean = (sum / exact.len() as f64) as f32;
        let far = |group: &[f32]| absmax(&group.iter().map(|x| x - mean).collect::<Vec<_>>());
        let (outer, levels): (Vec<f32>, _) = (exact.chunks(256).map(far).collect(), nested_levels());
        let code =
            |(i, x): (usize, &f32)| found(*x, levels.iter().map(|level| level * outer[i / 256] + mean));
        let codes: Vec<u8> = scales.iter().enumerate().map(code).collect();
        let held = vec![bytes(&pairs), bytes(&codes), machine.floats(&outer), machine.floats(&levels)];
        Self { held, mean }
    }

    fn weight(&self, [rows, cols]: [usize; 2], kind: Quantisation) -> Quantised<'_> {
        let view = |i: usize| self.held[i].view();
        let codes = match kind {
            Quantisation::Int8 => Codes::Int8 { values: view(0), scales: view(1) },
            Quantisation::Nf4 { nested: false } => {
                Codes::Nf4 { pairs: view(0), scales: Scales::Plain(view(1)) }
            }
            Quantisation::Nf4 { nested: true } => {
                let (codes, absmax, levels, mean) = (view(1), view(2), view(3), self.mean);
                Codes::Nf4 { pairs: view(0), scales: Scales::Nested { codes, absmax, levels, mean } }
            }
        };
        Quantised { rows, cols, codes }
    }
}

#[test]
fn widened_weights_are_the_cpus_to_the_bit_in_whole_and_in_parts() {
    let engine = Engine::cpu(Some(1)).unwrap();
    on_every_machine(|machine| {
        for [rows, cols] in [[1, 1], [5, 7], [3, 64], [79, 301], [45, 520]] {
            for kind in KINDS {
                let w = random(7, rows, cols);
                let mut seen = Array::zeros(rows, cols);
                engine.dequantise(&engine.quantise(&w, kind).unwrap(), &mut seen).unwrap();
                let kept = Kept::of(machine, &w, &seen, kind);
                let quantised = kept.weight([rows, cols], kind);
                let parts =
                    [[0, 0, rows, cols], [rows / 3, 0, rows / 2, cols], [rows / 2, cols / 3, 1, cols / 2]];
                for ([row, col, height, width], dtype) in
                    parts.into_iter().flat_map(|part| [(part, DType::F32), (part, DType::Bf16)])
                {
                    let number = if dtype == DType::Bf16 { Number::Bf16 } else { Number::F32 };
                    let out = machine.room(number, height, width);
                    dequantise(machine.on(), quantised, [row, col], out.view()).unwrap();
                    let want = (row..row + height).flat_map(|r| seen.row(r)[col..col + width].to_vec());
                    let want = Array::from_vec(height, width, want.collect()).unwrap();
                    let want = want.to_dtype(dtype).unwrap().to_f32_vec();
                    assert_close(&format!("{kind:?} from {row}, {col}"), machine, &out, &want, 0.0);
                }
                let out = machine.room(Number::F32, 1, cols);
                assert!(dequantise(machine.on(), quantised, [rows, 0], out.view()).is_err());
                let short = kept.weight([rows + 64, cols], kind);
                assert!(dequantise(machine.on(), short, [0, 0], out.view()).is_err());
            }
        }
    });
}
