//! The generators g of the family, each known by the loss l(u) and slope l'(u) it gives in u = log R.
//! One arm per generator; the formulas live in the files beside this one.

mod expression;
mod kernel;
mod logistic;
mod power;
mod quadrature;

pub use kernel::Kernel;

use std::fmt;

use crate::error::{ObjectiveError, setting};
use crate::precise::Precise;

/// |lambda| below this is KLIEP, the limit of BA and SBA.
const KLIEP_LAMBDA: f64 = 1e-6;

/// A member of the loss family (BSO, arXiv 2605.12339, section 3; BPO, arXiv 2505.19601).
#[derive(Debug, Clone, PartialEq)]
pub enum Generator {
    /// g = (R log R - (1+R) log(1+R)) / 2: DPO's loss, log(1 + R).
    Logistic,
    /// g = R log R - R + 1: R - 1 + log R.
    Kliep,
    /// g = (R-1)^2: R^2 - 2/R + 1.
    Lsif,
    /// g = (R^(1+lambda) - R) / lambda, lambda > -1; |lambda| < 1e-6 is KLIEP.
    Ba {
        /// Exponent parameter.
        lambda: f64,
    },
    /// BA divided by s (1+lambda); s = 4 gives DPO's slope at u = 0.
    Sba {
        /// Exponent parameter, > -1; |lambda| < 1e-6 is KLIEP / s.
        lambda: f64,
        /// s > 0.
        scale: f64,
    },
    /// g = (R^(2-mu) - (2-mu) R + 1 - mu) / ((1-mu)(2-mu)), mu not 2; mu = 1 is KLIEP.
    PhiMu {
        /// Exponent parameter.
        mu: f64,
    },
    /// Given by its even positive kernel: l'(u) = e^(u/2) k(u), l(0) = 0.
    Kernel(Kernel),
}

/// One generator parameter as written in a config or row: a number, or the kernel's expression.
#[derive(Debug, Clone, PartialEq, serde::Serialize, serde::Deserialize)]
#[serde(untagged)]
pub enum GeneratorParam {
    /// A numeric parameter.
    Number(f64),
    /// An expression in u.
    Expression(String),
}

/// l(u) and l'(u), both to be multiplied by 2^exponent (0 unless f64 alone would overflow).
#[derive(Debug, Clone, Copy)]
pub(crate) struct LossAndSlope {
    pub(crate) loss: Precise,
    pub(crate) slope: Precise,
    pub(crate) exponent: i32,
}

