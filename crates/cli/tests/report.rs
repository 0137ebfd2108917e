//! `bso report` and `bso watch` through the program: what is joined, what is named when it is broken, what a server answers.
#![allow(clippy::unwrap_used, reason = "a test stops where something is not as it should be")]

mod support;

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Stdio};
use std::time::Duration;
use support::Playground;

/// A trained run, `run/`, and an evaluation, `eval/`, of it against the model that it came from.
fn place() -> Playground {
    let here = Playground::new();
    let bso = "loss_type: bso\ngenerator: sba\ngenerator_params: [0.2, 4]\nsafety_penalty: 5\nmax_steps: 6\nlogging_steps: 1\n";
    let config = here.config("run", bso);
    here.run(&["train", &config]).ok();
    here.write("made.csv", "prompt,type\nask the cook,homonyms\nbreak the seal,contrast_homonyms\n");
    let eval = "models: [model, run]\nprompt_sets: [made.csv]\nmax_new_tokens: 8\nnum_threads: 1\nresamples: 200\noutput_dir: eval\n";
    here.write("eval.yaml", eval);
    here.run(&["eval", "eval.yaml"]).ok();
    here
}

fn page(here: &Playground, name: &str) -> String {
    fs::read_to_string(here.path(name)).unwrap()
}

#[test]
fn a_run_and_its_evaluation_are_one_method_and_broken_files_are_named() {
    let here = place();
    let ended = here.run(&["report", "run", "eval", "--output", "all.html"]).ok();
    assert!(ended.out.contains("all.html") && ended.err.is_empty(), "{}\n{}", ended.out, ended.err);
    let whole = page(&here, "all.html");
    for part in [
        "Finished after 6 steps. With 1 evaluation.",
        "Every metric",
        "over_refusal",
        "id=\"curves\"",
        "Show prompts",
        "safety_penalty",
    ] {
        assert!(whole.contains(part), "{part}");
    }
    // The run is the evaluation's model; the model that it came from is a landmark.
    assert!(whole.contains("\"methods\":[\"run\"]"), "one method");
    assert!(whole.contains("\"m\":\"model\"") && whole.contains("the evaluation&#39;s baseline"));
    // Equal files, equal bytes; standard output is a file too.
    let out = here.run(&["report", "run", "eval", "-o", "-"]).ok().out;
    assert!(out == whole, "the page is a function of the files");

    // The whole folder: the same, and nothing of model/ or of the pairs.
    here.run(&["report", "."]).ok();
    assert!(page(&here, "report.html").contains("\"methods\":[\"run\"]"));

    // Half-written and damaged files.
    let rows = page(&here, "run/metrics.jsonl");
    fs::write(here.path("run/metrics.jsonl"), format!("{rows}{{\"step\":7,\"lo")).unwrap();
    assert_eq!(here.run(&["report", "run"]).ok().err, "", "a torn last line is what a live run looks like");
    fs::write(here.path("run/metrics.jsonl"), format!("nonsense\n{rows}")).unwrap();
    fs::write(here.path("run/manifest.json"), "{\"format\":1").unwrap();
    fs::write(here.path("eval/results.json"), "[]").unwrap();
    let samples = page(&here, "eval/samples.jsonl");
    fs::write(here.path("eval/samples.jsonl"), &samples[..samples.len() - 40]).unwrap();
    let ended = here.run(&["report", "run", "eval"]).ok();
    for part in ["metrics.jsonl, line 1", "manifest.json", "results.json", "samples.jsonl: 1 lines"] {
        assert!(ended.err.contains(part), "{part}:\n{}", ended.err);
    }
    let broken = page(&here, "report.html");
    assert!(broken.contains("Not on this page") && broken.contains("not ended when this page was made"));
}

