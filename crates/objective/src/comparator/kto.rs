//! KTO (arXiv 2402.01306) over a batch of single responses, with the batch's KL estimate z given (detached):
//! lambda_d (1 - sigmoid(beta (D - z))) where desirable, lambda_u (1 - sigmoid(beta (z - D))) where not.

use crate::bso::check_beta;
use crate::error::{ObjectiveError, finite, setting};
use crate::precise::Precise;

/// KTO's settings, checked.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KtoLoss {
    beta: f64,
    desirable_weight: f64,
    undesirable_weight: f64,
}

/// One batch of unpaired responses: arrays of equal length.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct KtoBatch<'a> {
    /// log pi_theta(y | x), summed, nats.
    pub policy: &'a [f64],
    /// log pi_ref(y | x), summed, nats.
    pub reference: &'a [f64],
    /// Whether the response is desirable.
    pub desirable: &'a [bool],
    /// z >= 0, nats: see [`KtoLoss::kl_estimate`].
    pub kl: f64,
}

impl KtoLoss {
    /// Checks beta > 0 and both weights >= 0.
    ///
    /// # Errors
    /// A setting out of range.
    pub fn new(beta: f64, desirable_weight: f64, undesirable_weight: f64) -> Result<Self, ObjectiveError> {
        check_beta(beta)?;
        let weight = |name, w: f64| setting(name, w, w >= 0.0, "a finite number >= 0");
        weight("desirable_weight", desirable_weight)?;
        weight("undesirable_weight", undesirable_weight)?;
        Ok(Self { beta, desirable_weight, undesirable_weight })
    }

    /// (loss, d loss / d log pi(y)) per response, unreduced.
    ///
    /// # Errors
    /// Arrays of unequal length or empty; a number that is not finite.
    pub fn evaluate(&self, batch: &KtoBatch<'_>) -> Result<Vec<(f64, f64)>, ObjectiveError> {
        same_length("policy_logp", batch.policy.len(), "ref_logp", batch.reference.len())?;
        same_length("policy_logp", batch.policy.len(), "desirable", batch.desirable.len())?;
        let kl = finite("kl", batch.kl)?;
        let rows = batch.policy.iter().zip(batch.reference).zip(batch.desirable);
        rows.map(|((policy, reference), desirable)| {
            let shift =
                Precise::from(finite("policy_logp", *policy)?) - finite("ref_logp", *reference)?.into();
            self.evaluate_one(shift - kl.into(), *desirable)
        })
        .collect()
    }

    /// `excess` = D - z.
    fn evaluate_one(&self, excess: Precise, desirable: bool) -> Result<(f64, f64), ObjectiveError> {
        let (weight, sign) =
            if desirable { (self.desirable_weight, -1.0) } else { (self.undesirable_weight, 1.0) };
        let (weight, beta) = (Precise::from(weight), Precise::from(sign * self.beta));
        // 1 - sigmoid(x) = sigmoid(-x); its derivative through sigmoid(v) = w/(1+w) with w = e^-|v| cannot cancel
        let v = beta * excess;
        finite("beta (D - z)", v.to_f64())?;
        let positive = v.to_f64() >= 0.0;
        let w = (if positive { -v } else { v }).exponential().value(0);
        let total = Precise::ONE + w;
        let loss = weight * (if positive { Precise::ONE } else { w }) / total;
        let slope = weight * beta * (w / (total * total));
        Ok((finite("loss", loss.to_f64())?, finite("dloss_dlogp", slope.to_f64())?))
    }

    /// z: the mean of log pi - log pi_ref over MISMATCHED (prompt, completion) pairs of the batch, at least 0.
    ///
    /// # Errors
    /// Arrays of unequal length or empty; a number that is not finite.
    pub fn kl_estimate(policy: &[f64], reference: &[f64]) -> Result<f64, ObjectiveError> {
        same_length("mismatched policy_logp", policy.len(), "mismatched ref_logp", reference.len())?;
        let mut sum = Precise::ZERO;
        for (p, r) in policy.iter().zip(reference) {
            sum = sum + Precise::from(finite("mismatched policy_logp", *p)?)
                - finite("mismatched ref_logp", *r)?.into();
        }
        Ok((sum / (policy.len() as f64).into()).to_f64().max(0.0))
    }

    /// The loss as one line, numbers filled in.
    #[must_use]
    pub fn formula(&self) -> String {
        let Self { beta, desirable_weight, undesirable_weight } = self;
        format!(
            "{desirable_weight} (1 - sigmoid({beta} (D - z))) if desirable, {undesirable_weight} (1 - sigmoid({beta} (z - D))) if not; D = log pi - log pi_ref, z = max(0, mean D over mismatched pairs), no gradient through z"
        )
    }
}

fn same_length(
    left: &'static str,
    left_len: usize,
    right: &'static str,
    right_len: usize,
) -> Result<(), ObjectiveError> {
    if left_len == right_len && left_len > 0 {
        Ok(())
    } else {
        Err(ObjectiveError::BatchLength { left, left_len, right, right_len })
    }
}
