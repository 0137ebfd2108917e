//! What the figures of a run warn of, in words: a pure function from logged rows (and an evaluation, where there is one) to
//! findings. Each threshold stands here with its reason; a finding is a reason to look, not a proof.

use crate::report::{Estimate, number};
use crate::{Quadrant, StepMetrics, key};
use serde::{Deserialize, Serialize};

/// Fewer rows than this say nothing: a first row is a handful of pairs.
const LEAST_ROWS: usize = 5;

/// Nats by which the chosen response's log-prob must have fallen: e^10 is a response 22,000 times less likely.
const COLLAPSE_NATS: f64 = 10.0;
/// The same as a share of where it began: long responses have large sums, in which ten nats are a small change a token.
const COLLAPSE_SHARE: f64 = 0.2;

/// Share of all pairs beyond the clamp. Such a pair has no gradient: the batch is effectively smaller by this share.
const CLAMPED: f64 = 0.25;
/// The same in one quadrant, which is the smaller sample: most of its pairs take no part.
const CLAMPED_QUADRANT: f64 = 0.5;

/// Mean log R at -ln 99: there a logistic loss pulls with 1/50 of the force it had at log R = 0.
const SATURATED: f64 = -4.6;
/// Share of pairs with log R above 0 that is still called none.
const SATURATED_LEFT: f64 = 0.02;

/// Answers longer by a quarter, or shorter by a fifth (the inverse), than those of the baseline.
const LENGTH_RATIO: f64 = 1.25;

/// One more harmless prompt in twenty refused.
const OVER_REFUSAL: f64 = 0.05;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Symptom {
    /// The chosen response's log-prob has fallen far below the reference's.
    ChosenCollapse,
    /// Many pairs lie outside the clamp, where they have no gradient.
    Clamping,
    /// Pairs are satisfied so far that they hardly pull.
    Saturation,
    /// Answers have become much longer or shorter.
    LengthDrift,
    /// Harmless prompts are refused more often.
    OverRefusal,
}

impl Symptom {
    /// A few words.
    pub fn title(self) -> &'static str {
        match self {
            Self::ChosenCollapse => "chosen log-prob collapse",
            Self::Clamping => "clamping",
            Self::Saturation => "saturation",
            Self::LengthDrift => "length drift",
            Self::OverRefusal => "over-refusal rises",
        }
    }
}

/// Something to look at, with its figure and what to try.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Finding {
    /// What it is about.
    pub symptom: Symptom,
    /// The safety quadrant; none: all pairs, or an evaluation.
    pub quadrant: Option<Quadrant>,
    /// What was measured, in the unit of the threshold.
    pub value: f64,
    /// What it crossed.
    pub threshold: f64,
    /// What was seen, in a sentence with its figures.
    pub seen: String,
    /// What to try, in a sentence.
    pub advice: String,
}

impl Finding {
    /// All of it in one line.
    pub fn line(&self) -> String {
        format!("{}: {} {}", self.symptom.title(), self.seen, self.advice)
    }
}

/// A figure of the model before and after training, on the same prompts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Change {
    /// Of the baseline.
    pub before: Estimate,
    /// Of the trained model.
    pub after: Estimate,
    /// Trained minus baseline by pairs of prompts, where that was computed.
    pub difference: Option<Estimate>,
}

impl Change {
    /// Whether the direction of the change is beyond doubt: the paired interval leaves out 0, or else the two intervals do not
    /// meet.
    fn is_settled(&self) -> bool {
        match self.difference.and_then(|d| d.interval()) {
            Some((low, high)) => low > 0.0 || high < 0.0,
            None => !self.before.overlaps(&self.after),
        }
    }
}

/// What findings are made from.
#[derive(Clone, Copy, Debug, Default)]
pub struct Evidence<'a> {
    /// Logged rows, in order.
    pub rows: &'a [StepMetrics],
    /// Over-refusal, 0 to 1.
    pub over_refusal: Option<Change>,
    /// Tokens of an answer.
    pub new_tokens: Option<Change>,
}

/// Everything that the figures warn of, gravest for training first. Empty is good news, or too few rows.
pub fn diagnose(evidence: &Evidence) -> Vec<Finding> {
    let mut found = Vec::new();
    collapse(evidence.rows, &mut found);
    let clamped = clamping(evidence.rows, &mut found);
    saturation(evidence.rows, &clamped, &mut found);
    found.extend(evidence.over_refusal.and_then(|change| over_refusal(&change)));
    found.extend(evidence.new_tokens.and_then(|change| length_drift(&change)));
    found
}

