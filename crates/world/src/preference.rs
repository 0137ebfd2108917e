//! Labelled preference pairs, drawn from the candidate sets: helpfulness by Bradley-Terry on r, safety by s, with
//! label noise at set rates.

use bso_durable::Seed;
use rand::Rng;
use serde::Serialize;

use crate::candidate::Form;
use crate::error::WorldError;
use crate::prompt::{Prompt, PromptKind};
use crate::reward::{Judgement, judge};
use crate::sft::{draw, mixture};

/// From which distribution a pair's two (different) candidates are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CandidateSampling {
    /// All candidates alike.
    Uniform,
    /// The supervised mixture ([`mixture`]): what the reference model would say.
    Sft,
}

/// How pairs are drawn and labelled.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct PreferenceConfig {
    /// Number of pairs.
    pub pairs: usize,
    /// The distribution of the two responses.
    pub sampling: CandidateSampling,
    /// Relative weight of benign, suspicious-looking and unsafe prompts; at least 0, not all 0.
    pub kind_weights: [f64; 3],
    /// Probability that a response's safety label is flipped, each response independently: 0..=0.5.
    pub safety_noise: f64,
    /// Probability that `better_response_id` is flipped after the Bradley-Terry draw: 0..=0.5.
    pub preference_noise: f64,
}

impl Default for PreferenceConfig {
    /// 6,000 pairs from the supervised mixture, three in five on unsafe prompts (red-teaming data such as
    /// PKU-SafeRLHF leans so too), no noise.
    fn default() -> Self {
        Self {
            pairs: 6_000,
            sampling: CandidateSampling::Sft,
            kind_weights: [0.2, 0.2, 0.6],
            safety_noise: 0.0,
            preference_noise: 0.0,
        }
    }
}

/// One labelled pair; the labels are those on record, noise included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PreferencePair {
    /// The prompt of both responses.
    pub prompt: Prompt,
    /// The two candidates; always different.
    pub forms: [Form; 2],
    /// The recorded safety labels.
    pub is_safe: [bool; 2],
    /// Which response (0 or 1) is recorded as more helpful.
    pub better: usize,
    /// Which response (0 or 1) is recorded as safer.
    pub safer: usize,
}

impl PreferencePair {
    /// The text of a response; any index but 0 means 1.
    pub fn response(&self, index: usize) -> String {
        self.forms[index.min(1)].text(&self.prompt)
    }
}

/// p(first beats second) = 1 / (1 + exp(r_second - r_first)); rewards in Bradley-Terry units.
pub fn bradley_terry(first: f64, second: f64) -> f64 {
    1.0 / (1.0 + (second - first).exp())
}

/// Draws labelled pairs from these prompts.
///
/// `better`: a Bradley-Terry draw on r. `safer`: the response recorded as safe; if both have the same recorded
/// label, the one of lower [`Judgement::severity`]; if that is equal too, a fair coin.
///
/// # Errors
/// A setting outside its range; a kind of positive weight without a prompt.
pub fn preference_pairs(
    prompts: &[Prompt],
    config: &PreferenceConfig,
    seed: Seed,
) -> Result<Vec<PreferencePair>, WorldError> {
    check(config)?;
    let by_kind = PromptKind::ALL
        .map(|kind| prompts.iter().filter(|p| p.kind() == kind).copied().collect::<Vec<Prompt>>());
    for ((kind, of_kind), weight) in PromptKind::ALL.into_iter().zip(&by_kind).zip(config.kind_weights) {
        if of_kind.is_empty() && weight > 0.0 {
            return Err(WorldError::NoPromptOfKind(kind.name()));
        }
    }
    let mut rng = seed.derive("world/preference", 0).rng();
    Ok((0..config.pairs)
        .map(|_| {
            let of_kind = &by_kind[draw(&config.kind_weights, rng.random())];
            let prompt = of_kind[rng.random_range(0..of_kind.len())];
            label(prompt, two_forms(prompt, config.sampling, &mut rng), config, &mut rng)
        })
        .collect())
}

fn check(config: &PreferenceConfig) -> Result<(), WorldError> {
    for (name, rate) in [("safety_noise", config.safety_noise), ("preference_noise", config.preference_noise)]
    {
        if !(0.0..=0.5).contains(&rate) {
            return Err(WorldError::Setting { name, value: rate.to_string(), remedy: "use 0 to 0.5" });
        }
    }
    let weights = config.kind_weights;
    if weights.iter().any(|w| !w.is_finite() || *w < 0.0) || weights.iter().sum::<f64>() <= 0.0 {
        return Err(WorldError::Setting {
            name: "kind_weights",
            value: format!("{weights:?}"),
            remedy: "use three finite weights, at least 0 and not all 0",
        });
    }
    Ok(())
}

/// Two different forms: the second from the same distribution without the first.
fn two_forms(prompt: Prompt, sampling: CandidateSampling, rng: &mut impl Rng) -> [Form; 2] {
    let mut weights = match sampling {
        CandidateSampling::Uniform => [1.0; Form::ALL.len()],
        CandidateSampling::Sft => mixture(prompt.kind()),
    };
    let first = draw(&weights, rng.random());
    weights[first] = 0.0;
    [Form::ALL[first], Form::ALL[draw(&weights, rng.random())]]
}

fn label(prompt: Prompt, forms: [Form; 2], config: &PreferenceConfig, rng: &mut impl Rng) -> PreferencePair {
    let truth: [Judgement; 2] = forms.map(|form| judge(&prompt, &form.text(&prompt)));
    // Every pair draws the same number of random numbers, so that a noise rate changes labels and nothing else.
    let wins = rng.random::<f64>() < bradley_terry(truth[0].reward, truth[1].reward);
    let misjudged = rng.random::<f64>() < config.preference_noise;
    let is_safe = truth.map(|t| t.is_unsafe == (rng.random::<f64>() < config.safety_noise));
    let coin = usize::from(rng.random::<bool>());
    let safer = match is_safe {
        [true, false] => 0,
        [false, true] => 1,
        _ => match truth[0].severity.cmp(&truth[1].severity) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Greater => 1,
            std::cmp::Ordering::Equal => coin,
        },
    };
    PreferencePair { prompt, forms, is_safe, better: usize::from(wins == misjudged), safer }
}

/// The safety labels of a set of pairs, as shares of all pairs (PKU-SafeRLHF: about 0.41, 0.15, 0.44).
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct QuadrantShares {
    /// Both recorded as safe.
    pub both_safe: f64,
    /// One of each.
    pub mixed: f64,
    /// Both recorded as unsafe.
    pub both_unsafe: f64,
    /// Among the mixed pairs, the share whose more helpful response is the unsafe one.
    pub mixed_better_is_unsafe: f64,
}

impl QuadrantShares {
    /// Counts the recorded labels; shares of nothing are 0.
    pub fn of(pairs: &[PreferencePair]) -> Self {
        let share = |count: usize, of: usize| count as f64 / of.max(1) as f64;
        let count = |test: &dyn Fn(&PreferencePair) -> bool| pairs.iter().filter(|p| test(p)).count();
        let mixed = count(&|p| p.is_safe[0] != p.is_safe[1]);
        Self {
            both_safe: share(count(&|p| p.is_safe == [true, true]), pairs.len()),
            mixed: share(mixed, pairs.len()),
            both_unsafe: share(count(&|p| p.is_safe == [false, false]), pairs.len()),
            mixed_better_is_unsafe: share(
                count(&|p| p.is_safe[0] != p.is_safe[1] && !p.is_safe[p.better]),
                mixed,
            ),
        }
    }
}

#[cfg(test)]
mod tests;
