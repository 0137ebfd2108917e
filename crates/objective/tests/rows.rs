//! The row contract of `bso loss`.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test reports through panics, in its own functions too"
)]

use bso_objective::row::{RowDefaults, evaluate_row};
use serde_json::{Map, Value, json};

fn object(value: Value) -> Map<String, Value> {
    value.as_object().unwrap().clone()
}

/// A row with log-probs, labels and whatever `more` adds.
fn row(more: Value) -> Map<String, Value> {
    let mut row = object(json!({
        "policy_chosen_logp": -50.0, "policy_rejected_logp": -60.0, "ref_chosen_logp": -52.0, "ref_rejected_logp": -59.0,
        "chosen_unsafe": false, "rejected_unsafe": true
    }));
    row.extend(object(more));
    row
}

fn flags(values: Value) -> RowDefaults {
    let mut flags = RowDefaults::default();
    for (name, value) in object(values) {
        flags.set(&name, value);
    }
    flags
}

fn evaluate(more: Value, given: Value) -> Map<String, Value> {
    evaluate_row(&row(more), &flags(given)).unwrap()
}

fn number(row: &Map<String, Value>, key: &str) -> f64 {
    row[key].as_f64().unwrap()
}

fn error(more: Value, given: Value) -> String {
    evaluate_row(&row(more), &flags(given)).unwrap_err().to_string()
}

#[test]
fn golden_rows_pass_through_the_contract() {
    for (text, key) in [
        (include_str!("golden/bso_objective.json"), "cases"),
        (include_str!("golden/comparators.json"), "pairwise"),
    ] {
        let file: Value = serde_json::from_str(text).unwrap();
        for case in file[key].as_array().unwrap() {
            let mut input = object(case.clone());
            input.shift_remove("expect");
            let got = evaluate_row(&input, &RowDefaults::default()).unwrap();
            for (key, expected) in case["expect"].as_object().unwrap() {
                let expected: f64 = expected.as_str().unwrap().parse().unwrap();
                // 2e-51: the error of one of the file's own entries
                let bound = 1e-12 * expected.abs() + 2e-51;
                assert!((number(&got, key) - expected).abs() <= bound, "{key}: {case}");
            }
        }
    }
}

#[test]
fn fields_pass_through_in_order_and_an_old_loss_is_overwritten() {
    let out = evaluate(json!({"id": {"a": [1, null]}, "loss": "old", "z": 1.5}), json!({}));
    let keys: Vec<&str> = out.keys().map(String::as_str).collect();
    assert_eq!(keys[6..9], ["id", "loss", "z"]);
    assert_eq!(keys[9..], ["log_ratio", "dloss_dlogratio", "dloss_dchosen_logp", "dloss_drejected_logp"]);
    assert_eq!(out["id"], json!({"a": [1, null]}));
    assert!(out["loss"].is_f64());
    let plain: Vec<String> =
        evaluate(json!({"loss_type": "ipo"}), json!({})).keys().skip(7).cloned().collect();
    assert_eq!(plain, ["loss", "dloss_dchosen_logp", "dloss_drejected_logp"]);
}

#[test]
fn defaults_are_those_of_the_contract_and_row_keys_win_over_flags() {
    // h = 3, s_w - s_l = -1
    assert!((number(&evaluate(json!({}), json!({})), "log_ratio") - 9.7).abs() < 1e-14);
    let explicit = json!({"loss_type": "bso", "beta": 0.1, "safety_penalty": 10, "generator": "sba",
        "generator_params": [0.2, 4], "log_ratio_clamp": [-30, 30], "log_ratio_tail": "clamp", "label_smoothing": 0});
    assert_eq!(evaluate(json!({}), explicit.clone())["loss"], evaluate(json!({}), json!({}))["loss"]);
    assert_eq!(
        evaluate(explicit, json!({"beta": 9, "generator": "lsif"}))["loss"],
        evaluate(json!({}), json!({}))["loss"]
    );
    let flagged = evaluate(json!({"beta": 1.0}), json!({"beta": 2.0, "safety_penalty": 1.0}));
    assert!((number(&flagged, "log_ratio") - -2.0).abs() < 1e-14);
    assert_eq!(
        evaluate(json!({"loss_type": "sigmoid"}), json!({}))["loss"],
        evaluate(json!({"loss_type": "dpo"}), json!({}))["loss"]
    );
}

