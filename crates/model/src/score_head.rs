//! A scalar head in place of the language model's: reward and cost models. Two layouts are read and written:
//! transformers' `...ForSequenceClassification` with one label (`score.weight`), and safe-rlhf's `...ForScore`
//! (`score_head.weight`, `.bias`, and a normaliser's running statistics). What computes with it is in `scores`.

use crate::config_fields::Fields;
use crate::error::ModelError;
use crate::family::{Family, HeadClass};
use serde_json::{Map, Value, json};

/// How a model with a scalar head is stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreLayout {
    /// transformers' `...ForSequenceClassification`, `num_labels` 1: no bias, no normaliser. The score stands at the last
    /// token that is not `pad_token_id`.
    SequenceClassification,
    /// safe-rlhf's `...ForScore`. The score stands at the last token.
    SafeRlhf,
}

/// What a score means (safe-rlhf's `score_type`), which decides what its normaliser does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ScoreKind {
    /// Higher is better: `(x - mean) / std`.
    Reward,
    /// Above zero is unsafe: `x / std`, which keeps the sign.
    Cost,
    /// A value function: as it is.
    Critic,
}

impl ScoreKind {
    const ALL: [Self; 3] = [Self::Reward, Self::Cost, Self::Critic];

    /// The name in `score_type`.
    pub fn name(self) -> &'static str {
        match self {
            Self::Reward => "reward",
            Self::Cost => "cost",
            Self::Critic => "critic",
        }
    }
}

/// How running statistics follow the scores of training batches (safe-rlhf's `normalizer_type`).
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum NormaliserRule {
    /// They do not.
    Fixed,
    /// Over all scores so far.
    RunningMeanStd,
    /// `momentum` times the old ones, the rest from the batch.
    ExponentialMovingAverage {
        /// In [0, 1).
        momentum: f64,
    },
}

/// Mean and variance of scores, kept with a model in safe-rlhf's layout.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Normaliser {
    /// How they are renewed.
    pub rule: NormaliserRule,
    /// Whether scores are given normalised (`do_normalize`).
    pub applied: bool,
    /// Mean of scores; 0 at the start.
    pub mean: f64,
    /// Variance of scores; 1 at the start.
    pub var: f64,
    /// Scores seen.
    pub count: u64,
}

impl Default for Normaliser {
    fn default() -> Self {
        Self { rule: NormaliserRule::Fixed, applied: false, mean: 0.0, var: 1.0, count: 0 }
    }
}

/// Added to the standard deviation, as safe-rlhf does.
const EPSILON: f64 = 1e-8;

impl Normaliser {
    /// Takes in the scores of one training batch, with the batch's unbiased variance. A single score has none, and leaves
    /// the statistics as they are.
    pub fn update(&mut self, scores: &[f64]) {
        let n = scores.len() as f64;
        if scores.len() > 1 {
            let mean = scores.iter().sum::<f64>() / n;
            let var = scores.iter().map(|s| (s - mean).powi(2)).sum::<f64>() / (n - 1.0);
            match self.rule {
                NormaliserRule::Fixed => {}
                NormaliserRule::RunningMeanStd => {
                    let (before, delta) = (self.count as f64, mean - self.mean);
                    let total = before + n;
                    self.mean += delta * n / total;
                    self.var = (self.var * before + var * n + delta * delta * before * n / total) / total;
                }
                NormaliserRule::ExponentialMovingAverage { momentum } => {
                    self.mean = momentum * self.mean + (1.0 - momentum) * mean;
                    self.var = momentum * self.var + (1.0 - momentum) * var;
                }
            }
        }
        // Kept as they are stored, so that a resumed run goes on with the same numbers.
        (self.mean, self.var) = (f64::from(self.mean as f32), f64::from(self.var as f32));
        self.count += scores.len() as u64;
    }
}

/// A scalar head's settings.
#[derive(Clone, Debug, PartialEq)]
pub struct ScoreHead {
    /// How it is stored.
    pub layout: ScoreLayout,
    /// What a score means; transformers' layout does not say, and counts as a reward.
    pub kind: ScoreKind,
    /// Whether the head has a bias.
    pub bias: bool,
    /// Running statistics.
    pub normaliser: Normaliser,
}

impl ScoreHead {
    /// A new head in transformers' layout.
    pub fn sequence_classification() -> Self {
        let layout = ScoreLayout::SequenceClassification;
        Self { layout, kind: ScoreKind::Reward, bias: false, normaliser: Normaliser::default() }
    }

