//! The best evaluation of a run, and when it has waited long enough for a better one. Both follow from the logged rows
//! alone, so that a resumed run finds them where it left them.

use crate::RecipeError;
use crate::config::BestModel;
use bso_runs::{StepMetrics, key};

/// The evaluation whose weights are the best so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Best {
    /// Optimiser steps done before it.
    pub step: u64,
    /// What it showed of [`BestModel::metric`].
    pub value: f64,
}

/// Follows the evaluations of a run as transformers' Trainer and its EarlyStoppingCallback do: a strictly better figure is
/// the new best, and patience starts anew where it is better by more than the threshold.
#[derive(Clone, Debug)]
pub struct Tracker<'a> {
    settings: &'a BestModel,
    best: Option<Best>,
    /// Evaluations since the last gain that counts.
    without_gain: u64,
}

impl<'a> Tracker<'a> {
    /// The state after the evaluations among `rows`.
    pub fn after(settings: &'a BestModel, rows: &[StepMetrics]) -> Self {
        let mut tracker = Self { settings, best: None, without_gain: 0 };
        rows.iter().for_each(|row| {
            tracker.observe(row);
        });
        tracker
    }

    /// Takes the next row; whether it is the best evaluation so far. A figure that is not finite never is.
    pub fn observe(&mut self, row: &StepMetrics) -> bool {
        let Some(value) = row.get(&self.settings.metric) else { return false };
        let gain =
            self.best.map(|best| if self.settings.greater { value - best.value } else { best.value - value });
        let counts =
            value.is_finite() && gain.is_none_or(|gain| gain > 0.0 && gain > self.settings.threshold);
        self.without_gain = if counts { 0 } else { self.without_gain + 1 };
        let is_best = value.is_finite() && gain.is_none_or(|gain| gain > 0.0);
        if is_best {
            self.best = Some(Best { step: row.step(), value });
        }
        is_best
    }

    /// The best evaluation.
    pub fn best(&self) -> Option<Best> {
        self.best
    }

    /// Whether as many evaluations as `early_stopping_patience` says passed without a gain.
    pub fn has_waited_enough(&self) -> bool {
        self.settings.patience.is_some_and(|patience| self.without_gain >= patience)
    }
}

/// Refuses a metric that the evaluations of a run do not have, before its first step; `row` is one of them.
///
/// # Errors
/// The figures that there are.
pub fn check_metric(settings: &BestModel, row: &StepMetrics) -> Result<(), RecipeError> {
    let of_evaluation = |name: &str| name.starts_with(key::EVAL_PREFIX) && !key::TIMES.contains(&name);
    let (quadrants, names): (Vec<&str>, Vec<&str>) = row
        .iter()
        .map(|(name, _)| name)
        .filter(|name| of_evaluation(name))
        .partition(|name| name.contains("quadrant/"));
    if names.iter().chain(&quadrants).any(|name| *name == settings.metric) {
        return Ok(());
    }
    let each =
        quadrants.first().map(|first| format!("; by quadrant as well, such as {first}")).unwrap_or_default();
    Err(RecipeError::input(format!(
        "metric_for_best_model: evaluations of this run have no {}; they have {}{each}",
        settings.metric,
        names.join(", ")
    )))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(greater: bool, patience: u64, threshold: f64) -> BestModel {
        BestModel { metric: "eval_loss".into(), greater, load: true, patience: Some(patience), threshold }
    }

    /// For each evaluation the best so far, and the evaluation (counted from 1) after which the run stops, if it does.
    fn followed(settings: &BestModel, values: &[f64]) -> (Vec<f64>, Option<usize>) {
        let mut tracker = Tracker::after(settings, &[]);
        let (mut best, mut stopped) = (Vec::new(), None);
        for (i, value) in values.iter().enumerate() {
            let mut row = StepMetrics::new(i as u64 + 1, 0.0);
            tracker.observe(row.put("eval_loss", *value));
            best.push(tracker.best().map_or(f64::NAN, |b| b.value));
            if stopped.is_none() && tracker.has_waited_enough() {
                stopped = Some(i + 1);
            }
        }
        (best, stopped)
    }

    #[test]
    fn the_best_and_the_end_are_those_of_transformers() {
        // transformers 5.24: EarlyStoppingCallback(patience, threshold).on_evaluate and then Trainer._determine_best_metric,
        // on each value in turn.
        let falling = [1.0, 0.9, 0.95, 0.89, 0.885, 0.88, 0.5];
        let best = vec![1.0, 0.9, 0.9, 0.89, 0.885, 0.88, 0.5];
        assert_eq!(followed(&settings(false, 2, 0.0), &falling), (best.clone(), None));
        assert_eq!(followed(&settings(false, 2, 0.02), &falling), (best.clone(), Some(4)));
        assert_eq!(followed(&settings(false, 5, 0.02), &falling), (best, None));
        let rising = [0.5, 0.5, 0.6, 0.4];
        assert_eq!(followed(&settings(true, 1, 0.0), &rising), (vec![0.5, 0.5, 0.6, 0.6], Some(2)));
    }

    #[test]
    fn a_figure_that_is_not_finite_is_no_gain() {
        let (best, stopped) = followed(&settings(false, 2, 0.0), &[f64::NAN, 0.5, f64::NAN, f64::INFINITY]);
        assert_eq!((&best[1..], stopped), (&[0.5, 0.5, 0.5][..], Some(4)));
    }

    #[test]
    fn rows_of_a_log_give_the_same_state_as_following_it() {
        let settings = settings(false, 3, 0.0);
        let rows: Vec<StepMetrics> = [0.9, 0.7, 0.8, 0.75]
            .iter()
            .enumerate()
            .map(|(i, v)| StepMetrics::new(i as u64, 0.0).put("eval_loss", *v).clone())
            .collect();
        let mut followed = Tracker::after(&settings, &rows[..2]);
        rows[2..].iter().for_each(|row| {
            followed.observe(row);
        });
        let read = Tracker::after(&settings, &rows);
        assert_eq!((read.best(), read.without_gain), (Some(Best { step: 1, value: 0.7 }), 2));
        assert_eq!((followed.best(), followed.without_gain), (read.best(), read.without_gain));
    }

    #[test]
    fn a_metric_that_no_evaluation_has_is_refused_with_those_there_are() {
        let mut row = StepMetrics::new(0, 0.0);
        row.put("eval_loss", 1.0).put("eval_quadrant/safe_safe/loss", 1.0).put(key::EVAL_RUNTIME, 1.0);
        let of = |metric: &str| {
            check_metric(&BestModel { metric: metric.into(), ..settings(false, 1, 0.0) }, &row)
        };
        assert!(of("eval_loss").is_ok() && of("eval_quadrant/safe_safe/loss").is_ok());
        let error = of("eval_runtime").unwrap_err().to_string();
        assert!(error.contains("no eval_runtime; they have eval_loss; by quadrant"), "{error}");
    }
}
