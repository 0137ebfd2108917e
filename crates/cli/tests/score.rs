//! `bso score`: the contract of its rows, where the score is read, what is refused; through the program.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod support;

use bso_data::{ChatTokenizer, TemplateChoice};
use bso_model::{Decoder, Engine, NormaliserRule, PackedBatch, ScoreHead, ScoreKind, Workspace};
use serde_json::{Value, json};
use std::path::Path;
use std::sync::Arc;
use support::{Ended, Playground, write_scorer};

const PROMPT: &str = "how do i ask the cook";

fn rows() -> [Value; 4] {
    let user = json!({"role": "user", "content": PROMPT});
    [
        json!({"id": 1, "prompt": PROMPT, "response": "ask the cook", "nested": {"x": [1, null]}}),
        json!({"id": 2, "messages": [user, {"role": "assistant", "content": "ask the cook"}], "score": "old"}),
        json!({"id": 3, "messages": [user], "response": "ask the cook"}),
        json!({"id": 4, "prompt": [user], "response": ""}),
    ]
}

fn score(here: &Playground, more: &[&str], rows: &[Value]) -> Ended {
    let input: String = rows.iter().map(|row| format!("{row}\n")).collect();
    here.run_with_input(&[&["score", "--model", "scorer"], more].concat(), &input)
}

fn transformers(here: &Playground) {
    write_scorer(&here.path("model"), &here.path("scorer"), ScoreHead::sequence_classification(), |_| {});
}

/// The score at the last of these tokens, before the normaliser.
fn expected(dir: &Path, tokens: &[u32]) -> f64 {
    let decoder = Decoder::load(dir, Arc::new(Engine::cpu(Some(1)).unwrap())).unwrap();
    let mut batch = PackedBatch::empty();
    batch.pack_for(decoder.config().reads(), &[(&[], tokens)], false).unwrap();
    decoder.scores_in(&batch, &mut Workspace::new()).unwrap()[0]
}

fn near(found: &Value, expected: f64) {
    let found = found.as_f64().unwrap();
    assert!((found - expected).abs() < 1e-5 * expected.abs().max(0.1), "{found} instead of {expected}");
}

#[test]
fn every_kind_of_row_gets_its_field_and_keeps_the_others() {
    let here = Playground::new();
    transformers(&here);
    let scored = score(&here, &["--field", "reward"], &rows()).ok().rows();
    let tokenizer = ChatTokenizer::load(&here.path("scorer"), &TemplateChoice::Auto).unwrap();
    let ids = |answer: &str| {
        let messages = [bso_data::Message::user(PROMPT), bso_data::Message::assistant(answer)];
        tokenizer.encode_text(&tokenizer.render(&messages, false).unwrap()).unwrap()
    };
    let answered = expected(&here.path("scorer"), &ids("ask the cook"));
    let empty = expected(&here.path("scorer"), &ids(""));
    assert!((answered - empty).abs() > 1e-3, "another answer, another score: {answered} and {empty}");
    for row in &scored[..3] {
        near(&row["reward"], answered);
    }
    near(&scored[3]["reward"], empty);
    assert_eq!((&scored[0]["nested"], &scored[1]["score"]), (&json!({"x": [1, null]}), &json!("old")));
    assert_eq!(scored.iter().map(|row| row["id"].as_u64().unwrap()).collect::<Vec<_>>(), [1, 2, 3, 4]);
    let default = score(&here, &[], &rows()[1..2]).ok().rows();
    near(&default[0]["score"], answered);
    // Through files, in bf16, whole.
    here.write_rows("in.jsonl", &rows());
    here.run(&[
        "score",
        "--model",
        "scorer",
        "--input",
        "in.jsonl",
        "--output",
        "out.jsonl",
        "--dtype",
        "bf16",
    ])
    .ok();
    let text = std::fs::read_to_string(here.path("out.jsonl")).unwrap();
    let narrow: Value = serde_json::from_str(text.lines().next().unwrap()).unwrap();
    assert!((narrow["score"].as_f64().unwrap() - answered).abs() < 0.05 * answered.abs().max(0.5));
}

