//! What makes a loss a member of the family: the definition, its derivative, the kernel, and the pointwise optimum.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test reports through panics, in its own functions too"
)]

use bso_objective::{
    BsoSettings, Generator, GeneratorParam, Kernel, PairInputs, PairLogProbs, PreferenceLoss, SafetyLabels,
    SafetyTransform, SequenceWeights, Tail, Transformed, clip_factor,
};

fn family() -> Vec<Generator> {
    let mut all = vec![Generator::Logistic, Generator::Kliep, Generator::Lsif];
    for lambda in [0.5, -0.4, -0.8, 2.0] {
        all.push(Generator::new("ba", &[lambda]).unwrap());
    }
    for (lambda, scale) in [(0.2, 4.0), (0.3, 4.0), (1.0, 4.0), (-0.3, 0.5)] {
        all.push(Generator::new("sba", &[lambda, scale]).unwrap());
    }
    for mu in [1.5, 0.5, 2.5, -0.5] {
        all.push(Generator::new("phi_mu", &[mu]).unwrap());
    }
    all
}

type Function = Box<dyn Fn(f64) -> f64>;

/// g, g' and g'' as in the method's table.
fn table(generator: &Generator) -> (Function, Function, Function) {
    let power = |c: f64, a: f64, linear: f64, constant: f64| -> (_, _, _) {
        (
            Box::new(move |r: f64| c * (r.powf(a) - linear * r + constant)) as Function,
            Box::new(move |r: f64| c * (a * r.powf(a - 1.0) - linear)) as Function,
            Box::new(move |r: f64| c * a * (a - 1.0) * r.powf(a - 2.0)) as Function,
        )
    };
    match *generator {
        Generator::Logistic => (
            Box::new(|r| f64::midpoint(r * r.ln(), -(1.0 + r) * (1.0 + r).ln())),
            Box::new(|r| f64::midpoint(r.ln(), -(1.0 + r).ln())),
            Box::new(|r| 0.5 / (r * (1.0 + r))),
        ),
        Generator::Kliep => (Box::new(|r| r * r.ln() - r + 1.0), Box::new(f64::ln), Box::new(|r| 1.0 / r)),
        Generator::Lsif => power(1.0, 2.0, 2.0, 1.0),
        Generator::Ba { lambda } => power(1.0 / lambda, 1.0 + lambda, 1.0, 0.0),
        Generator::Sba { lambda, scale } => {
            power(1.0 / (scale * lambda * (lambda + 1.0)), 1.0 + lambda, 1.0, 0.0)
        }
        Generator::PhiMu { mu } => power(1.0 / ((1.0 - mu) * (2.0 - mu)), 2.0 - mu, 2.0 - mu, 1.0 - mu),
        Generator::Kernel(_) => unreachable!("a kernel has no g in closed form"),
    }
}

/// k(u) as in the method's table.
fn kernel(generator: &Generator, u: f64) -> f64 {
    match *generator {
        Generator::Logistic => 1.0 / (2.0 * (u / 2.0).cosh()),
        Generator::Kliep => 2.0 * (u / 2.0).cosh(),
        Generator::Lsif => 4.0 * (1.5 * u).cosh(),
        Generator::Ba { lambda } => 2.0 * (1.0 + lambda) * ((lambda + 0.5) * u).cosh(),
        Generator::Sba { lambda, scale } => 2.0 / scale * ((lambda + 0.5) * u).cosh(),
        Generator::PhiMu { mu } => 2.0 * ((1.5 - mu) * u).cosh(),
        Generator::Kernel(ref k) => k.at(u),
    }
}

const POINTS: [f64; 9] = [-12.0, -3.0, -0.7, -1e-3, 0.0, 0.02, 1.0, 4.0, 11.0];

