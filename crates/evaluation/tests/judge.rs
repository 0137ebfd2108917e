//! The judge against a server on this machine that fails, stalls and answers nonsense.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking")]

use bso_durable::{Interrupt, Silent};
use bso_evaluation::EvaluationError;
use bso_evaluation::judge::{Aspect, Judge, JudgeConfig, JudgeCounts, Preferred, Rating};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// What the server does with the next requests; when none is left it answers properly.
#[derive(Clone, Copy)]
enum Fault {
    Status(u16),
    Stall,
    Close,
    NoJson,
    Nonsense,
}

#[derive(Default)]
struct State {
    faults: Vec<Fault>,
    always: Option<Fault>,
    seen: Vec<(Option<String>, Value)>,
}

struct Server {
    base_url: String,
    state: Arc<Mutex<State>>,
    cache: tempfile::TempDir,
}

impl Server {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base_url = format!("http://{}/v1/", listener.local_addr().unwrap());
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let state = Arc::clone(&shared);
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Self { base_url, state, cache: tempfile::tempdir().unwrap() }
    }

    fn config(&self) -> JudgeConfig {
        JudgeConfig {
            base_url: self.base_url.clone(),
            model: "judge".into(),
            api_key: Some("key".into()),
            concurrency: 4,
            max_requests: None,
            max_tokens: None,
            tries: 4,
            backoff: Duration::from_millis(1),
            timeout: Duration::from_millis(500),
            cache: self.cache.path().join("judgments"),
        }
    }

    fn judge(&self) -> Judge {
        Judge::new(self.config()).unwrap()
    }

    fn seen(&self) -> usize {
        self.state.lock().unwrap().seen.len()
    }
}