impl Generator {
    /// The generators' names as configs write them.
    pub const NAMES: [&'static str; 7] = ["logistic", "kliep", "lsif", "ba", "sba", "phi_mu", "kernel"];

    /// The generator `name` with its numeric parameters in order: `ba` \[lambda\], `sba` \[lambda, scale\],
    /// `phi_mu` \[mu\], the others none. Parameters that are all 0 are ignored where a generator takes none.
    ///
    /// # Errors
    /// An unknown name, a wrong count, or a pole (`lambda <= -1`, `mu = 2`, `scale <= 0`).
    pub fn new(name: &str, params: &[f64]) -> Result<Self, ObjectiveError> {
        let count =
            |generator, expected| ObjectiveError::ParameterCount { generator, expected, given: params.len() };
        let generator = match (name, params) {
            ("logistic", p) if ignorable(p) => Self::Logistic,
            ("kliep", p) if ignorable(p) => Self::Kliep,
            ("lsif", p) if ignorable(p) => Self::Lsif,
            ("ba", &[lambda]) => Self::Ba { lambda },
            ("sba", &[lambda, scale]) => Self::Sba { lambda, scale },
            ("phi_mu", &[mu]) => Self::PhiMu { mu },
            ("logistic", _) => return Err(count("logistic", "[]")),
            ("kliep", _) => return Err(count("kliep", "[]")),
            ("lsif", _) => return Err(count("lsif", "[]")),
            ("ba", _) => return Err(count("ba", "[lambda]")),
            ("sba", _) => return Err(count("sba", "[lambda, scale]")),
            ("phi_mu", _) => return Err(count("phi_mu", "[mu]")),
            ("kernel", _) => return Err(count("kernel", "[one expression in u]")),
            _ => {
                return Err(ObjectiveError::UnknownName {
                    kind: "generator",
                    name: name.to_owned(),
                    accepted: Self::NAMES.join(", "),
                });
            }
        };
        generator.check()?;
        Ok(generator)
    }

    /// The generator given by its kernel, an expression in u such as `1/(2*cosh(u/2))`.
    ///
    /// # Errors
    /// What [`Kernel::parse`] refuses.
    pub fn kernel(expression: &str) -> Result<Self, ObjectiveError> {
        Kernel::parse(expression).map(Self::Kernel)
    }

    /// The generator `name` with its parameters as a config writes them.
    ///
    /// # Errors
    /// As [`Generator::new`] and [`Generator::kernel`].
    pub fn parse(name: &str, params: &[GeneratorParam]) -> Result<Self, ObjectiveError> {
        if let ("kernel", [GeneratorParam::Expression(expression)]) = (name, params) {
            return Self::kernel(expression);
        }
        let numbers: Option<Vec<f64>> = params
            .iter()
            .map(|p| match p {
                GeneratorParam::Number(x) => Some(*x),
                GeneratorParam::Expression(_) => None,
            })
            .collect();
        match numbers {
            Some(numbers) => Self::new(name, &numbers),
            None => Err(ObjectiveError::ParameterCount {
                generator: Self::NAMES.into_iter().find(|n| *n == name).unwrap_or("of that name"),
                expected: "that are numbers (only kernel takes one expression in u)",
                given: params.len(),
            }),
        }
    }

    /// Refuses poles. Constructors call it; a hand-built variant is checked when a loss is built from it.
    pub(crate) fn check(&self) -> Result<(), ObjectiveError> {
        match *self {
            Self::Ba { lambda } => check_lambda(lambda),
            Self::Sba { lambda, scale } => {
                check_lambda(lambda)?;
                let usable = scale > 0.0 && scale.recip().is_finite();
                setting("generator_scale", scale, usable, "s > 0").map(drop)
            }
            #[expect(clippy::float_cmp, reason = "exactly 2 is the pole; beside it the closed form is exact")]
            Self::PhiMu { mu } => {
                setting("generator_mu", mu, mu != 2.0, "any number but 2 (a pole); 1 is KLIEP").map(drop)
            }
            Self::Logistic | Self::Kliep | Self::Lsif | Self::Kernel(_) => Ok(()),
        }
    }

    /// The name as configs write it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self {
            Self::Logistic => "logistic",
            Self::Kliep => "kliep",
            Self::Lsif => "lsif",
            Self::Ba { .. } => "ba",
            Self::Sba { .. } => "sba",
            Self::PhiMu { .. } => "phi_mu",
            Self::Kernel(_) => "kernel",
        }
    }

    /// The parameters in order, as a config writes them.
    #[must_use]
    pub fn params(&self) -> Vec<GeneratorParam> {
        match self {
            Self::Logistic | Self::Kliep | Self::Lsif => Vec::new(),
            Self::Ba { lambda } => vec![GeneratorParam::Number(*lambda)],
            Self::Sba { lambda, scale } => {
                vec![GeneratorParam::Number(*lambda), GeneratorParam::Number(*scale)]
            }
            Self::PhiMu { mu } => vec![GeneratorParam::Number(*mu)],
            Self::Kernel(kernel) => vec![GeneratorParam::Expression(kernel.expression().to_owned())],
        }
    }

    /// l(u) and l'(u) at u, which is taken as exact.
    pub(crate) fn evaluate(&self, u: Precise) -> Result<LossAndSlope, ObjectiveError> {
        match self {
            Self::Logistic => Ok(logistic::evaluate(u)),
            Self::Kernel(kernel) => kernel.evaluate(u.to_f64()),
            _ => Ok(self.as_power().map_or_else(|| logistic::evaluate(u), |power| power.evaluate(u))),
        }
    }

    /// The members that are sums of two powers of R.
    fn as_power(&self) -> Option<power::Power> {
        match *self {
            Self::Kliep => Some(power::Power::kliep(1.0)),
            Self::Lsif => Some(power::Power::ba(1.0)),
            Self::Ba { lambda } if lambda.abs() < KLIEP_LAMBDA => Some(power::Power::kliep(1.0)),
            Self::Ba { lambda } => Some(power::Power::ba(lambda)),
            Self::Sba { lambda, scale } if lambda.abs() < KLIEP_LAMBDA => Some(power::Power::kliep(scale)),
            Self::Sba { lambda, scale } => Some(power::Power::sba(lambda, scale)),
            Self::PhiMu { mu } => Some(power::Power::phi_mu(mu)),
            Self::Logistic | Self::Kernel(_) => None,
        }
    }

    /// (l(u), l'(u)) for u = log R in nats.
    ///
    /// # Errors
    /// A non-finite u, or a result that f64 cannot hold.
    pub fn loss_and_slope(&self, u: f64) -> Result<(f64, f64), ObjectiveError> {
        crate::error::finite("log_ratio", u)?;
        let at = self.evaluate(u.into())?;
        let read = |value: Precise, quantity| {
            let value = value.scaled(at.exponent).to_f64();
            if value.is_finite() {
                Ok(value)
            } else {
                Err(ObjectiveError::NotRepresentable { quantity, log_ratio: u })
            }
        };
        Ok((read(at.loss, "loss")?, read(at.slope, "dloss_dlogratio")?))
    }

    /// l'(u) alone, cheaper than [`Generator::loss_and_slope`].
    ///
    /// # Errors
    /// As [`Generator::loss_and_slope`].
    pub fn slope(&self, u: f64) -> Result<f64, ObjectiveError> {
        crate::error::finite("log_ratio", u)?;
        let slope = match self {
            Self::Kernel(kernel) => kernel.slope(u)?,
            _ => match self.as_power() {
                Some(power) => power.slope(u.into()),
                None => logistic::evaluate(u.into()).slope.to_f64(),
            },
        };
        if slope.is_finite() {
            Ok(slope)
        } else {
            Err(ObjectiveError::NotRepresentable { quantity: "dloss_dlogratio", log_ratio: u })
        }
    }

    /// l(u) as one line of text with its numbers filled in.
    #[must_use]
    pub fn formula(&self) -> String {
        match self {
            Self::Logistic => "log(1 + e^u)".to_owned(),
            Self::Kliep => "e^u - 1 + u".to_owned(),
            Self::Lsif => "e^(2 u) - 2 e^(-u) + 1".to_owned(),
            Self::Kernel(kernel) => {
                format!("integral from 0 to u of e^(v/2) k(v) dv, k(u) = {}", kernel.expression())
            }
            Self::Ba { lambda } if lambda.abs() < KLIEP_LAMBDA => "e^u - 1 + u".to_owned(),
            Self::Sba { lambda, scale } if lambda.abs() < KLIEP_LAMBDA => format!("(e^u - 1 + u) / {scale}"),
            Self::Ba { lambda } => power::formula(*lambda, &lambda.to_string()),
            Self::Sba { lambda, scale } => {
                power::formula(*lambda, &format!("({scale} * {lambda} * {})", tidy(1.0 + lambda)))
            }
            #[expect(clippy::float_cmp, reason = "exactly 1 is KLIEP by definition")]
            Self::PhiMu { mu } if *mu == 1.0 => "e^u - 1 + u".to_owned(),
            Self::PhiMu { mu } => {
                let (lambda, other) = (tidy(1.0 - mu), tidy(2.0 - mu));
                power::formula(lambda, &format!("({lambda} * {other})"))
            }
        }
    }
}

impl fmt::Display for Generator {
    /// `sba(0.2, 4)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let params: Vec<String> = self
            .params()
            .into_iter()
            .map(|p| match p {
                GeneratorParam::Number(x) => x.to_string(),
                GeneratorParam::Expression(e) => e,
            })
            .collect();
        if params.is_empty() {
            f.write_str(self.name())
        } else {
            write!(f, "{}({})", self.name(), params.join(", "))
        }
    }
}

/// Rounds away the last digits of a sum like 1 + 0.2 for display.
pub(crate) fn tidy(x: f64) -> f64 {
    format!("{x:.12}").parse().unwrap_or(x)
}

fn ignorable(params: &[f64]) -> bool {
    params.iter().all(|x| *x == 0.0)
}

fn check_lambda(lambda: f64) -> Result<(), ObjectiveError> {
    setting("generator_lambda", lambda, lambda > -1.0, "lambda > -1 (-1 is a pole); 0 is KLIEP").map(drop)
}
