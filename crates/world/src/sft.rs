//! The text that the reference model is trained on: responses drawn from a fixed mixture over the candidate set.
//! The mixture leans to help, on unsafe prompts too (about half of it is unsafe there), and gives every candidate
//! support, so that pi*_C is reachable from the reference.

use bso_durable::Seed;
use rand::Rng;
use rand::seq::SliceRandom;

use crate::candidate::Form;
use crate::prompt::{Prompt, PromptKind};

/// One row of supervised text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SftExample {
    /// The prompt.
    pub prompt: Prompt,
    /// Which candidate answers it.
    pub form: Form,
}

/// The probability of each candidate in the supervised text, in the order of [`Form::ALL`]; sums to 1.
///
/// Refusals (redirections included) are 6 % on benign, 10 % on suspicious-looking and 44 % on unsafe prompts; 55 %
/// of the mass on unsafe prompts is safe.
pub fn mixture(kind: PromptKind) -> [f64; 12] {
    match kind {
        PromptKind::Benign => [0.28, 0.20, 0.17, 0.06, 0.08, 0.04, 0.02, 0.05, 0.02, 0.02, 0.02, 0.04],
        PromptKind::Suspicious => [0.26, 0.18, 0.16, 0.06, 0.07, 0.04, 0.02, 0.06, 0.04, 0.03, 0.03, 0.05],
        PromptKind::Unsafe => [0.15, 0.11, 0.09, 0.04, 0.02, 0.02, 0.02, 0.07, 0.17, 0.16, 0.11, 0.04],
    }
}

/// `rows` examples: the prompts in passes of a fresh order, each answered by an independent draw from
/// [`mixture`]. Many rows seen once teach the mixture better than few rows seen often; 32,000 rows are about
/// 900,000 words. No prompts give no rows.
pub fn sft_examples(prompts: &[Prompt], rows: usize, seed: Seed) -> Vec<SftExample> {
    let mut rng = seed.derive("world/sft", 0).rng();
    let mut order: Vec<&Prompt> = prompts.iter().collect();
    let mut examples = Vec::new();
    while examples.len() < rows && !order.is_empty() {
        order.shuffle(&mut rng);
        for prompt in order.iter().take(rows - examples.len()) {
            let form = Form::ALL[draw(&mixture(prompt.kind()), rng.random())];
            examples.push(SftExample { prompt: **prompt, form });
        }
    }
    examples
}

/// The index that a uniform number in 0..1 selects from non-negative weights (not all 0); weights need no
/// particular sum.
pub(crate) fn draw(weights: &[f64], uniform: f64) -> usize {
    let mut left = uniform * weights.iter().sum::<f64>();
    for (index, weight) in weights.iter().enumerate() {
        left -= weight;
        if left < 0.0 {
            return index;
        }
    }
    // Rounding may leave a remainder of 0 behind the last weight.
    weights.iter().rposition(|w| *w > 0.0).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reward::judge;
    use crate::world::{World, WorldConfig};

    fn world() -> World {
        World::new(WorldConfig::default(), Seed::new(0)).unwrap()
    }

    #[test]
    fn mixtures_are_distributions_with_full_support() {
        for kind in PromptKind::ALL {
            assert!((mixture(kind).iter().sum::<f64>() - 1.0).abs() < 1e-12, "{kind:?}");
            assert!(mixture(kind).iter().all(|p| *p >= 0.02));
        }
    }

    #[test]
    fn about_half_of_the_answers_to_unsafe_prompts_are_safe() {
        let world = world();
        let examples = sft_examples(world.train(), 30_000, Seed::new(5));
        let share = |kind: PromptKind, test: &dyn Fn(&SftExample) -> bool| {
            let of_kind: Vec<_> = examples.iter().filter(|e| e.prompt.kind() == kind).collect();
            of_kind.iter().filter(|e| test(e)).count() as f64 / of_kind.len() as f64
        };
        let is_unsafe = |e: &SftExample| judge(&e.prompt, &e.form.text(&e.prompt)).is_unsafe;
        let refuses = |e: &SftExample| judge(&e.prompt, &e.form.text(&e.prompt)).is_refusal;
        // 10,000 draws each: five standard errors are at most 0.025.
        assert!((share(PromptKind::Unsafe, &is_unsafe) - 0.45).abs() < 0.025);
        assert!((share(PromptKind::Benign, &refuses) - 0.06).abs() < 0.025);
        assert!((share(PromptKind::Suspicious, &refuses) - 0.10).abs() < 0.025);
        assert_eq!(share(PromptKind::Suspicious, &is_unsafe), 0.0);
    }

    #[test]
    fn rows_repeat_with_the_seed_and_cover_the_prompts_evenly() {
        let world = world();
        let rows = sft_examples(world.train(), 1008, Seed::new(5));
        assert_eq!(rows, sft_examples(world.train(), 1008, Seed::new(5)));
        assert_ne!(rows, sft_examples(world.train(), 1008, Seed::new(6)));
        for prompt in world.train() {
            assert_eq!(rows.iter().filter(|r| r.prompt == *prompt).count(), 2);
        }
        assert!(sft_examples(&[], 10, Seed::new(1)).is_empty());
    }

    #[test]
    fn a_draw_never_selects_weight_zero() {
        assert_eq!(draw(&[0.0, 1.0, 0.0], 0.0), 1);
        assert_eq!(draw(&[0.0, 1.0, 0.0], 1.0), 1);
        assert_eq!(draw(&[0.25, 0.75], 0.2), 0);
    }
}
