//! A row of the table: what was measured, against what, and whether it meets its target. A verdict exists only where
//! both sides were measured.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One measured quantity, a value for each repetition.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Row {
    /// Of which workload.
    pub workload: String,
    /// What it is.
    pub what: String,
    /// Its unit.
    pub unit: String,
    /// In the order of the repetitions.
    pub measured: Vec<f64>,
    /// What it is compared with.
    pub against: Option<Against>,
    /// For the ratio where something stands beside it, else for the value itself.
    pub target: Option<Target>,
    /// What a reader should know of the figure.
    pub note: Option<String>,
}

/// The other side of a comparison; value i was measured beside value i.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Against {
    /// Who or what it is.
    pub name: String,
    /// In the order of the repetitions.
    pub values: Vec<f64>,
    /// Which way the ratio is taken.
    pub ratio: Ratio,
}

/// Which way a ratio is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ratio {
    /// Measured over other: rates, sizes.
    Over,
    /// Other over measured: how many times faster, from durations.
    Under,
}

/// What a figure must reach.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// At least this.
    AtLeast(f64),
    /// At most this.
    AtMost(f64),
}

/// The middle, the least and the greatest of some values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Spread {
    /// The median: for an even number the mean of the two in the middle.
    pub median: f64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
}

impl Spread {
    /// None of no values.
    pub fn of(values: &[f64]) -> Option<Self> {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (min, max) = (*sorted.first()?, *sorted.last()?);
        let median = f64::midpoint(sorted[(sorted.len() - 1) / 2], sorted[sorted.len() / 2]);
        Some(Self { median, min, max })
    }
}

impl Row {
    /// A figure by itself.
    pub fn new(workload: &str, what: impl Into<String>, unit: &str, measured: Vec<f64>) -> Self {
        let (workload, what, unit) = (workload.to_owned(), what.into(), unit.to_owned());
        Self { workload, what, unit, measured, against: None, target: None, note: None }
    }

    /// Compared with `values`; none of them where the other side was not measured.
    pub fn against(mut self, name: &str, values: Vec<f64>, ratio: Ratio) -> Self {
        self.against = Some(Against { name: name.to_owned(), values, ratio });
        self
    }

    /// Must reach this.
    pub fn target(mut self, target: Target) -> Self {
        self.target = Some(target);
        self
    }

    /// With a remark.
    pub fn note(mut self, note: impl Into<String>) -> Self {
        self.note = Some(note.into());
        self
    }

    /// The paired ratios; none where nothing stands beside the figure.
    pub fn ratios(&self) -> Vec<f64> {
        let Some(against) = &self.against else { return Vec::new() };
        let ratio = |(measured, other): (&f64, &f64)| match against.ratio {
            Ratio::Over => measured / other,
            Ratio::Under => other / measured,
        };
        self.measured.iter().zip(&against.values).map(ratio).collect()
    }

    /// Whether the median meets the target. A target of a comparison has no verdict while its other side is missing.
    pub fn passes(&self) -> Option<bool> {
        let compared = if self.against.is_some() { self.ratios() } else { self.measured.clone() };
        let median = Spread::of(&compared)?.median;
        self.target.map(|target| match target {
            Target::AtLeast(least) => median >= least,
            Target::AtMost(most) => median <= most,
        })
    }

    /// As JSON, with ratios and verdict beside the values.
    pub fn with_conclusions(&self) -> Value {
        let mut value = json!(self);
        if let Some(s) = Spread::of(&self.ratios()) {
            value["ratio"] = json!({"median": s.median, "min": s.min, "max": s.max});
        }
        value["passes"] = json!(self.passes());
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(measured: &[f64]) -> Row {
        Row::new("w", "speed", "tokens/s", measured.to_vec())
    }

    #[test]
    fn the_median_of_paired_ratios_meets_the_target_or_not() {
        let row = row(&[30.0, 20.0, 80.0]).against("peer", vec![10.0, 20.0, 20.0], Ratio::Over);
        assert_eq!(row.ratios(), [3.0, 1.0, 4.0]);
        assert_eq!(row.clone().target(Target::AtLeast(3.0)).passes(), Some(true));
        assert_eq!(row.clone().target(Target::AtMost(2.9)).passes(), Some(false));
        assert_eq!(row.passes(), None);
    }

    #[test]
    fn a_comparison_without_its_other_side_has_no_verdict() {
        let row = row(&[30.0]).against("peer", Vec::new(), Ratio::Over).target(Target::AtLeast(1.0));
        assert_eq!((row.ratios(), row.passes()), (Vec::new(), None));
    }

    #[test]
    fn faster_is_the_others_duration_over_ours() {
        assert_eq!(row(&[2.0]).against("peer", vec![8.0], Ratio::Under).ratios(), [4.0]);
    }

    #[test]
    fn an_even_number_of_values_has_its_median_between_the_two_in_the_middle() {
        let spread = Spread::of(&[4.0, 1.0, 3.0, 2.0]);
        assert_eq!(spread, Some(Spread { median: 2.5, min: 1.0, max: 4.0 }));
        assert_eq!(Spread::of(&[]), None);
    }
}
