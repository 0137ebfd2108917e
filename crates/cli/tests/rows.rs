//! Rows in, rows out: the contracts of `loss`, `verify`, `logprobs` and `generate`, through the program.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod support;

use serde_json::{Value, json};
use std::fs;
use support::{Ended, Playground};

/// h = 2 - (-1) = 3 nats; the rejected response is unsafe.
fn pair(more: Value) -> String {
    let mut row = json!({"id": "a", "policy_chosen_logp": -50.0, "policy_rejected_logp": -60.0, "ref_chosen_logp": -52.0,
        "ref_rejected_logp": -59.0, "chosen_unsafe": false, "rejected_unsafe": true, "loss": "old", "nested": {"x": [1, null]}});
    row.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    format!("{row}\n")
}

fn number(row: &Value, name: &str) -> f64 {
    row[name].as_f64().unwrap_or(f64::NAN)
}

#[track_caller]
fn near(found: f64, expected: f64) {
    assert!((found - expected).abs() <= 1e-12 * expected.abs().max(1e-300), "{found} instead of {expected}");
}

#[test]
fn loss_reads_flags_in_both_spellings_and_row_keys_win() {
    let here = Playground::new();
    let input =
        pair(json!({})) + &pair(json!({"beta": 1.0, "log_ratio_clamp": null, "generator": "logistic"}));
    for flags in [
        [
            "--safety_penalty",
            "2",
            "--log_ratio_clamp",
            "-1,1",
            "--log_ratio_tail",
            "linear",
            "--generator_params",
            "0.2,4",
        ],
        [
            "--safety-penalty",
            "2",
            "--log-ratio-clamp",
            "-1,1",
            "--log-ratio-tail",
            "linear",
            "--generator-params",
            "0.2,4",
        ],
    ] {
        let rows =
            here.run_with_input(&[&["loss", "-", "--output", "-"], &flags[..]].concat(), &input).ok().rows();
        // u = -(0.1 * 3 - 2) = 1.7 lies beyond the clamp: l goes on from 1 with the slope (e^1.2 + e^-0.2) / 4.
        let slope = (1.2f64.exp() + (-0.2f64).exp()) / 4.0;
        let at_bound = (0.2 * 1.2f64.exp() - 1.2 * (-0.2f64).exp() + 1.0) / (4.0 * 0.2 * 1.2);
        near(number(&rows[0], "log_ratio"), 1.7);
        near(number(&rows[0], "dloss_dlogratio"), slope);
        near(number(&rows[0], "loss"), at_bound + slope * 0.7);
        near(number(&rows[0], "dloss_dchosen_logp"), -0.1 * slope);
        near(number(&rows[0], "dloss_drejected_logp"), 0.1 * slope);
        // The row's own beta, generator and "no clamp": u = -(3 - 2) = -1.
        near(number(&rows[1], "log_ratio"), -1.0);
        near(number(&rows[1], "loss"), (-1.0f64).exp().ln_1p());
        assert_eq!((&rows[0]["id"], &rows[0]["nested"]), (&json!("a"), &json!({"x": [1, null]})));
    }
}

#[test]
fn loss_takes_null_for_none_aliases_and_presets() {
    let here = Playground::new();
    let input = pair(json!({"safety_penalty": null, "chosen_unsafe": null}))
        + &pair(json!({"loss_type": "sigmoid"}))
        + &pair(json!({"preset": "paper"}))
        + &pair(json!({"loss_type": "safedpo", "safety_penalty": 5}));
    let rows = here.run_with_input(&["loss"], &input).ok().rows();
    near(number(&rows[0], "log_ratio"), -0.1 * 3.0);
    near(number(&rows[1], "loss"), (-0.3f64).exp().ln_1p());
    near(number(&rows[2], "log_ratio"), 30.0 - 0.1 * 3.0);
    near(number(&rows[3], "log_ratio"), 5.0 - 0.1 * 3.0);
    let both = pair(json!({"loss_type": "safedpo", "safety_penalty": 5, "delta": 5}));
    here.run_with_input(&["loss"], &both).fails(2, &["line 1", "delta", "safety_penalty"]);
}

#[test]
fn loss_judges_kto_a_batch_per_row() {
    let here = Playground::new();
    let batch = json!({"loss_type": "kto", "policy_logp": [-1.0, -2.0], "ref_logp": [-1.5, -2.0], "desirable": [true, false],
        "kl": 0.2, "undesirable_weight": 2});
    let rows = here.run_with_input(&["loss", "--kl", "7", "--beta", "1"], &batch.to_string()).ok().rows();
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let numbers = |name: &str| {
        rows[0][name].as_array().unwrap().iter().map(|x| x.as_f64().unwrap()).collect::<Vec<_>>()
    };
    let losses = numbers("loss");
    near(losses[0], sigmoid(-0.3));
    near(losses[1], 2.0 * sigmoid(-0.2));
    let slopes = numbers("dloss_dlogp");
    near(slopes[0], -sigmoid(-0.3) * sigmoid(0.3));
    near(slopes[1], 2.0 * sigmoid(-0.2) * sigmoid(0.2));
}

