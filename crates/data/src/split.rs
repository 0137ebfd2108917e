//! A held-out share, split off by prompt: no prompt stands on both sides.

use crate::message::Message;
use crate::pair::Prompted;
use bso_durable::{Seed, fingerprint_bytes};
use std::collections::BTreeMap;

/// Splits `items` into (training, evaluation): `share` in [0, 1) of the distinct prompts, chosen by `seed` alone, so
/// that neither the order of the rows nor repeated rows matter. Prompts that differ only in surrounding blanks are the
/// same prompt. With a share above 0 and at least two prompts, both sides get one.
pub fn split_by_prompt<T: Prompted>(items: Vec<T>, share: f64, seed: Seed) -> (Vec<T>, Vec<T>) {
    if share.is_nan() || share <= 0.0 || items.is_empty() {
        return (items, Vec::new());
    }
    let salt = format!("{:?}", seed.derive("eval_split", 0));
    let keys: Vec<String> = items.iter().map(|i| key(&salt, i.prompt())).collect();
    let mut prompts: BTreeMap<&str, bool> = keys.iter().map(|k| (k.as_str(), false)).collect();
    let count = prompts.len();
    if count < 2 {
        return (items, Vec::new());
    }
    let held_out = ((count as f64 * share).round() as usize).clamp(1, count - 1);
    // Keys are hashes of seed and prompt: their order is a shuffle.
    prompts.values_mut().take(held_out).for_each(|held| *held = true);
    let sides: Vec<bool> = keys.iter().map(|k| prompts.get(k.as_str()).copied().unwrap_or(false)).collect();
    let (mut train, mut eval) = (Vec::new(), Vec::new());
    for (item, held) in items.into_iter().zip(sides) {
        if held { eval.push(item) } else { train.push(item) }
    }
    (train, eval)
}

fn key(salt: &str, prompt: &[Message]) -> String {
    let mut text = salt.to_owned();
    for message in prompt {
        let content = message.content.trim();
        text.push_str(&format!("\u{0}{}\u{0}{}\u{0}{content}", message.role, content.len()));
    }
    fingerprint_bytes(text.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::origin::Origin;
    use crate::pair::SftExample;
    use std::collections::BTreeSet;

    fn examples(prompts: usize, each: usize) -> Vec<SftExample> {
        (0..prompts * each)
            .map(|i| SftExample {
                prompt: vec![Message::user(format!("{}p{}", " ".repeat(i % 2), i % prompts))],
                response: i.to_string(),
                origin: Origin::new("d", i + 1),
            })
            .collect()
    }

    fn prompts(side: &[SftExample]) -> BTreeSet<&str> {
        side.iter().map(|e| e.prompt[0].content.trim()).collect()
    }

    #[test]
    fn no_prompt_stands_on_both_sides_and_the_share_is_of_prompts() {
        let (train, eval) = split_by_prompt(examples(101, 3), 0.1, Seed::new(0));
        assert!(prompts(&train).is_disjoint(&prompts(&eval)));
        assert_eq!((prompts(&eval).len(), eval.len(), train.len()), (10, 30, 273));
    }

    #[test]
    fn the_split_follows_the_seed_and_not_the_order_of_rows() {
        let split = |items, seed| split_by_prompt(items, 0.2, Seed::new(seed)).1;
        let mut backwards = examples(50, 2);
        backwards.reverse();
        let (one, two) = (split(examples(50, 2), 1), split(backwards, 1));
        assert_eq!(prompts(&one), prompts(&two));
        assert_ne!(prompts(&one), prompts(&split(examples(50, 2), 2)));
    }

    #[test]
    fn small_shares_and_single_prompts_leave_training_something() {
        assert_eq!(split_by_prompt(examples(3, 1), 1e-9, Seed::new(0)).1.len(), 1);
        assert_eq!(split_by_prompt(examples(1, 4), 0.5, Seed::new(0)).0.len(), 4);
        assert_eq!(split_by_prompt(examples(4, 1), 0.0, Seed::new(0)).1.len(), 0);
        assert_eq!(split_by_prompt(examples(4, 1), 0.99, Seed::new(0)).0.len(), 1);
    }
}
