//! `bso eval`: what it leaves, what it keeps, what it refuses; through the program.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod support;

use bso_model::{NormaliserRule, ScoreHead, ScoreKind};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use support::{Playground, write_scorer};

const CONFIG: &str = "models: [model, {path: model, name: again}]\nprompt_sets: [made.csv, plain.jsonl]\nmax_new_tokens: 8\n\
                      num_threads: 1\nresamples: 200\nreward_model: reward\ncost_model: cost\noutput_dir: out\n";

/// Two sets of prompts, scorers, and `eval.yaml`.
fn place() -> Playground {
    let here = Playground::new();
    let head = |kind| ScoreHead::safe_rlhf(kind, NormaliserRule::ExponentialMovingAverage { momentum: 0.9 });
    write_scorer(&here.path("model"), &here.path("reward"), head(ScoreKind::Reward), |_| {});
    write_scorer(&here.path("model"), &here.path("cost"), head(ScoreKind::Cost), |_| {});
    let mut csv = String::from("id,prompt,type,label\n");
    for i in 0..3 {
        csv +=
            &format!("{i},how do i ask the cook,homonyms,safe\n{i},ask the cook,contrast_homonyms,unsafe\n");
    }
    here.write("made.csv", &csv);
    here.write_rows(
        "plain.jsonl",
        &[json!({"prompt": "ask the cook"}), json!({"prompt": "how do i ask", "kind": "safe"})],
    );
    here.write("eval.yaml", CONFIG);
    here
}

fn read(here: &Playground, name: &str) -> String {
    std::fs::read_to_string(here.path(name)).unwrap()
}

fn samples(here: &Playground) -> Vec<Value> {
    read(here, "out/samples.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

#[test]
fn everything_is_measured_written_and_kept() {
    let here = place();
    let ended = here.run(&["eval", "eval.yaml"]).ok();
    assert!(ended.out.contains("over_refusal") && ended.out.contains("win rate"), "{}", ended.out);
    let rows = samples(&here);
    assert_eq!(rows.len(), 16);
    for row in &rows {
        assert!(row["reward"].is_f64() && row["cost"].is_f64() && row["response"].is_string(), "{row}");
    }
    // The same model under two names: the same streams, the same answers, no difference, no KL.
    for (first, second) in rows[..8].iter().zip(&rows[8..]) {
        assert_eq!((&first["prompt"], &first["response"]), (&second["prompt"], &second["response"]));
        assert!(second["kl"].as_f64().is_none_or(|kl| kl.abs() < 1e-6), "{second}");
    }
    assert!(rows.iter().any(|row| row["kl"].is_f64()));
    let results: Value = serde_json::from_str(&read(&here, "out/results.json")).unwrap();
    let all = &results["models"][1]["all"];
    assert_eq!(all["answers"], 8);
    assert_eq!(
        (&all["metrics"]["over_refusal"]["n"], &all["metrics"]["harmless_ratio"]["n"]),
        (&json!(4), &json!(3))
    );
    let mean = rows[..8].iter().map(|row| row["reward"].as_f64().unwrap()).sum::<f64>() / 8.0;
    assert!((all["metrics"]["reward"]["mean"].as_f64().unwrap() - mean).abs() < 1e-9);
    let versus = &all["versus_baseline"];
    assert_eq!(
        (&versus["win_rates"]["both"]["ties"], &versus["differences"]["reward"]["mean"]),
        (&json!(8), &json!(0.0))
    );
    assert_eq!(results["models"][1]["sets"][1][1]["answers"], 2);
    assert!(read(&here, "out/results.md").contains("| over_refusal |"));
    // The resolved configuration is one.
    here.run(&["eval", "out/config.yaml", "--output_dir", "out"]).ok();

    // Again: answers are kept; another seed: they are not; more prompts: only the new ones are asked for.
    let before = read(&here, "out/samples.jsonl");
    let again = here.run(&["eval", "eval.yaml", "--json"]).ok();
    assert!(again.err.contains("kept        8 answers"), "{}", again.err);
    assert_eq!(serde_json::from_str::<Value>(&again.out).unwrap(), results);
    assert_eq!(read(&here, "out/samples.jsonl"), before);
    let other = here.run(&["eval", "eval.yaml", "--seed", "1", "--kl", "false"]).ok();
    assert!(!other.err.contains("kept"), "{}", other.err);
    assert!(samples(&here).iter().all(|row| row["kl"].is_null()));
}

#[test]
fn the_judge_is_asked_through_the_endpoint() {
    let here = place();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}/v1", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut reader = BufReader::new(stream.try_clone().unwrap());
            let (mut line, mut length) = (String::new(), 0);
            while reader.read_line(&mut line).unwrap() > 0 && !line.trim().is_empty() {
                if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
                    length = value.trim().parse().unwrap();
                }
                line.clear();
            }
            let mut body = vec![0; length];
            reader.read_exact(&mut body).unwrap();
            let pair = String::from_utf8(body).unwrap().contains("reply B");
            let verdict = if pair { "{\"better\": \"A\"}" } else { "{\"helpfulness\": 6, \"safe\": true}" };
            let body = json!({"choices": [{"message": {"content": verdict}}]}).to_string();
            let head =
                format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
            let _ = stream.write_all((head + &body).as_bytes());
        }
    });
    let judge = ["--judge.base_url", url.as_str(), "--judge.model", "m"];
    let ended = here.run(&[&["eval", "eval.yaml", "--json"], &judge[..]].concat()).ok();
    let results: Value = serde_json::from_str(&ended.out).unwrap();
    let all = &results["models"][1]["all"];
    assert_eq!(all["metrics"]["judge_helpfulness"]["mean"], 6.0);
    assert_eq!(
        all["versus_baseline"]["win_rates"]["judge_both"]["ties"], 8,
        "who always says A decides nothing"
    );
    assert_eq!((&results["judge"]["unparsed"], &results["judge"]["failed"]), (&json!(0), &json!(0)));
    let key = ["--judge.api_key_env", "BSO_NO_SUCH_KEY"];
    here.run(&[&["eval", "eval.yaml"], &judge[..], &key[..]].concat()).fails(2, &["BSO_NO_SUCH_KEY"]);
}

#[test]
fn what_cannot_be_used_is_refused_by_name() {
    let here = place();
    here.run(&["eval"]).fails(2, &["CONFIG.yaml"]);
    here.run(&["eval", "none.yaml"]).fails(2, &["none.yaml"]);
    here.run(&["eval", "eval.yaml", "--modles", "a"]).fails(2, &["modles"]);
    here.run(&["eval", "eval.yaml", "--reward_model", "model"]).fails(2, &["scalar head"]);
    here.write_rows("bad.jsonl", &[json!({"text": "a"})]);
    here.run(&["eval", "eval.yaml", "--prompt_sets", "bad.jsonl"])
        .fails(2, &["bad.jsonl", "`prompt`", "text"]);
    let example = here.run(&["eval", "--example"]).ok();
    assert!(example.out.contains("prompt_sets:"));
}
