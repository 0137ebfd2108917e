//! Numbers as people read them.

/// A number with about three significant digits; an en dash where there is none.
pub fn number(value: f64) -> String {
    let size = value.abs();
    if !value.is_finite() {
        "–".to_owned()
    } else if value == 0.0 {
        "0".to_owned()
    } else if !(1e-3..1e6).contains(&size) {
        format!("{value:.1e}")
    } else if size >= 100.0 {
        format!("{value:.0}")
    } else if size >= 10.0 {
        format!("{value:.1}")
    } else if size >= 1.0 {
        format!("{value:.2}")
    } else {
        format!("{value:.3}")
    }
}

/// A whole number in groups of three digits.
pub(crate) fn count(value: f64) -> String {
    let digits = format!("{value:.0}");
    let group = |at: usize| (at > 0 && (digits.len() - at).is_multiple_of(3)).then_some(',');
    digits.char_indices().flat_map(|(at, digit)| group(at).into_iter().chain([digit])).collect()
}

/// A share from 0 to 1 in per cent.
pub(crate) fn percent(value: f64) -> String {
    let value = value * 100.0;
    match value.abs() {
        _ if !value.is_finite() => "–".to_owned(),
        size if size == 0.0 || size >= 99.95 => format!("{value:.0} %"),
        _ => format!("{value:.1} %"),
    }
}

/// Seconds, minutes or hours.
pub(crate) fn duration(seconds: f64) -> String {
    match seconds {
        s if !s.is_finite() => "–".to_owned(),
        s if s < 99.5 => format!("{s:.1} s"),
        s if s < 5400.0 => format!("{:.0} min {:02.0} s", (s / 60.0).floor(), (s % 60.0).floor()),
        s => format!("{:.0} h {:02.0} min", (s / 3600.0).floor(), (s % 3600.0 / 60.0).floor()),
    }
}

/// A tick's value without noise digits.
pub(crate) fn short(value: f64) -> String {
    let size = value.abs();
    if size != 0.0 && !(1e-3..1e5).contains(&size) {
        let text = format!("{value:.2e}");
        let (digits, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        let digits = digits.trim_end_matches('0').trim_end_matches('.');
        return minus(&format!("{digits}e{exponent}"));
    }
    let text = format!("{value:.4}");
    minus(text.trim_end_matches('0').trim_end_matches('.'))
}

/// Replaces the hyphen of a negative number by a minus sign.
pub(crate) fn minus(text: &str) -> String {
    text.replace('-', "\u{2212}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_keep_about_three_digits() {
        let shown: Vec<String> =
            [0.0, 0.123_45, -1.234_5, 12.345, 123.45, 1.5e7, 1e-5, f64::NAN].map(number).into();
        assert_eq!(shown, ["0", "0.123", "-1.23", "12.3", "123", "1.5e7", "1.0e-5", "–"]);
        assert_eq!([0.0, 0.1234, 1.0].map(percent), ["0 %", "12.3 %", "100 %"]);
        assert_eq!([0.0, 999.0, 24_000.0, 1_234_567.0].map(count), ["0", "999", "24,000", "1,234,567"]);
        assert_eq!([3.21, 125.9, 7260.0].map(duration), ["3.2 s", "2 min 05 s", "2 h 01 min"]);
    }

    #[test]
    fn ticks_are_not_rounded_to_another_value() {
        let shown = [0.0, 7.5e-5, 1e-4, -0.25, 1234.0, 1.5e6].map(short);
        assert_eq!(shown, ["0", "7.5e\u{2212}5", "1e\u{2212}4", "\u{2212}0.25", "1234", "1.5e6"]);
    }
}