#[test]
fn closed_forms_follow_the_definition() {
    for generator in family() {
        let (g, g1, g2) = table(&generator);
        for u in POINTS {
            let r = u.exp();
            let parts = [g1(r) * r, -g(r), -g1(1.0 / r)];
            let (loss, slope) = generator.loss_and_slope(u).unwrap();
            // g and g' are themselves differences of numbers of this size
            let size = parts.iter().map(|p| p.abs()).sum::<f64>() + r.max(1.0 / r) * (1.0 + u.abs());
            assert!(
                (loss - parts.iter().sum::<f64>()).abs() <= 1e-12 * size,
                "{generator} at {u}: {loss} {parts:?}"
            );
            let defined = r * r * g2(r) + g2(1.0 / r) / r;
            assert!((slope / defined - 1.0).abs() < 1e-12, "{generator} at {u}: {slope} {defined}");
        }
    }
}

#[test]
fn slopes_are_derivatives_kernels_and_balance_at_the_data_ratio() {
    let mut all = family();
    all.push(Generator::kernel("cosh(0.3*u)").unwrap());
    all.push(Generator::kernel("2 + cos(u)").unwrap());
    for generator in all {
        for u in POINTS {
            let slope = generator.slope(u).unwrap();
            let step = 1e-4;
            let loss = |u| generator.loss_and_slope(u).unwrap().0;
            let numerical = (8.0 * (loss(u + step) - loss(u - step))
                - (loss(u + 2.0 * step) - loss(u - 2.0 * step)))
                / (12.0 * step);
            // the losses that are subtracted carry an absolute rounding error of their own size
            let noise = 1e-11 * (loss(u).abs() + 1.0);
            assert!(
                (slope - numerical).abs() <= 1e-9 * slope + noise,
                "{generator} at {u}: {slope} {numerical}"
            );
            let by_kernel = (u / 2.0).exp() * kernel(&generator, u);
            assert!((slope / by_kernel - 1.0).abs() < 1e-12, "{generator} at {u}: {slope} {by_kernel}");
            let p = 1.0 / (1.0 + u.exp()); // e^u = (1-p)/p
            let (pull, push) = (p * slope, (1.0 - p) * generator.slope(-u).unwrap());
            assert!((pull / push - 1.0).abs() < 1e-11, "{generator} at {u}: {pull} {push}");
        }
    }
}

#[test]
fn both_slope_functions_agree_to_the_last_bit() {
    for generator in family() {
        for u in POINTS {
            assert_eq!(
                generator.slope(u).unwrap(),
                generator.loss_and_slope(u).unwrap().1,
                "{generator} at {u}"
            );
        }
    }
}

#[test]
fn a_kernel_repeats_the_generator_it_was_taken_from_up_to_a_constant() {
    for (expression, generator) in [
        ("2*cosh(u/2)", Generator::Kliep),
        ("4*cosh(3*u/2)", Generator::Lsif),
        ("cosh(0.7*u)/2", Generator::Sba { lambda: 0.2, scale: 4.0 }),
        ("1/(2*cosh(u/2))", Generator::Logistic),
    ] {
        let kernel = Generator::kernel(expression).unwrap();
        let at_zero = generator.loss_and_slope(0.0).unwrap().0;
        for u in POINTS {
            let (loss, slope) = generator.loss_and_slope(u).unwrap();
            let (kernel_loss, kernel_slope) = kernel.loss_and_slope(u).unwrap();
            assert!(
                (kernel_loss - (loss - at_zero)).abs() <= 1e-13 * (loss.abs() + at_zero),
                "{expression} at {u}"
            );
            assert!((kernel_slope / slope - 1.0).abs() < 1e-13, "{expression} at {u}");
        }
    }
}

fn pair(h: f64, chosen_unsafe: bool, rejected_unsafe: bool) -> PairInputs {
    let logps = PairLogProbs {
        policy_chosen: -40.3 + h,
        policy_rejected: -77.1,
        ref_chosen: -40.3,
        ref_rejected: -77.1,
    };
    PairInputs {
        labels: Some(SafetyLabels { chosen_unsafe, rejected_unsafe }),
        ..PairInputs::from_logps(logps)
    }
}

