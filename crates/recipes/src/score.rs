//! Log-probs or scores of many examples without gradients: for the reference and for evaluation.

use crate::RecipeError;
use crate::batches::by_tokens;
use crate::example::Example;
use crate::step::pack;
use bso_durable::{Interrupt, Observer, Task};
use bso_model::{Decoder, Workspace};

/// Tokens in one pass: enough for matrix products to run at full speed, little enough for a small machine.
pub const TOKENS: usize = 4096;

/// For each example the log-probs (nats) of its [`Example::scored`] sequences, or their scores under a scalar head.
///
/// # Errors
/// What the model refuses; [`RecipeError::Interrupted`] when the user asks to stop.
pub fn score(
    decoder: &Decoder,
    examples: &[Example],
    name: &str,
    interrupt: &Interrupt,
    observer: &dyn Observer,
) -> Result<Vec<Vec<f64>>, RecipeError> {
    let mut scored = Vec::with_capacity(examples.len());
    score_rest(decoder, examples, &mut scored, name, (interrupt, observer))?;
    Ok(scored)
}

/// As [`score`], for the examples that `scored` does not hold yet. What is done when the user asks to stop stays in `scored`,
/// and another call goes on from there to the same numbers: passes begin where they would have begun.
///
/// # Errors
/// As [`score`].
pub fn score_rest(
    decoder: &Decoder,
    examples: &[Example],
    scored: &mut Vec<Vec<f64>>,
    name: &str,
    (interrupt, observer): (&Interrupt, &dyn Observer),
) -> Result<(), RecipeError> {
    let mut task = Task::start(observer, name, Some(examples.len() as u64), "examples");
    let mut workspace = Workspace::new();
    let before = scored.len();
    task.advance(before as u64, String::new);
    for group in by_tokens(examples.iter().map(Example::tokens), TOKENS) {
        if group.end <= before {
            continue;
        }
        // A count that is not a pass's, of other passes: that pass is done again.
        scored.truncate(group.start);
        if interrupt.is_raised() {
            return Err(RecipeError::Interrupted);
        }
        let group = &examples[group];
        let batch = pack(decoder.config().reads(), group.iter().flat_map(Example::scored))?;
        let mut outputs = decoder.outputs_in(&batch, &mut workspace)?.into_iter();
        scored.extend(group.iter().map(|e| outputs.by_ref().take(e.scored().count()).collect::<Vec<f64>>()));
        task.advance(group.len() as u64, String::new);
    }
    Ok(())
}