#[test]
fn loss_stops_at_the_first_bad_row_or_counts_it() {
    let here = Playground::new();
    let good = pair(json!({}));
    for (bad, part) in [
        ("{\"policy\n".to_owned(), "no JSON"),
        (pair(json!({"beta": -1})), "beta"),
        (pair(json!({"policy_chosen_logp": "x"})), "policy_chosen_logp"),
        (pair(json!({"chosen_unsafe": null})), "chosen_unsafe"),
        (pair(json!({"policy_chosen_logp": -1e5, "log_ratio_clamp": null})), "too large"),
        ("[1]\n".to_owned(), "object"),
    ] {
        let input = format!("{good}{bad}{good}");
        let stopped = here.run_with_input(&["loss"], &input);
        assert_eq!(stopped.rows().len(), 1);
        stopped.fails(2, &["standard input, line 2", part, "--skip_bad_rows"]);
        for flag in ["--skip_bad_rows", "--skip-bad-rows"] {
            let ended = here.run_with_input(&["loss", flag], &input).ok();
            assert_eq!(ended.rows().len(), 2);
            assert!(ended.err.contains("1 bad rows skipped of 3"), "{}", ended.err);
        }
    }
    // A file that is refused half-way leaves no output file.
    here.write("bad.jsonl", &format!("{good}{{\n"));
    here.run(&["loss", "bad.jsonl", "--output", "out.jsonl"]).fails(2, &["bad.jsonl, line 2"]);
    assert!(!here.path("out.jsonl").exists());
    let marked = format!("\u{feff}{good}");
    assert_eq!(here.run_with_input(&["loss"], &marked).ok().rows().len(), 1);
}

#[test]
fn verify_passes_and_prints_json_lines_with_a_conclusion() {
    let here = Playground::new();
    let rows = here.run(&["verify", "--json", "--generated-worlds", "0"]).ok().rows();
    let (conclusion, lines) = rows.split_last().unwrap();
    assert!(conclusion["conclusion"].is_string() && conclusion.as_object().unwrap().len() == 1);
    for line in lines {
        for name in ["world", "generator", "safety_penalty", "transform", "clamp", "total_variation", "pass"]
        {
            assert!(line.get(name).is_some(), "no {name} in {line}");
        }
        if line["transform"] == "none" {
            assert!(number(line, "total_variation") < 1e-6, "{line}");
        }
    }
    assert!(lines.iter().any(|l| l["transform"] == "swap_drop" && l["pass"] == false));
}

const PROMPT: &str = "how do i break the ice ?";

fn responses() -> Vec<Value> {
    vec![
        json!({"prompt": PROMPT, "chosen": "ask the cook", "rejected": "no", "id": 1}),
        json!({"prompt": PROMPT, "response_0": "ask the cook", "response_1": "no", "is_response_0_safe": true,
            "is_response_1_safe": false, "better_response_id": 1, "safer_response_id": 0, "chosen_logp": 7}),
        json!({"prompt": PROMPT, "response": "ask the cook", "id": [2]}),
    ]
}

fn logprobs(here: &Playground, more: &[&str], rows: &[Value]) -> Ended {
    let input: String = rows.iter().map(|row| format!("{row}\n")).collect();
    here.run_with_input(&[&["logprobs", "--model", "model", "--data", "-"], more].concat(), &input)
}

#[test]
fn logprobs_adds_what_each_kind_of_row_asks_for() {
    let here = Playground::new();
    let rows = logprobs(&here, &[], &responses()).ok().rows();
    assert_eq!(
        (&rows[0]["id"], &rows[2]["id"], &rows[1]["chosen_logp"]),
        (&json!(1), &json!([2]), &json!(7))
    );
    let [chosen, rejected] = ["chosen_logp", "rejected_logp"].map(|name| number(&rows[0], name));
    assert!(chosen < 0.0 && rejected < 0.0);
    assert_eq!(
        (&rows[0]["chosen_tokens"], &rows[0]["rejected_tokens"]),
        (&json!(4), &json!(2)),
        "the end of turn counts"
    );
    for (row, name, expected) in [
        (&rows[1], "response_0_logp", chosen),
        (&rows[1], "response_1_logp", rejected),
        (&rows[2], "logp", chosen),
    ] {
        assert!((number(row, name) - expected).abs() < 1e-4, "{name}: {row}");
    }
    assert_eq!(rows[2]["tokens"], 4);
    // By a judgement the PKU row becomes a pair.
    for (judgement, order) in [("better", [rejected, chosen]), ("safer", [chosen, rejected])] {
        let row = logprobs(&here, &["--preference", judgement], &responses()[1..2]).ok().rows().remove(0);
        assert!((number(&row, "chosen_logp") - order[0]).abs() < 1e-4, "{judgement}: {row}");
        assert!((number(&row, "rejected_logp") - order[1]).abs() < 1e-4, "{judgement}: {row}");
    }
}

