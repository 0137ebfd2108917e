//! What is done to a pair's labels and orientation before the loss sees it (SafeDPO, arXiv 2505.20065, section 4).

use crate::error::ObjectiveError;
use crate::pair::SafetyLabels;

/// A data transform.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum SafetyTransform {
    /// Every pair as it is.
    #[default]
    None,
    /// T(D): an unsafe chosen beside a safe rejected response is swapped; both unsafe is dropped.
    SwapDrop,
    /// Both unsafe is dropped; the orientation of the rest stays.
    Drop,
}

/// What a transform does with one pair.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transformed {
    /// Stays as it is.
    Keep,
    /// Chosen and rejected change places, labels included.
    Swap,
    /// Leaves the data.
    Drop,
}

impl SafetyTransform {
    /// The names as configs write them.
    pub const NAMES: [&'static str; 3] = ["none", "swap_drop", "drop"];

    /// Reads a name.
    ///
    /// # Errors
    /// Any name not in [`SafetyTransform::NAMES`].
    pub fn parse(name: &str) -> Result<Self, ObjectiveError> {
        match name {
            "none" => Ok(Self::None),
            "swap_drop" => Ok(Self::SwapDrop),
            "drop" => Ok(Self::Drop),
            _ => Err(ObjectiveError::UnknownName {
                kind: "safety_transform",
                name: name.to_owned(),
                accepted: Self::NAMES.join(", "),
            }),
        }
    }

    /// The name as configs write it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SwapDrop => "swap_drop",
            Self::Drop => "drop",
        }
    }

    /// Whether pairs without safety labels are an error.
    #[must_use]
    pub fn needs_labels(self) -> bool {
        self != Self::None
    }

    /// What becomes of a pair with these labels.
    #[must_use]
    pub fn apply(self, labels: SafetyLabels) -> Transformed {
        match (self, labels.chosen_unsafe, labels.rejected_unsafe) {
            (Self::None, ..) => Transformed::Keep,
            (_, true, true) => Transformed::Drop,
            (Self::SwapDrop, true, false) => Transformed::Swap,
            _ => Transformed::Keep,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn swap_drop_swaps_unsafe_winners_and_drops_unsafe_pairs() {
        let apply = |t: SafetyTransform, chosen_unsafe, rejected_unsafe| {
            t.apply(SafetyLabels { chosen_unsafe, rejected_unsafe })
        };
        use SafetyTransform as T;
        assert_eq!(apply(T::SwapDrop, false, false), Transformed::Keep);
        assert_eq!(apply(T::SwapDrop, false, true), Transformed::Keep);
        assert_eq!(apply(T::SwapDrop, true, false), Transformed::Swap);
        assert_eq!(apply(T::SwapDrop, true, true), Transformed::Drop);
        assert_eq!(apply(T::Drop, true, false), Transformed::Keep);
        assert_eq!(apply(T::Drop, true, true), Transformed::Drop);
        assert_eq!(apply(T::None, true, true), Transformed::Keep);
    }
}
