use super::*;

fn ppo() -> Ppo {
    Ppo::new(PpoSettings {
        kl_coeff: 0.01,
        clip_range_ratio: 0.2,
        clip_range_score: 50.0,
        clip_range_value: 5.0,
        gamma: 1.0,
        gae_lambda: 0.95,
    })
    .unwrap()
}

const LOGPS: [f64; 4] = [-1.0, -2.5, -0.25, -3.0];
const REFERENCE: [f64; 4] = [-1.5, -2.0, -0.25, -1.0];

fn episode() -> Episode<'static> {
    Episode {
        log_probs: &LOGPS,
        reference: &REFERENCE,
        reward: 2.0,
        cost: -60.0,
        reward_values: &[0.5, 0.25, -1.0, 3.0],
        cost_values: &[0.0, 1.0, 2.0, -2.0],
    }
}

#[test]
fn both_streams_pay_for_distance_and_the_last_token_bears_the_score_within_the_bound() {
    let (rewards, costs) = ppo().streams(&episode()).unwrap();
    let want = [-0.005, 0.005, 0.0, 2.02];
    assert!(rewards.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15), "{rewards:?}");
    let want = [0.005, -0.005, 0.0, -50.0];
    assert!(costs.iter().zip(want).all(|(a, b)| (a - b).abs() < 1e-15), "{costs:?}");
}

#[test]
fn advantages_are_the_discounted_sums_of_temporal_differences() {
    let targets = ppo().targets(&episode()).unwrap();
    let (rewards, _) = ppo().streams(&episode()).unwrap();
    let values = episode().reward_values;
    for t in 0..4 {
        let delta = |k: usize| rewards[k] + values.get(k + 1).copied().unwrap_or(0.0) - values[k];
        let want: f64 = (t..4).map(|k| 0.95f64.powi((k - t) as i32) * delta(k)).sum();
        assert!((targets.reward.advantages[t] - want).abs() < 1e-14);
        assert!((targets.reward.returns[t] - want - values[t]).abs() < 1e-14);
    }
    let mixed = mixed_advantages(&targets, 3.0);
    let want = (targets.reward.advantages[1] - 3.0 * targets.cost.advantages[1]) / 4.0;
    assert!((mixed[1] - want).abs() < 1e-14);
}

#[test]
fn with_gae_lambda_1_the_return_is_the_sum_of_what_follows() {
    let ppo = Ppo::new(PpoSettings { gae_lambda: 1.0, ..ppo().settings().clone() }).unwrap();
    let estimates = ppo.estimate(&[1.0, -2.0, 4.0], &[9.0, 8.0, 7.0]).unwrap();
    for (found, want) in estimates.returns.iter().zip([3.0, 2.0, 4.0]) {
        assert!((found - want).abs() < 1e-14);
    }
}

/// Ratios within, at and beyond both bounds, with advantages of both signs.
#[test]
fn derivatives_are_the_differences_of_values() {
    let sampled = [-1.0; 6];
    let log_probs = [-1.0, -0.9, -0.5, -0.5, -1.6, -1.6];
    let advantages = [2.0, -1.0, 1.5, -1.5, 0.5, -0.5];
    let ppo = ppo();
    let actor = |x: &[f64]| ppo.actor(x, &sampled, &advantages).unwrap();
    let found = actor(&log_probs);
    check(&log_probs, &found, |x| actor(x).value);
    assert_eq!(found.clipped, 2);
    assert_eq!(found.derivatives.iter().filter(|d| **d == 0.0).count(), 2);

    let old = [0.0; 6];
    let values = [1.0, 4.9, 7.0, 7.0, -8.0, -8.0];
    let returns = [2.0, -3.0, 9.0, 3.0, -10.0, 1.0];
    let critic = |x: &[f64]| ppo.critic(x, &old, &returns).unwrap();
    let found = critic(&values);
    check(&values, &found, |x| critic(x).value);
    assert_eq!(found.clipped, 2);
}

fn check(at: &[f64], found: &TokenLoss, value: impl Fn(&[f64]) -> f64) {
    let step = 1e-6;
    for t in 0..at.len() {
        let shifted = |by: f64| {
            let mut x = at.to_vec();
            x[t] += by;
            value(&x)
        };
        let slope = (shifted(step) - shifted(-step)) / (2.0 * step);
        assert!((found.derivatives[t] - slope).abs() < 1e-8, "token {t}: {} {slope}", found.derivatives[t]);
    }
}

#[test]
fn at_the_sampling_actor_the_gradient_is_the_policy_gradient() {
    let advantages = [1.0, -2.0, 0.5, 0.0];
    let loss = ppo().actor(&LOGPS, &LOGPS, &advantages).unwrap();
    assert_eq!(loss.value, 0.125);
    assert_eq!(loss.derivatives, advantages.map(|a| -a / 4.0));
}

fn multiplier() -> MultiplierSettings {
    MultiplierSettings { init: 1.0, rate: 0.1, max: Some(5.0), threshold: 0.5, window: 3 }
}

#[test]
fn lambda_rises_above_the_threshold_falls_below_it_and_sees_the_window_only() {
    let mut lambda = Multiplier::new(multiplier()).unwrap();
    assert_eq!(lambda.update(&[1.0, 2.0, 3.0, 4.0]), Ok(3.0));
    assert!((lambda.lambda() - 0.25f64.exp()).abs() < 1e-15);
    let before = lambda.state().0;
    assert_eq!(lambda.update(&[-7.0, -8.0]), Ok(-11.0 / 3.0));
    assert!((lambda.state().0 - before - 0.1 * (-11.0 / 3.0 - 0.5) * before.exp()).abs() < 1e-15);
    for _ in 0..50 {
        lambda.update(&[100.0]).unwrap();
    }
    assert!((lambda.lambda() - 5.0).abs() < 1e-14);
    let mut again = Multiplier::new(multiplier()).unwrap();
    let (log_lambda, costs) = lambda.state();
    again.restore(log_lambda, &costs).unwrap();
    assert_eq!(again, lambda);
}

#[test]
fn what_cannot_be_used_is_named() {
    let base = ppo().settings().clone();
    for (bad, name) in [
        (PpoSettings { kl_coeff: -1.0, ..base.clone() }, "kl_coeff"),
        (PpoSettings { clip_range_ratio: 1.0, ..base.clone() }, "clip_range_ratio"),
        (PpoSettings { clip_range_value: 0.0, ..base.clone() }, "clip_range_value"),
        (PpoSettings { gamma: 1.5, ..base }, "gamma"),
    ] {
        assert!(Ppo::new(bad).unwrap_err().to_string().contains(name));
    }
    for (bad, name) in [
        (MultiplierSettings { init: 6.0, ..multiplier() }, "lambda_init"),
        (MultiplierSettings { window: 0, ..multiplier() }, "episode_cost_window_size"),
    ] {
        assert!(Multiplier::new(bad).unwrap_err().to_string().contains(name));
    }
    let none = Episode { log_probs: &[], reference: &[], ..episode() };
    assert!(ppo().streams(&none).unwrap_err().to_string().contains("response tokens = 0"));
    let short = Episode { cost_values: &[0.0], ..episode() };
    assert!(ppo().targets(&short).unwrap_err().to_string().contains("values"));
    assert!(ppo().streams(&Episode { cost: f64::NAN, ..episode() }).is_err());
    assert!(ppo().actor(&[1e4], &[0.0], &[1.0]).is_err());
    assert!(Multiplier::new(multiplier()).unwrap().update(&[]).is_err());
}