#[test]
fn logprobs_says_what_was_cut_or_dropped() {
    let here = Playground::new();
    let long = json!({"prompt": PROMPT, "chosen": "ask the cook ".repeat(9).trim(), "rejected": "no"});
    let rows = [responses()[0].clone(), long];
    let limit = ["--max-length", "26", "--truncation-mode"];
    let cut = logprobs(&here, &[&limit[..], &["keep_start"]].concat(), &rows).ok();
    assert_eq!(cut.rows().len(), 2);
    assert!(cut.err.contains("1 x response end cut (keep_start)"), "{}", cut.err);
    let dropped = logprobs(&here, &[&limit[..], &["drop"]].concat(), &rows).ok();
    assert_eq!(dropped.rows().len(), 1);
    assert!(dropped.err.contains("1 x longer than max_length"), "{}", dropped.err);
    logprobs(&here, &[&limit[..], &["raise"]].concat(), &rows).fails(2, &["standard input:2", "max_length"]);
}

#[test]
fn logprobs_and_generate_stop_at_the_first_bad_row_or_count_it() {
    let here = Playground::new();
    let rows = [responses()[0].clone(), json!({"prompt": 1, "chosen": "a", "rejected": "b"})];
    logprobs(&here, &[], &rows).fails(2, &["standard input:2", "--skip_bad_rows"]);
    for flag in ["--skip_bad_rows", "--skip-bad-rows"] {
        let ended = logprobs(&here, &[flag], &rows).ok();
        assert_eq!(ended.rows().len(), 1);
        assert!(ended.err.contains("1 rows could not be used"), "{}", ended.err);
    }
    here.write("prompts.jsonl", &format!("{}\n{{\"prompt\": \n", json!({"prompt": PROMPT})));
    let generate = ["generate", "--model", "model", "--input", "prompts.jsonl", "--output", "answers.jsonl"];
    here.run(&generate).fails(2, &["prompts.jsonl:2", "--skip_bad_rows"]);
    assert!(!here.path("answers.jsonl").exists());
    here.run(&[&generate[..], &["--skip-bad-rows"]].concat()).ok();
    assert_eq!(fs::read_to_string(here.path("answers.jsonl")).unwrap().lines().count(), 1);
}

fn generate(here: &Playground, more: &[&str]) -> Vec<Value> {
    let rows = [
        json!({"prompt": PROMPT, "id": 1, "response": "old"}),
        json!({"messages": [{"role": "user", "content": PROMPT}], "id": 2}),
    ];
    let input: String = rows.iter().map(|row| format!("{row}\n")).collect();
    here.run_with_input(
        &[&["generate", "--model", "model", "--input", "-", "--output", "-"], more].concat(),
        &input,
    )
    .ok()
    .rows()
}

#[test]
fn generate_answers_prompts_and_messages_and_repeats_itself() {
    let here = Playground::new();
    let greedy = generate(&here, &["--max_new_tokens", "12"]);
    assert_eq!(greedy[0]["response"], greedy[1]["response"], "a prompt is one user message");
    assert_eq!((&greedy[0]["id"], &greedy[1]["id"]), (&json!(1), &json!(2)));
    let sampled = |seed| {
        generate(&here, &["--max-new-tokens", "12", "--temperature", "2", "--top-p", "0.95", "--seed", seed])
    };
    assert_eq!(sampled("5"), sampled("5"));
    assert_ne!(sampled("5"), sampled("6"));
    let answers = generate(&here, &["--max_new_tokens", "12", "--temperature", "3"]);
    for row in &answers {
        let words = row["response"].as_str().unwrap().split_whitespace().count() as u64;
        let tokens = row["new_tokens"].as_u64().unwrap();
        match row["finish_reason"].as_str().unwrap() {
            "length" => assert_eq!(tokens, 12),
            "stop" => assert!(tokens > words, "the end of turn counts: {row}"),
            other => assert_eq!(other, "stop or length"),
        }
    }
    // A stop text ends the answer before it.
    let word = greedy[0]["response"].as_str().unwrap().split_whitespace().nth(1).unwrap().to_owned();
    let stopped = generate(&here, &["--max_new_tokens", "12", "--stop", &word]);
    assert_eq!(stopped[0]["finish_reason"], "stop");
    assert!(!stopped[0]["response"].as_str().unwrap().contains(&word));
}

#[test]
fn numbers_out_of_range_are_wrong_usage() {
    let here = Playground::new();
    for (flag, value, part) in [
        ("--temperature", "-1", "temperature"),
        ("--top_p", "0", "top_p"),
        ("--max_new_tokens", "0", "max_new_tokens"),
        ("--top-k", "-1", "top_k"),
    ] {
        here.run_with_input(&["generate", "--model", "model", flag, value], "{\"prompt\": \"no\"}\n")
            .fails(2, &[part]);
    }
}