    /// A new head in safe-rlhf's layout, with a bias as there; statistics follow `rule` and are not applied.
    pub fn safe_rlhf(kind: ScoreKind, rule: NormaliserRule) -> Self {
        let normaliser = Normaliser { rule, ..Normaliser::default() };
        Self { layout: ScoreLayout::SafeRlhf, kind, bias: true, normaliser }
    }

    /// The score as the model gives it to others: normalised where the model says so.
    pub fn normalise(&self, score: f64) -> f64 {
        let Normaliser { applied, mean, var, .. } = self.normaliser;
        match self.kind {
            _ if !applied => score,
            ScoreKind::Reward => (score - mean) / (var.sqrt() + EPSILON),
            ScoreKind::Cost => score / (var.sqrt() + EPSILON),
            ScoreKind::Critic => score,
        }
    }

    /// The head's name in the state dict.
    pub(crate) fn module(&self) -> &'static str {
        match self.layout {
            ScoreLayout::SequenceClassification => "score",
            ScoreLayout::SafeRlhf => "score_head",
        }
    }

    /// Writes what `config.json` says of it. `architectures` is the caller's.
    pub(crate) fn write(&self, fields: &mut Map<String, Value>) {
        let mut put = |key: &str, value: Value| fields.insert(key.into(), value);
        match self.layout {
            ScoreLayout::SequenceClassification => {
                put("id2label", json!({"0": "LABEL_0"}));
                put("label2id", json!({"LABEL_0": 0}));
            }
            ScoreLayout::SafeRlhf => {
                let Normaliser { rule, applied, mean, var, .. } = self.normaliser;
                put("score_dim", json!(1));
                put("score_bias", json!(self.bias));
                // The name of the same key in earlier versions.
                put("bias", json!(self.bias));
                put("score_type", json!(self.kind.name()));
                put("do_normalize", json!(applied));
                put("mean", json!([mean]));
                put("var", json!([var]));
                match rule {
                    NormaliserRule::Fixed => put("normalizer_type", Value::Null),
                    NormaliserRule::RunningMeanStd => put("normalizer_type", json!("RunningMeanStd")),
                    NormaliserRule::ExponentialMovingAverage { momentum } => {
                        put("momentum", json!(momentum));
                        put("normalizer_type", json!("ExponentialMovingAverage"))
                    }
                };
            }
        }
    }
}

impl Family {
    /// The class in `architectures` of a model of this family with such a head.
    pub(crate) fn class_with(&self, layout: ScoreLayout) -> Option<&'static str> {
        match layout {
            ScoreLayout::SequenceClassification => Some(self.classifier),
            ScoreLayout::SafeRlhf => self.scorers.first().copied(),
        }
    }
}