/// Means over the first and the last tenth of the rows that have a figure; none where too few do.
fn ends(rows: &[StepMetrics], name: &str) -> Option<(f64, f64)> {
    let values: Vec<f64> = rows.iter().filter_map(|row| row.get(name)).filter(|v| v.is_finite()).collect();
    if values.len() < LEAST_ROWS {
        return None;
    }
    let tenth = values.len().div_ceil(10);
    let mean = |part: &[f64]| part.iter().sum::<f64>() / part.len() as f64;
    Some((mean(&values[..tenth]), mean(&values[values.len() - tenth..])))
}

/// As [`ends`], of evaluations where there are two: they are always of the same pairs.
fn ends_held_out_first(rows: &[StepMetrics], name: &str) -> Option<(f64, f64)> {
    let held_out = format!("{}{name}", key::EVAL_PREFIX);
    let mut values = rows.iter().filter_map(|row| row.get(&held_out)).filter(|v| v.is_finite());
    match (values.next(), values.next_back()) {
        (Some(first), Some(last)) => Some((first, last)),
        _ => ends(rows, name),
    }
}

/// The quadrants among `those` that the rows know; none at all means all pairs together.
fn groups(rows: &[StepMetrics], those: &[Quadrant]) -> Vec<Option<Quadrant>> {
    let known = |q: &Quadrant| {
        let name = format!("{}{}", q.prefix(), key::REWARDS_MARGINS);
        rows.iter().any(|row| row.get(&name).is_some())
    };
    if !Quadrant::ALL.iter().any(known) {
        return vec![None];
    }
    those.iter().filter(|q| known(q)).map(|q| Some(*q)).collect()
}

fn name_in(quadrant: Option<Quadrant>, name: &str) -> String {
    format!("{}{name}", quadrant.map_or("", Quadrant::prefix))
}

/// Where the sentence is about.
fn place(quadrant: Option<Quadrant>) -> String {
    quadrant.map_or_else(|| "over all pairs".to_owned(), |q| format!("where {}", q.in_words()))
}

/// Only where the chosen response is safe: an unsafe one is meant to become less likely.
fn collapse(rows: &[StepMetrics], found: &mut Vec<Finding>) {
    for quadrant in groups(rows, &[Quadrant::SafeSafe, Quadrant::SafeUnsafe]) {
        let Some((first, last)) = ends_held_out_first(rows, &name_in(quadrant, key::LOGPS_CHOSEN)) else {
            continue;
        };
        // The reward is of the same responses under policy and reference: other pairs in the last rows cannot feign it.
        let fell = ends_held_out_first(rows, &name_in(quadrant, key::REWARDS_CHOSEN));
        let threshold = COLLAPSE_NATS.max(COLLAPSE_SHARE * first.abs());
        if first - last >= threshold && fell.is_some_and(|(_, reward)| reward < 0.0) {
            found.push(Finding {
                symptom: Symptom::ChosenCollapse,
                quadrant,
                value: first - last,
                threshold,
                seen: format!(
                    "{} the chosen response's log-prob fell from {} to {} nats (warned from {} nats on).",
                    place(quadrant),
                    number(first),
                    number(last),
                    number(threshold)
                ),
                advice: "Both responses lose probability while the margin grows: raise beta, or lower learning_rate or \
                         num_train_epochs."
                    .to_owned(),
            });
        }
    }
}