fn logistic(beta: f64, safety_penalty: f64) -> PreferenceLoss {
    let generator = Generator::Logistic;
    let settings = BsoSettings { generator, beta, safety_penalty, clamp: None, ..BsoSettings::default() };
    PreferenceLoss::bso(settings).unwrap()
}

#[test]
fn dpo_is_the_logistic_member_without_penalty_to_the_last_bit() {
    for h in [-80.3, -1.7, 0.0, 1e-9, 0.3, 55.5, 4000.0] {
        for (w, l) in [(false, true), (true, false), (true, true)] {
            let (dpo, bso) = (PreferenceLoss::dpo(0.1).unwrap(), logistic(0.1, 0.0));
            assert_eq!(dpo.evaluate(&pair(h, w, l)), bso.evaluate(&pair(h, w, l)));
            let unlabelled = PairInputs { labels: None, ..pair(h, w, l) };
            assert_eq!(dpo.evaluate(&unlabelled), bso.evaluate(&unlabelled));
        }
    }
}

#[test]
fn safedpo_is_the_logistic_member_on_swapped_and_dropped_data_to_the_last_bit() {
    for h in [-80.3, -1.7, 0.0, 1e-9, 0.3, 55.5] {
        for (w, l) in [(false, false), (false, true), (true, false), (true, true)] {
            let labels = SafetyLabels { chosen_unsafe: w, rejected_unsafe: l };
            let transformed = match SafetyTransform::SwapDrop.apply(labels) {
                Transformed::Keep => pair(h, w, l),
                Transformed::Swap => pair(-h, l, w),
                Transformed::Drop => continue,
            };
            let (safedpo, bso) = (PreferenceLoss::safedpo(0.1, 10.0).unwrap(), logistic(0.1, 10.0));
            let got = safedpo.evaluate(&transformed).unwrap();
            assert_eq!(got, bso.evaluate(&transformed).unwrap());
            // and it is -log sigmoid(beta h - (s_l - s_w) Delta), written out
            let labels = transformed.labels.unwrap();
            let x = 0.1 * transformed.logps.margin() + labels.delta() * 10.0;
            let written = (-x).exp().ln_1p();
            assert!((got.value - written).abs() <= 1e-14 * written.max(1e-3), "{} {written}", got.value);
        }
    }
}

#[test]
fn swapping_the_responses_negates_log_r() {
    let loss = PreferenceLoss::bso(BsoSettings::paper()).unwrap();
    let (one, two) = (pair(3.7, true, false), pair(3.7, true, false));
    let swapped = PairInputs {
        logps: PairLogProbs {
            policy_chosen: one.logps.policy_rejected,
            policy_rejected: one.logps.policy_chosen,
            ref_chosen: one.logps.ref_rejected,
            ref_rejected: one.logps.ref_chosen,
        },
        labels: Some(SafetyLabels { chosen_unsafe: false, rejected_unsafe: true }),
        ..one
    };
    let log_ratio = |p| loss.evaluate(p).unwrap().log_ratio.unwrap();
    assert_eq!(log_ratio(&swapped), -log_ratio(&two));
}

