//! Generalised advantage estimation (Schulman et al. 2015, arXiv 1506.02438).

use super::{Ppo, same_length};
use crate::error::{ObjectiveError, finite};

/// Of one stream, token by token.
#[derive(Debug, Clone, PartialEq)]
pub struct Estimates {
    /// How much better the token did than the critic expected; not whitened.
    pub advantages: Vec<f64>,
    /// What the critic is trained towards: advantage plus value.
    pub returns: Vec<f64>,
}

impl Ppo {
    /// A_t = delta_t + gamma gae_lambda A_(t+1) with delta_t = stream_t + gamma V_(t+1) - V_t; nothing follows the last token.
    ///
    /// # Errors
    /// No token; lists of different lengths; a value that is not finite.
    pub fn estimate(&self, stream: &[f64], values: &[f64]) -> Result<Estimates, ObjectiveError> {
        same_length("values", stream.len(), values.len())?;
        let (gamma, decay) = (self.settings().gamma, self.settings().gamma * self.settings().gae_lambda);
        let (mut advantages, mut returns) = (vec![0.0; stream.len()], vec![0.0; stream.len()]);
        let (mut next_value, mut advantage) = (0.0, 0.0);
        for t in (0..stream.len()).rev() {
            let value = finite("value", values[t])?;
            advantage = stream[t] + gamma * next_value - value + decay * advantage;
            (advantages[t], returns[t]) = (finite("advantage", advantage)?, advantage + value);
            next_value = value;
        }
        Ok(Estimates { advantages, returns })
    }
}