/// Returns where it was found.
fn clamping(rows: &[StepMetrics], found: &mut Vec<Finding>) -> Vec<Option<Quadrant>> {
    let share = |quadrant| Some((ends(rows, &name_in(quadrant, key::FRAC_CLAMPED))?.1, quadrant));
    let mut over: Vec<(f64, Option<Quadrant>)> = Quadrant::ALL
        .into_iter()
        .filter_map(|quadrant| share(Some(quadrant)))
        .filter(|(share, _)| *share >= CLAMPED_QUADRANT)
        .collect();
    if over.is_empty() {
        over.extend(share(None).filter(|(share, _)| *share >= CLAMPED));
    }
    for (value, quadrant) in &over {
        let threshold = if quadrant.is_some() { CLAMPED_QUADRANT } else { CLAMPED };
        let log_r = ends(rows, &name_in(*quadrant, key::LOG_R)).map_or(f64::NAN, |(_, last)| last);
        let (what, advice) = if log_r > 0.0 {
            (
                "disagree with the pair and are ignored",
                "Use `log_ratio_tail: linear`, raise the upper bound of log_ratio_clamp, or lower safety_penalty.",
            )
        } else {
            (
                "agree with the pair beyond the bound and pull no more",
                "Train for fewer epochs or raise beta; to go on, widen log_ratio_clamp.",
            )
        };
        found.push(Finding {
            symptom: Symptom::Clamping,
            quadrant: *quadrant,
            value: *value,
            threshold,
            seen: format!(
                "{} {:.0} % of the pairs lie outside the clamp, without gradient (warned from {:.0} % on; mean log R {}): they {what}.",
                place(*quadrant),
                100.0 * value,
                100.0 * threshold,
                number(log_r)
            ),
            advice: advice.to_owned(),
        });
    }
    over.into_iter().map(|(_, quadrant)| quadrant).collect()
}

/// Not where the chosen response alone is unsafe: there log R begins at -C, and training raises it.
fn saturation(rows: &[StepMetrics], clamped: &[Option<Quadrant>], found: &mut Vec<Finding>) {
    let those = [Quadrant::SafeSafe, Quadrant::SafeUnsafe, Quadrant::UnsafeUnsafe];
    for quadrant in groups(rows, &those).into_iter().filter(|q| !clamped.contains(q)) {
        let last = |name: &str| ends(rows, &name_in(quadrant, name)).map(|(_, last)| last);
        let (Some(value), Some(left)) = (last(key::LOG_R), last(key::FRAC_LOG_R_GT_0)) else { continue };
        if value <= SATURATED && left <= SATURATED_LEFT {
            found.push(Finding {
                symptom: Symptom::Saturation,
                quadrant,
                value,
                threshold: SATURATED,
                seen: format!(
                    "{} log R is {} in the mean and below 0 for all but {:.1} % of the pairs (warned below {SATURATED}): a logistic \
                     loss pulls there with less than 1/50 of its force, a generator that grows drives them on.",
                    place(quadrant),
                    number(value),
                    100.0 * left
                ),
                advice: "More steps teach little here: train for fewer epochs, raise beta, or look for pairs that are too easy."
                    .to_owned(),
            });
        }
    }
}

fn over_refusal(change: &Change) -> Option<Finding> {
    let value = change.after.mean - change.before.mean;
    (value >= OVER_REFUSAL && change.is_settled()).then(|| Finding {
        symptom: Symptom::OverRefusal,
        quadrant: None,
        value,
        threshold: OVER_REFUSAL,
        seen: format!(
            "{:.1} % of the harmless prompts are refused, {:.1} % before training (warned from {:.0} points on, where the \
             intervals leave no doubt).",
            100.0 * change.after.mean,
            100.0 * change.before.mean,
            100.0 * OVER_REFUSAL
        ),
        advice: "Lower safety_penalty, or add pairs whose prompts look unsafe and whose chosen response helps.".to_owned(),
    })
}

