//! What is minimised: the loss with its numbers, ready to be built.

use super::super::choices::LossType;
use super::super::dataset::DatasetSource;
use super::super::error::{ConfigError, Place};
use super::super::generator;
use super::super::resolve::Resolver;
use super::super::value::Setting;
use super::{PpoLagSection, Settings};
use crate::objective::TrainingObjective;
use bso_model::{ScoreKind, ScoreLayout};
use bso_objective::{BsoSettings, GeneratorParam, KtoLoss, PreferenceLoss, ScoreLoss};
use std::path::PathBuf;

/// The loss with the numbers it reads. beta is in reward units per nat, penalties in reward units.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "the fields are the keys of docs/configuration.md")]
pub enum ObjectiveSection {
    /// Negative log-likelihood of the responses.
    Nll,
    /// BSO.
    Bso(BsoSettings),
    /// DPO.
    Dpo { beta: f64 },
    /// DPO with label smoothing.
    Cdpo { beta: f64, label_smoothing: f64 },
    /// IPO on sums.
    Ipo { beta: f64 },
    /// IPO on per-token means.
    IpoMean { beta: f64 },
    /// The hinge.
    Hinge { beta: f64 },
    /// SafeDPO.
    SafeDpo { beta: f64, delta: f64 },
    /// BFPO.
    Bfpo { beta: f64, b1: f64, alpha: f64, replay_datasets: Vec<DatasetSource> },
    /// MODPO.
    Modpo { beta: f64, w0: f64, margin_model: Option<PathBuf> },
    /// A reward model's loss.
    Reward { regularization: f64, score_layout: ScoreLayout },
    /// A cost model's loss.
    Cost { regularization: f64, score_layout: ScoreLayout },
    /// KTO.
    Kto { beta: f64, desirable_weight: f64, undesirable_weight: f64 },
    /// PPO-Lagrangian, which has no loss on rows.
    PpoLag(Box<PpoLagSection>),
}

impl ObjectiveSection {
    pub(in super::super) fn read(r: &mut Resolver) -> Result<Self, ConfigError> {
        match r.loss {
            LossType::Nll => return Ok(Self::Nll),
            LossType::PpoLag => return Ok(Self::PpoLag(Box::new(PpoLagSection::read(r)?))),
            LossType::Reward | LossType::Cost => {
                let (regularization, score_layout) = (r.real("regularization")?, r.choice("score_layout")?);
                return Ok(match r.loss {
                    LossType::Cost => Self::Cost { regularization, score_layout },
                    _ => Self::Reward { regularization, score_layout },
                });
            }
            _ => {}
        }
        let beta = r.real("beta")?;
        Ok(match r.loss {
            LossType::Nll | LossType::Reward | LossType::Cost | LossType::PpoLag => Self::Nll,
            LossType::Bso => Self::Bso(BsoSettings {
                generator: generator::resolve(r)?,
                beta,
                safety_penalty: r.real("safety_penalty")?,
                clamp: r.interval("log_ratio_clamp")?,
                tail: r.choice("log_ratio_tail")?,
                label_smoothing: r.real("label_smoothing")?,
            }),
            LossType::Dpo => Self::Dpo { beta },
            LossType::Cdpo => Self::Cdpo { beta, label_smoothing: r.real("label_smoothing")? },
            LossType::Ipo => Self::Ipo { beta },
            LossType::IpoMean => Self::IpoMean { beta },
            LossType::Hinge => Self::Hinge { beta },
            LossType::SafeDpo => Self::SafeDpo { beta, delta: r.delta()? },
            LossType::Bfpo => Self::Bfpo {
                beta,
                b1: r.real("b1")?,
                alpha: r.real("alpha")?,
                replay_datasets: r.optional_datasets("replay_dataset_name")?,
            },
            LossType::Modpo => {
                Self::Modpo { beta, w0: r.real("w0")?, margin_model: r.optional_path("margin_model")? }
            }
            LossType::Kto => Self::Kto {
                beta,
                desirable_weight: r.real("desirable_weight")?,
                undesirable_weight: r.real("undesirable_weight")?,
            },
        })
    }

