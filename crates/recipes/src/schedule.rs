//! The learning rate over a run: warm-up, then linear, cosine or constant, as transformers defines them.

/// How the rate falls after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Decay {
    /// Straight to zero at the last step.
    Linear,
    /// Half a cosine to zero at the last step.
    Cosine,
    /// Not at all.
    Constant,
}

/// The learning rate as a function of the optimiser step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Schedule {
    /// The rate after the warm-up.
    pub peak: f64,
    /// Steps of linear warm-up; the first of them has rate 0, as in transformers.
    pub warmup_steps: u64,
    /// Optimiser steps in the whole run.
    pub total_steps: u64,
    /// What follows the warm-up.
    pub decay: Decay,
}

impl Schedule {
    /// The rate used by optimiser step `step`, counted from 0.
    pub fn rate(&self, step: u64) -> f64 {
        if step < self.warmup_steps {
            return self.peak * step as f64 / self.warmup_steps as f64;
        }
        let rest = self.total_steps.saturating_sub(self.warmup_steps).max(1) as f64;
        let passed = ((step - self.warmup_steps) as f64 / rest).min(1.0);
        self.peak
            * match self.decay {
                Decay::Linear => 1.0 - passed,
                Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * passed).cos()),
                Decay::Constant => 1.0,
            }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rates(decay: Decay) -> Vec<f64> {
        let schedule = Schedule { peak: 1.0, warmup_steps: 2, total_steps: 6, decay };
        (0..6).map(|s| schedule.rate(s)).collect()
    }

    #[test]
    fn rates_are_those_of_transformers() {
        // transformers.get_scheduler(name, opt(lr=1), num_warmup_steps=2, num_training_steps=6).get_last_lr() before each step
        assert_eq!(rates(Decay::Linear), [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]);
        assert_eq!(rates(Decay::Constant), [0.0, 0.5, 1.0, 1.0, 1.0, 1.0]);
        let cosine = rates(Decay::Cosine);
        let expected = [0.0, 0.5, 1.0, 0.853_553_390_593_273_8, 0.5, 0.146_446_609_406_726_24];
        assert!(cosine.iter().zip(expected).all(|(a, b)| (a - b).abs() < 1e-12), "{cosine:?}");
    }

    #[test]
    fn without_warmup_the_first_step_has_the_peak_rate() {
        let schedule = Schedule { peak: 3e-4, warmup_steps: 0, total_steps: 10, decay: Decay::Linear };
        assert_eq!(schedule.rate(0), 3e-4);
    }
}
