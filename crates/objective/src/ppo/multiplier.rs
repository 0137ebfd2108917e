//! The Lagrange multiplier of the cost constraint E\[c\] <= d, ascended on its logarithm.

use crate::error::{ObjectiveError, finite, setting};
use std::collections::VecDeque;

/// The multiplier's constants.
#[derive(Debug, Clone, PartialEq)]
pub struct MultiplierSettings {
    /// lambda before the first update, > 0 and at most `max`.
    pub init: f64,
    /// Learning rate of log lambda, >= 0.
    pub rate: f64,
    /// Largest lambda; none: no bound.
    pub max: Option<f64>,
    /// d, what the mean cost is held to, reward units.
    pub threshold: f64,
    /// Episodes whose mean cost is J_c, at least 1.
    pub window: usize,
}

/// lambda with the costs that it follows.
#[derive(Debug, Clone, PartialEq)]
pub struct Multiplier {
    settings: MultiplierSettings,
    log_lambda: f64,
    costs: VecDeque<f64>,
}

impl Multiplier {
    /// lambda at its start, no cost seen.
    ///
    /// # Errors
    /// A constant out of range, by its name in configs.
    pub fn new(settings: MultiplierSettings) -> Result<Self, ObjectiveError> {
        let s = &settings;
        setting("lambda_lr", s.rate, s.rate >= 0.0, "a finite number >= 0")?;
        setting("threshold", s.threshold, true, "a finite number")?;
        setting("episode_cost_window_size", s.window as f64, s.window > 0, "a whole number >= 1")?;
        if let Some(max) = s.max {
            setting("lambda_max", max, max > 0.0, "a finite number > 0, or none")?;
        }
        let below = s.max.is_none_or(|max| s.init <= max);
        setting("lambda_init", s.init, s.init > 0.0 && below, "a number > 0 and at most lambda_max")?;
        Ok(Self { log_lambda: settings.init.ln(), settings, costs: VecDeque::new() })
    }

    /// lambda.
    #[must_use]
    pub fn lambda(&self) -> f64 {
        self.log_lambda.exp()
    }

    /// Its logarithm, and the costs in the window, the oldest first: with the constants all that it is.
    #[must_use]
    pub fn state(&self) -> (f64, Vec<f64>) {
        (self.log_lambda, self.costs.iter().copied().collect())
    }

    /// Takes up an earlier [`Multiplier::state`].
    ///
    /// # Errors
    /// A number that is not finite.
    pub fn restore(&mut self, log_lambda: f64, costs: &[f64]) -> Result<(), ObjectiveError> {
        self.log_lambda = finite("log_lambda", log_lambda)?;
        self.costs.clear();
        self.observe(costs)
    }

    fn observe(&mut self, costs: &[f64]) -> Result<(), ObjectiveError> {
        for cost in costs {
            self.costs.push_back(finite("cost", *cost)?);
        }
        self.costs.drain(..self.costs.len().saturating_sub(self.settings.window));
        Ok(())
    }

    /// Takes in the costs of new episodes, then log lambda <- log lambda + rate (J_c - d) lambda, within the bound; J_c, the
    /// mean cost of the episodes in the window. Costs are the cost model's, without the KL term.
    ///
    /// # Errors
    /// No cost at all; one that is not finite.
    pub fn update(&mut self, costs: &[f64]) -> Result<f64, ObjectiveError> {
        self.observe(costs)?;
        if self.costs.is_empty() {
            return Err(ObjectiveError::NoTokens { name: "episodes" });
        }
        let mean = self.costs.iter().sum::<f64>() / self.costs.len() as f64;
        let ascended =
            self.log_lambda + self.settings.rate * (mean - self.settings.threshold) * self.lambda();
        let bounded = self.settings.max.map_or(ascended, |max| ascended.min(max.ln()));
        self.log_lambda = finite("log_lambda", bounded)?;
        Ok(mean)
    }
}
