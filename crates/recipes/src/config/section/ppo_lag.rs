//! PPO-Lagrangian: models, rollouts, losses, multiplier.

use super::super::choices::Recipe;
use super::super::dataset::DatasetSource;
use super::super::error::ConfigError;
use super::super::resolve::Resolver;
use super::Settings;
use crate::schedule::Decay;
use bso_objective::{Multiplier, MultiplierSettings, Ppo, PpoSettings};
use std::path::PathBuf;

/// What `stage: ppo_lag` reads beside the model, the prompts and the actor's schedule.
#[derive(Clone, Debug, PartialEq)]
pub struct PpoLagSection {
    /// Folder of the model that gives rewards.
    pub reward_model: PathBuf,
    /// Folder of the model that gives costs.
    pub cost_model: PathBuf,
    /// Rows to imitate beside the sampled responses; empty: none.
    pub ptx_datasets: Vec<DatasetSource>,
    /// Weight of their loss.
    pub ptx_coeff: f64,
    /// Longest response in tokens; `None`: what `max_length` leaves.
    pub max_new_tokens: Option<usize>,
    /// Updates on one set of responses.
    pub update_iters: u64,
    /// The losses' constants.
    pub ppo: PpoSettings,
    /// The multiplier's.
    pub multiplier: MultiplierSettings,
    /// Rate of both critics.
    pub critic_learning_rate: f64,
    /// How it falls.
    pub critic_lr_scheduler_type: Decay,
}

impl PpoLagSection {
    pub(super) fn read(r: &Resolver) -> Result<Self, ConfigError> {
        // Those that a recipe trains itself lie in its folder.
        let made = r.optional_choice("recipe")? == Some(Recipe::SafeRlhf);
        let scorer = |key: &str, stage: &str| match made {
            true => Ok(r.path("output_dir")?.join(stage)),
            false => r.path(key),
        };
        Ok(Self {
            reward_model: scorer("reward_model", "reward")?,
            cost_model: scorer("cost_model", "cost")?,
            ptx_datasets: r.optional_datasets("ptx_dataset_name")?,
            ptx_coeff: r.real("ptx_coeff")?,
            max_new_tokens: r.optional_integer("max_new_tokens")?.map(|n| n as usize),
            update_iters: r.integer("update_iters")?,
            ppo: PpoSettings {
                kl_coeff: r.real("kl_coeff")?,
                clip_range_ratio: r.real("clip_range_ratio")?,
                clip_range_score: r.real("clip_range_score")?,
                clip_range_value: r.real("clip_range_value")?,
                gamma: r.real("gamma")?,
                gae_lambda: r.real("gae_lambda")?,
            },
            multiplier: MultiplierSettings {
                init: r.real("lambda_init")?,
                rate: r.real("lambda_lr")?,
                max: r.optional_real("lambda_max")?,
                threshold: r.real("threshold")?,
                window: r.integer("episode_cost_window_size")? as usize,
            },
            critic_learning_rate: r.real("critic_learning_rate")?,
            critic_lr_scheduler_type: r.choice("critic_lr_scheduler_type")?,
        })
    }

    pub(super) fn write(&self, out: &mut Settings) {
        let (ppo, multiplier) = (&self.ppo, &self.multiplier);
        out.path("reward_model", &self.reward_model);
        out.path("cost_model", &self.cost_model);
        out.optional_datasets("ptx_dataset_name", &self.ptx_datasets);
        out.real("ptx_coeff", self.ptx_coeff);
        out.optional_integer("max_new_tokens", self.max_new_tokens.map(|n| n as u64));
        out.integer("update_iters", self.update_iters);
        for (key, value) in [
            ("kl_coeff", ppo.kl_coeff),
            ("clip_range_ratio", ppo.clip_range_ratio),
            ("clip_range_score", ppo.clip_range_score),
            ("clip_range_value", ppo.clip_range_value),
            ("gamma", ppo.gamma),
            ("gae_lambda", ppo.gae_lambda),
            ("threshold", multiplier.threshold),
            ("lambda_init", multiplier.init),
            ("lambda_lr", multiplier.rate),
        ] {
            out.real(key, value);
        }
        out.optional_real("lambda_max", multiplier.max);
        out.integer("episode_cost_window_size", multiplier.window as u64);
        out.real("critic_learning_rate", self.critic_learning_rate);
        out.choice("critic_lr_scheduler_type", self.critic_lr_scheduler_type);
    }

    /// The losses and the multiplier at its start.
    ///
    /// # Errors
    /// A constant out of range; none after [`super::super::load`], which builds them once.
    pub fn build(&self) -> Result<(Ppo, Multiplier), ConfigError> {
        Ok((Ppo::new(self.ppo.clone())?, Multiplier::new(self.multiplier.clone())?))
    }

    /// What is maximised, with its numbers, in one line.
    pub fn formula(&self) -> String {
        let (kl, d) = (self.ppo.kl_coeff, self.multiplier.threshold);
        let ptx = match self.ptx_datasets.is_empty() {
            true => String::new(),
            false => format!(" + {} mean log pi(token of ptx_dataset_name)", self.ptx_coeff),
        };
        format!(
            "max over pi, min over lambda >= 0: E[r] - lambda (E[c] - d), d = {d}, on sampled responses; by PPO on the advantages \
             (A_r - lambda A_c) / (1 + lambda), {kl} log(pi / pi_ref) taken from each token's reward and added to its cost{ptx}"
        )
    }
}
