//! Examples to token sequences, on all cores, every cut and loss counted.

use crate::error::DataError;
use crate::ledger::Ledger;
use crate::origin::Origin;
use crate::pair::{PreferencePair, SftExample, UnpairedExample};
use crate::tokenizer::ChatTokenizer;
use crate::truncation::{Fitted, Truncation, fit};
use bso_durable::{Observer, Task};
use rayon::prelude::*;
use serde::Serialize;

/// A prompt and the response that is scored.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TokenisedSequence {
    /// Token ids of the prompt, not scored.
    pub prompt: Vec<u32>,
    /// Token ids of the response, its end-of-turn token included; all are scored.
    pub response: Vec<u32>,
}

impl TokenisedSequence {
    /// Prompt and response tokens together.
    pub fn len(&self) -> usize {
        self.prompt.len() + self.response.len()
    }

    /// Whether there is no token at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// A preference pair in tokens; both prompts are equal unless the template writes them differently.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenisedPair {
    /// The preferred response behind its prompt.
    pub chosen: TokenisedSequence,
    /// The other response behind its prompt.
    pub rejected: TokenisedSequence,
    /// Whether the chosen response is unsafe, if labelled.
    pub chosen_unsafe: Option<bool>,
    /// Whether the rejected response is unsafe, if labelled.
    pub rejected_unsafe: Option<bool>,
    /// m(chosen) and m(rejected) for MODPO, if both are given.
    pub margins: Option<(f64, f64)>,
    /// Where the row stands.
    pub origin: Origin,
}

/// A text to imitate in tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenisedSft {
    /// The prompt and the response to imitate.
    pub sequence: TokenisedSequence,
    /// Where the row stands.
    pub origin: Origin,
}

/// A judged completion in tokens.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct TokenisedUnpaired {
    /// The prompt and its completion.
    pub sequence: TokenisedSequence,
    /// Whether the completion is desirable.
    pub desirable: bool,
    /// Where the row stands.
    pub origin: Origin,
}

