//! One PPO-Lagrangian update against PyTorch written from the equations (`fixtures/ppo_lag/make_ppo_lag.py`): from fixed
//! responses and scores the multiplier, every loss and every gradient of actor and critics.
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a failing test panics, and differences are shown"
)]

use bso_data::TokenisedSequence;
use bso_model::{Decoder, Engine, Optimiser, OptimiserKind};
use bso_objective::{Multiplier, MultiplierSettings, Ppo, PpoSettings, Targets};
use bso_recipes::example::Example;
use bso_recipes::ppo::rollout::Rollout;
use bso_recipes::ppo::update::{Trainee, Trainees, Update, UpdateMemory, UpdateOutcome, update};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

type Expected = BTreeMap<String, Vec<f64>>;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/ppo_lag")
}

fn expected() -> Expected {
    let bytes = std::fs::read(folder().join("expected.safetensors")).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap()) as usize;
    let header: serde_json::Value = serde_json::from_slice(&bytes[8..8 + length]).unwrap();
    let tensors = header.as_object().unwrap().iter().filter(|(name, _)| *name != "__metadata__");
    let read = |(name, entry): (&String, &serde_json::Value)| {
        let at = |i: usize| 8 + length + entry["data_offsets"][i].as_u64().unwrap() as usize;
        let data = bytes[at(0)..at(1)].as_chunks::<4>().0;
        (name.clone(), data.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect())
    };
    tensors.map(read).collect()
}

fn sequence(expected: &Expected, name: &str) -> Option<TokenisedSequence> {
    let ids = |part: &str| -> Option<Vec<u32>> {
        Some(expected.get(&format!("{name}.{part}"))?.iter().map(|x| *x as u32).collect())
    };
    Some(TokenisedSequence { prompt: ids("prompt")?, response: ids("response")? })
}

fn rollouts(expected: &Expected) -> Vec<Rollout> {
    let of = |i: usize| {
        let list = |name: &str| expected[&format!("{i}.{name}")].clone();
        Some(Rollout {
            sequence: sequence(expected, &i.to_string())?,
            ended: true,
            reward: list("scores")[0],
            cost: list("scores")[1],
            log_probs: list("log_probs"),
            reference: list("reference"),
            reward_values: list("reward_values"),
            cost_values: list("cost_values"),
        })
    };
    (0..).map_while(of).collect()
}

fn trainee(name: &str) -> Trainee {
    let decoder = Decoder::load(&folder().join(name), Arc::new(Engine::cpu(Some(2)).unwrap())).unwrap();
    let optimiser = Optimiser::new(OptimiserKind::ADAMW, 0.0, &decoder).unwrap();
    Trainee::new(decoder, optimiser).unwrap()
}

/// The update in passes of `micro` sequences: lambda, what was seen, and the models after it.
fn updated(expected: &Expected, micro: usize) -> (f64, UpdateOutcome, Trainees) {
    let [kl, ratio, score, value, gamma, decay, ptx_coeff, init, rate, threshold, window] =
        expected["settings"][..].try_into().unwrap();
    let ppo = Ppo::new(PpoSettings {
        kl_coeff: kl,
        clip_range_ratio: ratio,
        clip_range_score: score,
        clip_range_value: value,
        gamma,
        gae_lambda: decay,
    })
    .unwrap();
    let settings = MultiplierSettings { init, rate, max: Some(5.0), threshold, window: window as usize };
    let mut multiplier = Multiplier::new(settings).unwrap();
    multiplier.restore(init.ln(), &expected["costs"]).unwrap();
    let rollouts = rollouts(expected);
    multiplier.update(&rollouts.iter().map(|r| r.cost).collect::<Vec<_>>()).unwrap();
    let targets: Vec<Targets> = rollouts.iter().map(|r| ppo.targets(&r.episode()).unwrap()).collect();
    let rows: Vec<Example> = (0..)
        .map_while(|i| sequence(expected, &format!("ptx.{i}")))
        .map(|sequence| Example {
            sequences: vec![sequence],
            mismatched: None,
            labels: None,
            margins: None,
            desirable: true,
        })
        .collect();
    let mut trained = Trainees {
        actor: trainee("actor"),
        reward_critic: trainee("reward_critic"),
        cost_critic: trainee("cost_critic"),
    };
    let asked = Update {
        ppo: &ppo,
        lambda: multiplier.lambda(),
        rollouts: &rollouts,
        targets: &targets,
        ptx: rows.iter().collect(),
        ptx_coeff,
        micro,
        rate: 1e-3,
        critic_rate: 1e-3,
        max_grad_norm: None,
    };
    let outcome = update(&mut trained, &mut UpdateMemory::new(false), &asked).unwrap();
    (multiplier.lambda(), outcome, trained)
}

fn relative(found: f64, wanted: f64) -> f64 {
    (found - wanted).abs() / wanted.abs().max(1e-30)
}

#[test]
fn one_update_gives_the_multiplier_the_losses_and_every_gradient_of_pytorch() {
    let expected = expected();
    assert_eq!(rollouts(&expected).len(), 4);
    for micro in [4, 3, 1] {
        let (lambda, outcome, trained) = updated(&expected, micro);
        assert!(relative(lambda, expected["lambda"][0]) < 1e-6, "lambda {lambda}");
        let UpdateOutcome { actor, ptx_loss, reward_critic, cost_critic } = outcome;
        let losses = [actor.loss, ptx_loss.unwrap(), reward_critic.loss, cost_critic.loss];
        let mut apart = 0f64;
        for (found, wanted) in losses.iter().zip(&expected["losses"]) {
            apart = apart.max(relative(*found, *wanted));
        }
        assert!(apart < 1e-5, "losses {losses:?} and {:?}", expected["losses"]);
        let tokens: usize = rollouts(&expected).iter().map(|r| r.sequence.response.len()).sum();
        let clipped = [actor, reward_critic, cost_critic].map(|seen| (seen.clipped * tokens as f64).round());
        assert_eq!(clipped[..], expected["clipped"], "tokens that a bound leaves without gradient");
        let mut worst = (0.0, String::new());
        for (model, trainee, norm) in [
            ("actor", &trained.actor, actor.grad_norm),
            ("reward_critic", &trained.reward_critic, reward_critic.grad_norm),
            ("cost_critic", &trained.cost_critic, cost_critic.grad_norm),
        ] {
            let (gradients, scale) = trainee.gradients();
            let mut squares = 0.0;
            for (name, found) in gradients.stored(&trainee.decoder).unwrap() {
                let wanted = &expected[&format!("{model}.{name}")];
                assert_eq!(found.len(), wanted.len());
                let square = |x: f64| x * x;
                let pairs = found.iter().zip(wanted);
                let off: f64 = pairs.map(|(a, b)| square(f64::from(*a) * scale - b)).sum();
                let size: f64 = wanted.iter().map(|b| square(*b)).sum();
                squares += size;
                let apart = (off / size.max(1e-30)).sqrt();
                if apart >= worst.0 {
                    worst = (apart, format!("{model}.{name}"));
                }
            }
            assert!(relative(norm, squares.sqrt()) < 1e-5, "{model}: norm {norm} and {}", squares.sqrt());
        }
        println!(
            "micro-batches of {micro}: losses within {apart:.1e}, gradients within {:.1e} ({})",
            worst.0, worst.1
        );
        assert!(worst.0 < 1e-5, "{} differs by {:.1e}", worst.1, worst.0);
    }
}
