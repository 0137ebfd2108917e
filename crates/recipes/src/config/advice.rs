//! Settings that contradict one another are refused; those that are allowed and seldom meant are told.

use super::choices::{LossType, Recipe, SaveStrategy, Strategy};
use super::error::ConfigError;
use super::key::{Category, Key};
use super::resolve::Resolver;
use super::section::ObjectiveSection;
use super::value::Setting;
use super::{ClosedSet, TrainConfig, table};
use bso_data::{Preference, SafetyTransform};
use bso_model::ScoreLayout;
use bso_objective::{BsoSettings, Generator, Tail};

/// Checks settings against one another.
///
/// # Errors
/// [`ConfigError::Conflict`] for a contradiction.
pub(super) fn check(config: &TrainConfig, r: &Resolver) -> Result<Vec<String>, ConfigError> {
    let conflict =
        |key, problem: &str| Err(ConfigError::Conflict { place: r.place(key), problem: problem.to_owned() });
    let is_kto = matches!(config.objective, ObjectiveSection::Kto { .. });
    if is_kto && config.schedule.per_device_train_batch_size < 2 {
        return conflict(
            "per_device_train_batch_size",
            "kto estimates the KL divergence from mismatched rows of a batch; per_device_train_batch_size must be at least 2",
        );
    }
    if config.run.eval_strategy != Strategy::No && !config.data.holds_out() {
        return conflict(
            "eval_strategy",
            "nothing is held out to evaluate on; raise eval_split, name a dataset_test_split, or set eval_strategy to no",
        );
    }
    let asks_for_best = [
        ("load_best_model_at_end", config.run.best.as_ref().is_some_and(|best| best.load)),
        ("early_stopping_patience", config.run.best.as_ref().is_some_and(|best| best.patience.is_some())),
        ("save_strategy", config.run.save_strategy == SaveStrategy::Best),
    ];
    if let (Some((key, _)), Strategy::No) =
        (asks_for_best.iter().find(|(_, asked)| *asked), config.run.eval_strategy)
    {
        return conflict(
            key,
            &format!("{key} needs evaluations and there are none; set eval_strategy to steps or epoch"),
        );
    }
    let new_head = config.objective.score_head().map(|(_, layout)| layout);
    if new_head == Some(ScoreLayout::SafeRlhf) && config.adapter.is_some() {
        return conflict(
            "use_peft",
            "PEFT has no place for a head in safe-rlhf's layout and its normaliser; set score_layout to transformers, or leave \
             use_peft out",
        );
    }
    if let ObjectiveSection::PpoLag(section) = &config.objective {
        if section.reward_model == section.cost_model {
            return conflict("cost_model", "reward_model and cost_model are the same; name one of each");
        }
        if config.adapter.is_some() {
            return conflict(
                "use_peft",
                "stage ppo_lag samples from whole weights, so that adapters are not supported; leave use_peft out",
            );
        }
        if config.run.eval_strategy != Strategy::No {
            return conflict(
                "eval_strategy",
                "stage ppo_lag has no evaluation on rows; leave eval_strategy out, and measure the model with bso eval",
            );
        }
    }
    if matches!(config.objective, ObjectiveSection::Cost { .. })
        && config.data.preference != Preference::Safer
    {
        return conflict(
            "preference",
            "a cost model learns which response is safer; set preference to safer",
        );
    }
    of_recipe(config, r)?;
    let mut advice = unread_adapter_keys(config, r);
    advice.extend(unread_stage_keys(config, r));
    advice.extend(of_best(config, r));
    advice.extend(match &config.objective {
        ObjectiveSection::Bso(bso) => of_bso(bso, config.data.safety_transform),
        ObjectiveSection::SafeDpo { .. } if config.data.safety_transform != SafetyTransform::SwapDrop => {
            vec![format!(
                "SafeDPO is defined on pairs under safety_transform swap_drop; here it is {}",
                ClosedSet::name(config.data.safety_transform)
            )]
        }
        _ => Vec::new(),
    });
    Ok(advice)
}

