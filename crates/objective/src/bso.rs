//! The BSO loss of a pair: generator, penalty, beta, smoothing, and what happens beyond the clamp interval.
//! Source: arXiv 2605.12339; the structure of the family is in the documentation of [`Generator`].

use crate::error::{ObjectiveError, finite, setting};
use crate::generator::{Generator, LossAndSlope};
use crate::pair::{PairInputs, PairLoss, log_ratio};
use crate::precise::Precise;

/// How the loss goes on beyond the clamp interval.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Tail {
    /// Constant: zero gradient outside the closed interval (the reference behaviour).
    #[default]
    Clamp,
    /// Straight on with the bound's slope.
    Linear,
}

/// BSO's settings as written; [`BsoLoss::new`] checks them.
#[derive(Debug, Clone, PartialEq)]
pub struct BsoSettings {
    /// The generator.
    pub generator: Generator,
    /// KL strength, reward units per nat, > 0.
    pub beta: f64,
    /// C, reward units, >= 0; outside beta.
    pub safety_penalty: f64,
    /// Closed interval for u, nats; `None` for no clamp.
    pub clamp: Option<(f64, f64)>,
    /// What happens beyond it.
    pub tail: Tail,
    /// e in [0, 1/2): (1-e) l(u) + e l(-u).
    pub label_smoothing: f64,
}

/// The checked BSO loss.
#[derive(Debug, Clone, PartialEq)]
pub struct BsoLoss {
    settings: BsoSettings,
}

impl Tail {
    /// Reads `clamp` or `linear`.
    ///
    /// # Errors
    /// Any other name.
    pub fn parse(name: &str) -> Result<Self, ObjectiveError> {
        match name {
            "clamp" => Ok(Self::Clamp),
            "linear" => Ok(Self::Linear),
            _ => Err(ObjectiveError::UnknownName {
                kind: "log_ratio_tail",
                name: name.to_owned(),
                accepted: "clamp, linear".to_owned(),
            }),
        }
    }
}

impl Default for BsoSettings {
    /// SBA(0.2, 4), beta 0.1, C 10, clamp [-30, 30].
    fn default() -> Self {
        Self {
            generator: Generator::Sba { lambda: 0.2, scale: 4.0 },
            beta: 0.1,
            safety_penalty: 10.0,
            clamp: Some((-30.0, 30.0)),
            tail: Tail::Clamp,
            label_smoothing: 0.0,
        }
    }
}

impl BsoSettings {
    /// The objective of the preset `paper`: SBA(0.2, 4), C 30, beta 0.1, clamp [-30, 30] (arXiv 2605.12339,
    /// Qwen2.5-0.5B run). Its data transform is [`crate::SafetyTransform::SwapDrop`].
    #[must_use]
    pub fn paper() -> Self {
        Self { safety_penalty: 30.0, ..Self::default() }
    }
}

impl BsoLoss {
    /// Checks the settings.
    ///
    /// # Errors
    /// A generator at a pole, beta <= 0, C < 0, e outside [0, 1/2), an empty clamp interval, or a number that is
    /// not finite.
    pub fn new(settings: BsoSettings) -> Result<Self, ObjectiveError> {
        settings.generator.check()?;
        let BsoSettings { beta, safety_penalty, clamp, label_smoothing, .. } = settings;
        check_beta(beta)?;
        setting("safety_penalty", safety_penalty, safety_penalty >= 0.0, "a finite number >= 0")?;
        check_smoothing(label_smoothing)?;
        if let Some((low, high)) = clamp
            && !(low.is_finite() && high.is_finite() && low < high)
        {
            return Err(ObjectiveError::Clamp { low, high });
        }
        Ok(Self { settings })
    }

    /// Logistic without clamp, the shape of DPO, cDPO and SafeDPO.
    pub(crate) fn logistic(
        beta: f64,
        safety_penalty: f64,
        label_smoothing: f64,
    ) -> Result<Self, ObjectiveError> {
        let generator = Generator::Logistic;
        Self::new(BsoSettings {
            generator,
            beta,
            safety_penalty,
            clamp: None,
            tail: Tail::Clamp,
            label_smoothing,
        })
    }

    /// The settings.
    #[must_use]
    pub fn settings(&self) -> &BsoSettings {
        &self.settings
    }

