//! Tokens are those of transformers, where Python with transformers is at hand: for a tokenizer written here and saved,
//! and for the real ones of ../shared/data.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says why it is skipped and fails by panicking"
)]

use bso_data::{ChatTokenizer, Message, TemplateChoice};
use serde_json::Value;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

fn ask(dir: &Path, mode: &str, conversations: &[Vec<Message>]) -> Option<Value> {
    let python = std::env::var("BSO_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/transformers_tokens.py");
    let child = Command::new(&python)
        .arg(script)
        .arg(dir)
        .arg(mode)
        .env("HF_HUB_OFFLINE", "1")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let Ok(mut child) = child else {
        println!("skipped: {python} does not start; name a Python with transformers in BSO_PYTHON");
        return None;
    };
    let sent =
        child.stdin.take().unwrap().write_all(serde_json::to_string(conversations).unwrap().as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() && said.contains("ModuleNotFoundError") {
        println!("skipped: {python} has no transformers; name one that has in BSO_PYTHON");
        return None;
    }
    assert!(output.status.success(), "{sent:?} {said}");
    Some(serde_json::from_slice(&output.stdout).unwrap())
}

fn ids(value: &Value) -> Vec<u32> {
    value.as_array().unwrap().iter().map(|v| u32::try_from(v.as_u64().unwrap()).unwrap()).collect()
}

fn compare(dir: &Path, mode: &str, conversations: &[Vec<Message>]) {
    let Some(theirs) = ask(dir, mode, conversations) else { return };
    let tokenizer =
        ChatTokenizer::load(dir, &TemplateChoice::parse(if mode == "none" { "none" } else { "auto" }))
            .unwrap();
    assert_eq!(Some(u64::from(tokenizer.eos().1)), theirs["eos"].as_u64());
    for (messages, answer) in conversations.iter().zip(theirs["answers"].as_array().unwrap()) {
        let (last, prompt) = messages.split_last().unwrap();
        assert_eq!(tokenizer.encode_prompt(prompt).unwrap(), ids(&answer["prompt"]), "{mode} {messages:?}");
        assert_eq!(tokenizer.decode(&ids(&answer["prompt"])), answer["text"].as_str().unwrap());
        if mode == "template" {
            let ours = tokenizer.encode_response(prompt, &last.content).unwrap();
            let whole = ids(&answer["full"]);
            let length = ours.len();
            assert_eq!([ours.prompt, ours.response].concat(), whole[..length], "{messages:?}");
            // Behind the end of the turn stands at most what the template writes there.
            assert!(whole.len() - length <= 1, "{messages:?}");
        }
    }
    println!("{} ({mode}): {} conversations, equal tokens", dir.display(), conversations.len());
}

fn talk(turns: &[&str]) -> Vec<Message> {
    turns
        .iter()
        .enumerate()
        .map(|(i, text)| if i % 2 == 0 { Message::user(*text) } else { Message::assistant(*text) })
        .collect()
}

#[test]
fn a_tokenizer_of_words_opens_in_transformers_with_the_same_tokens() {
    let dir = tempfile::tempdir().unwrap();
    ChatTokenizer::word_level(&["open", "the", "vault", "please", "no."]).unwrap().save(dir.path()).unwrap();
    let conversations =
        [talk(&["open the vault please", "no. the vault"]), talk(&["the", "no.", "open", "the vault"])];
    compare(dir.path(), "template", &conversations);
}

#[test]
fn real_tokenizers_give_the_tokens_of_transformers() {
    let shared = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/data");
    let conversations = [
        talk(&["What is the height of the tower?", "About 300 m."]),
        talk(&["  Blanks \n\n kept? ", "Yes:\n\n  they are.\n"]),
        talk(&["Größe, 世界 🙂 e\u{301}", "naïve <|im_end|> inside", "and then?", "12,345.67 done"]),
    ];
    for (name, mode) in
        [("tokenizers/qwen2", "template"), ("tokenizers/minimind", "template"), ("stories260K", "none")]
    {
        let dir = shared.join(name);
        if dir.exists() {
            let conversations: Vec<_> = if mode == "none" {
                conversations.iter().map(|c| c[..2].to_vec()).collect()
            } else {
                conversations.to_vec()
            };
            compare(&dir, mode, &conversations);
        } else {
            println!("skipped: no ../shared/data/{name} beside the repository");
        }
    }
}