#[test]
fn the_score_stands_at_the_last_token_of_the_templated_text_whatever_ends_a_turn() {
    let here = Playground::new();
    transformers(&here);
    let template = "{% for m in messages %}{{ m.content }} {{ eos_token }} the {% endfor %}{% if add_generation_prompt %}cook {% endif %}";
    // An assistant's turn has the header that the generation prompt announces.
    let template =
        template.replace("{{ m.content }}", "{% if m.role == 'assistant' %}cook {% endif %}{{ m.content }}");
    here.write("turns.jinja", &template);
    let scored = score(&here, &["--template", "turns.jinja"], &rows()[..1]).ok().rows();
    let tokenizer = ChatTokenizer::load(&here.path("scorer"), &TemplateChoice::Text(template)).unwrap();
    let messages = [bso_data::Message::user(PROMPT), bso_data::Message::assistant("ask the cook")];
    let ids = tokenizer.encode_text(&tokenizer.render(&messages, false).unwrap()).unwrap();
    assert_ne!(ids.last(), Some(&tokenizer.eos().1), "something stands behind the end of the turn");
    near(&scored[0]["score"], expected(&here.path("scorer"), &ids));
}

#[test]
fn the_normaliser_of_safe_rlhf_is_applied_where_the_model_says_so() {
    let here = Playground::new();
    let rule = NormaliserRule::ExponentialMovingAverage { momentum: 0.9 };
    let mut found = Vec::new();
    for (kind, applied) in [(ScoreKind::Reward, false), (ScoreKind::Reward, true), (ScoreKind::Cost, true)] {
        let mut head = ScoreHead::safe_rlhf(kind, rule);
        (head.normaliser.mean, head.normaliser.var, head.normaliser.applied) = (0.5, 4.0, applied);
        write_scorer(&here.path("model"), &here.path("scorer"), head, |_| {});
        found.push(score(&here, &[], &rows()[..1]).ok().rows()[0]["score"].as_f64().unwrap());
    }
    assert!((found[1] - (found[0] - 0.5) / 2.0).abs() < 1e-6, "{found:?}");
    assert!((found[2] - found[0] / 2.0).abs() < 1e-6, "{found:?}");
}

#[test]
fn bad_rows_stop_with_their_line_or_are_counted() {
    let here = Playground::new();
    transformers(&here);
    let asked = json!({"messages": [{"role": "user", "content": PROMPT}]});
    for (bad, says) in [
        (json!({"prompt": PROMPT}), "no `response`"),
        (asked, "not the assistant's"),
        (json!({"prompt": PROMPT, "response": 1}), "not text"),
        (json!({"response": "no"}), "no `prompt`"),
        (json!({"prompt": PROMPT, "response": "cook ".repeat(200)}), "--max_length 128"),
    ] {
        let input = [rows()[0].clone(), bad];
        score(&here, &[], &input).fails(2, &["standard input:2", says, "--skip_bad_rows"]);
        for flag in ["--skip_bad_rows", "--skip-bad-rows"] {
            let ended = score(&here, &[flag], &input).ok();
            assert_eq!(ended.rows().len(), 1);
            assert!(ended.err.contains("1 rows could not be used"), "{}", ended.err);
        }
    }
    let long = json!({"prompt": PROMPT, "response": "cook ".repeat(200)});
    let cut = score(&here, &["--max-length", "64"], std::slice::from_ref(&long)).ok();
    assert!(cut.rows()[0]["score"].is_number() && cut.err.contains("response end cut"), "{}", cut.err);
    let dropped = score(&here, &["--max_length", "64", "--truncation_mode", "drop"], &[long]).ok();
    assert!(dropped.rows().is_empty());
    score(&here, &["--field", ""], &rows()).fails(2, &["--field"]);
}

#[test]
fn models_with_the_other_head_are_refused_by_name() {
    let here = Playground::new();
    transformers(&here);
    let input = rows()[0].to_string();
    here.run_with_input(&["score", "--model", "model"], &input)
        .fails(2, &["LlamaForCausalLM has no scalar head"]);
    for command in [&["generate"][..], &["logprobs"]] {
        here.run_with_input(&[command, &["--model", "scorer"]].concat(), &input)
            .fails(2, &["LlamaForSequenceClassification gives one score", "bso score"]);
    }
}
