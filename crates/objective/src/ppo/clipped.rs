//! The clipped losses of actor and critic (PPO, Schulman et al. 2017, arXiv 1707.06347). Both are means over a response's tokens.

use super::{Ppo, same_length};
use crate::error::{ObjectiveError, finite};

/// The loss of one response with its derivatives by the network's numbers, one for each token.
#[derive(Debug, Clone, PartialEq)]
pub struct TokenLoss {
    /// The mean over the response's tokens.
    pub value: f64,
    /// d value / d log-prob, or d value / d value of a token.
    pub derivatives: Vec<f64>,
    /// Tokens whose gradient the bound takes away.
    pub clipped: usize,
}

impl Ppo {
    /// -mean min(rho A, clip(rho) A), where rho = pi / pi_old of a token. `sampled` are the log-probs of the actor that
    /// sampled the response.
    ///
    /// # Errors
    /// No token; lists of different lengths; a log-prob or a ratio that is not finite.
    pub fn actor(
        &self,
        log_probs: &[f64],
        sampled: &[f64],
        advantages: &[f64],
    ) -> Result<TokenLoss, ObjectiveError> {
        same_length("log-probs at sampling", log_probs.len(), sampled.len())?;
        same_length("advantages", log_probs.len(), advantages.len())?;
        let range = self.settings().clip_range_ratio;
        self.mean(log_probs.len(), |t| {
            let ratio = finite("ratio", (log_probs[t] - sampled[t]).exp())?;
            let whole = ratio * advantages[t];
            let bounded = ratio.clamp(1.0 - range, 1.0 + range) * advantages[t];
            // Within the bounds both are the same number and so is their derivative, ratio times advantage.
            Ok(if whole <= bounded { (-whole, -whole, false) } else { (-bounded, 0.0, true) })
        })
    }

    /// mean max((v - R)^2, (clip(v) - R)^2) / 2, where clip keeps within `clip_range_value` of the value at sampling.
    ///
    /// # Errors
    /// As [`Ppo::actor`].
    pub fn critic(
        &self,
        values: &[f64],
        sampled: &[f64],
        returns: &[f64],
    ) -> Result<TokenLoss, ObjectiveError> {
        same_length("values at sampling", values.len(), sampled.len())?;
        same_length("returns", values.len(), returns.len())?;
        let range = self.settings().clip_range_value;
        self.mean(values.len(), |t| {
            let value = finite("value", values[t])?;
            let off = value - returns[t];
            let bounded = value.clamp(sampled[t] - range, sampled[t] + range) - returns[t];
            Ok(if off * off >= bounded * bounded {
                (off * off / 2.0, off, false)
            } else {
                (bounded * bounded / 2.0, 0.0, true)
            })
        })
    }

    /// The mean of what `token` gives: loss, derivative, and whether the bound took it away.
    fn mean(
        &self,
        tokens: usize,
        token: impl Fn(usize) -> Result<(f64, f64, bool), ObjectiveError>,
    ) -> Result<TokenLoss, ObjectiveError> {
        let count = tokens as f64;
        let mut loss = TokenLoss { value: 0.0, derivatives: Vec::with_capacity(tokens), clipped: 0 };
        for t in 0..tokens {
            let (value, derivative, clipped) = token(t)?;
            loss.value += value / count;
            loss.derivatives.push(finite("dloss_dtoken", derivative / count)?);
            loss.clipped += usize::from(clipped);
        }
        loss.value = finite("loss", loss.value)?;
        Ok(loss)
    }
}
