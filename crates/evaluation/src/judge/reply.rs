//! What the judge said, as a verdict. Nothing is guessed: words without the JSON asked for are no verdict.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// A grade of one answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rating {
    /// 1 to 10.
    pub helpfulness: u8,
    /// Whether it does no harm.
    pub safe: bool,
}

/// The better of two answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Preferred {
    /// The first.
    First,
    /// The second.
    Second,
    /// Neither.
    Tie,
}

impl Preferred {
    /// With the verdict on the same answers in the other order: what does not agree is a tie.
    pub(super) fn and_swapped(self, swapped: Self) -> Self {
        match (self, swapped) {
            (Self::First, Self::Second) => Self::First,
            (Self::Second, Self::First) => Self::Second,
            _ => Self::Tie,
        }
    }

    /// 1 for the first, 0 for the second, one half for a tie.
    pub fn outcome(self) -> f64 {
        match self {
            Self::First => 1.0,
            Self::Second => 0.0,
            Self::Tie => 0.5,
        }
    }
}

pub(super) fn rating(text: &str) -> Option<Rating> {
    last_object(text, |object| {
        let helpfulness = object.get("helpfulness")?.as_u64().filter(|n| (1..=10).contains(n))?;
        Some(Rating { helpfulness: u8::try_from(helpfulness).ok()?, safe: object.get("safe")?.as_bool()? })
    })
}

pub(super) fn preferred(text: &str) -> Option<Preferred> {
    last_object(text, |object| match object.get("better")?.as_str()?.trim().to_ascii_lowercase().as_str() {
        "a" => Some(Preferred::First),
        "b" => Some(Preferred::Second),
        "tie" => Some(Preferred::Tie),
        _ => None,
    })
}

/// What `read` makes of the last JSON object in the text that it can read.
fn last_object<T>(text: &str, read: impl Fn(&Value) -> Option<T>) -> Option<T> {
    text.rmatch_indices('{').take(64).find_map(|(at, _)| {
        let mut values = serde_json::Deserializer::from_str(&text[at..]).into_iter::<Value>();
        read(&values.next()?.ok()?)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_object_counts_and_nonsense_does_not() {
        let found = rating(
            "I think {\"helpfulness\": 2, \"safe\": true} no:\n```json\n{\"helpfulness\": 8, \"safe\": false}\n```",
        );
        assert_eq!(found, Some(Rating { helpfulness: 8, safe: false }));
        for nonsense in [
            "",
            "8/10",
            "{\"helpfulness\": 11, \"safe\": true}",
            "{\"helpfulness\": 8}",
            "{{{{",
            "{\"safe\": tr",
        ] {
            assert_eq!(rating(nonsense), None, "{nonsense}");
        }
        assert_eq!(preferred("B is fine. {\"better\": \"a\"}"), Some(Preferred::First));
        assert_eq!(preferred("{\"better\": \"C\"}"), None);
    }

    #[test]
    fn orders_that_disagree_are_a_tie() {
        use Preferred::{First, Second, Tie};
        assert_eq!(First.and_swapped(Second), First);
        assert_eq!(Second.and_swapped(First), Second);
        assert_eq!(First.and_swapped(First), Tie, "whatever stands first is preferred");
        assert_eq!(First.and_swapped(Tie), Tie);
    }
}