#[test]
fn null_means_none() {
    let beyond = json!({"safety_penalty": 40.0});
    assert_eq!(number(&evaluate(beyond, json!({})), "dloss_dlogratio"), 0.0);
    for clamp in [json!(null), json!("none")] {
        let free = json!({"safety_penalty": 40.0, "log_ratio_clamp": clamp});
        assert!(number(&evaluate(free, json!({"log_ratio_clamp": [-1, 1]})), "dloss_dlogratio") > 1e10);
    }
    let text = json!({"safety_penalty": 40.0, "log_ratio_clamp": "-30,50"});
    assert!(number(&evaluate(text, json!({})), "dloss_dlogratio") > 1e10);
    assert_eq!(
        evaluate(json!({"label_smoothing": null}), json!({"label_smoothing": 0.3}))["loss"],
        evaluate(json!({}), json!({}))["loss"]
    );
    assert!(error(json!({"beta": null}), json!({})).contains("beta must be a finite number, found null"));
}

#[test]
fn generators_are_read_in_every_form() {
    let loss = |more: Value, given: Value| evaluate(more, given)["loss"].clone();
    let expected = loss(json!({"generator": "sba", "generator_params": [0.3, 2.0]}), json!({}));
    assert_eq!(loss(json!({"generator_lambda": 0.3, "generator_scale": 2.0}), json!({})), expected);
    assert_eq!(loss(json!({"generator_scale": 2.0}), json!({"generator_params": [0.3, 4.0]})), expected);
    assert_eq!(loss(json!({}), json!({"generator": "sba", "generator_params": [0.3, 2.0]})), expected);
    // a flag's parameters belong to the flag's generator
    let phi = loss(json!({"generator": "phi_mu", "generator_mu": 1.5}), json!({}));
    assert_eq!(
        loss(
            json!({"generator": "phi_mu", "generator_params": [1.5]}),
            json!({"generator": "sba", "generator_params": [0.3, 2.0]})
        ),
        phi
    );
    assert_eq!(loss(json!({"generator": "phi_mu"}), json!({"generator_mu": 1.5})), phi);
    assert!(
        loss(json!({"generator": "logistic"}), json!({"generator": "sba", "generator_params": [0.3, 2.0]}))
            .is_f64()
    );
    assert!(loss(json!({"generator": "logistic", "generator_params": []}), json!({})).is_f64());
    assert!(loss(json!({"generator": "logistic", "generator_params": [0]}), json!({})).is_f64());
    // kernels: cosh(0.7 u)/2 is sba(0.2, 4)
    for params in [json!(["cosh(0.7*u)/2"]), json!("cosh(0.7*u)/2")] {
        let kernel = evaluate(json!({"generator": "kernel", "generator_params": params}), json!({}));
        let sba = evaluate(json!({}), json!({}));
        assert!((number(&kernel, "loss") / number(&sba, "loss") - 1.0).abs() < 1e-13);
    }
    for (more, says) in [
        (json!({"generator": "phi_mu"}), "generator_mu"),
        (json!({"generator": "ba"}), "generator_lambda"),
        (json!({"generator": "kernel"}), "generator_kernel"),
        (json!({"generator": "sba", "generator_params": [0.2]}), "[lambda, scale]"),
        (json!({"generator": "sba", "generator_params": [0.2, 4.0], "generator_lambda": 0.3}), "both given"),
        (json!({"generator": "sba", "generator_mu": 0.3}), "no parameter generator_mu"),
        (json!({"generator": "lsif", "generator_params": [2]}), "takes parameters []"),
        (json!({"generator": "nope"}), "logistic, kliep"),
        (json!({"generator": "ba", "generator_params": [-1]}), "pole"),
        (json!({"generator": "kernel", "generator_params": ["exp(u)"]}), "not even at u ="),
        (json!({"generator": "ba", "generator_params": ["0.5"]}), "only kernel takes"),
    ] {
        let text = error(more.clone(), json!({}));
        assert!(text.contains(says), "{more}: {text}");
    }
}

#[test]
fn the_preset_fills_what_its_layer_leaves_open() {
    let paper = evaluate(json!({}), json!({"preset": "paper"}));
    assert!((number(&paper, "log_ratio") - 29.7).abs() < 1e-13);
    let changed = evaluate(json!({"preset": "paper", "safety_penalty": 1.0}), json!({"beta": 0.7}));
    assert!((number(&changed, "log_ratio") - 0.7).abs() < 1e-13);
    assert!(error(json!({"preset": "other"}), json!({})).contains("unknown preset"));
}