    pub(in super::super) fn write(&self, out: &mut Settings) {
        out.choice("loss_type", self.loss_type());
        match self {
            Self::Nll => {}
            Self::PpoLag(section) => section.write(out),
            Self::Bso(bso) => write_bso(bso, out),
            Self::Dpo { beta } | Self::Ipo { beta } | Self::IpoMean { beta } | Self::Hinge { beta } => {
                out.real("beta", *beta);
            }
            Self::Cdpo { beta, label_smoothing } => {
                out.real("beta", *beta);
                out.real("label_smoothing", *label_smoothing);
            }
            Self::SafeDpo { beta, delta } => {
                out.real("beta", *beta);
                out.real("delta", *delta);
            }
            Self::Bfpo { beta, b1, alpha, replay_datasets } => {
                out.real("beta", *beta);
                out.real("b1", *b1);
                out.real("alpha", *alpha);
                out.optional_datasets("replay_dataset_name", replay_datasets);
            }
            Self::Modpo { beta, w0, margin_model } => {
                out.real("beta", *beta);
                out.real("w0", *w0);
                if let Some(model) = margin_model {
                    out.path("margin_model", model);
                }
            }
            Self::Reward { regularization, score_layout } | Self::Cost { regularization, score_layout } => {
                out.real("regularization", *regularization);
                out.choice("score_layout", *score_layout);
            }
            Self::Kto { beta, desirable_weight, undesirable_weight } => {
                out.real("beta", *beta);
                out.real("desirable_weight", *desirable_weight);
                out.real("undesirable_weight", *undesirable_weight);
            }
        }
    }

    /// The loss by name.
    pub fn loss_type(&self) -> LossType {
        match self {
            Self::Nll => LossType::Nll,
            Self::Bso(_) => LossType::Bso,
            Self::Dpo { .. } => LossType::Dpo,
            Self::Cdpo { .. } => LossType::Cdpo,
            Self::Ipo { .. } => LossType::Ipo,
            Self::IpoMean { .. } => LossType::IpoMean,
            Self::Hinge { .. } => LossType::Hinge,
            Self::SafeDpo { .. } => LossType::SafeDpo,
            Self::Bfpo { .. } => LossType::Bfpo,
            Self::Modpo { .. } => LossType::Modpo,
            Self::Kto { .. } => LossType::Kto,
            Self::Reward { .. } => LossType::Reward,
            Self::Cost { .. } => LossType::Cost,
            Self::PpoLag(_) => LossType::PpoLag,
        }
    }

    /// beta, in reward units per nat; 0 where there is no reference.
    pub fn beta(&self) -> f64 {
        match self {
            Self::Nll | Self::Reward { .. } | Self::Cost { .. } | Self::PpoLag(_) => 0.0,
            Self::Bso(bso) => bso.beta,
            Self::Dpo { beta }
            | Self::Cdpo { beta, .. }
            | Self::Ipo { beta }
            | Self::IpoMean { beta }
            | Self::Hinge { beta }
            | Self::SafeDpo { beta, .. }
            | Self::Bfpo { beta, .. }
            | Self::Modpo { beta, .. }
            | Self::Kto { beta, .. } => *beta,
        }
    }

    /// What is scored and how a new head is stored, where a scalar head is trained.
    pub fn score_head(&self) -> Option<(ScoreKind, ScoreLayout)> {
        match self {
            Self::Reward { score_layout, .. } => Some((ScoreKind::Reward, *score_layout)),
            Self::Cost { score_layout, .. } => Some((ScoreKind::Cost, *score_layout)),
            _ => None,
        }
    }

    /// The model that MODPO's margins come from, if not from the rows.
    pub fn margin_model(&self) -> Option<&PathBuf> {
        match self {
            Self::Modpo { margin_model, .. } => margin_model.as_ref(),
            _ => None,
        }
    }

    /// The frozen models that the loss itself names, by their keys.
    pub fn models(&self) -> Vec<(&'static str, &PathBuf)> {
        match self {
            Self::Modpo { margin_model: Some(dir), .. } => vec![("margin_model", dir)],
            Self::PpoLag(section) => {
                vec![("reward_model", &section.reward_model), ("cost_model", &section.cost_model)]
            }
            _ => Vec::new(),
        }
    }

    /// The same, to put local folders in place of names.
    pub(crate) fn models_mut(&mut self) -> Vec<&mut PathBuf> {
        match self {
            Self::Modpo { margin_model: Some(dir), .. } => vec![dir],
            Self::PpoLag(section) => vec![&mut section.reward_model, &mut section.cost_model],
            _ => Vec::new(),
        }
    }

