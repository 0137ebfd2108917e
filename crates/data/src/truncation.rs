//! What happens to sequences longer than `max_length`. Which tokens are framing is for the tokenizer to say.

use crate::error::DataError;
use serde::{Deserialize, Serialize};

/// What to do with a sequence that is too long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TruncationMode {
    /// Cut the response before its end-of-turn token, which stays.
    #[default]
    KeepStart,
    /// Cut the start of the prompt's text, never its special framing.
    KeepEnd,
    /// Leave the row out.
    Drop,
    /// Stop with an error that names the row.
    Raise,
}

impl std::str::FromStr for TruncationMode {
    type Err = DataError;

    fn from_str(name: &str) -> Result<Self, DataError> {
        match name {
            "keep_start" => Ok(Self::KeepStart),
            "keep_end" => Ok(Self::KeepEnd),
            "drop" => Ok(Self::Drop),
            "raise" => Ok(Self::Raise),
            _ => Err(DataError::Setting(format!(
                "truncation_mode {name:?} is unknown; use keep_start, keep_end, drop or raise"
            ))),
        }
    }
}

/// The limit and what happens beyond it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Truncation {
    /// Prompt and response tokens together; none for no limit.
    pub max_length: Option<usize>,
    /// What happens beyond.
    pub mode: TruncationMode,
}

impl Truncation {
    /// The same with so many tokens set aside.
    pub(crate) fn less(self, tokens: usize) -> Self {
        Self { max_length: self.max_length.map(|limit| limit.saturating_sub(tokens)), ..self }
    }
}

/// What became of the responses to one prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Fitted {
    /// All fit as they were or were cut; the kinds of cut are named.
    Kept(Vec<&'static str>),
    /// They cannot be used, and why.
    Dropped(&'static str),
    /// Mode `raise`: the longest length.
    TooLong(usize),
}

impl Fitted {
    /// Counting so many more tokens.
    pub(crate) fn and(self, tokens: usize) -> Self {
        match self {
            Self::TooLong(length) => Self::TooLong(length + tokens),
            other => other,
        }
    }
}

/// A response must keep its end-of-turn token and at least one token before it.
const LEAST_RESPONSE: usize = 2;

/// Fits `responses` (each ending in its end-of-turn token) to one `prompt` within the limit. `cuttable` gives the
/// positions of the prompt's tokens that may go, in order; it is asked only when the prompt must be cut.
pub(crate) fn fit(
    truncation: Truncation,
    prompt: &mut Vec<u32>,
    responses: &mut [&mut Vec<u32>],
    cuttable: impl FnOnce() -> Result<Vec<usize>, DataError>,
) -> Result<Fitted, DataError> {
    let Some(limit) = truncation.max_length else { return Ok(Fitted::Kept(Vec::new())) };
    let longest = responses.iter().map(|r| r.len()).max().unwrap_or(0);
    if prompt.len() + longest <= limit {
        return Ok(Fitted::Kept(Vec::new()));
    }
    match truncation.mode {
        TruncationMode::Raise => Ok(Fitted::TooLong(prompt.len() + longest)),
        TruncationMode::Drop => Ok(Fitted::Dropped("longer than max_length")),
        TruncationMode::KeepStart => {
            let room = limit.saturating_sub(prompt.len());
            if room < LEAST_RESPONSE {
                return Ok(Fitted::Dropped("the prompt alone fills max_length"));
            }
            let mut cuts = Vec::new();
            for response in responses {
                if response.len() > room {
                    let end = response.last().copied();
                    response.truncate(room - 1);
                    response.extend(end);
                    cuts.push("response end cut (keep_start)");
                }
            }
            Ok(Fitted::Kept(cuts))
        }
        TruncationMode::KeepEnd => {
            let excess = prompt.len() + longest - limit;
            // A prompt that ends where finished turn and header part is shorter than the one asked about.
            let cut: Vec<usize> = cuttable()?.into_iter().filter(|&i| i < prompt.len()).collect();
            if cut.len() < excess {
                return Ok(Fitted::Dropped("response and framing alone exceed max_length (keep_end)"));
            }
            let mut gone = vec![false; prompt.len()];
            cut.into_iter().take(excess).for_each(|i| gone[i] = true);
            let mut at = 0;
            prompt.retain(|_| {
                at += 1;
                !gone[at - 1]
            });
            Ok(Fitted::Kept(vec!["prompt start cut (keep_end)"]))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(mode: TruncationMode, limit: usize) -> (Fitted, Vec<u32>, Vec<u32>, Vec<u32>) {
        let (mut prompt, mut a, mut b) = (vec![1, 10, 11, 12, 2], vec![20, 21, 22, 9], vec![30, 9]);
        let truncation = Truncation { max_length: Some(limit), mode };
        let fitted = fit(truncation, &mut prompt, &mut [&mut a, &mut b], || Ok(vec![1, 2, 3])).unwrap();
        (fitted, prompt, a, b)
    }

    #[test]
    fn truncation_keeps_end_of_turn() {
        let (fitted, prompt, a, b) = run(TruncationMode::KeepStart, 7);
        assert_eq!(fitted, Fitted::Kept(vec!["response end cut (keep_start)"]));
        assert_eq!((prompt.len(), a, b), (5, vec![20, 9], vec![30, 9]));
        assert!(matches!(run(TruncationMode::KeepStart, 6).0, Fitted::Dropped(_)));
    }

    #[test]
    fn keep_end_cuts_the_prompts_text_and_never_its_framing() {
        let (fitted, prompt, a, _) = run(TruncationMode::KeepEnd, 7);
        assert_eq!(fitted, Fitted::Kept(vec!["prompt start cut (keep_end)"]));
        assert_eq!((prompt, a.len()), (vec![1, 12, 2], 4));
        assert!(matches!(run(TruncationMode::KeepEnd, 5).0, Fitted::Dropped(_)));
    }

    #[test]
    fn drop_raise_and_exact_fit() {
        assert!(matches!(run(TruncationMode::Drop, 8).0, Fitted::Dropped(_)));
        assert_eq!(run(TruncationMode::Raise, 8).0, Fitted::TooLong(9));
        for mode in
            [TruncationMode::KeepStart, TruncationMode::KeepEnd, TruncationMode::Drop, TruncationMode::Raise]
        {
            assert_eq!(run(mode, 9).0, Fitted::Kept(vec![]));
        }
    }
}
