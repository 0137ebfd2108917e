//! The row contract of `bso loss`: a JSON object with log-probs in, the same object with loss and derivatives out.
//! Row keys win over flags of the same name, an absent key uses the flag or the default, an explicit `null` means
//! "none". No data transform runs here; nothing is read or printed.

mod fields;
mod generator;

use crate::score_loss::{PairScores, ScoreLoss};
use serde_json::{Map, Value, json};
use thiserror::Error;

use crate::bso::{BsoSettings, Tail};
use crate::comparator::kto::{KtoBatch, KtoLoss};
use crate::error::ObjectiveError;
use crate::loss::PreferenceLoss;
use crate::pair::{PairInputs, PairLogProbs, SafetyLabels};
use fields::Fields;

/// Flags: values used where a row lacks the key, under the same canonical names as in rows.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RowDefaults(Map<String, Value>);

/// Why a row has no loss. The caller adds file and line.
#[derive(Debug, Clone, PartialEq, Error)]
#[non_exhaustive]
pub enum RowError {
    /// Fields that the loss needs are absent or null.
    #[error("{loss} needs {fields}: not in this row")]
    Missing {
        /// The loss type.
        loss: String,
        /// The fields, comma separated.
        fields: String,
    },
    /// A field has the wrong type or form.
    #[error("{field} must be {expected}, found {found}")]
    Type {
        /// The field.
        field: String,
        /// What is accepted.
        expected: &'static str,
        /// What was there (shortened).
        found: String,
    },
    /// Two fields that say the same thing.
    #[error("{first} and {second} are both given: they mean the same, keep one")]
    Conflict {
        /// One.
        first: &'static str,
        /// The other.
        second: String,
    },
    /// A generator parameter that the generator does not have.
    #[error("generator {generator} has no parameter {parameter}")]
    ForeignParameter {
        /// The generator.
        generator: String,
        /// The row's key.
        parameter: &'static str,
    },
    /// The loss refused its settings or inputs.
    #[error(transparent)]
    Objective(#[from] ObjectiveError),
}

impl RowDefaults {
    /// Sets a flag's value; `Value::Null` means "none".
    pub fn set(&mut self, name: &str, value: Value) {
        self.0.insert(name.to_owned(), value);
    }
}

/// The row with `loss`, `dloss_dchosen_logp`, `dloss_drejected_logp` (kto: `loss[]`, `dloss_dlogp[]`) and, for
/// losses that are functions of log R, `log_ratio` (before any clamp) and `dloss_dlogratio` added. A `loss` in the
/// input is overwritten; all other fields pass through in their order.
///
/// # Errors
/// A missing or ill-typed field, contradicting fields, a setting out of range, or a result that f64 cannot hold.
pub fn evaluate_row(
    row: &Map<String, Value>,
    defaults: &RowDefaults,
) -> Result<Map<String, Value>, RowError> {
    let fields = Fields::new(row, &defaults.0)?;
    let loss_type = fields.text("loss_type", "bso")?;
    if loss_type == "kto" {
        return evaluate_kto(row, &fields);
    }
    if let "reward" | "cost" = loss_type.as_str() {
        return evaluate_scores(row, &loss_type, &fields);
    }
    let loss = pairwise(&loss_type, &fields)?;
    let result = loss.evaluate(&inputs(&loss, &fields)?)?;
    let mut out = row.clone();
    let mut add = |name: &str, value: f64| out.insert(name.to_owned(), json!(value));
    if let (Some(log_ratio), Some(slope)) = (result.log_ratio, result.d_log_ratio) {
        add("log_ratio", log_ratio);
        add("dloss_dlogratio", slope);
    }
    add("loss", result.value);
    add("dloss_dchosen_logp", result.d_chosen);
    add("dloss_drejected_logp", result.d_rejected);
    Ok(out)
}

fn pairwise(loss_type: &str, fields: &Fields<'_>) -> Result<PreferenceLoss, RowError> {
    let beta = fields.number("beta", 0.1)?;
    let loss = match loss_type {
        "bso" => PreferenceLoss::bso(BsoSettings {
            generator: generator::read(fields)?,
            beta,
            safety_penalty: fields.number_or_none("safety_penalty", 10.0)?,
            clamp: fields.clamp(BsoSettings::default().clamp)?,
            tail: Tail::parse(&fields.text("log_ratio_tail", "clamp")?)?,
            label_smoothing: fields.number_or_none("label_smoothing", 0.0)?,
        }),
        "dpo" | "sigmoid" => PreferenceLoss::dpo(beta),
        "cdpo" => PreferenceLoss::cdpo(beta, fields.number_or_none("label_smoothing", 0.0)?),
        "ipo" => PreferenceLoss::ipo(beta),
        "ipo_mean" => PreferenceLoss::ipo_mean(beta),
        "hinge" => PreferenceLoss::hinge(beta),
        "safedpo" => PreferenceLoss::safedpo(beta, fields.delta(10.0)?),
        "bfpo" => PreferenceLoss::bfpo(beta, fields.number("b1", 3.0)?, fields.number("alpha", 0.5)?),
        "modpo" => PreferenceLoss::modpo(beta, fields.number("w0", 0.5)?),
        _ => Err(ObjectiveError::UnknownName {
            kind: "loss_type",
            name: loss_type.to_owned(),
            accepted: format!("{}, kto, reward, cost (sigmoid = dpo)", PreferenceLoss::NAMES.join(", ")),
        }),
    };
    Ok(loss?)
}

fn inputs(loss: &PreferenceLoss, fields: &Fields<'_>) -> Result<PairInputs, RowError> {
    let mut needed =
        vec!["policy_chosen_logp", "policy_rejected_logp", "ref_chosen_logp", "ref_rejected_logp"];
    for (needs, names) in [
        (loss.needs_labels(), ["chosen_unsafe", "rejected_unsafe"]),
        (loss.needs_tokens(), ["chosen_tokens", "rejected_tokens"]),
        (loss.needs_margins(), ["chosen_margin", "rejected_margin"]),
    ] {
        if needs {
            needed.extend(names);
        }
    }
    fields.require(loss.name(), &needed)?;
    let both = |needs: bool| needs.then_some(());
    Ok(PairInputs {
        logps: PairLogProbs {
            policy_chosen: fields.row_number("policy_chosen_logp")?,
            policy_rejected: fields.row_number("policy_rejected_logp")?,
            ref_chosen: fields.row_number("ref_chosen_logp")?,
            ref_rejected: fields.row_number("ref_rejected_logp")?,
        },
        labels: both(loss.needs_labels())
            .map(|()| {
                Ok::<_, RowError>(SafetyLabels {
                    chosen_unsafe: fields.row_flag("chosen_unsafe")?,
                    rejected_unsafe: fields.row_flag("rejected_unsafe")?,
                })
            })
            .transpose()?,
        tokens: both(loss.needs_tokens())
            .map(|()| {
                Ok::<_, RowError>((fields.row_count("chosen_tokens")?, fields.row_count("rejected_tokens")?))
            })
            .transpose()?,
        margins: both(loss.needs_margins())
            .map(|()| {
                Ok::<_, RowError>((
                    fields.row_number("chosen_margin")?,
                    fields.row_number("rejected_margin")?,
                ))
            })
            .transpose()?,
    })
}

/// `chosen_score`, `rejected_score` (for costs those of the safer response and of the other, with their labels).
fn evaluate_scores(
    row: &Map<String, Value>,
    loss_type: &str,
    fields: &Fields<'_>,
) -> Result<Map<String, Value>, RowError> {
    let regularization = fields.number_or_none("regularization", 0.001)?;
    let loss = match loss_type {
        "cost" => ScoreLoss::cost(regularization)?,
        _ => ScoreLoss::reward(regularization)?,
    };
    fields.require(loss.name(), &["chosen_score", "rejected_score"])?;
    let mut labels = None;
    if loss.is_cost() {
        fields.require(loss.name(), &["chosen_unsafe", "rejected_unsafe"])?;
        let chosen_unsafe = fields.row_flag("chosen_unsafe")?;
        labels = Some(SafetyLabels { chosen_unsafe, rejected_unsafe: fields.row_flag("rejected_unsafe")? });
    }
    let (chosen, rejected) = (fields.row_number("chosen_score")?, fields.row_number("rejected_score")?);
    let result = loss.evaluate(&PairScores { chosen, rejected, labels })?;
    let mut out = row.clone();
    out.insert("loss".to_owned(), json!(result.value));
    out.insert("dloss_dchosen_score".to_owned(), json!(result.d_chosen));
    out.insert("dloss_drejected_score".to_owned(), json!(result.d_rejected));
    Ok(out)
}

fn evaluate_kto(row: &Map<String, Value>, fields: &Fields<'_>) -> Result<Map<String, Value>, RowError> {
    fields.require("kto", &["policy_logp", "ref_logp", "desirable"])?;
    let loss = KtoLoss::new(
        fields.number("beta", 0.1)?,
        fields.number("desirable_weight", 1.0)?,
        fields.number("undesirable_weight", 1.0)?,
    )?;
    let Some(kl) = fields.given("kl") else {
        return Err(RowError::Missing { loss: "kto".to_owned(), fields: "kl".to_owned() });
    };
    let (policy, reference) = (fields.row_numbers("policy_logp")?, fields.row_numbers("ref_logp")?);
    let desirable = fields.row_flags("desirable")?;
    let kl = fields::as_number("kl", kl)?;
    let batch = KtoBatch { policy: &policy, reference: &reference, desirable: &desirable, kl };
    let (losses, slopes): (Vec<f64>, Vec<f64>) = loss.evaluate(&batch)?.into_iter().unzip();
    let mut out = row.clone();
    out.insert("loss".to_owned(), json!(losses));
    out.insert("dloss_dlogp".to_owned(), json!(slopes));
    Ok(out)
}
