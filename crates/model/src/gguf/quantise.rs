//! Numbers in ggml's types, as its reference implementation rounds them.

use super::GgufType;
use half::f16;
use std::io::{self, Write};

/// Numbers of a block of q8_0.
pub(super) const BLOCK: usize = 32;

/// Writes the values; for q8_0 their number must be a multiple of [`BLOCK`].
pub(super) fn write(out: &mut dyn Write, values: &[f32], kind: GgufType) -> io::Result<()> {
    let mut bytes = Vec::with_capacity(1 << 16);
    for piece in values.chunks(1 << 14) {
        bytes.clear();
        match kind {
            GgufType::F32 => piece.iter().for_each(|x| bytes.extend_from_slice(&x.to_le_bytes())),
            GgufType::F16 => {
                piece.iter().for_each(|x| bytes.extend_from_slice(&f16::from_f32(*x).to_le_bytes()));
            }
            GgufType::Q8_0 => piece.chunks(BLOCK).for_each(|block| put_block(&mut bytes, block)),
        }
        out.write_all(&bytes)?;
    }
    Ok(())
}

/// A scale and 32 whole numbers: the largest becomes 127 or -127.
fn put_block(bytes: &mut Vec<u8>, block: &[f32]) {
    let largest = block.iter().fold(0.0_f32, |largest, x| largest.max(x.abs()));
    let scale = largest / 127.0;
    let inverse = if scale == 0.0 { 0.0 } else { 1.0 / scale };
    bytes.extend_from_slice(&f16::from_f32(scale).to_le_bytes());
    // `round` takes halves away from zero, as C's does.
    bytes.extend(block.iter().map(|x| (x * inverse).round() as i8 as u8));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_block_reads_back_within_half_a_step_and_zeros_stay() {
        let values: Vec<f32> =
            (0..64).map(|i| ((i * 37 % 61) as f32 - 30.0) * 0.013 * (i / 32) as f32).collect();
        let mut bytes = Vec::new();
        write(&mut bytes, &values, GgufType::Q8_0).unwrap();
        assert_eq!(bytes.len(), GgufType::Q8_0.bytes(64));
        for (block, values) in bytes.chunks(BLOCK + 2).zip(values.chunks(BLOCK)) {
            let scale = f16::from_le_bytes([block[0], block[1]]).to_f32();
            for (byte, value) in block[2..].iter().zip(values) {
                let read = scale * f32::from(*byte as i8);
                assert!((read - value).abs() <= 0.51 * scale + value.abs() / 1024.0, "{read} {value}");
            }
        }
    }
}
