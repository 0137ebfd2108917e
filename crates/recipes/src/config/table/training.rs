//! Keys of the schedule and the optimiser.

use super::super::key::{
    Category::{Optimiser, Schedule},
    Choice, Key, Kind, Range, choice, known_as,
};
use super::{HF, MOST};

pub(super) const SCHEDULERS: &[Choice] =
    &[choice("linear"), choice("cosine"), known_as("constant", &["constant_with_warmup"])];
const OPTIMISERS: &[Choice] =
    &[known_as("adamw", &["adamw_torch", "adamw_torch_fused", "adamw_hf"]), choice("rmsprop"), choice("sgd")];
const COUNT: Kind = Kind::Integer { min: 1, max: MOST };

pub(super) const SCHEDULE: &[Key] = &[
    Key::new("num_train_epochs", Schedule, Kind::Real(Range::POSITIVE), "3")
        .by("stage", &[("reward", "2"), ("cost", "2"), ("ppo_lag", "1")], Some("3"))
        .unit("passes over the data")
        .says(
            "transformers; safe-rlhf (reward, cost, ppo_lag)",
            "How long to train; parts of an epoch are allowed.",
        )
        .aliases(&["epochs", "num_epochs"])
        .prominent(),
    Key::optional("max_steps", Schedule, COUNT, &["none", "-1"], "num_train_epochs decides")
        .unit("optimiser steps")
        .says(HF, "Stop after so many optimiser steps, whatever num_train_epochs says."),
    Key::new("per_device_train_batch_size", Schedule, COUNT, "8")
        .unit("pairs (sft, kto: rows; ppo_lag: prompts)")
        .says(HF, "What one forward and backward pass sees.")
        .aliases(&["micro_batch_size"])
        .prominent(),
    Key::new("gradient_accumulation_steps", Schedule, COUNT, "1")
        .unit("passes")
        .says(HF, "Passes that make one optimiser step.")
        .prominent(),
    Key::new("learning_rate", Schedule, Kind::Real(Range::NOT_NEGATIVE), "1e-6")
        .by(
            "stage",
            &[("sft", "2e-5"), ("reward", "2e-5"), ("cost", "2e-5"), ("ppo_lag", "1e-5")],
            Some("1e-6"),
        )
        .says(
            "TRL; safe-rlhf (reward, cost, ppo_lag)",
            "Learning rate after the warm-up; of ppo_lag the actor's.",
        )
        .aliases(&["lr", "actor_lr"])
        .prominent(),
    Key::new("lr_scheduler_type", Schedule, Kind::Choice(SCHEDULERS), "linear")
        .by("stage", &[("ppo_lag", "cosine")], Some("linear"))
        .says(
            "transformers; safe-rlhf (ppo_lag)",
            "How the rate falls after the warm-up: straight or by half a cosine to zero, or not at all.",
        )
        .aliases(&["lr_scheduler"])
        .prominent(),
    Key::new("warmup_ratio", Schedule, Kind::Real(Range::below(0.0, 1.0)), "0")
        .unit("share of the steps")
        .says(
            HF,
            "Length of the linear warm-up, rounded down (transformers rounds up); or give warmup_steps.",
        ),
    Key::new("warmup_steps", Schedule, Kind::Integer { min: 0, max: MOST }, "0")
        .unit("optimiser steps")
        .says(HF, "Length of the linear warm-up; or give warmup_ratio."),
];

pub(super) const OPTIMISER: &[Key] = &[
    Key::new("optim", Optimiser, Kind::Choice(OPTIMISERS), "adamw")
        .says(HF, "The optimiser, with PyTorch's arithmetic.")
        .aliases(&["optimizer"])
        .prominent(),
    Key::new("weight_decay", Optimiser, Kind::Real(Range::NOT_NEGATIVE), "0")
        .says(HF, "Weight decay, decoupled for adamw."),
    Key::new("adam_beta1", Optimiser, Kind::Real(Range::below(0.0, 1.0)), "0.9")
        .says(HF, "Decay of adamw's mean of gradients."),
    Key::new("adam_beta2", Optimiser, Kind::Real(Range::below(0.0, 1.0)), "0.999")
        .says(HF, "Decay of adamw's mean of squared gradients."),
    Key::new("adam_epsilon", Optimiser, Kind::Real(Range::POSITIVE), "1e-8").says(HF, "adamw's epsilon."),
    Key::optional("max_grad_norm", Optimiser, Kind::Real(Range::POSITIVE), &["none", "0"], "no clipping")
        .by("stage", &[], Some("1"))
        .says(HF, "Longest gradient (2-norm over all weights); a longer one is shortened to it.")
        .aliases(&["gradient_clipping"])
        .prominent(),
];
