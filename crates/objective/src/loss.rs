//! The closed set of pairwise losses behind one type: whoever trains matches on nothing but this.

use crate::bso::{BsoLoss, BsoSettings, MARGIN, check_beta, check_smoothing};
use crate::comparator::{bfpo, hinge, ipo, modpo};
use crate::error::{ObjectiveError, setting};
use crate::pair::{PairInputs, PairLoss};

/// A checked pairwise loss.
#[derive(Debug, Clone, PartialEq)]
pub struct PreferenceLoss(Kind);

#[derive(Debug, Clone, PartialEq)]
enum Kind {
    Bso(BsoLoss),
    Dpo(BsoLoss),
    Cdpo(BsoLoss),
    SafeDpo(BsoLoss),
    Ipo { beta: f64 },
    IpoMean { beta: f64 },
    Hinge { beta: f64 },
    Bfpo { beta: f64, b1: f64, alpha: f64 },
    Modpo { beta: f64, w0: f64 },
}

impl PreferenceLoss {
    /// The names of the pairwise losses as configs write them (`sigmoid` is accepted for `dpo`).
    pub const NAMES: [&'static str; 9] =
        ["bso", "dpo", "cdpo", "ipo", "ipo_mean", "hinge", "safedpo", "bfpo", "modpo"];

    /// BSO (arXiv 2605.12339).
    ///
    /// # Errors
    /// As [`BsoLoss::new`].
    pub fn bso(settings: BsoSettings) -> Result<Self, ObjectiveError> {
        BsoLoss::new(settings).map(Kind::Bso).map(Self)
    }

    /// DPO: -log sigmoid(beta h) (arXiv 2305.18290, eq. 7).
    ///
    /// # Errors
    /// beta <= 0.
    pub fn dpo(beta: f64) -> Result<Self, ObjectiveError> {
        BsoLoss::logistic(beta, 0.0, 0.0).map(Kind::Dpo).map(Self)
    }

    /// cDPO: DPO with labels flipped at rate e in [0, 1/2).
    ///
    /// # Errors
    /// beta <= 0 or e out of range.
    pub fn cdpo(beta: f64, label_smoothing: f64) -> Result<Self, ObjectiveError> {
        check_smoothing(label_smoothing)?;
        BsoLoss::logistic(beta, 0.0, label_smoothing).map(Kind::Cdpo).map(Self)
    }

    /// SafeDPO: -log sigmoid(beta h - (s_l - s_w) Delta) (arXiv 2505.20065), meant for data under
    /// [`crate::SafetyTransform::SwapDrop`].
    ///
    /// # Errors
    /// beta <= 0 or delta < 0.
    pub fn safedpo(beta: f64, delta: f64) -> Result<Self, ObjectiveError> {
        setting("delta", delta, delta >= 0.0, "a finite number >= 0")?;
        BsoLoss::logistic(beta, delta, 0.0).map(Kind::SafeDpo).map(Self)
    }

    /// IPO with summed log-ratios (arXiv 2310.12036).
    ///
    /// # Errors
    /// beta <= 0.
    pub fn ipo(beta: f64) -> Result<Self, ObjectiveError> {
        check_beta(beta).map(|beta| Self(Kind::Ipo { beta }))
    }

    /// IPO with per-token means (TRL's reading).
    ///
    /// # Errors
    /// beta <= 0.
    pub fn ipo_mean(beta: f64) -> Result<Self, ObjectiveError> {
        check_beta(beta).map(|beta| Self(Kind::IpoMean { beta }))
    }

    /// Hinge: max(0, 1 - beta h).
    ///
    /// # Errors
    /// beta <= 0.
    pub fn hinge(beta: f64) -> Result<Self, ObjectiveError> {
        check_beta(beta).map(|beta| Self(Kind::Hinge { beta }))
    }

    /// BFPO (arXiv 2408.15313).
    ///
    /// # Errors
    /// beta <= 0, b1 <= 1, or a number that is not finite.
    pub fn bfpo(beta: f64, b1: f64, alpha: f64) -> Result<Self, ObjectiveError> {
        check_beta(beta)?;
        setting("b1", b1, b1 > 1.0, "a finite number > 1 (b3 = 1 / (b1 - 1))")?;
        setting("alpha", alpha, true, "a finite number")?;
        Ok(Self(Kind::Bfpo { beta, b1, alpha }))
    }

    /// MODPO (arXiv 2310.03708); w0 is the weight of the trained objective.
    ///
    /// # Errors
    /// beta <= 0 or w0 outside (0, 1].
    pub fn modpo(beta: f64, w0: f64) -> Result<Self, ObjectiveError> {
        check_beta(beta)?;
        setting("w0", w0, w0 > 0.0 && w0 <= 1.0, "0 < w0 <= 1")?;
        Ok(Self(Kind::Modpo { beta, w0 }))
    }

    /// The name as configs write it.
    #[must_use]
    pub fn name(&self) -> &'static str {
        match self.0 {
            Kind::Bso(_) => "bso",
            Kind::Dpo(_) => "dpo",
            Kind::Cdpo(_) => "cdpo",
            Kind::SafeDpo(_) => "safedpo",
            Kind::Ipo { .. } => "ipo",
            Kind::IpoMean { .. } => "ipo_mean",
            Kind::Hinge { .. } => "hinge",
            Kind::Bfpo { .. } => "bfpo",
            Kind::Modpo { .. } => "modpo",
        }
    }

