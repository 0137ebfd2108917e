//! Whether what a run is given belongs together: a tokenizer's ids lie in the embedding, sequences in the context,
//! weights among the finite numbers. Checked before anything depends on it.

use crate::RecipeError;
use crate::config::{LossType, TrainConfig};
use crate::example::Example;
use bso_data::{ChatTokenizer, SafetyTransform};
use bso_durable::{Event, Observer};
use bso_model::{Decoder, ModelConfig, ModelError, Reads};
use std::path::Path;

/// Refuses a tokenizer that can give ids without a row in the embedding of the model in `dir`. Fewer ids than rows
/// are usual: embeddings are padded to round sizes.
///
/// # Errors
/// Both numbers and the first id too many.
pub fn check_vocabulary(
    tokenizer: &ChatTokenizer,
    model: &ModelConfig,
    dir: &Path,
) -> Result<(), RecipeError> {
    let (ids, rows) = (tokenizer.vocab_size(), model.vocab_size);
    if ids <= rows {
        return Ok(());
    }
    let beyond = u32::try_from(ids - 1).map(|id| tokenizer.decode_with_special(&[id])).unwrap_or_default();
    Err(RecipeError::input(format!(
        "the tokenizer has ids up to {} ({beyond:?}), but the embedding of the model in {} has only {rows} rows; use the \
         tokenizer that belongs to the model, or give the embedding a row for every id",
        ids - 1,
        dir.display()
    )))
}

/// Positions that a sequence of `tokens` tokens takes: its last token is predicted and never fed in.
pub fn positions(tokens: usize) -> usize {
    tokens.saturating_sub(1)
}

/// Tells of sequences that end in the padding token of a scalar head, which passes over it.
pub fn warn_of_padding<'a>(
    decoder: &Decoder,
    examples: impl IntoIterator<Item = &'a Example>,
    observer: &dyn Observer,
) {
    let Reads::End { pad: Some(pad) } = decoder.config().reads() else { return };
    let ends = |e: &&Example| e.sequences.iter().any(|s| s.response.last() == Some(&pad));
    if examples.into_iter().any(|e| ends(&e)) {
        tell_of_padding(pad, observer);
    }
}

/// Says what a scalar head does with sequences that end in its padding token.
pub fn tell_of_padding(pad: u32, observer: &dyn Observer) {
    observer.event(Event::Warning(format!(
        "pad_token_id {pad} of the model's config.json ends its sequences, so that their score is read one token earlier, \
         here as in transformers; name another token there to have it read at the end"
    )));
}

/// Refuses a tokenizer of the model in `dir` that gives another text than the run's for some id: tokens are handed from model
/// to model as ids.
///
/// # Errors
/// The first such id with both texts.
pub fn check_same_tokens(
    tokenizer: &ChatTokenizer,
    other: &ChatTokenizer,
    (key, dir): (&str, &Path),
) -> Result<(), RecipeError> {
    let ids = tokenizer.vocab_size().max(other.vocab_size());
    let texts = |id: u32| [tokenizer, other].map(|t| t.decode_with_special(&[id]));
    let differs = (0..ids as u32).map(|id| (id, texts(id))).find(|(_, [ours, theirs])| ours != theirs);
    let Some((id, [ours, theirs])) = differs else { return Ok(()) };
    Err(RecipeError::input(format!(
        "{key}: the tokenizer of {} is not the actor's: id {id} is {theirs:?} there and {ours:?} here; sampled tokens are scored \
         as they are, so train the reward and cost models from a model with the actor's tokenizer",
        dir.display()
    )))
}

/// Refuses examples that are longer than the model's context.
///
/// # Errors
/// How many are too long, the longest, and the `max_length` that would fit.
pub fn check_context<'a>(
    examples: impl IntoIterator<Item = &'a Example>,
    model: &ModelConfig,
    dir: &Path,
) -> Result<(), RecipeError> {
    let length = |e: &Example| e.scored().map(|s| s.len()).max().unwrap_or(0);
    let taken = |n: usize| if model.score.is_some() { n } else { positions(n) };
    let too_long: Vec<usize> =
        examples.into_iter().map(length).filter(|n| taken(*n) > model.max_positions).collect();
    let Some(longest) = too_long.iter().max() else { return Ok(()) };
    Err(RecipeError::input(format!(
        "{} examples are longer than the context of the model in {} ({} positions; the longest has {longest} tokens); set \
         max_length to {} or less: truncation_mode says what is cut",
        too_long.len(),
        dir.display(),
        model.max_positions,
        model.max_positions
    )))
}

/// Warns of a template that does not go with its tokenizer, and of prompts that begin twice.
pub fn warn_of_template<'a>(
    tokenizer: &ChatTokenizer,
    examples: impl IntoIterator<Item = &'a Example>,
    observer: &dyn Observer,
) {
    tokenizer.oddities().into_iter().for_each(|oddity| observer.event(Event::Warning(oddity)));
    let doubled = |e: &&Example| e.sequences.first().is_some_and(|s| tokenizer.doubles_bos(&s.prompt));
    let count = examples.into_iter().filter(doubled).count();
    if let (1.., Some((bos, _))) = (count, tokenizer.bos()) {
        observer.event(Event::Warning(format!(
            "{count} prompts begin with {bos} twice: the rows already hold it; remove it from them, or the template that was \
             applied to them"
        )));
    }
}

/// Mixed pairs from which on the share of unsafe winners means something, and the share that is warned of.
const ONE_SIDED: (usize, f64) = (20, 0.95);

/// Warns where the response that is chosen is nearly always the unsafe one of the two: a preference that never changes outweighs
/// every finite penalty, however large, so that the loss has the unsafe answer as its optimum.
pub fn warn_of_one_sided<'a>(
    config: &TrainConfig,
    examples: impl IntoIterator<Item = &'a Example>,
    observer: &dyn Observer,
) {
    if config.objective.loss_type() != LossType::Bso
        || config.data.safety_transform == SafetyTransform::SwapDrop
    {
        return;
    }
    let labels = examples.into_iter().filter_map(|example| example.labels);
    let mixed: Vec<bool> =
        labels.filter(|l| l.chosen_unsafe != l.rejected_unsafe).map(|l| l.chosen_unsafe).collect();
    let unsafe_wins = mixed.iter().filter(|unsafe_wins| **unsafe_wins).count();
    if mixed.len() >= ONE_SIDED.0 && unsafe_wins as f64 >= ONE_SIDED.1 * mixed.len() as f64 {
        observer.event(Event::Warning(format!(
            "in {unsafe_wins} of {} pairs with one unsafe response it is the chosen one: no penalty outweighs a preference that hardly \
             ever changes, and the model will learn the unsafe answers; set safety_transform: swap_drop",
            mixed.len()
        )));
    }
}

/// Refuses weights that are not finite: nobody should save or answer with them. `when` and `remedy` complete the error.
///
/// # Errors
/// The first tensor with such a number.
pub fn check_finite(decoder: &Decoder, when: &str, remedy: &str) -> Result<(), RecipeError> {
    let engine = decoder.engine();
    for (name, values) in decoder.parameters() {
        if !engine.all_finite(values).map_err(ModelError::from)? {
            let problem = format!("{name} holds weights that are not finite {when}; {remedy}");
            return Err(RecipeError::failed(problem));
        }
    }
    Ok(())
}

/// What helps when training has driven weights out of range.
pub const DIVERGED: &str = "lower learning_rate, set max_grad_norm, or resume from an earlier checkpoint";