#[test]
fn nothing_to_show_is_said() {
    let here = Playground::new();
    fs::create_dir(here.path("empty")).unwrap();
    here.run(&["report", "empty"]).fails(2, &["nothing to show in empty", "metrics.jsonl"]);
    here.run(&["report", "nowhere"]).fails(2, &["nowhere does not exist"]);
    here.run(&["report", "pairs.jsonl"]).fails(2, &["is no folder"]);
    here.run(&["watch", "pairs.jsonl"]).fails(2, &["is no folder"]);
    here.run(&["report"]).fails(2, &["DIR"]);
    fs::create_dir(here.path("demo")).unwrap();
    here.write("demo/report.json", "{\"methods\": 3}");
    let ended = here.run(&["report", "demo"]).ok();
    assert!(ended.err.contains("not as a demo writes it"), "{}", ended.err);
}

/// A server that is killed when the test ends.
struct Server {
    child: Child,
    address: String,
}

impl Server {
    fn start(here: &Playground, dir: &str) -> Self {
        let mut command = here.bso();
        command.args(["watch", dir, "--port", "0"]).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        let (_, address) = line.trim().trim_end_matches('/').split_once("http://").unwrap();
        Self { child, address: address.to_owned() }
    }

    fn ask(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        stream.write_all(request.as_bytes()).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer
    }

    fn get(&self, path: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {}\r\n\r\n", self.address))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn a_watched_run_appears_grows_and_nothing_else_is_served() {
    let here = Playground::new();
    let server = Server::start(&here, "run");
    assert!(server.address.starts_with("127.0.0.1:"), "{}", server.address);
    let before = server.get("/");
    assert!(before.starts_with("HTTP/1.1 200") && before.contains("Nothing to show yet"), "{before}");
    assert!(before.contains("data-live=\"2000\"") && before.contains("connect-src 'self'"));
    let waiting = server.get("/state");
    assert!(waiting.contains("waiting for a run"), "{waiting}");

    fs::create_dir(here.path("run")).unwrap();
    let row = |step: u64| format!("{{\"step\":{step},\"epoch\":0.1,\"loss\":0.5}}\n");
    here.write("run/metrics.jsonl", &row(1));
    let one = server.get("/state");
    assert!(one != waiting && one.contains("last change"), "{one}");
    assert!(server.get("/").contains("id=\"curves\""));
    // A row in the middle of being written.
    here.write("run/metrics.jsonl", &(row(1) + &row(2) + "{\"step\":3,"));
    assert!(server.get("/").contains("<dt>Steps</dt><dd>2<"));

    for (request, status) in [
        (format!("GET /../../../etc/passwd HTTP/1.1\r\nHost: {}\r\n\r\n", server.address), "404"),
        (format!("GET /run/metrics.jsonl HTTP/1.1\r\nHost: {}\r\n\r\n", server.address), "404"),
        (format!("POST / HTTP/1.1\r\nHost: {}\r\n\r\n", server.address), "405"),
        ("GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n".to_owned(), "403"),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), "403"),
        ("\u{0}\u{1}nonsense\r\n\r\n".to_owned(), "400"),
    ] {
        let answer = server.ask(&request);
        assert!(answer.starts_with(&format!("HTTP/1.1 {status}")), "{request:?}: {answer:.60}");
        assert!(!answer.contains("root:"));
    }
    // Nothing was written beside the run's own file.
    assert_eq!(fs::read_dir(here.path("run")).unwrap().count(), 1);
}

#[test]
fn a_port_that_is_taken_is_an_error_with_a_remedy() {
    let here = Playground::new();
    let server = Server::start(&here, "run");
    let (_, port) = server.address.rsplit_once(':').unwrap();
    here.run(&["watch", "run", "--port", port]).fails(2, &["cannot listen on 127.0.0.1", "--port"]);
}

#[test]
fn without_a_terminal_the_view_is_a_line_a_row_until_the_run_ended() {
    let here = Playground::new();
    let config = here.config("run", "loss_type: dpo\nmax_steps: 4\nlogging_steps: 2\n");
    here.run(&["train", &config]).ok();
    let shown = here.run(&["watch", "run", "--terminal"]).ok().out;
    for part in ["run step 2  loss", "run step 4  loss", "Finished after 4 steps."] {
        assert!(shown.contains(part), "{part}:\n{shown}");
    }
    assert!(!shown.contains('\u{1b}'), "{shown}");
    assert_eq!(shown.matches("step 2 ").count(), 1);
}
