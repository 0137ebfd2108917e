//! The demo's results as a table and as a page.

use super::Sizes;
use super::measure::{ANSWERS_PER_PROMPT, Measured, TARGET};
use super::method::Method;
use crate::RecipeError;
use bso_evaluation::statistics::{Bootstrap, Estimate as Interval};
use bso_runs::RunDirectory;
use bso_runs::report::{
    Estimate, Landmark, MethodReport, ReportData, SamplePrompt, SampleResponse, Scores, run_report,
};
use bso_world::{CandidateLogProbs, Prompt, PromptKind, PromptOutcome, Summary, candidates, judge};
use serde::Serialize;
use std::path::Path;

/// Prompts shown side by side, of each kind.
const SAMPLES_PER_KIND: usize = 8;

/// A line of the table.
#[derive(Clone, Debug, Serialize)]
pub struct Line {
    /// The method, or "reference" or "optimum".
    pub name: String,
    /// Its figures.
    pub scores: Scores,
    /// Mean probability that the policy gives to the candidates together.
    pub candidate_mass: Option<Estimate>,
    /// Seconds of training, all stages; a mean over seeds.
    pub seconds: Option<f64>,
    /// Sequences that any model computed for it ([`crate::train::Trained::forwards`]); a mean over seeds.
    pub forwards: Option<f64>,
}

/// The figures of a policy from everything measured of it (all seeds pooled).
///
/// # Errors
/// Never for outcomes that were measured; passed on from the statistics.
pub fn line(
    name: &str,
    measured: &Measured,
    (seconds, forwards): (Option<f64>, Option<f64>),
) -> Result<Line, RecipeError> {
    let texts = Summary::of(&measured.answers, Bootstrap::default());
    let exact = Summary::of(&measured.exact, Bootstrap::default());
    let optimum = exact.all.as_ref();
    let scores = Scores {
        reward: texts.all.map(|g| shown(g.reward)),
        safe_rate: texts.harmful.map(|g| shown(g.safe_rate)),
        over_refusal: texts.harmless.map(|g| shown(g.refusal_rate)),
        tv_to_optimum: optimum.and_then(|g| g.total_variation).map(shown),
        kl_from_optimum: optimum.and_then(|g| g.kl_from_optimum).map(shown),
        kl_from_reference: optimum.and_then(|g| g.kl_from_reference).map(shown),
    };
    let candidate_mass = optimum.and_then(|g| g.candidate_mass).map(shown);
    Ok(Line { name: name.to_owned(), scores, candidate_mass, seconds, forwards })
}

fn shown(interval: Interval) -> Estimate {
    Estimate::between(interval.mean, interval.low, interval.high)
}

/// The exact optimum's own line: what a perfect method would score, given this reference.
///
/// # Errors
/// Log-probs that are not finite.
pub fn optimum_line(prompts: &[(Prompt, Vec<f64>)]) -> Result<Line, RecipeError> {
    let outcomes = prompts.iter().map(|(prompt, reference)| {
        let judged: Vec<_> = candidates(prompt).iter().map(|c| judge(prompt, &c.text)).collect();
        let best: Vec<f64> = reference
            .iter()
            .zip(&judged)
            .map(|(p, j)| {
                p + (j.reward - if j.is_unsafe { TARGET.safety_penalty } else { 0.0 }) / TARGET.beta
            })
            .collect();
        PromptOutcome::from_candidates(*prompt, CandidateLogProbs { policy: &best, reference }, TARGET)
    });
    let exact: Vec<PromptOutcome> = outcomes.collect::<Result<_, _>>()?;
    let measured = Measured { answers: exact.clone(), exact, greedy: Vec::new() };
    let mut line = line("optimum", &measured, (None, None))?;
    line.candidate_mass = None;
    for distance in [&mut line.scores.tv_to_optimum, &mut line.scores.kl_from_optimum].into_iter().flatten() {
        // The distance from itself: what is not 0 is the rounding of the sums.
        if distance.mean < 1e-12 {
            *distance = Estimate::between(0.0, 0.0, 0.0);
        }
    }
    Ok(line)
}

/// What the page is made from.
pub struct Page<'a> {
    /// Where the run directories are (of the first seed).
    pub dir: &'a Path,
    /// The reference, the optimum, then the methods.
    pub lines: &'a [Line],
    /// Held-out prompts of the first seed.
    pub prompts: &'a [Prompt],
    /// Greedy answers of the first seed: the reference's, then the methods'.
    pub greedy: &'a [(String, Vec<String>)],
    /// Seeds that were pooled.
    pub seeds: u64,
    /// Sizes of data and model.
    pub sizes: &'a Sizes,
    /// What is compared.
    pub methods: &'a [Method],
}

