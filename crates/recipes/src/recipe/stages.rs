//! What each recipe consists of. A new recipe is one more arm in [`of`].

use super::Plan;
use super::work::{Between, Scorers, Work};
use crate::RecipeError;
use crate::config::{LossType, ObjectiveSection, Recipe, RecipeSection, Stage, TrainConfig};
use bso_data::{Preference, SafetyTransform, Schema};
use bso_model::ScoreLayout;
use std::path::PathBuf;

/// A stage before it runs; what it does may depend on the results of those before.
pub struct StageOf {
    /// Its folder below `output_dir`; empty for the last.
    pub name: &'static str,
    /// What it does, for the user.
    pub about: &'static str,
    /// Its work.
    pub work: fn(&Plan<'_>) -> Result<Work, RecipeError>,
}

const fn stage(
    name: &'static str,
    about: &'static str,
    work: fn(&Plan<'_>) -> Result<Work, RecipeError>,
) -> StageOf {
    StageOf { name, about, work }
}

/// The stages of a recipe in their order; the last has no folder of its own.
pub fn of(config: &TrainConfig, recipe: &RecipeSection) -> Vec<StageOf> {
    let first = stage("helpful", "DPO on helpfulness", |p| Ok(helpful(p)));
    let judged = (recipe.safety_loss_type == LossType::Kto).then(|| {
        stage("judged", "responses judged by their safety labels", |_| Ok(Work::Rows(Between::Judge)))
    });
    let last = stage("", "DPO on the relabelled pairs", |p| Ok(on_relabelled(p)));
    let samples = stage("samples", "responses of the reference", |_| Ok(Work::Rows(Between::Sample)));
    match recipe.name {
        Recipe::Sacpo => std::iter::once(first)
            .chain(judged)
            .chain([stage("", "the safety stage, from the helpful policy", |p| safer_than_helpful(p, ""))])
            .collect(),
        Recipe::PSacpo => std::iter::once(first)
            .chain(judged)
            .chain([
                stage("safer", "the safety stage, from the helpful policy", |p| {
                    safer_than_helpful(p, "safer")
                }),
                stage("", "the weights of both averaged", |p| {
                    let q = p.recipe.interpolation;
                    Ok(Work::Interpolate {
                        models: [p.dir("helpful"), p.dir("safer")],
                        weights: [1.0 - q, q],
                    })
                }),
            ])
            .collect(),
        Recipe::Modpo => config
            .objective
            .margin_model()
            .is_none()
            .then(|| {
                stage("margin", "the safer model, by DPO", |p| {
                    Ok(safe(p, "margin", p.config.objective.beta()))
                })
            })
            .into_iter()
            .chain([stage("", "MODPO with its log-ratios as margins", |p| Ok(with_margins(p)))])
            .collect(),
        Recipe::Mocan => vec![
            stage("reward", "the reward model", |p| Ok(scorer(p, Stage::Reward))),
            stage("cost", "the cost model", |p| Ok(scorer(p, Stage::Cost))),
            samples,
            stage("relabelled", "the multiplier, and pairs relabelled", |p| {
                let by = Scorers::Scores { reward: p.dir("reward"), cost: p.dir("cost") };
                Ok(Work::Rows(Between::Relabel(by)))
            }),
            last,
        ],
        Recipe::SafeRlhf => vec![
            stage("reward", "the reward model", |p| Ok(scorer(p, Stage::Reward))),
            stage("cost", "the cost model", |p| Ok(scorer(p, Stage::Cost))),
            stage("", "PPO-Lagrangian with both", |p| Ok(p.training("", |_| {}))),
        ],
        Recipe::Pecan => vec![
            first,
            stage("safe", "DPO on safety", |p| Ok(safe(p, "safe", p.config.objective.beta()))),
            samples,
            stage("relabelled", "the multiplier, and pairs relabelled", |p| {
                let by = Scorers::Policies { helpful: p.dir("helpful"), safe: p.dir("safe") };
                Ok(Work::Rows(Between::Relabel(by)))
            }),
            last,
        ],
    }
}

fn helpful(plan: &Plan<'_>) -> Work {
    plan.training("helpful", |c| {
        c.objective = ObjectiveSection::Dpo { beta: c.objective.beta() };
        c.data.preference = Preference::Better;
        c.data.safety_transform = SafetyTransform::None;
    })
}

/// DPO on safety from the user's model.
fn safe(plan: &Plan<'_>, stage: &str, beta: f64) -> Work {
    plan.training(stage, |c| {
        c.objective = ObjectiveSection::Dpo { beta };
        c.data.preference = Preference::Safer;
        c.data.safety_transform = SafetyTransform::None;
    })
}

/// SACPO's second stage: the first one's result is where it starts and what it refers to.
fn safer_than_helpful(plan: &Plan<'_>, stage: &str) -> Result<Work, RecipeError> {
    let beta = plan.recipe.safety_beta;
    let undesirable = match plan.recipe.safety_loss_type {
        LossType::Kto => Some(super::relabel::undesirable_weight(plan)?),
        _ => None,
    };
    Ok(plan.training(stage, |c| {
        c.model.model_name_or_path = plan.dir("helpful");
        c.model.ref_model = None;
        c.data.safety_transform = SafetyTransform::None;
        match undesirable {
            None => {
                c.objective = ObjectiveSection::Dpo { beta };
                c.data.preference = Preference::Safer;
            }
            Some(undesirable_weight) => {
                c.objective = ObjectiveSection::Kto { beta, desirable_weight: 1.0, undesirable_weight };
                read_only(c, super::relabel::judged(plan), Schema::Unpaired);
            }
        }
    }))
}

fn with_margins(plan: &Plan<'_>) -> Work {
    plan.training("", |c| {
        c.data.preference = Preference::Better;
        if let ObjectiveSection::Modpo { margin_model, .. } = &mut c.objective
            && margin_model.is_none()
        {
            *margin_model = Some(plan.dir("margin"));
        }
    })
}

/// A reward or a cost model, all of whose weights are trained.
fn scorer(plan: &Plan<'_>, stage: Stage) -> Work {
    plan.training(stage_folder(stage), |c| {
        let (regularization, score_layout) = (0.001, ScoreLayout::SequenceClassification);
        let cost = stage == Stage::Cost;
        c.stage = stage;
        c.objective = if cost {
            ObjectiveSection::Cost { regularization, score_layout }
        } else {
            ObjectiveSection::Reward { regularization, score_layout }
        };
        c.data.preference = if cost { Preference::Safer } else { Preference::Better };
        c.data.safety_transform = SafetyTransform::None;
        c.model.ref_model = None;
        c.schedule.learning_rate = plan.recipe.score_learning_rate;
        c.schedule.num_train_epochs = plan.recipe.score_num_train_epochs;
    })
}

fn stage_folder(stage: Stage) -> &'static str {
    if stage == Stage::Cost { "cost" } else { "reward" }
}

/// The user's objective on the relabelled pairs.
fn on_relabelled(plan: &Plan<'_>) -> Work {
    plan.training("", |c| {
        c.data.preference = Preference::Better;
        c.data.safety_transform = SafetyTransform::None;
        read_only(c, super::relabel::relabelled(plan), Schema::Flat);
    })
}

/// Rows that a stage wrote, in place of the user's.
fn read_only(config: &mut TrainConfig, path: PathBuf, schema: Schema) {
    let data = &mut config.data;
    data.datasets = vec![crate::config::DatasetSource { path, weight: None, split: None }];
    data.dataset_format = Some(schema);
    data.columns.clear();
    (data.train_split, data.test_split) = (None, None);
}