    /// beta: rewards are beta times summed log-ratios for every loss.
    #[must_use]
    pub fn beta(&self) -> f64 {
        match &self.0 {
            Kind::Bso(b) | Kind::Dpo(b) | Kind::Cdpo(b) | Kind::SafeDpo(b) => b.settings().beta,
            Kind::Ipo { beta }
            | Kind::IpoMean { beta }
            | Kind::Hinge { beta }
            | Kind::Bfpo { beta, .. }
            | Kind::Modpo { beta, .. } => *beta,
        }
    }

    /// C (BSO) or Delta (SafeDPO); 0 for losses that do not know it.
    #[must_use]
    pub fn safety_penalty(&self) -> f64 {
        match &self.0 {
            Kind::Bso(b) | Kind::SafeDpo(b) => b.settings().safety_penalty,
            _ => 0.0,
        }
    }

    /// Whether a pair without safety labels is an error.
    #[must_use]
    pub fn needs_labels(&self) -> bool {
        self.safety_penalty() > 0.0 || matches!(self.0, Kind::Bfpo { .. })
    }

    /// Whether token counts are read.
    #[must_use]
    pub fn needs_tokens(&self) -> bool {
        matches!(self.0, Kind::IpoMean { .. })
    }

    /// Whether margins m(y) are read.
    #[must_use]
    pub fn needs_margins(&self) -> bool {
        matches!(self.0, Kind::Modpo { .. })
    }

    /// The loss as one line with its numbers.
    #[must_use]
    pub fn formula(&self) -> String {
        match &self.0 {
            Kind::Bso(b) | Kind::Cdpo(b) => b.formula(),
            Kind::Dpo(b) => format!("-log sigmoid({} h); {MARGIN}", b.settings().beta),
            Kind::SafeDpo(b) => {
                let s = b.settings();
                format!("-log sigmoid({} h - {} (s_l - s_w)); {MARGIN}", s.beta, s.safety_penalty)
            }
            Kind::Ipo { beta } => format!("(h - {})^2; {MARGIN}", 0.5 / beta),
            Kind::IpoMean { beta } => {
                format!("(h - {})^2; h = D_w / len_w - D_l / len_l, D = log pi - log pi_ref", 0.5 / beta)
            }
            Kind::Hinge { beta } => format!("max(0, 1 - {beta} h); {MARGIN}"),
            Kind::Bfpo { beta, b1, alpha } => {
                format!("(h - (({b1} a_w - a_l) / {} - {alpha}) / {beta})^2; a = 1 - s, {MARGIN}", b1 - 1.0)
            }
            Kind::Modpo { beta, w0 } => {
                let w1 = crate::generator::tidy(1.0 - w0);
                format!(
                    "-log sigmoid(R_w - R_l); R = ({beta} D - {w1} m) / {w0}, D = log pi - log pi_ref, m given"
                )
            }
        }
    }

    /// The loss of a pair and its derivatives.
    ///
    /// # Errors
    /// A missing input that the loss needs, a number that is not finite, or a result that f64 cannot hold.
    pub fn evaluate(&self, pair: &PairInputs) -> Result<PairLoss, ObjectiveError> {
        match &self.0 {
            Kind::Bso(b) | Kind::Dpo(b) | Kind::Cdpo(b) | Kind::SafeDpo(b) => {
                b.evaluate_as(self.name(), pair)
            }
            Kind::Ipo { beta } => ipo::evaluate(*beta, pair),
            Kind::IpoMean { beta } => ipo::evaluate_mean(*beta, pair),
            Kind::Hinge { beta } => hinge::evaluate(*beta, pair),
            Kind::Bfpo { beta, b1, alpha } => bfpo::evaluate(*beta, *b1, *alpha, pair),
            Kind::Modpo { beta, w0 } => modpo::evaluate(*beta, *w0, pair),
        }
    }
}
