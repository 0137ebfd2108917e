//! Which judge, and its grades and comparisons put beside the answers.

use super::config::yes;
use super::{EvalConfig, Watch};
use crate::RecipeError;
use bso_durable::Event;
use bso_evaluation::judge::{Aspect, Judge, JudgeConfig, JudgeCounts};
use bso_evaluation::{EvaluationError, Sample};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// Which judge, and how much of it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JudgeSettings {
    /// Up to and with `/v1`.
    pub base_url: String,
    /// The model's name there.
    pub model: String,
    /// The environment variable that holds the key.
    #[serde(default)]
    pub api_key_env: Option<String>,
    /// Grade every answer.
    #[serde(default = "yes")]
    pub pointwise: bool,
    /// Compare every answer with the baseline's, in both orders.
    #[serde(default = "yes")]
    pub pairwise: bool,
    /// Requests at a time.
    #[serde(default = "four")]
    pub concurrency: usize,
    /// Most requests of this call.
    #[serde(default)]
    pub max_requests: Option<u64>,
    /// Most tokens of this call.
    #[serde(default)]
    pub max_tokens: Option<u64>,
    /// Tries of one question.
    #[serde(default = "five")]
    pub tries: u32,
    /// Seconds that an answer may take.
    #[serde(default = "two_minutes")]
    pub timeout: u64,
    /// Where judgments are kept; none: `judgments` in output_dir.
    #[serde(default)]
    pub cache_dir: Option<PathBuf>,
}

fn four() -> usize {
    4
}
fn five() -> u32 {
    5
}
fn two_minutes() -> u64 {
    120
}

impl JudgeSettings {
    /// With the key from the environment.
    ///
    /// # Errors
    /// A variable that is not set.
    pub fn with_key(&self, output_dir: &Path) -> Result<JudgeConfig, RecipeError> {
        let api_key = self.api_key_env.as_ref().map(|name| {
            std::env::var(name).map_err(|_| {
                RecipeError::input(format!(
                    "`judge.api_key_env` names the environment variable {name}, which is not set; set it to the key"
                ))
            })
        });
        Ok(JudgeConfig {
            base_url: self.base_url.clone(),
            model: self.model.clone(),
            api_key: api_key.transpose()?.filter(|key| !key.trim().is_empty()),
            concurrency: self.concurrency.clamp(1, 256),
            max_requests: self.max_requests,
            max_tokens: self.max_tokens,
            tries: self.tries.max(1),
            backoff: Duration::from_secs(1),
            timeout: Duration::from_secs(self.timeout.max(1)),
            cache: self.cache_dir.clone().unwrap_or_else(|| output_dir.join("judgments")),
        })
    }
}

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
