//! Keys of methods of several stages.

use super::super::key::{Category::Stages, Choice, Key, Kind, Range, choice, known_as};
use super::{HERE, MOST};

const RECIPES: &[Choice] = &[
    choice("sacpo"),
    known_as("p-sacpo", &["p_sacpo"]),
    choice("modpo"),
    choice("mocan"),
    choice("pecan"),
    known_as("safe-rlhf", &["safe_rlhf"]),
];
const SECOND: &[Choice] = &[choice("dpo"), choice("kto")];
const COUNT: Kind = Kind::Integer { min: 1, max: MOST };
const SHARE: Range = Range { low: 0.0, low_open: false, high: 1.0, high_open: false };

pub(super) const KEYS: &[Key] = &[
    Key::optional("recipe", Stages, Kind::Choice(RECIPES), &["none"], "one stage, that of the other keys")
        .example("sacpo")
        .says(HERE, "A method of several stages, each a run of its own in a folder below output_dir; the result is in output_dir itself. The other keys hold for every stage, but for what the method says."),
    Key::new("safety_loss_type", Stages, Kind::Choice(SECOND), "dpo")
        .says("SACPO", "sacpo, p-sacpo: loss of the second stage, dpo on the safer responses or kto on the safety labels (desirable: safe; undesirable rows weigh desirable / undesirable).")
        .prominent(),
    Key::new("safety_beta", Stages, Kind::Real(Range::POSITIVE), "0.1")
        .by("recipe", &[("p-sacpo", "0.01")], Some("0.1"))
        .unit("reward units per nat")
        .says("SACPO, of {0.1, 0.05, 0.025, 0.01}; P-SACPO 0.01", "sacpo, p-sacpo: beta of the second stage, whose reference is the first stage's result.")
        .prominent(),
    Key::new("interpolation", Stages, Kind::Real(SHARE), "0.5")
        .says("P-SACPO, middle of {0.25, 0.5, 0.75}", "p-sacpo: q; the weights are (1-q) of the first stage's and q of the second's.")
        .prominent(),
    Key::new("safety_level", Stages, Kind::Real(Range::ANY), "0")
        .says(HERE, "mocan, pecan: b of the constraint. mocan: the mean of -cost that the policy is to reach; pecan: the gain over the reference in reward units that the safe model's log-ratio times beta is to reach.")
        .prominent(),
    Key::new("dual_prompts", Stages, COUNT, "256")
        .says(HERE, "mocan, pecan: prompts on which the multiplier is estimated, at most; the first ones of the data."),
    Key::new("dual_samples", Stages, COUNT, "8")
        .says(HERE, "mocan, pecan: responses sampled from the reference for each of them, at temperature 1."),
    Key::new("dual_max_new_tokens", Stages, COUNT, "256")
        .unit("tokens")
        .says(HERE, "mocan, pecan: the longest of these responses."),
    Key::new("score_learning_rate", Stages, Kind::Real(Range::POSITIVE), "2e-5")
        .says("safe-rlhf's run scripts", "mocan, safe-rlhf: learning rate of the reward and the cost model."),
    Key::new("score_num_train_epochs", Stages, Kind::Real(Range::POSITIVE), "2")
        .says("safe-rlhf's run scripts", "mocan, safe-rlhf: passes over the data of the reward and the cost model."),
];
