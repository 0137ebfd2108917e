//! What an evaluation shows of the held-out examples.

use crate::RecipeError;
use crate::example::Example;
use crate::objective::{BatchLogProbs, Observation};
use crate::session::Inputs;
use crate::step_metrics::put_observations;
use bso_runs::{StepMetrics, key};

/// Puts the figures of an evaluation into `row`; `policy` holds the log-probs (nats) of every held-out example's
/// [`Example::scored`] sequences.
///
/// # Errors
/// A log-prob or a loss that is not finite.
pub fn put_evaluation(
    row: &mut StepMetrics,
    inputs: &Inputs<'_>,
    policy: &[Vec<f64>],
) -> Result<(), RecipeError> {
    let observations = observe(inputs, &inputs.dataset.eval, policy)?;
    put_observations(row, key::EVAL_PREFIX, &observations, inputs.config.objective.beta());
    Ok(())
}

/// A row with the figures that every evaluation of the run will have: those of a policy that is its reference.
///
/// # Errors
/// Nothing is held out.
pub fn figures_to_come(inputs: &Inputs<'_>) -> Result<StepMetrics, RecipeError> {
    let examples = &inputs.dataset.eval;
    if examples.is_empty() {
        return Err(RecipeError::input(
            "metric_for_best_model: no example is held out to evaluate on; raise eval_split or name a dataset_test_split",
        ));
    }
    let mut row = StepMetrics::new(0, 0.0);
    if inputs.reference.eval.is_empty() {
        let zeros: Vec<_> = examples.iter().map(|e| vec![0.0; e.scored().count()]).collect();
        put_evaluation(&mut row, inputs, &zeros)?;
    } else {
        put_evaluation(&mut row, inputs, &inputs.reference.eval)?;
    }
    Ok(row)
}

/// Observations on held-out examples, judged in the groups in which KTO would train on them.
fn observe(
    inputs: &Inputs<'_>,
    examples: &[Example],
    policy: &[Vec<f64>],
) -> Result<Vec<Observation>, RecipeError> {
    let group = inputs.config.schedule.per_device_train_batch_size.max(1);
    let mut observations = Vec::with_capacity(examples.len());
    for start in (0..examples.len()).step_by(group) {
        let range = start..(start + group).min(examples.len());
        let members: Vec<&Example> = examples[range.clone()].iter().collect();
        let trained: Vec<f64> =
            range.clone().flat_map(|i| policy[i][..examples[i].sequences.len()].to_vec()).collect();
        let mismatched: Vec<f64> =
            range.clone().flat_map(|i| policy[i][examples[i].sequences.len()..].to_vec()).collect();
        let reference: Vec<&[f64]> =
            range.filter_map(|i| inputs.reference.eval.get(i).map(Vec::as_slice)).collect();
        let logps = BatchLogProbs { policy: &trained, mismatched: &mismatched, reference: &reference };
        observations.extend(inputs.objective.judge(&members, &logps)?.observations);
    }
    Ok(observations)
}
