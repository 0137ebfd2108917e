//! Templates render as transformers renders them: against a committed fixture made by jinja2, and, where Python with
//! jinja2 and the shared templates are at hand, against jinja2 itself.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test says why it is skipped and fails by panicking"
)]

use bso_data::{ChatTemplate, Message};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn fixtures() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures")
}

fn conversations() -> Vec<Vec<Message>> {
    serde_json::from_slice(&std::fs::read(fixtures().join("conversations.json")).unwrap()).unwrap()
}

fn template(source: &str, name: &str) -> Result<ChatTemplate, String> {
    let tokens = [("bos_token", "<s>"), ("eos_token", "</s>"), ("unk_token", "<unk>")];
    let tokens: BTreeMap<String, String> = tokens.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    ChatTemplate::new(source, name, tokens).map_err(|e| e.to_string())
}

/// Every case whose text differs, or that fails on one side only.
fn differences(
    sources: &BTreeMap<String, String>,
    conversations: &[Vec<Message>],
    cases: &[Value],
) -> Vec<String> {
    let templates: BTreeMap<&str, _> =
        sources.iter().map(|(name, source)| (name.as_str(), template(source, name))).collect();
    let mut wrong = Vec::new();
    for case in cases {
        let name = case["template"].as_str().unwrap();
        let messages = &conversations[usize::try_from(case["conversation"].as_u64().unwrap()).unwrap()];
        let ours = match &templates[name] {
            Ok(template) => {
                template.render(messages, case["add_generation_prompt"] == true).map_err(|e| e.to_string())
            }
            Err(error) => Err(error.clone()),
        };
        let same = match (&ours, case.get("text")) {
            (Ok(ours), Some(theirs)) => theirs == ours,
            // What `raise_exception` says must come through.
            (Err(ours), None) => {
                let theirs = case["error"].as_str().unwrap();
                ours.contains(name) && (ours.contains(theirs) || !ours.contains("refuses"))
            }
            _ => false,
        };
        if !same {
            wrong.push(format!("{case}\n  ours: {ours:?}"));
        }
    }
    wrong
}

#[test]
fn the_projects_own_templates_render_as_jinja2_renders_them() {
    let cases: Vec<Value> =
        serde_json::from_slice(&std::fs::read(fixtures().join("templates.json")).unwrap()).unwrap();
    let mut sources = BTreeMap::new();
    for entry in std::fs::read_dir(fixtures().join("templates")).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        sources.insert(name, std::fs::read_to_string(&path).unwrap());
    }
    let conversations = conversations();
    assert_eq!(cases.len(), sources.len() * conversations.len() * 2, "run render_templates.py fixture");
    let wrong = differences(&sources, &conversations, &cases);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    println!("{} renderings equal", cases.len());
}

fn shared_templates() -> Option<BTreeMap<String, String>> {
    let root = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data/chat_templates"));
    let mut sources = BTreeMap::new();
    for folder in std::fs::read_dir(root).ok()? {
        for entry in std::fs::read_dir(folder.ok()?.path()).ok()? {
            let path = entry.ok()?.path();
            let text = std::fs::read_to_string(&path).ok()?;
            let name = path.strip_prefix(root).ok()?.display().to_string();
            if name.ends_with(".jinja") {
                sources.insert(name, text);
            } else if name.ends_with(".json") {
                let config: Value = serde_json::from_str(&text).ok()?;
                sources.insert(name, config["chat_template"].as_str()?.to_owned());
            }
        }
    }
    Some(sources)
}

/// What jinja2 makes of `sources`, or why it cannot be asked.
fn ask_python(
    sources: &BTreeMap<String, String>,
    conversations: &[Vec<Message>],
) -> Result<Vec<Value>, String> {
    let python = std::env::var("BSO_PYTHON").unwrap_or_else(|_| "python3".to_owned());
    let templates: Vec<Value> =
        sources.iter().map(|(name, source)| json!({"name": name, "source": source})).collect();
    let mut child = Command::new(&python)
        .arg(fixtures().join("render_templates.py"))
        .arg("render")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| format!("{python} does not start ({e})"))?;
    let request = json!({"templates": templates, "conversations": conversations}).to_string();
    let written = child.stdin.take().unwrap().write_all(request.as_bytes());
    let output = child.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if !output.status.success() {
        return Err(format!("{python}: {} {written:?}", said.lines().last().unwrap_or_default()));
    }
    serde_json::from_slice(&output.stdout).map_err(|e| e.to_string())
}

#[test]
fn shared_templates_render_as_jinja2_renders_them() {
    let Some(sources) = shared_templates() else {
        println!("skipped: no ../shared/data/chat_templates beside the repository");
        return;
    };
    let conversations = conversations();
    let cases = match ask_python(&sources, &conversations) {
        Ok(cases) => cases,
        Err(why) => {
            println!("skipped: no Python with jinja2 (name one in BSO_PYTHON): {why}");
            return;
        }
    };
    let wrong = differences(&sources, &conversations, &cases);
    assert!(wrong.is_empty(), "{} of {}:\n{}", wrong.len(), cases.len(), wrong.join("\n"));
    let raised = cases.iter().filter(|c| c.get("error").is_some()).count();
    println!("{} templates, {} renderings equal, of which {raised} are refusals", sources.len(), cases.len());
}
