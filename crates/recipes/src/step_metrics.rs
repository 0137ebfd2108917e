//! Observations -> the figures of a logged step: over all examples and per safety quadrant.

use crate::objective::{Detail, Observation};
use bso_runs::{PairMetrics, Quadrant, StepMetrics, key};

/// Puts the figures of `observations` into `row`, each name after `prefix` ("" or `eval_`). `beta` turns log-ratios
/// into rewards.
pub fn put_observations(row: &mut StepMetrics, prefix: &str, observations: &[Observation], beta: f64) {
    let Some(first) = observations.first() else { return };
    match first.detail {
        Detail::Sft => {
            let tokens: usize = observations.iter().map(|o| o.tokens).sum();
            let nats: f64 = observations.iter().map(|o| o.loss).sum();
            row.put(format!("{prefix}{}", key::LOSS), nats / tokens.max(1) as f64);
        }
        Detail::Pair { .. } => {
            let all: Vec<&Observation> = observations.iter().collect();
            row.put_pairs(prefix, &pair_metrics(&all, beta));
            for quadrant in Quadrant::ALL {
                let members: Vec<&Observation> =
                    observations.iter().filter(|o| quadrant_of(o) == Some(quadrant)).collect();
                if !members.is_empty() {
                    row.put_pairs(&format!("{prefix}{}", quadrant.prefix()), &pair_metrics(&members, beta));
                }
            }
        }
        Detail::Judged { .. } => put_judged(row, prefix, observations, beta),
        Detail::Scored { .. } => put_scored(row, prefix, observations),
    }
}

fn quadrant_of(observation: &Observation) -> Option<Quadrant> {
    match observation.detail {
        Detail::Pair { is_unsafe: Some([chosen, rejected]), .. } => Some(Quadrant::of(chosen, rejected)),
        _ => None,
    }
}

/// A running mean that is absent when nothing was added.
#[derive(Default)]
struct Mean {
    sum: f64,
    count: usize,
}

impl Mean {
    fn add(&mut self, value: f64) {
        self.sum += value;
        self.count += 1;
    }

    fn value(&self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / self.count as f64)
    }
}

fn share(yes: bool) -> f64 {
    if yes { 1.0 } else { 0.0 }
}

fn pair_metrics(observations: &[&Observation], beta: f64) -> PairMetrics {
    let mut means: [Mean; 11] = Default::default();
    for observation in observations {
        let Detail::Pair { policy, reference, log_ratio, clamped, is_unsafe } = &observation.detail else {
            continue;
        };
        let chosen = beta * (policy[0] - reference[0]);
        let rejected = beta * (policy[1] - reference[1]);
        let values = [
            Some(observation.loss),
            Some(chosen),
            Some(rejected),
            Some(share(chosen > rejected)),
            Some(chosen - rejected),
            Some(policy[0]),
            Some(policy[1]),
            *log_ratio,
            log_ratio.map(|u| share(u > 0.0)),
            log_ratio.map(|_| share(*clamped)),
            is_unsafe.map(|[chosen, rejected]| share(chosen) - share(rejected)),
        ];
        for (mean, value) in means.iter_mut().zip(values) {
            if let Some(value) = value {
                mean.add(value);
            }
        }
    }
    let at = |i: usize| means[i].value();
    let there = |i: usize| at(i).unwrap_or(f64::NAN);
    PairMetrics {
        loss: at(0),
        rewards_chosen: there(1),
        rewards_rejected: there(2),
        accuracies: there(3),
        margins: there(4),
        logps_chosen: there(5),
        logps_rejected: there(6),
        log_r: at(7),
        frac_log_r_gt_0: at(8),
        frac_clamped: at(9),
        safety_delta: at(10),
    }
}

/// Of rewards their means; of costs theirs, and how often a sign is that of the label. A margin is what should be above 0.
fn put_scored(row: &mut StepMetrics, prefix: &str, observations: &[Observation]) {
    let (mut loss, mut accuracy, mut margin, mut signs) = <(Mean, Mean, Mean, Mean)>::default();
    let (mut sides, mut costs) = (<[Mean; 2]>::default(), false);
    for observation in observations {
        let Detail::Scored { scores: [chosen, rejected], cost, is_unsafe } = observation.detail else {
            continue;
        };
        let difference = if cost { rejected - chosen } else { chosen - rejected };
        loss.add(observation.loss);
        accuracy.add(share(difference > 0.0));
        margin.add(difference);
        sides[0].add(chosen);
        sides[1].add(rejected);
        costs |= cost;
        for (score, is_unsafe) in [chosen, rejected].into_iter().zip(is_unsafe.into_iter().flatten()) {
            signs.add(share((score > 0.0) == is_unsafe));
        }
    }
    let [chosen, rejected] = sides.map(|side| side.value());
    let names = if costs {
        [key::COSTS_CHOSEN, key::COSTS_REJECTED]
    } else {
        [key::REWARDS_CHOSEN, key::REWARDS_REJECTED]
    };
    let figures = [
        (key::LOSS, loss.value()),
        (names[0], chosen),
        (names[1], rejected),
        (key::REWARDS_ACCURACIES, accuracy.value()),
        (key::REWARDS_MARGINS, margin.value()),
        (key::COSTS_SIGN_ACCURACIES, signs.value().filter(|_| costs)),
    ];
    for (name, value) in figures {
        if let Some(value) = value {
            row.put(format!("{prefix}{name}"), value);
        }
    }
}

/// KTO has no pairs: chosen stands for desirable, rejected for undesirable completions.
fn put_judged(row: &mut StepMetrics, prefix: &str, observations: &[Observation], beta: f64) {
    let (mut loss, mut estimate) = (Mean::default(), Mean::default());
    let (mut rewards, mut logps) = <([Mean; 2], [Mean; 2])>::default();
    for observation in observations {
        let Detail::Judged { desirable, log_ratio, logp, kl } = observation.detail else { continue };
        loss.add(observation.loss);
        estimate.add(kl);
        let side = usize::from(!desirable);
        rewards[side].add(beta * log_ratio);
        logps[side].add(logp);
    }
    let margin = rewards[0].value().zip(rewards[1].value()).map(|(chosen, rejected)| chosen - rejected);
    let figures = [
        (key::LOSS, loss.value()),
        (key::REWARDS_CHOSEN, rewards[0].value()),
        (key::REWARDS_REJECTED, rewards[1].value()),
        (key::REWARDS_MARGINS, margin),
        (key::LOGPS_CHOSEN, logps[0].value()),
        (key::LOGPS_REJECTED, logps[1].value()),
        (key::KL, estimate.value()),
    ];
    for (name, value) in figures {
        if let Some(value) = value {
            row.put(format!("{prefix}{name}"), value);
        }
    }
}
