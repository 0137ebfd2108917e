//! How a trained policy does on SafeWorld's held-out prompts: by the texts that it writes, and by its exact distance
//! to the optimal safe policy over every prompt's candidates.

use super::method::{BETA, SAFETY_PENALTY};
use crate::RecipeError;
use crate::generate::{AnswerSettings, ChatModel};
use crate::step::pack;
use bso_data::{ChatTokenizer, Message, TemplateChoice, TokenisedSequence};
use bso_durable::{Interrupt, Observer, Silent};
use bso_model::{Decoder, Engine, GenerateConfig, Workspace};
use bso_world::{CandidateLogProbs, Prompt, PromptOutcome, Target, candidates};
use std::path::Path;
use std::sync::Arc;

/// Answers sampled for each held-out prompt at temperature 1: the policy itself, not its mode.
pub const ANSWERS_PER_PROMPT: usize = 4;
/// The optimum that distances are measured to.
pub const TARGET: Target = Target { beta: BETA, safety_penalty: SAFETY_PENALTY };

/// What was measured of one policy.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// One outcome for each sampled answer.
    pub answers: Vec<PromptOutcome>,
    /// One exact outcome for each prompt, over its candidates.
    pub exact: Vec<PromptOutcome>,
    /// The most likely answer to each prompt (greedy), in the order of the prompts.
    pub greedy: Vec<String>,
}

/// Candidate log-probs of the reference, in the order of the prompts.
pub type ReferenceCandidates = Vec<Vec<f64>>;

/// Opens the model in `dir`, to be measured.
///
/// # Errors
/// A directory that holds no usable model.
pub fn open(dir: &Path, engine: &Arc<Engine>) -> Result<ChatModel, RecipeError> {
    ChatModel::open(dir, &TemplateChoice::Auto, engine.clone())
}

/// The log-probs of every prompt's candidates.
///
/// # Errors
/// What tokenizer or model refuse.
pub fn candidate_log_probs(model: &ChatModel, prompts: &[Prompt]) -> Result<Vec<Vec<f64>>, RecipeError> {
    let mut workspace = Workspace::new();
    prompts.iter().map(|prompt| of_prompt(&model.decoder, &model.tokenizer, prompt, &mut workspace)).collect()
}

fn of_prompt(
    decoder: &Decoder,
    tokenizer: &ChatTokenizer,
    prompt: &Prompt,
    workspace: &mut Workspace,
) -> Result<Vec<f64>, RecipeError> {
    let messages = [Message::user(prompt.text())];
    let sequences: Vec<TokenisedSequence> = candidates(prompt)
        .iter()
        .map(|candidate| tokenizer.encode_response(&messages, &candidate.text))
        .collect::<Result<_, _>>()?;
    Ok(decoder.log_probs_in(&pack(decoder.config().reads(), &sequences)?, workspace)?)
}

/// Measures `model` on `prompts`.
///
/// # Errors
/// What tokenizer or model refuse; [`RecipeError::Interrupted`].
pub fn measure(
    model: &ChatModel,
    prompts: &[Prompt],
    reference: &ReferenceCandidates,
    seed: u64,
    interrupt: &Interrupt,
) -> Result<Measured, RecipeError> {
    let observer: &dyn Observer = &Silent;
    let conversations: Vec<Vec<Message>> = prompts.iter().map(|p| vec![Message::user(p.text())]).collect();
    let repeated: Vec<Vec<Message>> =
        (0..ANSWERS_PER_PROMPT).flat_map(|_| conversations.iter().cloned()).collect();
    let sampled = GenerateConfig {
        temperature: 1.0,
        seed,
        max_new_tokens: 40,
        batch_size: 64,
        ..GenerateConfig::default()
    };
    let greedy = GenerateConfig { temperature: 0.0, ..sampled.clone() };
    let settings = |sampling: GenerateConfig| AnswerSettings { sampling, stop_texts: Vec::new() };
    let answers = model.answer(&repeated, &settings(sampled), (interrupt, observer))?;
    let greedy = model.answer(&conversations, &settings(greedy), (interrupt, observer))?;
    let exact = prompts.iter().zip(candidate_log_probs(model, prompts)?).zip(reference);
    Ok(Measured {
        answers: prompts
            .iter()
            .cycle()
            .zip(&answers)
            .map(|(prompt, answer)| PromptOutcome::from_text(*prompt, &answer.text))
            .collect(),
        exact: exact
            .map(|((prompt, policy), reference)| {
                let log_probs = CandidateLogProbs { policy: &policy, reference };
                PromptOutcome::from_candidates(*prompt, log_probs, TARGET)
            })
            .collect::<Result<_, _>>()?,
        greedy: greedy.into_iter().map(|a| a.text).collect(),
    })
}