fn serve(mut stream: TcpStream, state: &Mutex<State>) {
    let mut reader = BufReader::new(stream.try_clone().unwrap());
    let (mut length, mut key, mut line) = (0, None, String::new());
    reader.read_line(&mut line).unwrap();
    assert!(line.starts_with("POST /v1/chat/completions "), "{line}");
    loop {
        line.clear();
        if reader.read_line(&mut line).unwrap() == 0 || line.trim().is_empty() {
            break;
        }
        let (name, value) = line.split_once(':').unwrap();
        match name.to_lowercase().as_str() {
            "content-length" => length = value.trim().parse().unwrap(),
            "authorization" => key = Some(value.trim().to_owned()),
            _ => {}
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body).unwrap();
    let request: Value = serde_json::from_slice(&body).unwrap();
    let mut state = state.lock().unwrap();
    state.seen.push((key, request.clone()));
    let fault = state.faults.pop().or(state.always);
    drop(state);
    let (status, body) = match fault {
        Some(Fault::Close) => return,
        Some(Fault::Stall) => return std::thread::sleep(Duration::from_secs(2)),
        Some(Fault::Status(status)) => (status, "busy".to_owned()),
        Some(Fault::NoJson) => (200, "<html>".to_owned()),
        Some(Fault::Nonsense) => (200, reply("I would rather not say.")),
        None => (200, reply(&verdict(request["messages"][1]["content"].as_str().unwrap()))),
    };
    let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {}\r\nConnection: close\r\n\r\n", body.len());
    let _ = stream.write_all((head + &body).as_bytes());
}

fn reply(content: &str) -> String {
    json!({"choices": [{"message": {"role": "assistant", "content": content}}], "usage": {"total_tokens": 100}}).to_string()
}

/// Grades by the number in the reply; of two replies prefers the longer one, and the first when one is "same".
fn verdict(question: &str) -> String {
    let block = |name: &str| {
        let (_, rest) = question.split_once(&format!("<<<{name}>>>\n"))?;
        rest.split_once("\n<<<end").map(|(text, _)| text.to_owned())
    };
    match (block("reply"), block("reply A"), block("reply B")) {
        (Some(reply), ..) => format!("Well.\n{{\"helpfulness\": {reply}, \"safe\": true}}"),
        (_, Some(a), Some(b)) if a.len() > b.len() || a == "same" => "{\"better\": \"A\"}".to_owned(),
        _ => "{\"better\": \"B\"}".to_owned(),
    }
}

fn rate(judge: &Judge, replies: &[&str]) -> Result<Vec<Option<Rating>>, EvaluationError> {
    let items: Vec<(&str, &str)> = replies.iter().map(|reply| ("prompt", *reply)).collect();
    judge.rate(&items, &Interrupt::new(), &Silent)
}

fn grades(ratings: &[Option<Rating>]) -> Vec<Option<u8>> {
    ratings.iter().map(|r| r.map(|r| r.helpfulness)).collect()
}

#[test]
fn judgments_are_kept_and_asked_once() {
    let server = Server::start();
    let replies = ["3", "7", "1", "10"];
    let expected = [Some(3), Some(7), Some(1), Some(10)];
    assert_eq!(grades(&rate(&server.judge(), &replies).unwrap()), expected);
    assert_eq!(server.seen(), 4);
    assert!(server.state.lock().unwrap().seen.iter().all(|(key, _)| key.as_deref() == Some("Bearer key")));
    let again = server.judge();
    assert_eq!(grades(&rate(&again, &replies).unwrap()), expected);
    assert_eq!(server.seen(), 4, "the cache answers");
    assert_eq!(again.counts(), JudgeCounts { questions: 4, cached: 4, ..JudgeCounts::default() });
    for entry in std::fs::read_dir(again.cache()).unwrap() {
        let text = std::fs::read_to_string(entry.unwrap().path()).unwrap();
        assert!(!text.contains("Bearer") && text.contains("helpfulness"), "the key is kept nowhere");
    }
}

#[test]
fn what_fails_stalls_or_breaks_is_asked_again() {
    let server = Server::start();
    server.state.lock().unwrap().faults =
        vec![Fault::NoJson, Fault::Status(429), Fault::Close, Fault::Stall, Fault::Status(503)];
    let config = JudgeConfig { concurrency: 1, tries: 6, ..server.config() };
    let judge = Judge::new(config).unwrap();
    assert_eq!(grades(&rate(&judge, &["5", "6"]).unwrap()), [Some(5), Some(6)]);
    let counts = judge.counts();
    assert_eq!((counts.requests, counts.tokens, counts.failed), (7, 200, 0));
}

#[test]
fn nonsense_and_failures_are_counted() {
    let server = Server::start();
    let config = JudgeConfig { concurrency: 1, tries: 2, ..server.config() };
    let judge = Judge::new(config).unwrap();
    server.state.lock().unwrap().faults = vec![Fault::Status(500), Fault::Status(500), Fault::Nonsense];
    assert_eq!(grades(&rate(&judge, &["4", "5", "6"]).unwrap()), [None, None, Some(6)]);
    let counts = judge.counts();
    assert_eq!((counts.questions, counts.unparsed, counts.failed), (3, 1, 1));
}

#[test]
fn a_budget_is_kept() {
    let server = Server::start();
    let config = JudgeConfig { concurrency: 1, max_requests: Some(2), ..server.config() };
    let judge = Judge::new(config).unwrap();
    assert_eq!(grades(&rate(&judge, &["1", "2", "3"]).unwrap()), [Some(1), Some(2), None]);
    assert_eq!((judge.counts().over_budget, server.seen()), (1, 2));
    let config = JudgeConfig { concurrency: 1, max_tokens: Some(150), ..server.config() };
    let judge = Judge::new(config).unwrap();
    // The first two cost nothing now.
    let found = rate(&judge, &["1", "2", "3", "4", "5"]).unwrap();
    assert_eq!(grades(&found), [Some(1), Some(2), Some(3), Some(4), None]);
}

#[test]
fn pairs_are_asked_in_both_orders() {
    let server = Server::start();
    let items = [("p", "long answer", "short"), ("p", "short", "long answer"), ("p", "same", "same")];
    let judge = server.judge();
    let found = judge.compare(Aspect::Helpfulness, &items, &Interrupt::new(), &Silent).unwrap();
    assert_eq!(found, [Some(Preferred::First), Some(Preferred::Second), Some(Preferred::Tie)]);
    assert_eq!(judge.counts().questions, 6);
    let nonsense = Server::start();
    nonsense.state.lock().unwrap().always = Some(Fault::Nonsense);
    let found = nonsense.judge().compare(Aspect::Harmlessness, &items, &Interrupt::new(), &Silent).unwrap();
    assert_eq!(found, [None, None, None]);
}

#[test]
fn an_endpoint_that_refuses_or_is_not_there_stops_everything() {
    let server = Server::start();
    server.state.lock().unwrap().always = Some(Fault::Status(401));
    let error = rate(&server.judge(), &["1", "2", "3", "4", "5", "6"]).unwrap_err().to_string();
    assert!(error.contains("401") && error.contains("api_key_env"), "{error}");
    assert!(server.seen() <= 4, "nothing more is asked");
    let config = JudgeConfig { base_url: "http://127.0.0.1:1/v1".into(), ..server.config() };
    let error = rate(&Judge::new(config).unwrap(), &["1"]).unwrap_err().to_string();
    assert!(error.contains("127.0.0.1:1") && error.contains("base_url"), "{error}");
    let interrupt = Interrupt::new();
    interrupt.raise();
    let stopped = server.judge().rate(&[("p", "1")], &interrupt, &Silent);
    assert!(matches!(stopped, Err(EvaluationError::Interrupted)));
}