/// What became of one example.
enum Outcome<T> {
    Kept(T, Vec<&'static str>),
    Dropped(&'static str),
}

/// Rows handed to the cores at a time, between two progress events.
const BATCH: usize = 1024;

/// Tokenises preference pairs in order. Cuts and drops are counted in `ledger`, whose `kept` becomes what is returned.
///
/// # Errors
/// A template or the tokenizer fails on a row (named), or a row is too long under mode `raise`.
pub fn tokenise_pairs(
    pairs: &[PreferencePair],
    tokenizer: &ChatTokenizer,
    truncation: Truncation,
    ledger: &mut Ledger,
    observer: &dyn Observer,
) -> Result<Vec<TokenisedPair>, DataError> {
    let work = Work { truncation, ledger, observer, what: "tokenising pairs" };
    work.run(
        pairs,
        |p| &p.origin,
        |pair| {
            let encoded = tokenizer.encode_pair(&pair.prompt, [&pair.chosen, &pair.rejected])?;
            let behind = tokenizer.behind_turn(&pair.prompt)?;
            let room = truncation.less(behind.len());
            let (mut chosen, mut rejected) = (encoded.first, encoded.second);
            // Where the prompts differ each sequence is cut by itself.
            let fitted = if chosen.prompt == rejected.prompt {
                let mut responses = [&mut chosen.response, &mut rejected.response];
                let fitted =
                    fit(room, &mut chosen.prompt, &mut responses, || tokenizer.cuttable(&pair.prompt))?;
                rejected.prompt.clone_from(&chosen.prompt);
                fitted
            } else {
                let one = fit_one(&mut chosen, tokenizer, &pair.prompt, room)?;
                let two = fit_one(&mut rejected, tokenizer, &pair.prompt, room)?;
                both(one, two)
            };
            chosen.response.extend(&behind);
            rejected.response.extend(&behind);
            outcome(fitted.and(behind.len()), &pair.origin, truncation, || {
                if chosen == rejected {
                    return Outcome::Dropped("responses are identical after truncation or in tokens");
                }
                let kept = TokenisedPair {
                    chosen,
                    rejected,
                    chosen_unsafe: pair.chosen_unsafe,
                    rejected_unsafe: pair.rejected_unsafe,
                    margins: pair.chosen_margin.zip(pair.rejected_margin),
                    origin: pair.origin.clone(),
                };
                Outcome::Kept(kept, Vec::new())
            })
        },
    )
}

/// Tokenises text to imitate; otherwise as [`tokenise_pairs`].
///
/// # Errors
/// As [`tokenise_pairs`].
pub fn tokenise_sft(
    examples: &[SftExample],
    tokenizer: &ChatTokenizer,
    truncation: Truncation,
    ledger: &mut Ledger,
    observer: &dyn Observer,
) -> Result<Vec<TokenisedSft>, DataError> {
    let work = Work { truncation, ledger, observer, what: "tokenising examples" };
    work.run(
        examples,
        |e| &e.origin,
        |example| {
            let mut sequence = tokenizer.encode_response(&example.prompt, &example.response)?;
            let behind = tokenizer.behind_turn(&example.prompt)?;
            let fitted = fit_one(&mut sequence, tokenizer, &example.prompt, truncation.less(behind.len()))?;
            let fitted = fitted.and(behind.len());
            sequence.response.extend(behind);
            outcome(fitted, &example.origin, truncation, || {
                Outcome::Kept(TokenisedSft { sequence, origin: example.origin.clone() }, Vec::new())
            })
        },
    )
}

/// Tokenises judged completions; otherwise as [`tokenise_pairs`].
///
/// # Errors
/// As [`tokenise_pairs`].
pub fn tokenise_unpaired(
    examples: &[UnpairedExample],
    tokenizer: &ChatTokenizer,
    truncation: Truncation,
    ledger: &mut Ledger,
    observer: &dyn Observer,
) -> Result<Vec<TokenisedUnpaired>, DataError> {
    let work = Work { truncation, ledger, observer, what: "tokenising examples" };
    work.run(
        examples,
        |e| &e.origin,
        |example| {
            let mut sequence = tokenizer.encode_response(&example.prompt, &example.completion)?;
            let fitted = fit_one(&mut sequence, tokenizer, &example.prompt, truncation)?;
            outcome(fitted, &example.origin, truncation, || {
                let kept = TokenisedUnpaired {
                    sequence,
                    desirable: example.desirable,
                    origin: example.origin.clone(),
                };
                Outcome::Kept(kept, Vec::new())
            })
        },
    )
}

fn fit_one(
    sequence: &mut TokenisedSequence,
    tokenizer: &ChatTokenizer,
    prompt: &[crate::message::Message],
    truncation: Truncation,
) -> Result<Fitted, DataError> {
    fit(truncation, &mut sequence.prompt, &mut [&mut sequence.response], || tokenizer.cuttable(prompt))
}

fn both(one: Fitted, two: Fitted) -> Fitted {
    match (one, two) {
        (Fitted::Kept(mut a), Fitted::Kept(b)) => {
            a.extend(b);
            Fitted::Kept(a)
        }
        (Fitted::TooLong(a), Fitted::TooLong(b)) => Fitted::TooLong(a.max(b)),
        (Fitted::Kept(_), other) | (other, _) => other,
    }
}

fn outcome<T>(
    fitted: Fitted,
    origin: &Origin,
    truncation: Truncation,
    keep: impl FnOnce() -> Outcome<T>,
) -> Result<Outcome<T>, DataError> {
    match fitted {
        Fitted::Dropped(why) => Ok(Outcome::Dropped(why)),
        Fitted::TooLong(tokens) => Err(DataError::TooLong {
            origin: origin.clone(),
            tokens,
            max_length: truncation.max_length.unwrap_or(usize::MAX),
        }),
        Fitted::Kept(cuts) => Ok(match keep() {
            Outcome::Kept(value, _) => Outcome::Kept(value, cuts),
            dropped => dropped,
        }),
    }
}

struct Work<'a> {
    truncation: Truncation,
    ledger: &'a mut Ledger,
    observer: &'a dyn Observer,
    what: &'static str,
}

impl Work<'_> {
    /// The same result whatever the number of threads: outcomes are counted in the order of the rows.
    fn run<E: Sync, T: Send>(
        self,
        examples: &[E],
        origin: impl Fn(&E) -> &Origin + Sync,
        one: impl Fn(&E) -> Result<Outcome<T>, DataError> + Sync,
    ) -> Result<Vec<T>, DataError> {
        if self.truncation.max_length == Some(0) {
            return Err(DataError::Setting("max_length must be at least 1".to_owned()));
        }
        log::info!("{} of {} on {} threads", self.what, examples.len(), rayon::current_num_threads());
        let mut task = Task::start(self.observer, self.what, Some(examples.len() as u64), "rows");
        let mut kept = Vec::with_capacity(examples.len());
        for batch in examples.chunks(BATCH) {
            let outcomes: Vec<_> =
                batch.par_iter().map(|e| one(e).map_err(|error| error.at(origin(e)))).collect();
            for (example, outcome) in batch.iter().zip(outcomes) {
                match outcome? {
                    Outcome::Kept(value, cuts) => {
                        cuts.into_iter().for_each(|cut| self.ledger.cut(cut, origin(example)));
                        kept.push(value);
                    }
                    Outcome::Dropped(why) => self.ledger.drop(why, origin(example)),
                }
            }
            task.advance(batch.len() as u64, String::new);
        }
        self.ledger.kept = kept.len();
        Ok(kept)
    }
}
