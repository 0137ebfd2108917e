//! Tokenising many pairs on the threads that RAYON_NUM_THREADS allows.

use bso_data::{ChatTokenizer, LoadOptions, TemplateChoice, Truncation, load_pairs, tokenise_pairs};
use bso_durable::{Event, Observer};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

/// What to do.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Settings {
    /// Folder with the tokenizer.
    pub model: PathBuf,
    /// Pairs, repeated until there are `count`.
    pub pairs: PathBuf,
    /// How many pairs.
    pub count: usize,
    /// Longest prompt with response, tokens.
    pub max_length: usize,
}

/// Counts what a person watching would see.
struct Counter(AtomicUsize);

impl Observer for Counter {
    fn event(&self, _: Event) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

/// `seconds`, `tokens`, and `events` of progress.
pub fn run(settings: &Settings) -> anyhow::Result<Value> {
    let tokenizer = ChatTokenizer::load(&settings.model, &TemplateChoice::Auto)?;
    let mut loaded = load_pairs(&settings.pairs, &LoadOptions::default(), &bso_durable::Silent)?;
    let pairs: Vec<_> = loaded.examples.iter().cycle().take(settings.count).cloned().collect();
    let truncation = Truncation { max_length: Some(settings.max_length), ..Truncation::default() };
    let watcher = Counter(AtomicUsize::new(0));
    let start = Instant::now();
    let tokenised = tokenise_pairs(&pairs, &tokenizer, truncation, &mut loaded.ledger, &watcher)?;
    let seconds = start.elapsed().as_secs_f64();
    let tokens: usize = tokenised.iter().map(|pair| pair.chosen.len() + pair.rejected.len()).sum();
    Ok(json!({"seconds": seconds, "tokens": tokens, "events": watcher.0.into_inner()}))
}
