//! Rows laid out as the columns of a panel, a block of eight by eight at a time in registers: value by value this costs more
//! than the product of a few rows that reads the panel.

use crate::CpuPath;
use crate::tile::PANEL;

/// Values of a row that a block holds.
const BLOCK: usize = 8;

/// Writes as many leading values of the rows as whole blocks hold, value `p` of row `c` to `p * PANEL + c`; returns how
/// many of each row. None without AVX2.
pub(crate) fn transpose_blocks(path: CpuPath, rows: &[&[f32]; PANEL], panel: &mut [f32]) -> usize {
    let width = rows.iter().map(|row| row.len()).min().unwrap_or(0).min(panel.len() / PANEL);
    let whole = width / BLOCK * BLOCK;
    match path {
        #[cfg(target_arch = "x86_64")]
        CpuPath::Avx512 | CpuPath::Avx2 => {
            for start in (0..whole).step_by(BLOCK) {
                for half in (0..PANEL).step_by(BLOCK) {
                    let from: [*const f32; BLOCK] =
                        std::array::from_fn(|row| rows[half + row].as_ptr().wrapping_add(start));
                    let to = panel.as_mut_ptr().wrapping_add(start * PANEL + half);
                    // SAFETY: every row has `whole` values and the panel as many lines of PANEL; the engine checked its
                    // path, and both have AVX2.
                    unsafe { transpose_block(from, to) };
                }
            }
            whole
        }
        _ => 0,
    }
}

/// Eight values of eight rows to eight lines of a panel.
///
/// # Safety
/// Eight values are readable at each address, and writable at `to` and at every [`PANEL`]th value behind it; the
/// processor has AVX2.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "avx2")]
unsafe fn transpose_block(from: [*const f32; BLOCK], to: *mut f32) {
    use std::arch::x86_64::{
        _mm256_loadu_ps, _mm256_permute2f128_ps, _mm256_shuffle_ps, _mm256_storeu_ps, _mm256_unpackhi_ps,
        _mm256_unpacklo_ps,
    };
    // SAFETY: by the caller.
    let [a, b, c, d, e, f, g, h] = from.map(|row| unsafe { _mm256_loadu_ps(row) });
    // Pairs, then fours inside each half of the registers, then the halves.
    let fours = |a, b, c, d| {
        let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
        let (ab_high, cd_high) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
        [
            _mm256_shuffle_ps::<0x44>(ab, cd),
            _mm256_shuffle_ps::<0xee>(ab, cd),
            _mm256_shuffle_ps::<0x44>(ab_high, cd_high),
            _mm256_shuffle_ps::<0xee>(ab_high, cd_high),
        ]
    };
    let (first, last) = (fours(a, b, c, d), fours(e, f, g, h));
    for line in 0..BLOCK / 2 {
        let (first, last) = (first[line], last[line]);
        // SAFETY: by the caller, for lines before BLOCK.
        unsafe {
            _mm256_storeu_ps(to.add(line * PANEL), _mm256_permute2f128_ps::<0x20>(first, last));
            let below = to.add((line + BLOCK / 2) * PANEL);
            _mm256_storeu_ps(below, _mm256_permute2f128_ps::<0x31>(first, last));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{paths, random};

    #[test]
    fn blocks_hold_the_rows_as_columns_and_nothing_else_is_written() {
        for path in paths() {
            for width in [0, 7, 8, 37] {
                let x = random(1, PANEL, width);
                let rows: [&[f32]; PANEL] = std::array::from_fn(|row| x.row(row));
                let mut panel = vec![f32::NAN; width * PANEL];
                let done = transpose_blocks(path, &rows, &mut panel);
                assert_eq!(done, if path == CpuPath::Portable { 0 } else { width / BLOCK * BLOCK });
                for (at, value) in panel.iter().enumerate() {
                    let (p, row) = (at / PANEL, at % PANEL);
                    assert!(if p < done { *value == x.row(row)[p] } else { value.is_nan() }, "{at}");
                }
            }
        }
    }
}