#[test]
fn derivatives_by_log_probs_are_those_of_the_loss() {
    let mut losses = vec![
        PreferenceLoss::dpo(0.3).unwrap(),
        PreferenceLoss::cdpo(0.3, 0.1).unwrap(),
        PreferenceLoss::ipo(0.2).unwrap(),
        PreferenceLoss::ipo_mean(0.2).unwrap(),
        PreferenceLoss::hinge(0.1).unwrap(),
        PreferenceLoss::safedpo(0.3, 2.0).unwrap(),
        PreferenceLoss::bfpo(0.5, 3.0, 0.5).unwrap(),
        PreferenceLoss::modpo(0.1, 0.5).unwrap(),
    ];
    for tail in [Tail::Clamp, Tail::Linear] {
        for label_smoothing in [0.0, 0.2] {
            losses.push(
                PreferenceLoss::bso(BsoSettings {
                    beta: 0.3,
                    safety_penalty: 2.0,
                    clamp: Some((-1.5, 1.5)),
                    tail,
                    label_smoothing,
                    ..BsoSettings::default()
                })
                .unwrap(),
            );
        }
    }
    for loss in losses {
        for h in [-9.0, -0.4, 0.3, 2.0, 14.0] {
            for (w, l) in [(false, true), (true, false), (true, true)] {
                let mut at = pair(h, w, l);
                at.tokens = Some((7, 19));
                at.margins = Some((0.3, -1.2));
                let got = loss.evaluate(&at).unwrap();
                let value = |chosen: f64, rejected: f64| {
                    let mut moved = at;
                    moved.logps.policy_chosen += chosen;
                    moved.logps.policy_rejected += rejected;
                    loss.evaluate(&moved).unwrap().value
                };
                let step = 1e-5;
                let chosen = (value(step, 0.0) - value(-step, 0.0)) / (2.0 * step);
                let rejected = (value(0.0, step) - value(0.0, -step)) / (2.0 * step);
                let close = |a: f64, b: f64| (a - b).abs() < 1e-6 * (1.0 + a.abs());
                assert!(
                    close(got.d_chosen, chosen) && close(got.d_rejected, rejected),
                    "{loss:?} {h} {got:?}"
                );
            }
        }
    }
}

#[test]
fn the_clamp_is_closed_and_each_argument_has_its_own() {
    let settings =
        BsoSettings { beta: 1.0, safety_penalty: 0.0, clamp: Some((-1.0, 2.0)), ..BsoSettings::default() };
    let loss = PreferenceLoss::bso(settings.clone()).unwrap();
    let slope = |u: f64| settings.generator.slope(u).unwrap();
    let at = |loss: &PreferenceLoss, u: f64| {
        let logps =
            PairLogProbs { policy_chosen: -u, policy_rejected: 0.0, ref_chosen: 0.0, ref_rejected: 0.0 };
        loss.evaluate(&PairInputs::from_logps(logps)).unwrap()
    };
    assert_eq!(at(&loss, 2.0).d_log_ratio, Some(slope(2.0)));
    assert!(!at(&loss, 2.0).clamped);
    assert_eq!(at(&loss, 2.0f64.next_up()).d_log_ratio, Some(0.0));
    assert!(at(&loss, 2.0f64.next_up()).clamped);
    assert_eq!(at(&loss, -1.0).d_log_ratio, Some(slope(-1.0)));
    // smoothing: at u = 1.5 the mirrored argument -1.5 is outside, so only the main arm pulls
    let smooth = PreferenceLoss::bso(BsoSettings { label_smoothing: 0.1, ..settings.clone() }).unwrap();
    assert!((at(&smooth, 1.5).d_log_ratio.unwrap() / (0.9 * slope(1.5)) - 1.0).abs() < 1e-15);
    // linear: beyond the bound the slope stays
    let linear = PreferenceLoss::bso(BsoSettings { tail: Tail::Linear, ..settings.clone() }).unwrap();
    assert_eq!(at(&linear, 50.0).d_log_ratio, Some(slope(2.0)));
    assert!(at(&linear, 50.0).clamped);
}

#[test]
fn a_large_penalty_trains_within_f32_when_clipped() {
    let loss = PreferenceLoss::bso(BsoSettings {
        generator: Generator::new("sba", &[1.0, 4.0]).unwrap(),
        safety_penalty: 100.0,
        clamp: None,
        ..BsoSettings::default()
    })
    .unwrap();
    let (unsafe_winner, safe_winner) = (pair(0.0, true, false), pair(0.0, false, true));
    let pulls =
        [loss.evaluate(&unsafe_winner).unwrap().d_chosen, loss.evaluate(&safe_winner).unwrap().d_chosen];
    assert!(pulls[0].abs() > 1e40 && pulls[1].abs() > 1e80, "{pulls:?}");
    let scaled = SequenceWeights::new(&pulls).unwrap();
    assert!(scaled.weights.iter().all(|w| w.is_finite() && w.abs() <= 1.0));
    let norm = scaled.weights.iter().map(|w| f64::from(*w).powi(2)).sum::<f64>().sqrt();
    let factor = clip_factor(norm, scaled.scale, Some(10.0)).unwrap();
    assert!((norm * factor - 10.0).abs() < 1e-6);
    assert!(clip_factor(norm, scaled.scale, None).unwrap_err().to_string().contains("max_grad_norm"));
}

