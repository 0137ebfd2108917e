//! What README.md and docs/quickstart.md tell people to type must exist: every command and every flag.

use super::Arguments;
use bso_recipes::config;
use clap::{Command, CommandFactory};
use std::path::Path;

/// Commands after whose file every key of the configuration is a flag.
const TAKE_KEYS: [&str; 6] = ["train", "plan", "ref", "show", "eval", "sweep"];

/// What stands in shell blocks and in code spans, one command each, without `bso`.
fn commands(page: &str) -> Vec<String> {
    let mut found = Vec::new();
    let (mut block, mut rest) = (None, String::new());
    for line in page.lines() {
        if let Some(language) = line.strip_prefix("```") {
            block = if block.is_none() { Some(language == "sh") } else { None };
        } else if block == Some(true) {
            found.extend(
                line.split(['|', ';', '>', '#']).flat_map(|part| part.split("&&")).map(str::to_owned),
            );
        } else if block.is_none() {
            rest.push_str(line);
            rest.push('\n');
        }
    }
    found.extend(rest.split('`').skip(1).step_by(2).map(str::to_owned));
    let own = found.iter().filter_map(|command| {
        let command = command.trim();
        let command = command
            .strip_prefix("cargo run --release -- ")
            .map(|rest| format!("bso {rest}"))
            .unwrap_or(command.to_owned());
        // Variables may stand before the program.
        let words: Vec<&str> = command.split_whitespace().skip_while(|word| word.contains('=')).collect();
        words.split_first().filter(|(program, _)| **program == "bso").map(|(_, words)| words.join(" "))
    });
    own.collect()
}

/// What of `command` does not exist.
fn wrong(command: &str) -> Option<String> {
    let root = Arguments::command();
    let mut at: &Command = &root;
    for word in command.split_whitespace().map(|word| word.trim_matches(['[', ']', ','])) {
        if let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty()) {
            let flag = flag.split('=').next().unwrap_or(flag);
            let named = |a: &clap::Arg| {
                a.get_long() == Some(flag) || a.get_all_aliases().is_some_and(|all| all.contains(&flag))
            };
            let is_key = TAKE_KEYS.contains(&at.get_name()) && (flag == "key" || config::key(flag).is_some());
            let known = at.get_arguments().chain(root.get_arguments()).any(named)
                || ["help", "version"].contains(&flag);
            if !known && !is_key {
                return Some(format!("bso {command}: there is no --{flag}"));
            }
        } else if at.has_subcommands() && !word.starts_with('-') {
            match at.find_subcommand(word) {
                Some(below) => at = below,
                None => return Some(format!("bso {command}: there is no {word}")),
            }
        }
    }
    None
}

#[test]
fn what_the_pages_tell_to_type_exists() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    for (page, least) in [("README.md", 20), ("docs/quickstart.md", 10)] {
        let text = std::fs::read_to_string(root.join(page)).unwrap();
        let commands = commands(&text);
        assert!(commands.len() >= least, "{page}: {commands:?}");
        let wrong: Vec<String> = commands.iter().filter_map(|command| wrong(command)).collect();
        assert_eq!(wrong, Vec::<String>::new(), "{page}");
    }
}

#[test]
fn what_does_not_exist_is_seen() {
    let page = "Text `bso trian x`.\n```sh\nA=1 bso train c.yaml --bta 3 && bso demo --fast\nbso -v plan c.yaml --json --beta 1\n```\n";
    let seen: Vec<String> = commands(page).iter().filter_map(|command| wrong(command)).collect();
    let expected = [
        "bso train c.yaml --bta 3: there is no --bta",
        "bso demo --fast: there is no --fast",
        "bso trian x: there is no trian",
    ];
    assert_eq!(seen, expected);
}
