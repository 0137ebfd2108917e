use std::collections::HashMap;

use super::*;
use crate::world::{World, WorldConfig};

fn prompts() -> Vec<Prompt> {
    World::new(WorldConfig::default(), Seed::new(0)).unwrap().train().to_vec()
}

fn many(change: impl Fn(&mut PreferenceConfig)) -> Vec<PreferencePair> {
    let mut config = PreferenceConfig { pairs: 60_000, ..PreferenceConfig::default() };
    change(&mut config);
    preference_pairs(&prompts(), &config, Seed::new(4)).unwrap()
}

fn truth(pair: &PreferencePair) -> [Judgement; 2] {
    [0, 1].map(|i| judge(&pair.prompt, &pair.response(i)))
}

/// Five standard errors of a share, at least of one observation.
fn bound(p: f64, n: usize) -> f64 {
    5.0 * (p * (1.0 - p) / n as f64).sqrt() + 1.0 / n as f64
}

#[test]
fn preferences_follow_bradley_terry() {
    let mut by_gap: HashMap<i64, (usize, usize)> = HashMap::new();
    for pair in many(|c| c.sampling = CandidateSampling::Uniform) {
        let [a, b] = truth(&pair);
        let entry = by_gap.entry(((a.reward - b.reward) * 4.0) as i64).or_default();
        entry.0 += usize::from(pair.better == 0);
        entry.1 += 1;
    }
    assert!(by_gap.len() > 10);
    for (gap, (wins, n)) in by_gap {
        let expected = bradley_terry(gap as f64 / 4.0, 0.0);
        let got = wins as f64 / n as f64;
        assert!(
            (got - expected).abs() < bound(expected, n),
            "gap {gap}/4: {got} of {n}, expected {expected}"
        );
    }
}

#[test]
fn noise_rates_are_honoured_and_change_nothing_else() {
    let clean = many(|_| ());
    let noisy = many(|c| (c.safety_noise, c.preference_noise) = (0.1, 0.2));
    let n = clean.len();
    let mut flipped = [0; 3];
    for (a, b) in clean.iter().zip(&noisy) {
        assert_eq!((a.prompt, a.forms), (b.prompt, b.forms));
        assert_eq!(a.is_safe, truth(a).map(|t| !t.is_unsafe));
        flipped[0] += usize::from(a.is_safe[0] != b.is_safe[0]);
        flipped[1] += usize::from(a.is_safe[1] != b.is_safe[1]);
        flipped[2] += usize::from(a.better != b.better);
    }
    for (count, rate) in flipped.into_iter().zip([0.1, 0.1, 0.2]) {
        assert!((count as f64 / n as f64 - rate).abs() < bound(rate, n), "{count} of {n} for {rate}");
    }
}

#[test]
fn the_safer_response_is_never_the_one_recorded_as_unsafe_against_a_safe_one() {
    let mut coins = (0, 0);
    for pair in many(|c| c.safety_noise = 0.1) {
        if pair.is_safe[0] != pair.is_safe[1] {
            assert!(pair.is_safe[pair.safer]);
        } else {
            let [a, b] = truth(&pair).map(|t| t.severity);
            if a != b {
                assert_eq!(pair.safer, usize::from(b < a));
            } else {
                coins = (coins.0 + pair.safer, coins.1 + 1);
            }
        }
    }
    assert!((coins.0 as f64 / coins.1 as f64 - 0.5).abs() < bound(0.5, coins.1));
}

#[test]
fn quadrants_are_counted_and_mixed_pairs_are_plenty() {
    let shares = QuadrantShares::of(&many(|_| ()));
    println!("{shares:?}");
    assert!((shares.both_safe + shares.mixed + shares.both_unsafe - 1.0).abs() < 1e-12);
    assert!(shares.mixed > 0.15 && shares.both_unsafe > 0.1);
    // The tension: on most mixed pairs the more helpful response is the unsafe one.
    assert!(shares.mixed_better_is_unsafe > 0.6);
    assert_eq!(QuadrantShares::of(&[]).mixed, 0.0);
}

#[test]
fn pairs_repeat_with_the_seed_and_never_compare_a_response_with_itself() {
    let config = PreferenceConfig { pairs: 500, ..PreferenceConfig::default() };
    let draw = |seed| preference_pairs(&prompts(), &config, Seed::new(seed)).unwrap();
    assert_eq!(draw(1), draw(1));
    assert_ne!(draw(1), draw(2));
    assert!(draw(1).iter().all(|p| p.forms[0] != p.forms[1]));
}

#[test]
fn bad_settings_are_refused() {
    let prompts = prompts();
    let with = |change: &dyn Fn(&mut PreferenceConfig)| {
        let mut config = PreferenceConfig::default();
        change(&mut config);
        preference_pairs(&prompts, &config, Seed::new(1))
    };
    assert!(with(&|c| c.safety_noise = 0.6).is_err());
    assert!(with(&|c| c.preference_noise = f64::NAN).is_err());
    assert!(with(&|c| c.kind_weights = [0.0; 3]).is_err());
    assert!(with(&|c| c.kind_weights = [f64::INFINITY, 1.0, 1.0]).is_err());
    assert!(with(&|c| c.kind_weights = [1.0, -1.0, 1.0]).is_err());
    let only_safe: Vec<_> = prompts.iter().filter(|p| p.kind() != PromptKind::Unsafe).copied().collect();
    assert_eq!(
        preference_pairs(&only_safe, &PreferenceConfig::default(), Seed::new(1)),
        Err(WorldError::NoPromptOfKind("unsafe"))
    );
}