#[test]
fn poles_and_impossible_settings_are_refused_by_name() {
    for (name, params) in [
        ("ba", vec![-1.0]),
        ("ba", vec![-2.0]),
        ("ba", vec![f64::NAN]),
        ("ba", vec![]),
        ("sba", vec![0.2]),
        ("sba", vec![0.2, 0.0]),
        ("sba", vec![0.2, -4.0]),
        ("sba", vec![0.2, 5e-324]),
        ("phi_mu", vec![2.0]),
        ("phi_mu", vec![f64::INFINITY]),
        ("logistic", vec![1.0]),
        ("kernel", vec![1.0]),
        ("Sba", vec![0.2, 4.0]),
    ] {
        assert!(Generator::new(name, &params).is_err(), "{name} {params:?}");
    }
    assert_eq!(Generator::new("logistic", &[0.0]), Ok(Generator::Logistic));
    // a hand-built pole does not get past the loss either
    let pole = BsoSettings { generator: Generator::Ba { lambda: -1.0 }, ..BsoSettings::default() };
    assert!(PreferenceLoss::bso(pole).is_err());
    let with = |change: fn(&mut BsoSettings)| {
        let mut settings = BsoSettings::default();
        change(&mut settings);
        PreferenceLoss::bso(settings).unwrap_err().to_string()
    };
    assert!(with(|s| s.beta = 0.0).contains("beta = 0"));
    assert!(with(|s| s.safety_penalty = -1.0).contains("safety_penalty"));
    assert!(with(|s| s.label_smoothing = 0.5).contains("label_smoothing"));
    assert!(with(|s| s.clamp = Some((3.0, 3.0))).contains("log_ratio_clamp"));
    assert!(PreferenceLoss::modpo(0.1, 0.0).is_err());
    assert!(PreferenceLoss::bfpo(0.1, 1.0, 0.5).is_err());
}

#[test]
fn near_zero_lambda_is_kliep_and_equivalent_parameters_agree() {
    for u in POINTS {
        let kliep = Generator::Kliep.loss_and_slope(u).unwrap();
        assert_eq!(Generator::new("ba", &[9.9e-7]).unwrap().loss_and_slope(u).unwrap(), kliep);
        assert_eq!(Generator::new("phi_mu", &[1.0]).unwrap().loss_and_slope(u).unwrap(), kliep);
        assert_eq!(Generator::new("sba", &[0.0, 1.0]).unwrap().loss_and_slope(u).unwrap(), kliep);
        assert_eq!(
            Generator::Lsif.loss_and_slope(u),
            Generator::new("ba", &[1.0]).unwrap().loss_and_slope(u)
        );
        // lambda = 1 - mu
        let (phi, sba) =
            (Generator::new("phi_mu", &[0.5]).unwrap(), Generator::new("sba", &[0.5, 1.0]).unwrap());
        assert_eq!(phi.loss_and_slope(u), sba.loss_and_slope(u));
    }
}

