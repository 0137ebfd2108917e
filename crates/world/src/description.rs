//! The figures of a SafeWorld, for a report's header and for documentation that must not go stale.

use serde::Serialize;

use crate::candidate::candidates;
use crate::preference::{PreferencePair, QuadrantShares};
use crate::prompt::{Prompt, PromptKind};
use crate::reading::words;
use crate::reward::judge;
use crate::sft::mixture;
use crate::vocabulary::vocabulary;
use crate::world::World;

/// Counts and ranges; words include marks of punctuation.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Description {
    /// Train prompts: benign, suspicious, unsafe.
    pub train_prompts: [usize; 3],
    /// Held-out prompts: benign, suspicious, unsafe.
    pub held_out_prompts: [usize; 3],
    /// Size of the vocabulary.
    pub vocabulary: usize,
    /// Mean words of a prompt.
    pub mean_prompt_words: f64,
    /// Mean words of a response drawn from the supervised mixture.
    pub mean_response_words: f64,
    /// Fewest and most words of a candidate.
    pub response_words: [usize; 2],
    /// Lowest and highest reward of a candidate.
    pub reward_range: [f64; 2],
    /// Mean reward of the supervised mixture.
    pub sft_reward: f64,
    /// Safe mass of the supervised mixture on unsafe prompts.
    pub sft_safe_rate: f64,
    /// Safety labels of the pairs.
    pub quadrants: QuadrantShares,
}

impl Description {
    /// Describes a world and pairs drawn from it.
    pub fn of(world: &World, pairs: &[PreferencePair]) -> Self {
        let by_kind = |prompts: &[Prompt]| {
            PromptKind::ALL.map(|kind| prompts.iter().filter(|p| p.kind() == kind).count())
        };
        let mut total = Totals::default();
        world.prompts().for_each(|prompt| total.add(prompt));
        let mean = |sum: f64, count: usize| sum / count.max(1) as f64;
        Self {
            train_prompts: by_kind(world.train()),
            held_out_prompts: by_kind(world.held_out()),
            vocabulary: vocabulary().len(),
            mean_prompt_words: mean(total.prompt_words, total.prompts),
            mean_response_words: mean(total.response_words, total.prompts),
            response_words: total.lengths,
            reward_range: total.rewards,
            sft_reward: mean(total.reward, total.prompts),
            sft_safe_rate: mean(total.safe, total.unsafe_prompts),
            quadrants: QuadrantShares::of(pairs),
        }
    }
}

struct Totals {
    prompts: usize,
    unsafe_prompts: usize,
    prompt_words: f64,
    response_words: f64,
    reward: f64,
    safe: f64,
    lengths: [usize; 2],
    rewards: [f64; 2],
}

impl Default for Totals {
    fn default() -> Self {
        Self {
            prompts: 0,
            unsafe_prompts: 0,
            prompt_words: 0.0,
            response_words: 0.0,
            reward: 0.0,
            safe: 0.0,
            lengths: [usize::MAX, 0],
            rewards: [f64::INFINITY, f64::NEG_INFINITY],
        }
    }
}

impl Totals {
    fn add(&mut self, prompt: &Prompt) {
        let asks_harm = prompt.kind() == PromptKind::Unsafe;
        self.prompts += 1;
        self.unsafe_prompts += usize::from(asks_harm);
        self.prompt_words += words(&prompt.text()).len() as f64;
        for (candidate, share) in candidates(prompt).iter().zip(mixture(prompt.kind())) {
            let length = words(&candidate.text).len();
            let judged = judge(prompt, &candidate.text);
            self.response_words += share * length as f64;
            self.reward += share * judged.reward;
            self.safe += if asks_harm && !judged.is_unsafe { share } else { 0.0 };
            self.lengths = [self.lengths[0].min(length), self.lengths[1].max(length)];
            self.rewards = [self.rewards[0].min(judged.reward), self.rewards[1].max(judged.reward)];
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::preference::{PreferenceConfig, preference_pairs};
    use crate::world::WorldConfig;
    use bso_durable::Seed;

    #[test]
    fn the_default_world_has_the_documented_figures() {
        let world = World::new(WorldConfig::default(), Seed::new(0)).unwrap();
        let pairs = preference_pairs(world.train(), &PreferenceConfig::default(), Seed::new(0)).unwrap();
        let figures = Description::of(&world, &pairs);
        println!("{figures:#?}");
        assert_eq!((figures.train_prompts, figures.held_out_prompts), ([210, 126, 168], [60, 36, 48]));
        assert_eq!(figures.reward_range, [-2.0, 4.0]);
        assert!((figures.sft_safe_rate - 0.55).abs() < 1e-9);
        assert!(figures.vocabulary < 120);
    }
}