    /// The loss of a pair under the name `loss` (its labels are needed only where C > 0).
    pub(crate) fn evaluate_as(
        &self,
        loss: &'static str,
        pair: &PairInputs,
    ) -> Result<PairLoss, ObjectiveError> {
        pair.logps.check()?;
        let s = &self.settings;
        let delta = if s.safety_penalty > 0.0 { pair.labels_for(loss)?.delta() } else { 0.0 };
        let u = log_ratio(pair.logps.precise_margin(), s.beta, s.safety_penalty, delta);
        let rounded = finite("log_ratio", u.to_f64())?;
        let main = self.arm(u)?;
        let (value, slope, exponent) = if s.label_smoothing > 0.0 {
            let mirror = self.arm(-u)?;
            let exponent = main.exponent.max(mirror.exponent);
            let keep = (Precise::ONE - s.label_smoothing.into()).scaled(main.exponent - exponent);
            let flip = Precise::from(s.label_smoothing).scaled(mirror.exponent - exponent);
            (keep * main.loss + flip * mirror.loss, keep * main.slope - flip * mirror.slope, exponent)
        } else {
            (main.loss, main.slope, main.exponent)
        };
        let read = |x: Precise, quantity| {
            let x = x.scaled(exponent).to_f64();
            if x.is_finite() {
                Ok(x)
            } else {
                Err(ObjectiveError::NotRepresentable { quantity, log_ratio: rounded })
            }
        };
        let pull = Precise::from(s.beta) * slope;
        Ok(PairLoss {
            value: read(value, "loss")?,
            d_chosen: read(-pull, "dloss_dchosen_logp")?,
            d_rejected: read(pull, "dloss_drejected_logp")?,
            log_ratio: Some(rounded),
            d_log_ratio: Some(read(slope, "dloss_dlogratio")?),
            clamped: s.clamp.is_some_and(|(low, high)| rounded < low || rounded > high),
        })
    }

    /// d loss / d u at u, masks and smoothing included: all that a minimiser over policies needs.
    ///
    /// # Errors
    /// A slope that f64 cannot hold.
    pub(crate) fn slope(&self, u: f64) -> Result<f64, ObjectiveError> {
        let arm = |u: f64| {
            let inside = self.settings.clamp.map_or(u, |(low, high)| u.clamp(low, high));
            #[expect(clippy::float_cmp, reason = "clamp returns its argument unless it lies outside")]
            if inside != u && self.settings.tail == Tail::Clamp {
                return Ok(0.0);
            }
            self.settings.generator.slope(inside)
        };
        let e = self.settings.label_smoothing;
        if e > 0.0 { Ok((1.0 - e) * arm(u)? - e * arm(-u)?) } else { arm(u) }
    }

    /// l at its own argument, clamped or continued. Whether the argument is inside is decided after rounding to f64,
    /// so that a pair whose log-ratio prints as the bound has the bound's gradient.
    fn arm(&self, argument: Precise) -> Result<LossAndSlope, ObjectiveError> {
        let generator = &self.settings.generator;
        let rounded = argument.to_f64();
        let bound = match self.settings.clamp {
            Some((low, _)) if rounded < low => low,
            Some((_, high)) if rounded > high => high,
            _ => return generator.evaluate(argument),
        };
        let at = generator.evaluate(bound.into())?;
        Ok(match self.settings.tail {
            Tail::Clamp => LossAndSlope { slope: Precise::ZERO, ..at },
            Tail::Linear => LossAndSlope { loss: at.loss + at.slope * (argument - bound.into()), ..at },
        })
    }

    /// The loss as one line, numbers filled in.
    #[must_use]
    pub fn formula(&self) -> String {
        let s = &self.settings;
        let mut text = format!("l(u) = {}", s.generator.formula());
        if s.label_smoothing > 0.0 {
            let e = s.label_smoothing;
            text = format!("{} l(u) + {e} l(-u), {text}", crate::generator::tidy(1.0 - e));
        }
        let u = if s.safety_penalty > 0.0 {
            format!("-({} h + {} (s_w - s_l))", s.beta, s.safety_penalty)
        } else {
            format!("-{} h", s.beta)
        };
        let beyond = match (s.clamp, s.tail) {
            (None, _) => ", no clamp".to_owned(),
            (Some((low, high)), Tail::Clamp) => {
                format!(", u clamped to [{low}, {high}] (no gradient outside)")
            }
            (Some((low, high)), Tail::Linear) => format!(", linear in u beyond [{low}, {high}]"),
        };
        format!("{text}; u = log R = {u}{beyond}; {MARGIN}")
    }
}

/// How formulas say what h is.
pub(crate) const MARGIN: &str = "h = D_w - D_l, D = log pi - log pi_ref";

pub(crate) fn check_beta(beta: f64) -> Result<f64, ObjectiveError> {
    setting("beta", beta, beta > 0.0, "a finite number > 0")
}

pub(crate) fn check_smoothing(e: f64) -> Result<f64, ObjectiveError> {
    setting("label_smoothing", e, (0.0..0.5).contains(&e), "0 <= e < 1/2")
}
