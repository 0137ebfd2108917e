//! r and g of many responses, by a reward and a cost model or by two policies against the reference.

use super::Plan;
use super::relabel::{open, reference};
use super::work::Scorers;
use crate::RecipeError;
use crate::batches::by_tokens;
use crate::score::TOKENS;
use crate::step::pack;
use bso_data::{Message, TokenisedSequence};
use bso_durable::{Interrupt, Observer, Task};
use bso_model::Workspace;
use bso_objective::ScoredSample;
use std::path::Path;

/// A prompt with a response.
pub type Text = (Vec<Message>, String);

/// The scores of all texts, in their order.
pub struct Scored {
    /// r and g.
    pub samples: Vec<ScoredSample>,
    /// Sequences that models computed.
    pub forwards: u64,
}

/// Scores every text; one model is in memory at a time.
///
/// # Errors
/// A model that cannot be used or gives no finite numbers; [`RecipeError::Interrupted`].
pub fn score_all(
    plan: &Plan<'_>,
    by: &Scorers,
    texts: &[Text],
    progress: (&Interrupt, &dyn Observer),
) -> Result<Scored, RecipeError> {
    let of = |dir: &Path, name: &str| outputs(plan, dir, texts, name, progress);
    let count = texts.len() as u64;
    Ok(match by {
        Scorers::Scores { reward, cost } => {
            let (rewards, costs) = (of(reward, "rewards")?, of(cost, "costs")?);
            let both = rewards.into_iter().zip(costs);
            Scored {
                samples: both.map(|(reward, cost)| ScoredSample { reward, safety: -cost }).collect(),
                forwards: 2 * count,
            }
        }
        Scorers::Policies { helpful, safe } => {
            let base = of(reference(plan), "log-probs of the reference")?;
            let (helpful, safe) =
                (of(helpful, "log-probs of the helpful policy")?, of(safe, "log-probs of the safe policy")?);
            let all = base.into_iter().zip(helpful).zip(safe);
            Scored {
                samples: all
                    .map(|((base, helpful), safe)| ScoredSample {
                        reward: helpful - base,
                        safety: safe - base,
                    })
                    .collect(),
                forwards: 3 * count,
            }
        }
    })
}

/// Log-probs or scores of the texts under the model in `dir`. Responses are cut before their end as in training.
fn outputs(
    plan: &Plan<'_>,
    dir: &Path,
    texts: &[Text],
    name: &str,
    (interrupt, observer): (&Interrupt, &dyn Observer),
) -> Result<Vec<f64>, RecipeError> {
    let mut model = open(plan, dir)?;
    let head = model.decoder.config().score.clone();
    if head.is_some() {
        model.tokenizer.keep_whole_turns();
    }
    let longest = plan.config.data.max_length.unwrap_or(usize::MAX).min(model.decoder.config().max_positions);
    let sequences = texts
        .iter()
        .map(|(prompt, response)| Ok(cut(model.tokenizer.encode_response(prompt, response)?, longest)))
        .collect::<Result<Vec<TokenisedSequence>, RecipeError>>()?;
    let mut task = Task::start(observer, name, Some(sequences.len() as u64), "responses");
    let (mut workspace, mut outputs) = (Workspace::new(), Vec::with_capacity(sequences.len()));
    for group in by_tokens(sequences.iter().map(TokenisedSequence::len), TOKENS) {
        if interrupt.is_raised() {
            return Err(RecipeError::Interrupted);
        }
        let group = &sequences[group];
        let batch = pack(model.decoder.config().reads(), group)?;
        outputs.extend(model.decoder.outputs_in(&batch, &mut workspace)?);
        task.advance(group.len() as u64, String::new);
    }
    if let Some(bad) = outputs.iter().find(|x| !x.is_finite()) {
        return Err(RecipeError::failed(format!(
            "{name}: the model in {} gives {bad}: its weights are not finite or overflow in f32; train it again with a lower \
             learning rate",
            dir.display()
        )));
    }
    Ok(match head {
        Some(head) => outputs.into_iter().map(|score| head.normalise(score)).collect(),
        None => outputs,
    })
}

/// The sequence within `longest` tokens: the response loses tokens before its last, then the prompt at its start.
fn cut(mut sequence: TokenisedSequence, longest: usize) -> TokenisedSequence {
    let over = sequence.len().saturating_sub(longest);
    let of_response = over.min(sequence.response.len().saturating_sub(1));
    let end = sequence.response.len() - 1;
    sequence.response.drain(end - of_response..end);
    sequence.prompt.drain(..(over - of_response).min(sequence.prompt.len().saturating_sub(1)));
    sequence
}
