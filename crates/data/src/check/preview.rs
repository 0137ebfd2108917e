//! A row with its loss mask: which pieces of its text are scored.

use crate::origin::Origin;
use crate::pair::PreferencePair;
use crate::tokenise::TokenisedSequence;
use crate::tokenizer::ChatTokenizer;
use serde::Serialize;

/// A stretch of text, scored or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Piece {
    /// The text, special tokens written out. From data: untrusted.
    pub text: String,
    /// Whether the loss sees it.
    pub scored: bool,
}

/// One row as the loss sees it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PreviewRow {
    /// Where the row stands.
    pub origin: Origin,
    /// Prompt and chosen response.
    pub chosen: Vec<Piece>,
    /// Prompt and rejected response.
    pub rejected: Vec<Piece>,
    /// `token` with a tokenizer, `text` without: then the end-of-turn and the template are not shown.
    pub unit: &'static str,
    /// Scored tokens of (chosen, rejected), with a tokenizer.
    pub scored_tokens: Option<(usize, usize)>,
}

/// Response tokens shown one by one; the rest is one piece.
const SHOWN: usize = 96;

pub(super) fn of_text(pair: &PreferencePair) -> PreviewRow {
    let prompt = Piece { text: crate::tokenizer::plain_text(&pair.prompt), scored: false };
    let response = |text: &str| vec![prompt.clone(), Piece { text: text.to_owned(), scored: true }];
    PreviewRow {
        origin: pair.origin.clone(),
        chosen: response(&pair.chosen),
        rejected: response(&pair.rejected),
        unit: "text",
        scored_tokens: None,
    }
}

pub(super) fn of_tokens(
    tokenizer: &ChatTokenizer,
    origin: &Origin,
    chosen: &TokenisedSequence,
    rejected: &TokenisedSequence,
) -> PreviewRow {
    PreviewRow {
        origin: origin.clone(),
        chosen: pieces(tokenizer, chosen),
        rejected: pieces(tokenizer, rejected),
        unit: "token",
        scored_tokens: Some((chosen.response.len(), rejected.response.len())),
    }
}

fn pieces(tokenizer: &ChatTokenizer, sequence: &TokenisedSequence) -> Vec<Piece> {
    let mut pieces = vec![Piece { text: tokenizer.decode_with_special(&sequence.prompt), scored: false }];
    let response = &sequence.response;
    let shown = response.len().min(SHOWN);
    let mut said = String::new();
    for end in 1..=shown {
        let text = tokenizer.decode_with_special(&response[..end]);
        // A token may end inside a character; it is shown with the one that completes it.
        if text.ends_with('\u{fffd}') && end < response.len() {
            continue;
        }
        if let Some(new) = text.strip_prefix(said.as_str()).filter(|t| !t.is_empty()) {
            pieces.push(Piece { text: new.to_owned(), scored: true });
        }
        said = text;
    }
    if shown < response.len() {
        let text = tokenizer.decode_with_special(response);
        let rest = text.strip_prefix(said.as_str()).unwrap_or(&text).to_owned();
        pieces.push(Piece { text: rest, scored: true });
    }
    pieces
}
