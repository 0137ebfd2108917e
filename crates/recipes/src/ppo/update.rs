//! One PPO-Lagrangian update of actor and critics on responses that are sampled and scored.

use super::rollout::Rollout;
use crate::RecipeError;
use crate::example::Example;
use crate::first_steps::IdleTensors;
use crate::scaled_gradients::ScaledGradients;
use crate::step::pack_into;
use bso_model::{Activations, Decoder, Gradients, Optimiser, PackedBatch, Reads};
use bso_objective::{ObjectiveError, Ppo, Targets, TokenLoss, mixed_advantages};

/// A model that is trained, with its optimiser.
pub struct Trainee {
    /// The weights.
    pub decoder: Decoder,
    /// Its optimiser.
    pub optimiser: Optimiser,
    gradients: ScaledGradients,
    idle: IdleTensors,
}

impl Trainee {
    /// A model before its next step.
    ///
    /// # Errors
    /// A device has not got the memory.
    pub fn new(decoder: Decoder, optimiser: Optimiser) -> Result<Self, RecipeError> {
        let gradients = ScaledGradients::zeros(&decoder)?;
        Ok(Self { decoder, optimiser, gradients, idle: IdleTensors::default() })
    }

    /// The gradients of the last update and what they are to be multiplied by.
    pub fn gradients(&self) -> (&Gradients, f64) {
        (&self.gradients.stored, self.gradients.scale())
    }

    fn apply(&mut self, rate: f64, max_grad_norm: Option<f64>) -> Result<f64, RecipeError> {
        let Self { decoder, optimiser, gradients, idle } = self;
        let norm = gradients.apply((decoder, optimiser), rate, max_grad_norm)?;
        idle.look(&gradients.stored, decoder, norm > 0.0)?;
        Ok(norm)
    }
}

/// The models that are trained.
pub struct Trainees {
    /// Samples responses.
    pub actor: Trainee,
    /// Expects rewards.
    pub reward_critic: Trainee,
    /// Expects costs.
    pub cost_critic: Trainee,
}

/// The memory of passes, shared by the three.
pub struct UpdateMemory {
    batch: PackedBatch,
    activations: Activations,
}

impl UpdateMemory {
    /// No memory yet; `checkpointed` keeps each layer's input only.
    pub fn new(checkpointed: bool) -> Self {
        let activations = if checkpointed { Activations::checkpointed() } else { Activations::new() };
        Self { batch: PackedBatch::empty(), activations }
    }
}

/// What one update is asked to do.
pub struct Update<'a> {
    /// The losses.
    pub ppo: &'a Ppo,
    /// The multiplier, already updated.
    pub lambda: f64,
    /// Responses.
    pub rollouts: &'a [Rollout],
    /// What each is trained towards, as the critics saw it at sampling.
    pub targets: &'a [Targets],
    /// Rows to imitate.
    pub ptx: Vec<&'a Example>,
    /// Weight of their loss.
    pub ptx_coeff: f64,
    /// Sequences in one pass.
    pub micro: usize,
    /// Learning rate of the actor.
    pub rate: f64,
    /// Learning rate of the critics.
    pub critic_rate: f64,
    /// Clipping of each model's gradient, if any.
    pub max_grad_norm: Option<f64>,
}

/// What a model's part of an update showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Seen {
    /// Mean over the responses of their mean over tokens.
    pub loss: f64,
    /// Share of the tokens whose gradient the bound took away.
    pub clipped: f64,
    /// Gradient norm before clipping.
    pub grad_norm: f64,
}

/// What an update showed.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UpdateOutcome {
    /// Of the actor; its gradient norm is that of both its losses.
    pub actor: Seen,
    /// Mean negative log-prob of the rows' tokens, nats; none without rows.
    pub ptx_loss: Option<f64>,
    /// Of the reward critic.
    pub reward_critic: Seen,
    /// Of the cost critic.
    pub cost_critic: Seen,
}

