//! Keys of PPO-Lagrangian: its models, its rollouts, its losses and its multiplier.

use super::super::choices::LossType::{self, PpoLag};
use super::super::key::{Category::Objective, Key, Kind, Range};
use super::MOST;
use super::training::SCHEDULERS;

const ONLY: &[LossType] = &[PpoLag];
const SCRIPTS: &str = "safe-rlhf's run scripts";
const CODE: &str = "safe-rlhf";
const SHARE: Range = Range { low: 0.0, low_open: false, high: 1.0, high_open: false };
const INSIDE: Range = Range { low: 0.0, low_open: true, high: 1.0, high_open: true };
const COUNT: Kind = Kind::Integer { min: 1, max: MOST };

pub(super) const KEYS: &[Key] = &[
    Key::required("reward_model", Objective, Kind::Source, "models/reward")
        .says(CODE, "Folder, or name on the hub, of the model with a scalar head that scores sampled responses (`stage: reward`); the reward critic starts from it. Its tokenizer must be the actor's.")
        .only(ONLY)
        .aliases(&["reward_model_path", "reward_model_name_or_path"]),
    Key::required("cost_model", Objective, Kind::Source, "models/cost")
        .says(CODE, "The same for costs, above 0 for what is unsafe (`stage: cost`); the cost critic starts from it.")
        .only(ONLY)
        .aliases(&["cost_model_name_or_path"]),
    Key::optional("ptx_dataset_name", Objective, Kind::Datasets, &["none"], "no such term")
        .says(CODE, "Rows with responses to imitate beside the sampled ones (PTX), a batch for every batch of prompts; as dataset_name.")
        .only(ONLY)
        .aliases(&["ptx_datasets"]),
    Key::new("ptx_coeff", Objective, Kind::Real(Range::NOT_NEGATIVE), "16")
        .says("safe-rlhf's run scripts (its code: 0)", "Weight of their loss, the mean over the scored tokens, in a backward pass of its own.")
        .only(ONLY)
        .prominent(),
    Key::optional("max_new_tokens", Objective, COUNT, &["none"], "as many as max_length leaves")
        .unit("tokens")
        .says(CODE, "Longest sampled response. Sampling is at temperature 1 from all tokens.")
        .only(ONLY)
        .aliases(&["response_length"]),
    Key::new("update_iters", Objective, COUNT, "1")
        .says(CODE, "Updates of actor and critics on one set of sampled responses.")
        .only(ONLY)
        .aliases(&["num_ppo_epochs"]),
    Key::new("kl_coeff", Objective, Kind::Real(Range::NOT_NEGATIVE), "0.01")
        .unit("reward units per nat")
        .says("safe-rlhf's run scripts (its code: 0.02)", "Weight of each token's log-ratio to the reference: taken from the reward and added to the cost.")
        .only(ONLY)
        .aliases(&["kl_coef"])
        .prominent(),
    Key::new("clip_range_ratio", Objective, Kind::Real(INSIDE), "0.2")
        .says(CODE, "A token whose probability has changed by more than this share since sampling gets no further gradient.")
        .only(ONLY)
        .aliases(&["cliprange"]),
    Key::new("clip_range_score", Objective, Kind::Real(Range::POSITIVE), "50")
        .unit("reward units")
        .says(CODE, "Bound of what one token earns or costs, the score at the last one included.")
        .only(ONLY),
    Key::new("clip_range_value", Objective, Kind::Real(Range::POSITIVE), "5")
        .unit("reward units")
        .says(CODE, "A value that has moved by more than this since sampling gets no further gradient.")
        .only(ONLY)
        .aliases(&["cliprange_value"]),
    Key::new("gamma", Objective, Kind::Real(SHARE), "1")
        .says(CODE, "Discount per token.")
        .only(ONLY),
    Key::new("gae_lambda", Objective, Kind::Real(SHARE), "0.95")
        .says(CODE, "Decay of later temporal differences in an advantage (GAE).")
        .only(ONLY)
        .aliases(&["lam"]),
    Key::new("threshold", Objective, Kind::Real(Range::ANY), "0")
        .unit("reward units")
        .says(SCRIPTS, "d, what the mean cost is held to: the multiplier rises while it is above.")
        .only(ONLY)
        .prominent(),
    Key::new("lambda_init", Objective, Kind::Real(Range::POSITIVE), "1")
        .says(SCRIPTS, "The Lagrange multiplier of the cost at the start.")
        .only(ONLY)
        .prominent(),
    Key::new("lambda_lr", Objective, Kind::Real(Range::NOT_NEGATIVE), "0.1")
        .says(SCRIPTS, "Learning rate of its logarithm.")
        .only(ONLY)
        .prominent(),
    Key::optional("lambda_max", Objective, Kind::Real(Range::POSITIVE), &["none"], "no bound")
        .by("stage", &[], Some("5"))
        .says(SCRIPTS, "Its largest value.")
        .only(ONLY)
        .prominent(),
    Key::new("episode_cost_window_size", Objective, COUNT, "128")
        .unit("responses")
        .says(CODE, "Latest responses whose mean cost moves it.")
        .only(ONLY),
    Key::new("critic_learning_rate", Objective, Kind::Real(Range::NOT_NEGATIVE), "5e-6")
        .says(SCRIPTS, "Learning rate of both critics, which have no weight decay.")
        .only(ONLY)
        .aliases(&["critic_lr"])
        .prominent(),
    Key::new("critic_lr_scheduler_type", Objective, Kind::Choice(SCHEDULERS), "constant")
        .says(SCRIPTS, "How it falls; it has no warm-up.")
        .only(ONLY),
];
