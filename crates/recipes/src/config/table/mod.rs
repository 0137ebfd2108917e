//! Every key of the configuration, once. Add a key here and read it in its section; validation, messages,
//! ready configs and docs/configuration.md follow from the entry.

mod adapters;
mod data;
mod model;
mod objective;
mod ppo_lag;
mod recipe;
mod run;
mod training;

use super::error::did_you_mean;
use super::key::{Category, Choice, Key, Kind, known_as, later};

/// The sources that defaults come from, as the tables cite them.
const TRL: &str = "TRL";
const HF: &str = "transformers";
const HERE: &str = "bso";
/// The largest count: beyond it products of counts could overflow.
const MOST: u64 = 1 << 32;

const START: &[Key] = &[
    Key::optional("preset", Category::Start, Kind::Text, &["none"], "no preset")
        .says(HERE, "A named set of values that fills what is not given; what is given wins. The presets are listed below.")
        .bookkeeping(),
    Key::new("stage", Category::Start, Kind::Choice(STAGES), "preference")
        .says(HERE, "What is trained: a language model on responses (sft) or on preferences (preference), or a scalar head on them: a reward model (reward) or a cost model (cost); or a language model on responses that it samples, scored by these two (ppo_lag).")
        .prominent(),
];

const STAGES: &[Choice] = &[
    known_as("sft", &[]),
    known_as("preference", &["dpo", "rlhf"]),
    known_as("reward", &["rm"]),
    known_as("cost", &[]),
    known_as("ppo_lag", &["ppo-lag"]),
    later(
        "ppo",
        &[],
        "PPO without a constraint on costs is not there; stage ppo_lag trains with a reward and a cost model",
    ),
];

const GROUPS: &[&[Key]] = &[
    START,
    model::KEYS,
    data::KEYS,
    objective::KEYS,
    ppo_lag::KEYS,
    recipe::KEYS,
    training::SCHEDULE,
    training::OPTIMISER,
    adapters::KEYS,
    run::KEYS,
];

/// Every key, in the order of the documentation.
pub fn keys() -> impl Iterator<Item = &'static Key> {
    GROUPS.iter().copied().flatten()
}

/// The key called `name` (canonical, snake_case or kebab-case).
pub fn key(name: &str) -> Option<&'static Key> {
    let name = name.replace('-', "_");
    keys().find(|key| key.name == name)
}

/// The key with the name or alias `name`, and whether it was an alias.
pub(super) fn find(name: &str) -> Option<(&'static Key, bool)> {
    let snake = name.replace('-', "_");
    let by_alias = || keys().find(|key| key.aliases.contains(&snake.as_str())).map(|key| (key, true));
    key(name).map(|key| (key, false)).or_else(by_alias)
}

/// " Did you mean ...?" for an unknown key.
pub(super) fn suggestion(name: &str) -> String {
    did_you_mean(name, keys().flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied())))
}
