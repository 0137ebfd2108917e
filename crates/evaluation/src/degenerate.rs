//! Text that is no answer: empty, without an end, or the same words over and over.

use std::collections::HashSet;

/// Fewer words (or, in text without blanks, characters) than this are not called repetitive.
const LEAST_WORDS: usize = 20;
/// A share of repeated 4-grams from here on is repetition.
const REPEATED_SHARE: f64 = 0.5;

/// How an answer is degenerate; several may hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Degenerate {
    /// Nothing but white space.
    pub empty: bool,
    /// It ran into the limit of tokens instead of ending its turn.
    pub no_end: bool,
    /// At least half of its 4-grams of words stood in it before (rep-4 of Welleck et al., 2020).
    pub repeated: bool,
}

impl Degenerate {
    /// Of an answer that came to its end, or did not (`ended`).
    pub fn of(answer: &str, ended: bool) -> Self {
        Self {
            empty: answer.trim().is_empty(),
            no_end: !ended,
            repeated: repeated_share(answer) >= REPEATED_SHARE,
        }
    }

    /// Whether the answer counts as degenerate. An answer that is only cut by the limit does not: with a small limit good
    /// answers are cut as well; that share stands beside it.
    pub fn is_degenerate(self) -> bool {
        self.empty || self.repeated
    }
}

/// The share of 4-grams that stood in the text before, in [0, 1]; of words, or of characters where there are fewer than 20
/// words in a long text (languages without blanks, one letter for ever). 0 for short text.
pub fn repeated_share(text: &str) -> f64 {
    let words: Vec<&str> = text.split_whitespace().collect();
    if words.len() >= LEAST_WORDS {
        return repeats(&words, 4);
    }
    let characters: Vec<char> = text.chars().filter(|c| !c.is_whitespace()).collect();
    if characters.len() >= 8 * LEAST_WORDS { repeats(&characters, 10) } else { 0.0 }
}

fn repeats<T: Eq + std::hash::Hash>(items: &[T], n: usize) -> f64 {
    let total = items.len() + 1 - n;
    let distinct: HashSet<&[T]> = items.windows(n).collect();
    1.0 - distinct.len() as f64 / total as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repetition_is_the_share_of_four_grams_seen_before() {
        let distinct: Vec<String> = (0..30).map(|i| i.to_string()).collect();
        assert_eq!(repeated_share(&distinct.join(" ")), 0.0);
        // 40 words of period 4 hold 37 4-grams, 4 of them distinct.
        assert!((repeated_share(&"a b c d ".repeat(10)) - (1.0 - 4.0 / 37.0)).abs() < 1e-12);
        assert_eq!(repeated_share("no no no no"), 0.0);
        assert!(repeated_share(&"a".repeat(200)) > 0.9);
    }

    #[test]
    fn kinds_of_degenerate_text() {
        assert!(Degenerate::of(" \n", true).is_degenerate());
        let cut = Degenerate::of("a fine answer", false);
        assert!(cut.no_end && !cut.is_degenerate());
        assert!(Degenerate::of(&"yes ".repeat(50), true).repeated);
    }
}
