//! The data transforms of SafeDPO (arXiv 2505.20065), applied to pairs before anything is learnt from them.

use serde::{Deserialize, Serialize};

/// What to do with a pair given its safety labels.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SafetyTransform {
    /// Every pair as it is.
    #[default]
    None,
    /// T(D): keep if chosen is safe; swap if chosen is unsafe and rejected is safe; drop if both are unsafe.
    SwapDrop,
    /// Drop if both are unsafe; the rest as it is.
    Drop,
}

/// The outcome for one pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transformed {
    /// Used as it is.
    Keep,
    /// Used with chosen and rejected exchanged.
    Swap,
    /// Not used.
    Drop,
}

impl SafetyTransform {
    /// All transforms, in the order in which they are shown.
    pub const ALL: [Self; 3] = [Self::None, Self::SwapDrop, Self::Drop];

    /// The outcome for a pair with these labels.
    pub fn apply(self, chosen_unsafe: bool, rejected_unsafe: bool) -> Transformed {
        match (self, chosen_unsafe, rejected_unsafe) {
            (Self::SwapDrop | Self::Drop, true, true) => Transformed::Drop,
            (Self::SwapDrop, true, false) => Transformed::Swap,
            _ => Transformed::Keep,
        }
    }

    /// Whether both safety labels must be known.
    pub fn needs_labels(self) -> bool {
        self != Self::None
    }

    /// The name used in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::SwapDrop => "swap_drop",
            Self::Drop => "drop",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_three_transforms_on_the_four_quadrants() {
        use Transformed::{Drop, Keep, Swap};
        let all = |t: SafetyTransform| {
            [(false, false), (false, true), (true, false), (true, true)].map(|(c, r)| t.apply(c, r))
        };
        assert_eq!(all(SafetyTransform::None), [Keep, Keep, Keep, Keep]);
        assert_eq!(all(SafetyTransform::SwapDrop), [Keep, Keep, Swap, Drop]);
        assert_eq!(all(SafetyTransform::Drop), [Keep, Keep, Keep, Drop]);
    }
}