    /// The data sets that the loss itself names, by their key: those that PPO-Lagrangian imitates beside its samples, and
    /// BFPO's general pairs.
    pub fn datasets(&self) -> (&'static str, &[DatasetSource]) {
        match self {
            Self::PpoLag(section) => ("ptx_dataset_name", &section.ptx_datasets),
            Self::Bfpo { replay_datasets, .. } => ("replay_dataset_name", replay_datasets),
            _ => ("", &[]),
        }
    }

    /// The same, to put local files in place of names.
    pub(crate) fn datasets_mut(&mut self) -> &mut [DatasetSource] {
        match self {
            Self::PpoLag(section) => &mut section.ptx_datasets,
            Self::Bfpo { replay_datasets, .. } => replay_datasets,
            _ => &mut [],
        }
    }

    /// Builds what is minimised, and throws it away.
    ///
    /// # Errors
    /// Numbers that it refuses.
    pub(in super::super) fn check(&self) -> Result<(), ConfigError> {
        match self {
            Self::PpoLag(section) => section.build().map(|_| ()),
            _ => self.build().map(|_| ()),
        }
    }

    /// The loss itself.
    ///
    /// # Errors
    /// PPO-Lagrangian, which has no loss on rows ([`PpoLagSection::build`]). Numbers that the loss refuses; none after
    /// [`super::super::load`], which builds it once.
    pub fn build(&self) -> Result<TrainingObjective, ConfigError> {
        let pairs = match self {
            Self::Nll => return Ok(TrainingObjective::Sft),
            Self::PpoLag(_) => {
                return Err(ConfigError::NotSupported {
                    place: Place::Default,
                    what: "stage ppo_lag here".into(),
                    why: "its loss is on sampled responses and not on rows".into(),
                });
            }
            Self::Reward { regularization, .. } => {
                return Ok(TrainingObjective::Scores(ScoreLoss::reward(*regularization)?));
            }
            Self::Cost { regularization, .. } => {
                return Ok(TrainingObjective::Scores(ScoreLoss::cost(*regularization)?));
            }
            Self::Kto { beta, desirable_weight, undesirable_weight } => {
                return Ok(TrainingObjective::Kto(KtoLoss::new(
                    *beta,
                    *desirable_weight,
                    *undesirable_weight,
                )?));
            }
            Self::Bso(settings) => PreferenceLoss::bso(settings.clone()),
            Self::Dpo { beta } => PreferenceLoss::dpo(*beta),
            Self::Cdpo { beta, label_smoothing } => PreferenceLoss::cdpo(*beta, *label_smoothing),
            Self::Ipo { beta } => PreferenceLoss::ipo(*beta),
            Self::IpoMean { beta } => PreferenceLoss::ipo_mean(*beta),
            Self::Hinge { beta } => PreferenceLoss::hinge(*beta),
            Self::SafeDpo { beta, delta } => PreferenceLoss::safedpo(*beta, *delta),
            Self::Bfpo { beta, b1, alpha, .. } => PreferenceLoss::bfpo(*beta, *b1, *alpha),
            Self::Modpo { beta, w0, .. } => PreferenceLoss::modpo(*beta, *w0),
        };
        Ok(TrainingObjective::Pairs(pairs?))
    }
}

fn write_bso(bso: &BsoSettings, out: &mut Settings) {
    out.real("beta", bso.beta);
    out.real("safety_penalty", bso.safety_penalty);
    out.put("generator", Setting::Choice(bso.generator.name()));
    let mut numbers = Vec::new();
    for param in bso.generator.params() {
        match param {
            GeneratorParam::Number(x) => numbers.push(x),
            GeneratorParam::Expression(kernel) => out.put("kernel", Setting::Text(kernel)),
        }
    }
    if !numbers.is_empty() {
        out.put("generator_params", Setting::Numbers(numbers));
    }
    out.put("log_ratio_clamp", bso.clamp.map_or(Setting::Absent, |(low, high)| Setting::Interval(low, high)));
    out.choice("log_ratio_tail", bso.tail);
    out.real("label_smoothing", bso.label_smoothing);
}