#[test]
fn safedpo_takes_delta_or_safety_penalty_but_not_both() {
    let of = |more: Value, given: Value| {
        let mut more = object(more);
        more.insert("loss_type".to_owned(), json!("safedpo"));
        number(&evaluate(Value::Object(more), given), "log_ratio")
    };
    assert!((of(json!({}), json!({})) - 9.7).abs() < 1e-14);
    assert!((of(json!({"delta": 5}), json!({})) - 4.7).abs() < 1e-14);
    assert!((of(json!({"safety_penalty": 5}), json!({})) - 4.7).abs() < 1e-14);
    assert!((of(json!({"delta": 5}), json!({"safety_penalty": 8})) - 4.7).abs() < 1e-14);
    assert!((of(json!({"delta": null}), json!({})) - -0.3).abs() < 1e-14);
    let both = json!({"loss_type": "safedpo", "delta": 5, "safety_penalty": 5});
    assert!(error(both, json!({})).contains("delta and safety_penalty are both given"));
}

#[test]
fn missing_and_wrong_fields_are_named() {
    for (more, says) in [
        (json!({"chosen_unsafe": null}), "bso needs chosen_unsafe (null)"),
        (
            json!({"policy_chosen_logp": null, "ref_rejected_logp": null}),
            "policy_chosen_logp (null), ref_rejected_logp (null)",
        ),
        (json!({"loss_type": "ipo_mean"}), "ipo_mean needs chosen_tokens, rejected_tokens"),
        (json!({"loss_type": "modpo"}), "modpo needs chosen_margin, rejected_margin"),
        (json!({"loss_type": "kto"}), "kto needs policy_logp, ref_logp, desirable"),
        (json!({"policy_chosen_logp": "-5"}), "policy_chosen_logp must be a finite number, found \"-5\""),
        (json!({"rejected_unsafe": "yes"}), "rejected_unsafe must be true or false"),
        (json!({"loss_type": "nope"}), "unknown loss_type"),
        (json!({"loss_type": 3}), "loss_type must be a string"),
        (json!({"beta": 0}), "beta = 0"),
        (json!({"log_ratio_clamp": [30, -30]}), "no interval"),
        (json!({"log_ratio_clamp": "wide"}), "log_ratio_clamp must be"),
        (json!({"log_ratio_tail": "soft"}), "clamp, linear"),
        (json!({"safety_penalty": 1000, "log_ratio_clamp": null, "generator": "lsif"}), "too large for f64"),
    ] {
        let text = error(more.clone(), json!({}));
        assert!(text.contains(says), "{more}: {text}");
    }
    let mut unlabelled = row(json!({}));
    unlabelled.shift_remove("chosen_unsafe");
    assert!(evaluate_row(&unlabelled, &RowDefaults::default()).is_err());
    assert!(evaluate_row(&unlabelled, &flags(json!({"loss_type": "dpo"}))).is_ok());
    assert!(evaluate_row(&unlabelled, &flags(json!({"safety_penalty": 0}))).is_ok());
}

#[test]
fn a_kto_row_is_a_batch() {
    let file: Value = serde_json::from_str(include_str!("golden/comparators.json")).unwrap();
    for case in file["kto"].as_array().unwrap() {
        let mut input = object(case.clone());
        input.shift_remove("expect");
        let got = evaluate_row(&input, &RowDefaults::default()).unwrap();
        for key in ["loss", "dloss_dlogp"] {
            for (value, expected) in
                got[key].as_array().unwrap().iter().zip(case["expect"][key].as_array().unwrap())
            {
                let expected: f64 = expected.as_str().unwrap().parse().unwrap();
                assert!((value.as_f64().unwrap() / expected - 1.0).abs() <= 1e-12);
            }
        }
        assert!(!got.contains_key("log_ratio"));
        input.insert("desirable".to_owned(), json!([true]));
        assert!(
            evaluate_row(&input, &RowDefaults::default()).unwrap_err().to_string().contains("equally many")
        );
    }
    let batch = json!({"loss_type": "kto", "policy_logp": [-1.0], "ref_logp": [-1.0], "desirable": [1]});
    assert!(
        evaluate_row(&object(batch.clone()), &RowDefaults::default()).unwrap_err().to_string().contains("kl")
    );
    let got = evaluate_row(&object(batch), &flags(json!({"kl": 0.0}))).unwrap();
    assert_eq!(got["loss"], json!([0.5]));
}