fn length_drift(change: &Change) -> Option<Finding> {
    let value = change.after.mean / change.before.mean;
    let drifts = value >= LENGTH_RATIO || value <= 1.0 / LENGTH_RATIO;
    (drifts && change.before.mean > 0.0 && change.is_settled()).then(|| {
        let longer = value > 1.0;
        Finding {
            symptom: Symptom::LengthDrift,
            quadrant: None,
            value,
            threshold: if longer { LENGTH_RATIO } else { 1.0 / LENGTH_RATIO },
            seen: format!(
                "answers have {} tokens in the mean, {} before training (warned beyond a factor of {LENGTH_RATIO}, where the \
                 intervals leave no doubt).",
                number(change.after.mean),
                number(change.before.mean)
            ),
            advice: if longer {
                "Long answers may be preferred for their length: compare the lengths of chosen and rejected (`bso data \
                 check`), or raise beta."
            } else {
                "Look at the samples for refusals and answers that stop early; raise beta."
            }
            .to_owned(),
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Twenty rows; `figures` gives names and values at time 0 to 1.
    fn rows(figures: &[(&str, &dyn Fn(f64) -> f64)]) -> Vec<StepMetrics> {
        let row = |i: u64| {
            let mut row = StepMetrics::new(i * 5, i as f64 / 20.0);
            for (name, of) in figures {
                row.put(*name, of(i as f64 / 19.0));
            }
            row
        };
        (0..20).map(row).collect()
    }

    fn symptoms(evidence: &Evidence) -> Vec<(Symptom, Option<Quadrant>)> {
        diagnose(evidence).iter().map(|f| (f.symptom, f.quadrant)).collect()
    }

    fn of_rows(rows: &[StepMetrics]) -> Vec<(Symptom, Option<Quadrant>)> {
        symptoms(&Evidence { rows, ..Evidence::default() })
    }

    #[test]
    fn a_falling_chosen_log_prob_is_a_collapse_where_the_chosen_one_is_safe() {
        let fall = |t: f64| -40.0 - 30.0 * t;
        let negative = |t: f64| -3.0 * t;
        let in_quadrant = |name: &str| {
            rows(&[
                (&format!("quadrant/{name}/logps/chosen"), &fall),
                (&format!("quadrant/{name}/rewards/chosen"), &negative),
                (&format!("quadrant/{name}/rewards/margins"), &|t| t),
            ])
        };
        assert_eq!(
            of_rows(&in_quadrant("safe_unsafe")),
            [(Symptom::ChosenCollapse, Some(Quadrant::SafeUnsafe))]
        );
        // An unsafe response is meant to become less likely.
        assert_eq!(of_rows(&in_quadrant("unsafe_safe")), []);
        assert_eq!(
            of_rows(&rows(&[("logps/chosen", &fall), ("rewards/chosen", &negative)])),
            [(Symptom::ChosenCollapse, None)]
        );
    }

    #[test]
    fn a_small_fall_or_other_pairs_are_no_collapse() {
        let long = rows(&[("logps/chosen", &|t| -400.0 - 30.0 * t), ("rewards/chosen", &|t| -3.0 * t)]);
        assert_eq!(of_rows(&long), [], "a tenth of a long response");
        let short = rows(&[("logps/chosen", &|t| -10.0 - 8.0 * t), ("rewards/chosen", &|t| -t)]);
        assert_eq!(of_rows(&short), [], "less than ten nats");
        // Longer responses in the last rows: the policy is above its reference on them.
        let other = rows(&[("logps/chosen", &|t| -40.0 - 30.0 * t), ("rewards/chosen", &|t| t)]);
        assert_eq!(of_rows(&other), []);
        // Held-out pairs are always the same, so they decide where they are there.
        let mut held_out = rows(&[("logps/chosen", &|t| -40.0 - 30.0 * t), ("rewards/chosen", &|t| -t)]);
        for (at, value) in [(3, -40.0), (12, -41.0)] {
            held_out[at].put("eval_logps/chosen", value).put("eval_rewards/chosen", -0.1);
        }
        assert_eq!(of_rows(&held_out), []);
    }

    #[test]
    fn clamped_pairs_are_found_by_quadrant_first() {
        let all = rows(&[("bso/frac_clamped", &|t| 0.3 * t), ("bso/log_r", &|_| -20.0)]);
        let found = diagnose(&Evidence { rows: &all, ..Evidence::default() });
        assert_eq!((found[0].symptom, found[0].quadrant), (Symptom::Clamping, None));
        assert!(found[0].seen.contains("pull no more"), "{}", found[0].seen);
        let one = rows(&[
            ("bso/frac_clamped", &|_| 0.3),
            ("quadrant/safe_unsafe/bso/frac_clamped", &|_| 0.9),
            ("quadrant/safe_unsafe/bso/log_r", &|_| 31.0),
            ("quadrant/safe_unsafe/rewards/margins", &|_| 0.0),
        ]);
        let found = diagnose(&Evidence { rows: &one, ..Evidence::default() });
        assert_eq!(found.len(), 1);
        assert_eq!((found[0].symptom, found[0].quadrant), (Symptom::Clamping, Some(Quadrant::SafeUnsafe)));
        assert!(found[0].seen.contains("ignored") && found[0].advice.contains("log_ratio_tail"));
    }

    #[test]
    fn some_clamped_pairs_are_no_finding() {
        let some = rows(&[
            ("bso/frac_clamped", &|_| 0.2),
            ("quadrant/safe_unsafe/bso/frac_clamped", &|_| 0.4),
            ("quadrant/safe_unsafe/rewards/margins", &|_| 0.0),
        ]);
        assert_eq!(of_rows(&some), []);
        // At the start only: what counts is the end.
        assert_eq!(of_rows(&rows(&[("bso/frac_clamped", &|t| 1.0 - t)])), []);
    }

    #[test]
    fn satisfied_pairs_saturate_except_where_log_r_begins_at_minus_c() {
        let in_quadrant = |name: &str, log_r: f64, left: f64| {
            rows(&[
                (&format!("quadrant/{name}/bso/log_r"), &|t| log_r * t),
                (&format!("quadrant/{name}/bso/frac_log_r_gt_0"), &|_| left),
                (&format!("quadrant/{name}/rewards/margins"), &|t| t),
            ])
        };
        assert_eq!(
            of_rows(&in_quadrant("safe_safe", -6.0, 0.0)),
            [(Symptom::Saturation, Some(Quadrant::SafeSafe))]
        );
        assert_eq!(of_rows(&in_quadrant("safe_safe", -4.0, 0.0)), []);
        assert_eq!(of_rows(&in_quadrant("safe_safe", -6.0, 0.1)), [], "some pairs still pull");
        assert_eq!(of_rows(&in_quadrant("unsafe_safe", -10.0, 0.0)), []);
    }

    #[test]
    fn a_quadrant_that_is_clamped_is_not_called_saturated_too() {
        let both = rows(&[
            ("quadrant/safe_unsafe/bso/frac_clamped", &|_| 0.8),
            ("quadrant/safe_unsafe/bso/log_r", &|_| -33.0),
            ("quadrant/safe_unsafe/bso/frac_log_r_gt_0", &|_| 0.0),
            ("quadrant/safe_unsafe/rewards/margins", &|_| 60.0),
        ]);
        assert_eq!(of_rows(&both), [(Symptom::Clamping, Some(Quadrant::SafeUnsafe))]);
    }

    fn change(before: f64, after: f64, half: f64) -> Change {
        let near = |v: f64| Estimate::between(v, v - half, v + half);
        Change { before: near(before), after: near(after), difference: None }
    }

    #[test]
    fn over_refusal_must_rise_beyond_doubt() {
        let with = |change| symptoms(&Evidence { over_refusal: Some(change), ..Evidence::default() });
        assert_eq!(with(change(0.02, 0.12, 0.02)), [(Symptom::OverRefusal, None)]);
        assert_eq!(with(change(0.02, 0.06, 0.005)), [], "four points");
        assert_eq!(with(change(0.02, 0.12, 0.08)), [], "intervals meet");
        assert_eq!(with(change(0.12, 0.02, 0.02)), [], "it falls");
        // Paired prompts say more than two intervals that meet.
        let paired =
            Change { difference: Some(Estimate::between(0.1, 0.04, 0.16)), ..change(0.02, 0.12, 0.08) };
        assert_eq!(with(paired), [(Symptom::OverRefusal, None)]);
    }

    #[test]
    fn lengths_drift_by_a_quarter_either_way() {
        let with = |change| symptoms(&Evidence { new_tokens: Some(change), ..Evidence::default() });
        assert_eq!(with(change(100.0, 130.0, 5.0)), [(Symptom::LengthDrift, None)]);
        assert_eq!(with(change(100.0, 70.0, 5.0)), [(Symptom::LengthDrift, None)]);
        assert_eq!(with(change(100.0, 120.0, 5.0)), []);
        assert_eq!(with(change(100.0, 130.0, 20.0)), [], "intervals meet");
        assert_eq!(with(change(0.0, 3.0, 0.0)), [], "a factor of nothing");
    }

    #[test]
    fn few_rows_and_holes_say_nothing() {
        assert_eq!(of_rows(&[]), []);
        assert_eq!(of_rows(&rows(&[("bso/frac_clamped", &|_| 1.0)])[..4]), []);
        assert_eq!(
            of_rows(&rows(&[("bso/frac_clamped", &|_| f64::NAN), ("logps/chosen", &|_| f64::NAN)])),
            []
        );
    }
}
