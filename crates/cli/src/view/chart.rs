//! A curve in braille dots: two columns and four rows of dots a character.

/// Lines of `height` characters, each `width` wide with the labels of its axis; none where there is nothing to draw.
pub fn chart(points: &[(u64, Option<f64>)], width: usize, height: usize) -> Option<Vec<String>> {
    let known: Vec<(f64, f64)> = points
        .iter()
        .filter_map(|(step, value)| Some((*step as f64, value.filter(|v| v.is_finite())?)))
        .collect();
    let bounds = |of: fn(&(f64, f64)) -> f64| {
        known.iter().map(of).fold((f64::MAX, f64::MIN), |(l, h), v| (l.min(v), h.max(v)))
    };
    let ((left, right), (low, high)) = (bounds(|p| p.0), bounds(|p| p.1));
    let label = |value: f64| bso_runs::report::number(value);
    let margin = label(low).chars().count().max(label(high).chars().count()) + 1;
    if known.is_empty() || height == 0 || width < margin + 4 {
        return None;
    }
    let (columns, rows) = ((width - margin) * 2, height * 4);
    let mut dots = vec![vec![false; columns]; rows];
    let place = |value: f64, from: f64, to: f64, count: usize| {
        let share = if to > from { (value - from) / (to - from) } else { 0.5 };
        ((share * (count - 1) as f64).round() as usize).min(count - 1)
    };
    let mut last: Option<(usize, usize)> = None;
    for (step, value) in &known {
        let at = (place(*step, left, right, columns), rows - 1 - place(*value, low, high, rows));
        line(&mut dots, last.unwrap_or(at), at);
        last = Some(at);
    }
    let text =
        |row: usize| -> String { (0..columns / 2).map(|column| character(&dots, column, row)).collect() };
    let title = |row: usize| match row {
        0 => label(high),
        row if row + 1 == height => label(low),
        _ => String::new(),
    };
    Some((0..height).map(|row| format!("{:>1$} {2}", title(row), margin - 1, text(row))).collect())
}

/// Dots from one place to another, one a column or a row, whichever are more.
fn line(dots: &mut [Vec<bool>], from: (usize, usize), to: (usize, usize)) {
    let steps = from.0.abs_diff(to.0).max(from.1.abs_diff(to.1)).max(1);
    let between = |a: usize, b: usize, i: usize| {
        (a as f64 + (b as f64 - a as f64) * i as f64 / steps as f64).round() as usize
    };
    for i in 0..=steps {
        dots[between(from.1, to.1, i)][between(from.0, to.0, i)] = true;
    }
}

/// Unicode's order of braille dots: down the left column, down the right one, then the lowest row.
fn character(dots: &[Vec<bool>], column: usize, row: usize) -> char {
    const BITS: [[u32; 2]; 4] = [[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]];
    let mut bits = 0;
    for (y, pair) in BITS.iter().enumerate() {
        for (x, bit) in pair.iter().enumerate() {
            if dots[row * 4 + y][column * 2 + x] {
                bits |= bit;
            }
        }
    }
    char::from_u32(0x2800 + bits).unwrap_or(' ')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rising_line_goes_from_below_to_above() {
        let points: Vec<(u64, Option<f64>)> = (0..50).map(|i| (i, Some(i as f64))).collect();
        let lines = chart(&points, 24, 4).unwrap();
        assert!(lines.iter().all(|line| line.chars().count() == 24), "{lines:?}");
        assert!(lines[0].starts_with("49.0 ") && lines[3].starts_with("   0 "), "{lines:?}");
        let blank = '\u{2800}';
        assert!(lines[0].ends_with(|c| c != blank) && lines[3].ends_with(blank), "{lines:?}");
        assert!(lines[3].chars().nth(5).is_some_and(|c| c != blank));
    }

    #[test]
    fn holes_constants_and_narrow_places_do_no_harm() {
        assert!(chart(&[], 40, 4).is_none());
        assert!(chart(&[(0, None), (1, Some(f64::NAN))], 40, 4).is_none());
        assert!(chart(&[(0, Some(1.0))], 3, 4).is_none());
        assert_eq!(chart(&[(5, Some(1.0)), (5, Some(1.0))], 30, 3).unwrap().len(), 3);
        assert!(chart(&[(0, Some(1e308)), (u64::MAX, Some(-1e308))], 30, 3).is_some());
    }
}
