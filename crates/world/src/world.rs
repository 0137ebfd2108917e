//! The prompts of one SafeWorld and their split: train and held-out prompts share no combination of verb and
//! object, while in training (at the default share) every verb still meets every class of object, and every object
//! both manners of verb.

use bso_durable::Seed;
use rand::seq::SliceRandom;
use serde::Serialize;

use crate::error::WorldError;
use crate::facts::{OBJECTS, PLACES, VERBS};
use crate::prompt::Prompt;

/// The split is made block by block: the verbs of one manner meet three objects of one class.
const BLOCK_VERBS: usize = 6;
const BLOCK_OBJECTS: usize = 3;
const BLOCK: usize = BLOCK_VERBS * BLOCK_OBJECTS;

/// The sizes of a SafeWorld.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct WorldConfig {
    /// Prompts per combination of verb and object, each at another place: 1..=6. Default 3, which makes 648
    /// prompts: 270 benign, 162 suspicious-looking, 216 unsafe.
    pub places_per_combination: usize,
    /// Share of the combinations held out, alike for every manner and class: 0..=0.8, rounded to 18ths.
    /// Default 0.2, i.e. 4 of 18.
    pub held_out_share: f64,
}

impl Default for WorldConfig {
    fn default() -> Self {
        Self { places_per_combination: 3, held_out_share: 0.2 }
    }
}

/// The prompts of a SafeWorld.
#[derive(Clone, Debug, PartialEq)]
pub struct World {
    train: Vec<Prompt>,
    held_out: Vec<Prompt>,
}

impl World {
    /// The world of this seed: the facts are always the same, the seed chooses places and the split.
    ///
    /// # Errors
    /// A setting outside its range.
    pub fn new(config: WorldConfig, seed: Seed) -> Result<Self, WorldError> {
        if !(1..=PLACES.len()).contains(&config.places_per_combination) {
            return Err(WorldError::Setting {
                name: "places_per_combination",
                value: config.places_per_combination.to_string(),
                remedy: "use 1 to 6",
            });
        }
        if !(0.0..=0.8).contains(&config.held_out_share) {
            return Err(WorldError::Setting {
                name: "held_out_share",
                value: config.held_out_share.to_string(),
                remedy: "use 0 to 0.8",
            });
        }
        let held_per_block = (config.held_out_share * BLOCK as f64).round() as usize;
        let mut world = Self { train: Vec::new(), held_out: Vec::new() };
        for first_verb in (0..VERBS.len()).step_by(BLOCK_VERBS) {
            for first_object in (0..OBJECTS.len()).step_by(BLOCK_OBJECTS) {
                let block = (first_verb * OBJECTS.len() + first_object) as u64;
                for (rank, (v, o)) in diagonals(seed.derive("world/split", block)).into_iter().enumerate() {
                    let (verb, object) = (first_verb + v, first_object + o);
                    let side = if rank < held_per_block { &mut world.held_out } else { &mut world.train };
                    let combination = (verb * OBJECTS.len() + object) as u64;
                    let mut places: Vec<usize> = (0..PLACES.len()).collect();
                    places.shuffle(&mut seed.derive("world/places", combination).rng());
                    places.truncate(config.places_per_combination);
                    side.extend(places.into_iter().map(|place| Prompt::new(verb, object, place)));
                }
            }
        }
        world.train.sort_by_key(Prompt::id);
        world.held_out.sort_by_key(Prompt::id);
        Ok(world)
    }

    /// Prompts to train on, by id.
    pub fn train(&self) -> &[Prompt] {
        &self.train
    }

    /// Prompts with combinations of verb and object that training never shows, by id.
    pub fn held_out(&self) -> &[Prompt] {
        &self.held_out
    }

    /// All prompts, by kind of use: training first.
    pub fn prompts(&self) -> impl Iterator<Item = &Prompt> {
        self.train.iter().chain(&self.held_out)
    }
}

/// The cells (verb, object) of a block along its shuffled diagonals: the first six use each verb once and each
/// object twice, and so on, so that a held-out share takes evenly from all words.
fn diagonals(seed: Seed) -> Vec<(usize, usize)> {
    let mut rng = seed.rng();
    let mut shuffled = |length: usize| {
        let mut order: Vec<usize> = (0..length).collect();
        order.shuffle(&mut rng);
        order
    };
    let (verbs, objects) = (shuffled(BLOCK_VERBS), shuffled(BLOCK_OBJECTS));
    (0..BLOCK).map(|k| (verbs[k % BLOCK_VERBS], objects[(k + k / BLOCK_VERBS) % BLOCK_OBJECTS])).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::prompt::PromptKind;
    use std::collections::{BTreeMap, HashSet};

    #[test]
    fn held_out_combinations_are_never_trained_but_their_words_are() {
        let world = World::new(WorldConfig::default(), Seed::new(1)).unwrap();
        let seen: HashSet<_> = world.train().iter().map(Prompt::composition).collect();
        assert!(world.held_out().iter().all(|p| !seen.contains(&p.composition())));
        for prompt in world.held_out() {
            let meets = |test: &dyn Fn(&Prompt) -> bool| world.train().iter().any(test);
            assert!(meets(&|p| p.verb() == prompt.verb() && p.object().class == prompt.object().class));
            assert!(meets(&|p| p.object() == prompt.object() && p.verb().manner == prompt.verb().manner));
        }
    }

    #[test]
    fn both_sides_have_every_kind_in_the_same_proportion() {
        let world = World::new(WorldConfig::default(), Seed::new(1)).unwrap();
        let count = |prompts: &[Prompt]| {
            let mut by_kind = BTreeMap::new();
            prompts.iter().for_each(|p| *by_kind.entry(p.kind()).or_insert(0) += 1);
            PromptKind::ALL.map(|kind| by_kind[&kind])
        };
        assert_eq!(count(world.train()), [210, 126, 168]);
        assert_eq!(count(world.held_out()), [60, 36, 48]);
        let texts: HashSet<_> = world.prompts().map(Prompt::text).collect();
        assert_eq!(texts.len(), 648);
    }

    #[test]
    fn the_seed_decides_the_world() {
        let make = |seed| World::new(WorldConfig::default(), Seed::new(seed)).unwrap();
        assert_eq!(make(1), make(1));
        assert_ne!(make(1), make(2));
    }

    #[test]
    fn settings_out_of_range_are_refused() {
        for (places, share) in [(0, 0.2), (7, 0.2), (3, 0.9), (3, f64::NAN), (3, -0.1)] {
            let config = WorldConfig { places_per_combination: places, held_out_share: share };
            assert!(matches!(World::new(config, Seed::new(1)), Err(WorldError::Setting { .. })));
        }
    }
}