#[test]
fn what_f64_cannot_hold_is_an_error_and_never_nan() {
    for u in [1e3, 1e5, 1e300, f64::MAX, -1e3, -1e300] {
        for generator in family() {
            match generator.loss_and_slope(u) {
                Ok((loss, slope)) => assert!(loss.is_finite() && slope.is_finite(), "{generator} {u}"),
                Err(e) => assert!(e.to_string().contains("too large for f64"), "{e}"),
            }
        }
    }
    assert_eq!(Generator::Logistic.loss_and_slope(-1e300), Ok((0.0, 0.0)));
    assert_eq!(Generator::Logistic.loss_and_slope(1e300), Ok((1e300, 1.0)));
    // e^(2 u) overflows, but half of a quarter of it does not
    let (loss, slope) = Generator::new("sba", &[1.0, 4.0]).unwrap().loss_and_slope(355.2).unwrap();
    assert!((loss / (slope / 2.0) - 1.0).abs() < 1e-12 && slope > 8e307);
    let bad =
        PairLogProbs { policy_chosen: f64::NAN, policy_rejected: 0.0, ref_chosen: 0.0, ref_rejected: 0.0 };
    assert!(PreferenceLoss::dpo(0.1).unwrap().evaluate(&PairInputs::from_logps(bad)).is_err());
    let huge = PairLogProbs {
        policy_chosen: 1e308,
        policy_rejected: -1e308,
        ref_chosen: -1e308,
        ref_rejected: 1e308,
    };
    for name in ["dpo", "ipo", "hinge"] {
        let loss = match name {
            "dpo" => PreferenceLoss::dpo(0.1),
            "ipo" => PreferenceLoss::ipo(0.1),
            _ => PreferenceLoss::hinge(0.1),
        };
        if let Ok(got) = loss.unwrap().evaluate(&PairInputs::from_logps(huge)) {
            assert!(got.value.is_finite() && got.d_chosen.is_finite(), "{name}: {got:?}");
        }
    }
}

#[test]
fn missing_labels_are_an_error_only_where_the_loss_reads_them() {
    let unlabelled = PairInputs { labels: None, ..pair(1.0, false, true) };
    let paper = PreferenceLoss::bso(BsoSettings::paper()).unwrap();
    assert!(paper.needs_labels());
    assert!(paper.evaluate(&unlabelled).unwrap_err().to_string().contains("chosen_unsafe"));
    assert!(PreferenceLoss::dpo(0.1).unwrap().evaluate(&unlabelled).is_ok());
    assert!(PreferenceLoss::bfpo(0.1, 3.0, 0.5).unwrap().evaluate(&unlabelled).is_err());
    assert!(PreferenceLoss::modpo(0.1, 0.5).unwrap().evaluate(&unlabelled).is_err());
    let empty = PairInputs { tokens: Some((0, 3)), ..unlabelled };
    assert!(
        PreferenceLoss::ipo_mean(0.1)
            .unwrap()
            .evaluate(&empty)
            .unwrap_err()
            .to_string()
            .contains("chosen_tokens")
    );
}

#[test]
fn formulas_show_resolved_numbers() {
    let formula = PreferenceLoss::bso(BsoSettings::paper()).unwrap().formula();
    assert_eq!(
        formula,
        "l(u) = [0.2 e^(1.2 u) - 1.2 e^(-0.2 u) + 1] / (4 * 0.2 * 1.2); u = log R = -(0.1 h + 30 (s_w - s_l)), u clamped to [-30, 30] (no gradient outside); h = D_w - D_l, D = log pi - log pi_ref"
    );
    let ba = PreferenceLoss::bso(BsoSettings {
        generator: Generator::new("ba", &[-0.4]).unwrap(),
        safety_penalty: 0.0,
        clamp: None,
        label_smoothing: 0.1,
        ..BsoSettings::default()
    });
    assert_eq!(
        ba.unwrap().formula(),
        "0.9 l(u) + 0.1 l(-u), l(u) = [-0.4 e^(0.6 u) - 0.6 e^(0.4 u) + 1] / -0.4; u = log R = -0.1 h, no clamp; h = D_w - D_l, D = log pi - log pi_ref"
    );
    assert!(
        PreferenceLoss::safedpo(0.1, 10.0)
            .unwrap()
            .formula()
            .starts_with("-log sigmoid(0.1 h - 10 (s_l - s_w));")
    );
}

#[test]
fn generators_and_kernels_survive_the_way_through_a_config() {
    let mut all = family();
    all.push(Generator::Kernel(Kernel::parse(" 2 + cos(u) ").unwrap()));
    for generator in all {
        let written = serde_json::to_string(&generator.params()).unwrap();
        let read: Vec<GeneratorParam> = serde_json::from_str(&written).unwrap();
        assert_eq!(Generator::parse(generator.name(), &read), Ok(generator));
    }
}
