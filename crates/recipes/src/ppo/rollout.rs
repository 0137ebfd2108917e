//! Sampled responses with all that the losses read of them: scores, log-probs of actor and reference, values of both critics.

use super::data::PromptTokens;
use super::models::{Models, Scorer};
use super::update::Trainees;
use crate::RecipeError;
use crate::batches::by_tokens;
use crate::score::TOKENS;
use crate::step::pack;
use bso_data::TokenisedSequence;
use bso_durable::Interrupt;
use bso_model::{Decoder, FinishReason, GenerateConfig, Reads, Workspace};
use bso_objective::Episode;
use std::ops::ControlFlow;

/// A response that the actor sampled, and what was seen of it then.
#[derive(Clone, Debug, PartialEq)]
pub struct Rollout {
    /// Prompt and response, the end token included where it was sampled.
    pub sequence: TokenisedSequence,
    /// Whether the response ended by itself.
    pub ended: bool,
    /// The reward model's score.
    pub reward: f64,
    /// The cost model's.
    pub cost: f64,
    /// The actor's log-probs of the response's tokens, nats.
    pub log_probs: Vec<f64>,
    /// The reference's.
    pub reference: Vec<f64>,
    /// What the reward critic expects before each token.
    pub reward_values: Vec<f64>,
    /// What the cost critic expects.
    pub cost_values: Vec<f64>,
}

impl Rollout {
    /// The numbers that the objective reads.
    pub fn episode(&self) -> Episode<'_> {
        Episode {
            log_probs: &self.log_probs,
            reference: &self.reference,
            reward: self.reward,
            cost: self.cost,
            reward_values: &self.reward_values,
            cost_values: &self.cost_values,
        }
    }

    /// log pi - log pi_ref of the response at sampling, nats.
    pub fn log_ratio(&self) -> f64 {
        self.log_probs.iter().sum::<f64>() - self.reference.iter().sum::<f64>()
    }
}

/// How responses are sampled, at temperature 1 from all tokens.
pub struct Sampling {
    /// Tokens that end a response.
    pub stop_ids: Vec<u32>,
    /// Of this step.
    pub seed: u64,
}

/// One response for each prompt, cut where its room ends.
///
/// # Errors
/// What the model refuses; [`RecipeError::Interrupted`].
pub(super) fn sample(
    actor: &Decoder,
    prompts: &[&PromptTokens],
    sampling: Sampling,
    interrupt: &Interrupt,
) -> Result<Vec<(TokenisedSequence, bool)>, RecipeError> {
    let ids: Vec<Vec<u32>> = prompts.iter().map(|prompt| prompt.ids.clone()).collect();
    let config = GenerateConfig {
        max_new_tokens: prompts.iter().map(|prompt| prompt.room).max().unwrap_or(1),
        temperature: 1.0,
        seed: sampling.seed,
        stop_ids: sampling.stop_ids,
        ..GenerateConfig::default()
    };
    let generated = actor.generate(&ids, &config, &mut |_| {
        if interrupt.is_raised() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    })?;
    if interrupt.is_raised() {
        return Err(RecipeError::Interrupted);
    }
    let cut = |((prompt, room), generated): ((Vec<u32>, usize), bso_model::Generated)| {
        let mut response = generated.tokens;
        let ended = generated.finish_reason == FinishReason::Stop && response.len() <= room;
        response.truncate(room);
        (TokenisedSequence { prompt, response }, ended)
    };
    let rooms = prompts.iter().map(|prompt| prompt.room);
    Ok(ids.into_iter().zip(rooms).zip(generated).map(cut).collect())
}

/// Scores what was sampled, and takes the log-probs and values that the losses compare with.
///
/// # Errors
/// What a model refuses; a score that is not finite; [`RecipeError::Interrupted`].
pub(super) fn observe(
    (trained, frozen): (&Trainees, &Frozen),
    prompts: &[&PromptTokens],
    sampled: Vec<(TokenisedSequence, bool)>,
    interrupt: &Interrupt,
) -> Result<Vec<Rollout>, RecipeError> {
    let mut workspace = Workspace::new();
    let mut rollouts = Vec::with_capacity(sampled.len());
    for group in by_tokens(sampled.iter().map(|(sequence, _)| sequence.len()), TOKENS) {
        if interrupt.is_raised() {
            return Err(RecipeError::Interrupted);
        }
        let members = &sampled[group.clone()];
        let sequences: Vec<&TokenisedSequence> = members.iter().map(|(sequence, _)| sequence).collect();
        let whole: Vec<TokenisedSequence> =
            members.iter().zip(&prompts[group]).map(|(member, prompt)| scored(member, prompt)).collect();
        let rewards = scores(&frozen.reward, "reward_model", &whole, &mut workspace)?;
        let costs = scores(&frozen.cost, "cost_model", &whole, &mut workspace)?;
        let mut of = |decoder: &Decoder, reads: Reads| {
            let batch = pack(reads, sequences.iter().copied())?;
            Ok::<_, RecipeError>(decoder.token_outputs_in(&batch, &mut workspace)?.into_iter())
        };
        let mut log_probs = of(&trained.actor.decoder, Reads::Response)?;
        let mut reference = of(&frozen.reference, Reads::Response)?;
        let mut reward_values = of(&trained.reward_critic.decoder, Reads::Values)?;
        let mut cost_values = of(&trained.cost_critic.decoder, Reads::Values)?;
        for (((sequence, ended), reward), cost) in members.iter().zip(rewards).zip(costs) {
            rollouts.push(Rollout {
                sequence: sequence.clone(),
                ended: *ended,
                reward,
                cost,
                log_probs: log_probs.next().unwrap_or_default(),
                reference: reference.next().unwrap_or_default(),
                reward_values: reward_values.next().unwrap_or_default(),
                cost_values: cost_values.next().unwrap_or_default(),
            });
        }
    }
    Ok(rollouts)
}

/// The models that only look on.
pub struct Frozen {
    /// The KL is taken against it.
    pub reference: Decoder,
    /// Gives rewards.
    pub reward: Scorer,
    /// Gives costs.
    pub cost: Scorer,
}

impl Models {
    /// The frozen models, and the actor and the two critics.
    pub(super) fn split(self) -> (Frozen, [Decoder; 3]) {
        let Self { actor, reference, reward, cost, reward_critic, cost_critic } = self;
        (Frozen { reference, reward, cost }, [actor, reward_critic, cost_critic])
    }
}

/// The sequence as scoring models were trained on it: a turn that ended has behind it what the template writes there.
fn scored((sequence, ended): &(TokenisedSequence, bool), prompt: &PromptTokens) -> TokenisedSequence {
    let mut whole = sequence.clone();
    if *ended {
        whole.response.extend(&prompt.behind);
    }
    whole
}

fn scores(
    scorer: &Scorer,
    key: &str,
    sequences: &[TokenisedSequence],
    workspace: &mut Workspace,
) -> Result<Vec<f64>, RecipeError> {
    let batch = pack(scorer.decoder.config().reads(), sequences)?;
    let scores = scorer.decoder.scores_in(&batch, workspace)?;
    let normalised = scores.into_iter().map(|score| scorer.head.normalise(score));
    normalised
        .map(|score| match score.is_finite() {
            true => Ok(score),
            false => Err(RecipeError::failed(format!(
                "{key} gives a sampled response the score {score}: its weights or its normaliser overflow in f32"
            ))),
        })
        .collect()
}