impl Fields<'_> {
    /// The scalar head that `config.json` describes, where the class has one.
    pub(crate) fn score_head(&self, class: HeadClass) -> Result<Option<ScoreHead>, ModelError> {
        match class {
            HeadClass::LanguageModel => Ok(None),
            HeadClass::SequenceClassification => {
                self.refuse_several_labels()?;
                Ok(Some(ScoreHead::sequence_classification()))
            }
            HeadClass::SafeRlhf { bias } => Ok(Some(self.safe_rlhf_head(bias)?)),
        }
    }

    /// transformers counts the entries of `id2label`, and means two where neither key is there.
    fn refuse_several_labels(&self) -> Result<(), ModelError> {
        let labels = match (self.map.get("num_labels"), self.map.get("id2label")) {
            (Some(count), _) if !count.is_null() => count.clone(),
            (_, Some(Value::Object(labels))) => json!(labels.len()),
            _ => json!(2),
        };
        if labels == json!(1) {
            return Ok(());
        }
        Err(self.wrong(
            format!(
                "num_labels = {labels} (the entries of id2label; 2 where neither is given) is not supported"
            ),
            "a reward or cost model has one label: use a checkpoint with num_labels 1",
        ))
    }

    fn safe_rlhf_head(&self, default_bias: bool) -> Result<ScoreHead, ModelError> {
        let dimensions = self.whole_number("score_dim", 1)?;
        if dimensions != 1 {
            return Err(self.wrong(
                format!("score_dim = {dimensions} is not supported"),
                "use a checkpoint whose head gives one score",
            ));
        }
        let kind = self.word("score_type", "reward", &ScoreKind::ALL.map(ScoreKind::name))?;
        let kind = ScoreKind::ALL.into_iter().find(|k| k.name() == kind).unwrap_or(ScoreKind::Reward);
        let (none, running, moving) = ("null", "RunningMeanStd", "ExponentialMovingAverage");
        let rule = match self.word("normalizer_type", none, &[running, moving])? {
            rule if rule == running => NormaliserRule::RunningMeanStd,
            rule if rule == moving => {
                let momentum = self.number(self.map, "momentum", Some(0.9), 0.0)?;
                if momentum >= 1.0 {
                    return Err(
                        self.wrong(format!("momentum = {momentum} is not in [0, 1)"), "correct the field")
                    );
                }
                NormaliserRule::ExponentialMovingAverage { momentum }
            }
            _ => NormaliserRule::Fixed,
        };
        let one = |key: &str, default: f64| match self.map.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.get(0).unwrap_or(value).as_f64() {
                Some(x) => Ok(x),
                None => Err(self.wrong(format!("{key} = {value} is not one number"), "correct the field")),
            },
        };
        let (mean, var) = (one("mean", 0.0)?, one("var", 1.0)?);
        let applied = self.flag("do_normalize", false)?;
        let bias_key = if self.absent("score_bias") { "bias" } else { "score_bias" };
        Ok(ScoreHead {
            layout: ScoreLayout::SafeRlhf,
            kind,
            bias: self.flag(bias_key, default_bias)?,
            normaliser: Normaliser { rule, applied, mean, var, count: 0 },
        })
    }

    /// One of the allowed words, or the default where there is none.
    fn word(
        &self,
        key: &str,
        default: &'static str,
        allowed: &[&'static str],
    ) -> Result<&'static str, ModelError> {
        if self.absent(key) {
            return Ok(default);
        }
        let value = &self.map[key];
        let known = allowed.iter().copied().find(|word| value.as_str() == Some(word));
        known.ok_or_else(|| {
            self.wrong(
                format!("{key} = {value} is not supported"),
                format!("supported: {}", allowed.join(", ")),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(kind: ScoreKind, rule: NormaliserRule) -> ScoreHead {
        let mut head = ScoreHead::safe_rlhf(kind, rule);
        head.normaliser.applied = true;
        head
    }

    #[test]
    fn running_statistics_are_those_of_all_scores_as_safe_rlhf_adds_them_up() {
        let mut all = Normaliser { rule: NormaliserRule::RunningMeanStd, ..Normaliser::default() };
        all.update(&[1.0, 3.0]);
        assert_eq!((all.mean, all.var, all.count), (2.0, 2.0, 2));
        all.update(&[5.0, 6.0, 7.0]);
        // (2 * 2 + 1 * 3 + 4^2 * 2 * 3 / 5) / 5
        assert!((all.mean - 4.4).abs() < 1e-6 && (all.var - 5.24).abs() < 1e-6 && all.count == 5);
    }

    #[test]
    fn the_moving_average_starts_at_zero_and_one_and_a_lone_score_has_no_variance() {
        let rule = NormaliserRule::ExponentialMovingAverage { momentum: 0.9 };
        let mut moving = Normaliser { rule, ..Normaliser::default() };
        moving.update(&[1.0, 3.0]);
        assert!((moving.mean - 0.2).abs() < 1e-7 && (moving.var - 1.1).abs() < 1e-7);
        let before = moving;
        moving.update(&[9.0]);
        assert_eq!((moving.mean, moving.var, moving.count), (before.mean, before.var, 3));
    }

    #[test]
    fn rewards_are_centred_costs_keep_their_sign_and_nothing_is_done_unasked() {
        let mut reward = head(ScoreKind::Reward, NormaliserRule::Fixed);
        (reward.normaliser.mean, reward.normaliser.var) = (2.0, 4.0);
        let cost = ScoreHead { kind: ScoreKind::Cost, ..reward.clone() };
        let critic = ScoreHead { kind: ScoreKind::Critic, ..reward.clone() };
        assert!((reward.normalise(1.0) + 0.5).abs() < 1e-8);
        assert!((cost.normalise(1.0) - 0.5).abs() < 1e-8);
        assert_eq!(critic.normalise(1.0), 1.0);
        reward.normaliser.applied = false;
        assert_eq!(reward.normalise(1.0), 1.0);
    }
}
