//! From values to positions, and where the ticks stand.

/// How values spread over an axis.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Spread {
    Linear,
    /// sign(v) ln(1 + |v|): for values over many orders of magnitude of either sign.
    SymLog,
}

/// An axis: a span of values drawn over a span of positions.
#[derive(Clone, Debug)]
pub(crate) struct Scale {
    spread: Spread,
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Scale {
    /// A linear axis. A span of no width is widened, so that a constant is drawn in the middle.
    pub(crate) fn linear(low: f64, high: f64, positions: (f64, f64)) -> Self {
        let (low, high) = if low.is_finite() && high.is_finite() { (low, high) } else { (0.0, 1.0) };
        // A difference must not overflow.
        let (low, high) = (low.clamp(-1e300, 1e300), high.clamp(-1e300, 1e300));
        let pad = if high > low { 0.0 } else { low.abs().max(1.0) * 0.1 };
        Self { spread: Spread::Linear, low: low - pad, high: high + pad, from: positions.0, to: positions.1 }
    }

    /// An axis for these values with a little room; logarithmic in both directions when one plain axis would
    /// squeeze most of them into a line.
    pub(crate) fn fit(values: &[f64], positions: (f64, f64)) -> Self {
        let mut sorted: Vec<f64> = values.iter().copied().filter(|v| v.is_finite()).collect();
        sorted.sort_by(f64::total_cmp);
        let (Some(&low), Some(&high)) = (sorted.first(), sorted.last()) else {
            return Self::linear(0.0, 1.0, positions);
        };
        let mut sizes: Vec<f64> = sorted.iter().map(|v| v.abs()).collect();
        sizes.sort_by(f64::total_cmp);
        let (median, largest) = (sizes[sizes.len() / 2], sizes[sizes.len() - 1]);
        let mut scale = Self::linear(low, high, positions);
        if largest > 20.0 && largest > 25.0 * median {
            scale.spread = Spread::SymLog;
        } else {
            let room = (scale.high - scale.low) * 0.06;
            // Room below zero would suggest negative values where there are none.
            scale.low = if low >= 0.0 { (scale.low - room).max(0.0) } else { scale.low - room };
            scale.high += room;
        }
        scale
    }

    /// The same axis without room beyond `low` and `high` (shares stop at 0 and 1).
    pub(crate) fn within(mut self, low: f64, high: f64) -> Self {
        self.low = self.low.max(low);
        self.high = self.high.min(high);
        if self.high <= self.low {
            (self.low, self.high) = (low, high);
        }
        self
    }

    pub(crate) fn is_logarithmic(&self) -> bool {
        self.spread == Spread::SymLog
    }

    fn warp(&self, value: f64) -> f64 {
        match self.spread {
            Spread::Linear => value,
            Spread::SymLog => value.signum() * value.abs().ln_1p(),
        }
    }

    /// The position of a value, inside the axis.
    pub(crate) fn position(&self, value: f64) -> f64 {
        let (low, high) = (self.warp(self.low), self.warp(self.high));
        let share = ((self.warp(value) - low) / (high - low)).clamp(0.0, 1.0);
        self.from + share * (self.to - self.from)
    }

    /// Whether a value lies inside the axis.
    pub(crate) fn contains(&self, value: f64) -> bool {
        (self.low..=self.high).contains(&value)
    }

    /// About `count` round values inside the axis.
    pub(crate) fn ticks(&self, count: usize) -> Vec<f64> {
        match self.spread {
            Spread::Linear => self.round_ticks(count),
            Spread::SymLog => self.decade_ticks(count),
        }
    }

    fn round_ticks(&self, count: usize) -> Vec<f64> {
        let rough = (self.high - self.low) / count.max(1) as f64;
        let decade = 10f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 2.5, 5.0, 10.0].into_iter().map(|m| m * decade).find(|s| *s >= rough * 0.999);
        let step = step.unwrap_or(rough);
        let (first, last) = ((self.low / step - 1e-9).ceil(), (self.high / step + 1e-9).floor());
        if !(step > 0.0 && (last - first).abs() < 100.0) {
            return Vec::new();
        }
        // 0.0 added: no negative zero.
        (0..=(last - first) as usize).map(|i| (first + i as f64) * step + 0.0).collect()
    }

    fn decade_ticks(&self, count: usize) -> Vec<f64> {
        // Over few decades, the values between them help.
        let between: &[f64] = if self.high.abs().max(self.low.abs()) < 500.0 { &[1.0, 3.0] } else { &[1.0] };
        let decades: Vec<f64> =
            (0..=300).flat_map(|e| between.iter().map(move |m| m * 10f64.powi(e))).collect();
        let all = decades.iter().rev().map(|d| -d).chain([0.0]).chain(decades.iter().copied());
        let inside: Vec<f64> = all.filter(|v| self.contains(*v)).collect();
        let every = inside.len().div_ceil(count.max(1)).max(1);
        inside.into_iter().step_by(every).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_round_and_inside() {
        assert_eq!(
            Scale::linear(0.0, 1.0, (0.0, 1.0)).ticks(5),
            [0.0, 0.2, 0.4, 0.6000000000000001, 0.8, 1.0]
        );
        assert_eq!(Scale::linear(-3.0, 7.0, (0.0, 1.0)).ticks(5), [-2.0, 0.0, 2.0, 4.0, 6.0]);
    }

    #[test]
    fn degenerate_values_still_make_an_axis() {
        for values in [&[][..], &[f64::NAN], &[3.0, 3.0], &[0.0], &[1e300, -1e300], &[f64::MAX, f64::MIN]] {
            let scale = Scale::fit(values, (0.0, 100.0));
            assert!(scale.position(0.5).is_finite(), "{values:?}");
            assert!(scale.ticks(5).len() < 50, "{values:?}");
        }
    }

    #[test]
    fn an_explosion_turns_the_axis_logarithmic() {
        let mut values: Vec<f64> = (0..100).map(|i| f64::from(i) * 0.01).collect();
        assert!(!Scale::fit(&values, (0.0, 1.0)).is_logarithmic());
        values.push(1e9);
        assert!(Scale::fit(&values, (0.0, 1.0)).is_logarithmic());
    }
}
