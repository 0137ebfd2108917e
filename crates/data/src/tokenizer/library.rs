//! The `tokenizers` crate behind a wall: hostile files and texts give errors, never panics.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use tokenizers::{AddedToken, Tokenizer};

/// Token ids with the byte range of the text that each stands for.
pub(super) struct Encoded {
    pub(super) ids: Vec<u32>,
    pub(super) offsets: Vec<(usize, usize)>,
}

#[derive(Debug)]
pub(super) struct Library {
    tokenizer: Tokenizer,
    vocab_size: usize,
}

/// Ids beyond this cannot be an embedding's rows.
const MAX_ID: u32 = 1 << 24;

impl Library {
    pub(super) fn new(json: &[u8]) -> Result<Self, String> {
        let mut tokenizer = guarded("reading tokenizer.json", || Tokenizer::from_bytes(json))
            .map_err(|e| format!("tokenizer.json cannot be used: {e}"))?;
        // Truncation and padding stored in the file would silently cut what is scored.
        let _ = tokenizer.with_truncation(None);
        tokenizer.with_padding(None);
        let mut library = Self { tokenizer, vocab_size: 0 };
        library.measure()?;
        Ok(library)
    }

    fn measure(&mut self) -> Result<(), String> {
        let largest = self.tokenizer.get_vocab(true).into_values().max();
        let Some(largest) = largest else { return Err("tokenizer.json has an empty vocabulary".to_owned()) };
        if largest > MAX_ID {
            return Err(format!("tokenizer.json has the token id {largest}, beyond any embedding"));
        }
        self.vocab_size = largest as usize + 1;
        Ok(())
    }

    /// Marks tokens as special, adding those that are not in the vocabulary behind its end, as transformers does.
    pub(super) fn add_specials(&mut self, tokens: &[String]) -> Result<(), String> {
        let special = self.special_ids();
        let new: Vec<AddedToken> = tokens
            .iter()
            .filter(|t| !t.is_empty() && self.id(t).is_none_or(|id| !special.contains(&id)))
            .map(|t| AddedToken::from(t.as_str(), true).normalized(false))
            .collect();
        if new.is_empty() {
            return Ok(());
        }
        let tokenizer = &mut self.tokenizer;
        guarded("adding special tokens", move || Ok::<_, String>(tokenizer.add_special_tokens(&new)))?;
        self.measure()
    }

    pub(super) fn encode(&self, text: &str, add_special_tokens: bool) -> Result<Encoded, String> {
        let encoding = guarded("encoding", || self.tokenizer.encode(text, add_special_tokens))?;
        Ok(Encoded { ids: encoding.get_ids().to_vec(), offsets: encoding.get_offsets().to_vec() })
    }

    pub(super) fn decode(&self, ids: &[u32], skip_special_tokens: bool) -> String {
        guarded("decoding", || self.tokenizer.decode(ids, skip_special_tokens)).unwrap_or_default()
    }

    pub(super) fn id(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }

    pub(super) fn token(&self, id: u32) -> Option<String> {
        self.tokenizer.id_to_token(id)
    }

    pub(super) fn vocab_size(&self) -> usize {
        self.vocab_size
    }

    pub(super) fn special_ids(&self) -> BTreeSet<u32> {
        self.tokenizer
            .get_added_tokens_decoder()
            .into_iter()
            .filter(|(_, t)| t.special)
            .map(|(id, _)| id)
            .collect()
    }
}

/// Runs foreign code that may panic on foreign input; the panic becomes an error.
fn guarded<T, E: std::fmt::Display>(doing: &str, work: impl FnOnce() -> Result<T, E>) -> Result<T, String> {
    match catch_unwind(AssertUnwindSafe(work)) {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(error)) => Err(error.to_string()),
        Err(panic) => {
            let said = panic
                .downcast_ref::<String>()
                .map(String::as_str)
                .or_else(|| panic.downcast_ref::<&str>().copied())
                .unwrap_or("no message");
            Err(format!("{doing} failed inside the tokenizers library: {said}"))
        }
    }
}
