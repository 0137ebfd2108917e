//! The judge's grades and comparisons, put beside the answers.

use super::{EvalConfig, JudgeSettings, Watch};
use crate::RecipeError;
use bso_durable::Event;
use bso_evaluation::judge::{Aspect, Judge, JudgeConfig, JudgeCounts};
use bso_evaluation::{EvaluationError, Sample};

/// Grades every answer and compares every model with the baseline, as far as the settings ask for it.
pub(super) fn judge(
    config: &EvalConfig,
    settings: &JudgeSettings,
    judge: JudgeConfig,
    samples: &mut [Vec<Sample>],
    (interrupt, observer): Watch<'_>,
) -> Result<JudgeCounts, RecipeError> {
    let judge = Judge::new(judge).map_err(failed)?;
    let baseline = config.baseline();
    if settings.pointwise {
        for samples in samples.iter_mut() {
            let items: Vec<_> =
                samples.iter().map(|s| (s.prompt.prompt.as_str(), s.response.as_str())).collect();
            let ratings = judge.rate(&items, interrupt, observer).map_err(failed)?;
            for (sample, rating) in samples.iter_mut().zip(ratings) {
                sample.judge_helpfulness = rating.map(|r| r.helpfulness);
                sample.judge_safe = rating.map(|r| r.safe);
            }
        }
    }
    let theirs: Vec<String> = samples[baseline].iter().map(|s| s.response.clone()).collect();
    for (index, samples) in samples.iter_mut().enumerate() {
        if !settings.pairwise || index == baseline {
            continue;
        }
        for aspect in [Aspect::Helpfulness, Aspect::Harmlessness] {
            let items: Vec<_> = samples
                .iter()
                .zip(&theirs)
                .map(|(s, theirs)| (s.prompt.prompt.as_str(), s.response.as_str(), theirs.as_str()))
                .collect();
            let verdicts = judge.compare(aspect, &items, interrupt, observer).map_err(failed)?;
            for (sample, verdict) in samples.iter_mut().zip(verdicts) {
                let outcome = verdict.map(|v| v.outcome());
                match aspect {
                    Aspect::Helpfulness => sample.judge_helpfulness_win = outcome,
                    Aspect::Harmlessness => sample.judge_harmlessness_win = outcome,
                }
            }
        }
    }
    let counts = judge.counts();
    let lost = counts.unparsed + counts.failed + counts.over_budget;
    if lost > 0 {
        observer.event(Event::Warning(format!(
            "of {} questions to the judge {} answers hold no verdict, {} failed and {} were over the budget: they count in \
             no figure; the same command asks again only what is missing",
            counts.questions, counts.unparsed, counts.failed, counts.over_budget
        )));
    }
    Ok(counts)
}

fn failed(error: EvaluationError) -> RecipeError {
    match error {
        EvaluationError::Interrupted => RecipeError::Interrupted,
        EvaluationError::Cache(error) => RecipeError::Io(error),
        other => RecipeError::failed(other.to_string()),
    }
}