/// What the stages of a recipe cannot be made from.
fn of_recipe(config: &TrainConfig, r: &Resolver) -> Result<(), ConfigError> {
    let Some(recipe) = &config.recipe else { return Ok(()) };
    let name = recipe.name;
    let conflict = |key, problem: String| Err(ConfigError::Conflict { place: r.place(key), problem });
    let wanted = match name {
        Recipe::Modpo => LossType::Modpo,
        Recipe::SafeRlhf => LossType::PpoLag,
        _ => LossType::Dpo,
    };
    if config.objective.loss_type() != wanted {
        return conflict(
            "recipe",
            format!("recipe {name} goes with `loss_type: {wanted}`; write that, or recipe none"),
        );
    }
    if config.adapter.is_some() && matches!(name, Recipe::PSacpo | Recipe::Mocan) {
        let problem = "needs whole weights in one of its stages; leave use_peft out";
        return conflict("use_peft", format!("recipe {name} {problem}"));
    }
    let kto = recipe.safety_loss_type == LossType::Kto && matches!(name, Recipe::Sacpo | Recipe::PSacpo);
    if kto && config.schedule.per_device_train_batch_size < 2 {
        let problem =
            "safety_loss_type kto estimates the KL divergence within a batch; it must be at least 2";
        return conflict("per_device_train_batch_size", problem.to_owned());
    }
    Ok(())
}

fn unread_stage_keys(config: &TrainConfig, r: &Resolver) -> Option<String> {
    let keys = table::keys().filter(|key| key.category == Category::Stages && key.name != "recipe");
    let given: Vec<&str> = keys.map(|key| key.name).filter(|name| r.given(name).is_some()).collect();
    (config.recipe.is_none() && !given.is_empty())
        .then(|| format!("{} is not read without a recipe of several stages", given.join(", ")))
}

fn unread_adapter_keys(config: &TrainConfig, r: &Resolver) -> Vec<String> {
    let adapter_keys = table::keys().filter(|key| key.category == Category::Lora && key.name != "use_peft");
    let says_something =
        |key: &&Key| r.given(key.name).is_some_and(|given| given.setting != Setting::Bool(false));
    let given: Vec<&str> = adapter_keys.filter(says_something).map(|key| key.name).collect();
    if config.adapter.is_some() || given.is_empty() {
        return Vec::new();
    }
    vec![format!("{} is not read without use_peft: true: all weights are trained", given.join(", "))]
}

fn of_best(config: &TrainConfig, r: &Resolver) -> Option<String> {
    let given = |key: &&str| r.given(key).is_some();
    match &config.run.best {
        None => ["greater_is_better", "early_stopping_threshold"].iter().find(|key| given(key)).map(|key| {
            format!("{key} is not read: set load_best_model_at_end, early_stopping_patience or metric_for_best_model")
        }),
        Some(best) if best.patience.is_none() && given(&"early_stopping_threshold") => {
            Some("early_stopping_threshold is not read without early_stopping_patience".to_owned())
        }
        Some(best) if best.patience.is_some() && !best.load => Some(
            "early_stopping_patience without load_best_model_at_end: the run ends with the weights of its last step, not \
             with the best"
                .to_owned(),
        ),
        Some(_) => None,
    }
}

fn of_bso(bso: &BsoSettings, transform: SafetyTransform) -> Vec<String> {
    let mut advice = Vec::new();
    let c = bso.safety_penalty;
    if let (Some((low, high)), Tail::Clamp) = (bso.clamp, bso.tail)
        && (c > high || -c < low)
    {
        advice.push(format!(
            "safety_penalty {c} lies beyond log_ratio_clamp [{low}, {high}]: pairs with one unsafe response start outside \
             and get no gradient; widen the clamp, lower the penalty, or set log_ratio_tail to linear"
        ));
    }
    if transform == SafetyTransform::SwapDrop && bso.clamp.is_none() && grows_on_the_left(&bso.generator) {
        advice.push(format!(
            "generator {} without log_ratio_clamp on swap_drop pairs: its loss is unbounded below there, and pairs with one \
             unsafe response swamp the others; set log_ratio_clamp: [-30, 30]",
            bso.generator.name()
        ));
    }
    advice
}

/// Whether l'(u) grows as u falls: |a| > 1/2 in the power family.
fn grows_on_the_left(generator: &Generator) -> bool {
    let slope = |u: f64| generator.slope(u).unwrap_or(0.0).abs();
    slope(-12.0) > 1.5 * slope(-6.0)
}
