//! Methods of several stages: which one, and what its stages need beside the keys of the last.

use super::super::choices::{LossType, Recipe};
use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::Settings;

/// A method of several stages. A field that the method does not read holds its default.
#[derive(Clone, Debug, PartialEq)]
pub struct RecipeSection {
    /// The method.
    pub name: Recipe,
    /// Loss of SACPO's second stage: dpo, or kto on the safety labels.
    pub safety_loss_type: LossType,
    /// beta of a stage that learns from safety, reward units per nat.
    pub safety_beta: f64,
    /// q: weight of the second stage's model, in `[0, 1]`.
    pub interpolation: f64,
    /// b: how safe the policy is to be; in units of -cost, or in reward units above the reference.
    pub safety_level: f64,
    /// Prompts that the multiplier is estimated on, at most.
    pub dual_prompts: usize,
    /// Responses of the reference sampled for each of them.
    pub dual_samples: usize,
    /// Longest sampled response in tokens.
    pub dual_max_new_tokens: usize,
    /// Learning rate of reward and cost models.
    pub score_learning_rate: f64,
    /// Passes over the data of reward and cost models.
    pub score_num_train_epochs: f64,
}

impl RecipeSection {
    /// None where no recipe is named.
    pub(in super::super) fn read(r: &Resolver) -> Result<Option<Self>, ConfigError> {
        let Some(name) = r.optional_choice("recipe")? else { return Ok(None) };
        Ok(Some(Self {
            name,
            safety_loss_type: r.choice("safety_loss_type")?,
            safety_beta: r.real("safety_beta")?,
            interpolation: r.real("interpolation")?,
            safety_level: r.real("safety_level")?,
            dual_prompts: r.integer("dual_prompts")? as usize,
            dual_samples: r.integer("dual_samples")? as usize,
            dual_max_new_tokens: r.integer("dual_max_new_tokens")? as usize,
            score_learning_rate: r.real("score_learning_rate")?,
            score_num_train_epochs: r.real("score_num_train_epochs")?,
        }))
    }

    pub(in super::super) fn write(recipe: Option<&Self>, out: &mut Settings) {
        let Some(recipe) = recipe else { return };
        out.choice("recipe", recipe.name);
        out.choice("safety_loss_type", recipe.safety_loss_type);
        out.real("safety_beta", recipe.safety_beta);
        out.real("interpolation", recipe.interpolation);
        out.real("safety_level", recipe.safety_level);
        out.integer("dual_prompts", recipe.dual_prompts as u64);
        out.integer("dual_samples", recipe.dual_samples as u64);
        out.integer("dual_max_new_tokens", recipe.dual_max_new_tokens as u64);
        out.real("score_learning_rate", recipe.score_learning_rate);
        out.real("score_num_train_epochs", recipe.score_num_train_epochs);
    }
}
