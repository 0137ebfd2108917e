//! A measured figure with its 95 % interval.

use serde::{Deserialize, Serialize};

/// A figure and its 95 % interval. Without an interval (`low` and `high` absent) it is exact or unmeasured.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Estimate {
    /// The figure.
    #[serde(deserialize_with = "or_nan")]
    pub mean: f64,
    /// Lower end of the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub low: Option<f64>,
    /// Upper end of the interval.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub high: Option<f64>,
}

impl Estimate {
    /// A figure known exactly.
    pub fn exact(mean: f64) -> Self {
        Self { mean, low: None, high: None }
    }

    /// A figure with a given interval.
    pub fn between(mean: f64, low: f64, high: f64) -> Self {
        Self { mean, low: Some(low), high: Some(high) }
    }

    /// The mean of independent values with Student's t interval; none without values, no interval with one.
    pub fn of_mean(values: &[f64]) -> Option<Self> {
        let n = values.len();
        if n == 0 {
            return None;
        }
        let mean = values.iter().sum::<f64>() / n as f64;
        if n == 1 {
            return Some(Self::exact(mean));
        }
        let variance = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
        let half = student_t(n - 1) * (variance / n as f64).sqrt();
        Some(Self::between(mean, mean - half, mean + half))
    }

    /// A share of `n` independent cases with Wilson's score interval, which stays within 0 and 1; none for n = 0.
    pub fn of_share(count: usize, n: usize) -> Option<Self> {
        if n == 0 {
            return None;
        }
        const Z: f64 = 1.959_963_984_540_054;
        let (n, p) = (n as f64, count as f64 / n as f64);
        let centre = (p + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
        let half = Z / (1.0 + Z * Z / n) * (p * (1.0 - p) / n + Z * Z / (4.0 * n * n)).sqrt();
        Some(Self::between(p, (centre - half).clamp(0.0, p), (centre + half).clamp(p, 1.0)))
    }

    /// Both ends, where both are finite.
    pub fn interval(&self) -> Option<(f64, f64)> {
        Some((self.low.filter(|v| v.is_finite())?, self.high.filter(|v| v.is_finite())?))
    }

    /// Whether the intervals (or exact values) have a point in common: the order is then not settled.
    pub fn overlaps(&self, other: &Self) -> bool {
        let (a, b) = (
            self.interval().unwrap_or((self.mean, self.mean)),
            other.interval().unwrap_or((other.mean, other.mean)),
        );
        a.0 <= b.1 && b.0 <= a.1
    }
}

fn or_nan<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<f64, D::Error> {
    Ok(Option::deserialize(deserializer)?.unwrap_or(f64::NAN))
}

/// The 97.5 % quantile of Student's t: the usual table up to 30 degrees of freedom, beyond it Cornish-Fisher's
/// expansion, exact to 1e-4 there.
fn student_t(degrees: usize) -> f64 {
    const TABLE: [f64; 30] = [
        12.7062, 4.3027, 3.1824, 2.7764, 2.5706, 2.4469, 2.3646, 2.3060, 2.2622, 2.2281, 2.2010, 2.1788,
        2.1604, 2.1448, 2.1314, 2.1199, 2.1098, 2.1009, 2.0930, 2.0860, 2.0796, 2.0739, 2.0687, 2.0639,
        2.0595, 2.0555, 2.0518, 2.0484, 2.0452, 2.0423,
    ];
    if let Some(t) = degrees.checked_sub(1).and_then(|i| TABLE.get(i)) {
        return *t;
    }
    let (z, n) = (1.959_963_984_540_054_f64, degrees as f64);
    z + (z.powi(3) + z) / (4.0 * n) + (5.0 * z.powi(5) + 16.0 * z.powi(3) + 3.0 * z) / (96.0 * n * n)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn student_t_interval_of_three_values() {
        // scipy.stats.t.interval(0.95, 2, loc=2, scale=1/sqrt(3))
        let e = Estimate::of_mean(&[1.0, 2.0, 3.0]).unwrap();
        assert!((e.low.unwrap() - -0.484_13).abs() < 1e-4, "{e:?}");
        // scipy.stats.t.ppf(0.975, 100)
        assert!((student_t(100) - 1.983_971_5).abs() < 1e-4);
    }

    #[test]
    fn wilson_interval_of_none_and_all() {
        // statsmodels proportion_confint(0, 10, method="wilson")
        let e = Estimate::of_share(0, 10).unwrap();
        assert_eq!((e.mean, e.low), (0.0, Some(0.0)));
        assert!((e.high.unwrap() - 0.277_532_8).abs() < 1e-6, "{e:?}");
        assert_eq!(Estimate::of_share(10, 10).unwrap().high, Some(1.0));
        assert!(Estimate::of_share(0, 0).is_none());
    }
}