/// Updates actor and critics once.
///
/// # Errors
/// Losses or gradients that are not finite.
pub fn update(
    trained: &mut Trainees,
    memory: &mut UpdateMemory,
    asked: &Update<'_>,
) -> Result<UpdateOutcome, RecipeError> {
    let Update { ppo, rollouts, targets, .. } = *asked;
    let advantages: Vec<Vec<f64>> = targets.iter().map(|t| mixed_advantages(t, asked.lambda)).collect();
    let mut outcome = UpdateOutcome::default();

    let actor = &mut trained.actor;
    outcome.actor = accumulate(actor, memory, (Reads::Response, asked), &|i, log_probs| {
        ppo.actor(log_probs, &rollouts[i].log_probs, &advantages[i])
    })?;
    outcome.ptx_loss = imitate(actor, memory, asked)?;
    outcome.actor.grad_norm = actor.apply(asked.rate, asked.max_grad_norm)?;

    let critic = &mut trained.reward_critic;
    outcome.reward_critic = accumulate(critic, memory, (Reads::Values, asked), &|i, values| {
        ppo.critic(values, &rollouts[i].reward_values, &targets[i].reward.returns)
    })?;
    outcome.reward_critic.grad_norm = critic.apply(asked.critic_rate, asked.max_grad_norm)?;

    let critic = &mut trained.cost_critic;
    outcome.cost_critic = accumulate(critic, memory, (Reads::Values, asked), &|i, values| {
        ppo.critic(values, &rollouts[i].cost_values, &targets[i].cost.returns)
    })?;
    outcome.cost_critic.grad_norm = critic.apply(asked.critic_rate, asked.max_grad_norm)?;
    Ok(outcome)
}

/// The loss of a response, by its number and what the model gives for its tokens.
type ResponseLoss<'a> = dyn Fn(usize, &[f64]) -> Result<TokenLoss, ObjectiveError> + 'a;

/// Leaves the gradient of the mean loss of all responses in the model's gradients.
fn accumulate(
    trainee: &mut Trainee,
    memory: &mut UpdateMemory,
    (reads, asked): (Reads, &Update<'_>),
    loss: &ResponseLoss<'_>,
) -> Result<Seen, RecipeError> {
    let count = asked.rollouts.len() as f64;
    let (mut seen, mut clipped, mut tokens, mut first) = (Seen::default(), 0, 0, 0);
    trainee.gradients.clear()?;
    for micro in asked.rollouts.chunks(asked.micro.max(1)) {
        let UpdateMemory { batch, activations } = memory;
        pack_into(batch, reads, micro.iter().map(|rollout| &rollout.sequence))?;
        trainee.decoder.forward(batch, activations)?;
        let mut weights = Vec::with_capacity(batch.head_index().len());
        for (i, range) in batch.scored().iter().enumerate() {
            let of_response =
                loss(first + i, &activations.token_outputs()[range.clone()]).map_err(diverged)?;
            seen.loss += of_response.value / count;
            clipped += of_response.clipped;
            tokens += range.len();
            weights.extend(of_response.derivatives.iter().map(|d| d / count));
        }
        first += micro.len();
        let weights = trainee.gradients.admit(&weights)?;
        trainee.decoder.backward_tokens(batch, activations, &weights, &mut trainee.gradients.stored)?;
    }
    seen.clipped = clipped as f64 / tokens.max(1) as f64;
    Ok(seen)
}

/// Adds the gradient of the rows' loss to the actor's; the loss without its weight.
fn imitate(
    actor: &mut Trainee,
    memory: &mut UpdateMemory,
    asked: &Update<'_>,
) -> Result<Option<f64>, RecipeError> {
    if asked.ptx.is_empty() {
        return Ok(None);
    }
    let tokens = asked.ptx.iter().map(|example| example.response_tokens()).sum::<usize>().max(1) as f64;
    let mut loss = 0.0;
    for micro in asked.ptx.chunks(asked.micro.max(1)) {
        let UpdateMemory { batch, activations } = memory;
        pack_into(batch, Reads::Response, micro.iter().flat_map(|example| &example.sequences))?;
        let log_probs = actor.decoder.forward(batch, activations)?;
        loss -= log_probs.iter().sum::<f64>() / tokens;
        let weights = actor.gradients.admit(&vec![-asked.ptx_coeff / tokens; log_probs.len()])?;
        actor.decoder.backward(batch, activations, &weights, &mut actor.gradients.stored)?;
    }
    if loss.is_finite() {
        Ok(Some(loss))
    } else {
        Err(not_finite(&format!("the loss of the rows is {loss}")))
    }
}

fn diverged(error: ObjectiveError) -> RecipeError {
    match error {
        ObjectiveError::NotFinite { .. } => not_finite(&error.to_string()),
        other => other.into(),
    }
}

fn not_finite(what: &str) -> RecipeError {
    RecipeError::failed(format!(
        "{what}: actor or critic has left the finite numbers; lower learning_rate or critic_learning_rate, or set max_grad_norm"
    ))
}
