//! Which of a row's two judgements orders the pair.

use serde::{Deserialize, Serialize};

/// The judgement that decides which response is chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preference {
    /// The more helpful response (`better_response_id`; the written order of flat and dialogue rows).
    #[default]
    Better,
    /// The safer response (`safer_response_id`; in flat rows the safe one where exactly one is safe).
    Safer,
    /// As `Better`, and only pairs whose chosen response is safe.
    SafeBetter,
}

impl Preference {
    /// The name used in configs.
    pub fn name(self) -> &'static str {
        match self {
            Self::Better => "better",
            Self::Safer => "safer",
            Self::SafeBetter => "safe_better",
        }
    }
}

impl std::str::FromStr for Preference {
    type Err = crate::DataError;

    fn from_str(name: &str) -> Result<Self, Self::Err> {
        match name {
            "better" => Ok(Self::Better),
            "safer" => Ok(Self::Safer),
            "safe_better" => Ok(Self::SafeBetter),
            _ => Err(crate::DataError::Setting(format!(
                "preference {name:?} is unknown; use better, safer or safe_better"
            ))),
        }
    }
}