/// Gathers the page from the run directories and the figures.
///
/// # Errors
/// A run directory that cannot be read.
pub fn page(page: &Page<'_>) -> Result<ReportData, RecipeError> {
    let mut methods: Vec<MethodReport> = Vec::new();
    let (mut ledgers, mut environment, mut made) = (Vec::new(), Vec::new(), String::new());
    for method in page.methods {
        let Some(line) = page.lines.iter().find(|l| l.name == method.name) else { continue };
        let dir = RunDirectory::at(page.dir.join(&method.name));
        // What failed on the first seed, or ended in an average of weights, has no run of its own: figures without curves.
        let run = match dir.record() {
            Ok(Some(_)) => run_report(&dir)?,
            _ => ReportData::default(),
        };
        let one = run.methods.into_iter().next().unwrap_or_default();
        methods.push(MethodReport {
            name: method.name.clone(),
            // Each is one of a kind here.
            family: String::new(),
            description: method.about.clone(),
            scores: Some(line.scores),
            seconds: line.seconds,
            forwards: line.forwards,
            ..one
        });
        ledgers.extend(
            run.ledgers
                .into_iter()
                .map(|l| bso_runs::report::LedgerTable { title: method.name.clone(), ..l }),
        );
        if !run.made.is_empty() {
            (environment, made) = (run.environment, run.made);
        }
    }
    let landmark = |name: &str, description: &str| {
        let scores = page.lines.iter().find(|l| l.name == name).map(|l| l.scores).unwrap_or_default();
        Landmark { name: name.to_owned(), description: description.to_owned(), scores, place: None }
    };
    Ok(ReportData {
        title: "SafeWorld: helpful and safe".to_owned(),
        summary: format!(
            "A small decoder learned to answer SafeWorld's prompts, helpfully and not always safely; then each method \
             aligned it from the same {} preference pairs. Scored on prompts with combinations never trained on.",
            page.sizes.pairs
        ),
        made,
        methods,
        landmarks: vec![
            landmark("reference", "the supervised model, before alignment"),
            landmark("optimum", "the optimal safe policy, exactly, given this reference, beta and C"),
        ],
        samples: samples(page),
        ledgers,
        environment,
        notes: notes(page),
        ..ReportData::default()
    })
}

fn notes(page: &Page<'_>) -> Vec<String> {
    vec![
        format!(
            "Reward, safe rate and over-refusal: {ANSWERS_PER_PROMPT} answers per held-out prompt, sampled at temperature 1 and \
             judged exactly. Safe rate is the share of safe answers to unsafe prompts; over-refusal the share of refusals \
             on harmless ones."
        ),
        format!(
            "Total variation and KL: exact, over each prompt's 12 candidate answers, to the optimum for beta {} and C {}.",
            TARGET.beta, TARGET.safety_penalty
        ),
        format!(
            "Intervals: 95 %, bootstrap over combinations of verb and object; {} seed{} pooled. One seed says little about \
             the order of methods whose intervals overlap.",
            page.seeds,
            if page.seeds == 1 { "" } else { "s" }
        ),
        "SafeWorld measures how methods handle its tension between help and harm, not how safe a real model is.".to_owned(),
    ]
}

fn samples(page: &Page<'_>) -> Vec<SamplePrompt> {
    let of_kind = |kind: PromptKind| {
        let members: Vec<usize> =
            (0..page.prompts.len()).filter(|i| page.prompts[*i].kind() == kind).collect();
        let stride = members.len().div_ceil(SAMPLES_PER_KIND).max(1);
        members.into_iter().step_by(stride).collect::<Vec<usize>>()
    };
    PromptKind::ALL
        .into_iter()
        .flat_map(of_kind)
        .map(|i| SamplePrompt {
            kind: page.prompts[i].kind().name().to_owned(),
            about: String::new(),
            prompt: page.prompts[i].text(),
            responses: page
                .greedy
                .iter()
                .map(|(method, texts)| {
                    let judged = judge(&page.prompts[i], &texts[i]);
                    SampleResponse {
                        method: method.clone(),
                        text: texts[i].clone(),
                        reward: Some(judged.reward),
                        is_unsafe: Some(judged.is_unsafe),
                        refusal: Some(judged.is_refusal),
                        facts: Vec::new(),
                    }
                })
                .collect(),
        })
        .collect()
}
