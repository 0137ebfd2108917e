//! A configuration being imported: what is carried over, with remarks, and what is left behind, with reasons.

use super::Program;
use crate::config::key::{Category, Fallback, Key, Status};
use crate::config::table;
use crate::config::value::{self, Misfit};
use serde_json::Value;
use std::path::Path;

pub(super) struct Draft {
    program: Program,
    lines: Vec<(&'static Key, String, String)>,
    left: Vec<(String, String)>,
}

impl Draft {
    pub(super) fn new(program: Program) -> Self {
        Self { program, lines: Vec::new(), left: Vec::new() }
    }

    /// Sets our key `name`, with a remark; what is not supported here is left behind with our reason.
    pub(super) fn carry(&mut self, name: &'static str, value: Value, remark: &str) {
        let Some(key) = table::key(name) else { return };
        let read = match value::read(key, &value, Path::new("")) {
            Ok(read) => read.setting,
            Err(Misfit::NotYet(_, why) | Misfit::NotHere(why)) => return self.leave(name, &value, &why),
            Err(Misfit::Wrong(expected)) => {
                return self.leave(name, &value, &format!("here it is {expected}"));
            }
        };
        let text = value::to_yaml(key, &read);
        match key.status {
            Status::NotYet(why) if !is_default(key, &text) => return self.leave(name, &value, why),
            Status::NotYet(_) => return,
            Status::NoEffect(why) => return self.leave(name, &value, why),
            Status::Supported => {}
        }
        self.lines.retain(|(other, ..)| other.name != name);
        self.lines.push((key, text, remark.to_owned()));
    }

    /// Sets our key where the other program's default differs from ours and nothing was said.
    pub(super) fn default(&mut self, name: &'static str, value: Value) {
        if !self.has(name) {
            let remark = format!("{}'s default", self.program.name());
            self.carry(name, value, &remark);
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        self.lines.iter().any(|(key, ..)| key.name == name)
    }

    pub(super) fn leave(&mut self, name: &str, value: &Value, why: &str) {
        let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
        let short: String = text.chars().take(60).map(|c| if c.is_control() { ' ' } else { c }).collect();
        let dots = if text.chars().count() > 60 { "..." } else { "" };
        self.left.push((format!("{name}: {short}{dots}"), why.replace('\n', " ")));
    }

    /// The preference loss `theirs`, in the words of TRL. Label smoothing makes DPO cDPO.
    pub(super) fn loss(&mut self, theirs: &str, smoothing: Option<&Value>) {
        let smooth = smoothing.and_then(Value::as_f64).is_some_and(|x| x > 0.0);
        match theirs {
            "sigmoid" | "dpo" if smooth => self.carry("loss_type", "cdpo".into(), "DPO with label_smoothing"),
            "sigmoid" | "dpo" => self.carry("loss_type", "dpo".into(), ""),
            "ipo" => self.carry("loss_type", "ipo_mean".into(), "its ipo averages log-probs over tokens"),
            other => self.carry("loss_type", other.into(), ""),
        }
    }

    pub(super) fn finish(mut self, path: &Path) -> String {
        let source: String =
            path.display().to_string().chars().map(|c| if c.is_control() { ' ' } else { c }).collect();
        let mut text = format!("# From {source}, a configuration of {}.\n", self.program.name());
        for required in ["model_name_or_path", "dataset_name"] {
            if !self.has(required) {
                self.left
                    .push((required.to_owned(), "it is not in the file and must be set here".to_owned()));
            }
        }
        for category in Category::ALL {
            let keys = table::keys().filter(|key| key.category == *category);
            let lines: Vec<_> =
                keys.filter_map(|key| self.lines.iter().find(|(k, ..)| k.name == key.name)).collect();
            if !lines.is_empty() {
                text.push_str(&format!("\n# {}\n", category.title()));
            }
            for (key, value, remark) in lines {
                let remark = if remark.is_empty() { String::new() } else { format!("  # {remark}") };
                text.push_str(&format!("{}: {value}{remark}\n", key.name));
            }
        }
        if !self.left.is_empty() {
            text.push_str("\n# Not carried over:\n");
        }
        for (what, why) in &self.left {
            text.push_str(&format!("# - {what}\n#     {why}\n"));
        }
        text
    }
}

fn is_default(key: &Key, text: &str) -> bool {
    match key.fallback {
        Fallback::Value(default) => default == text,
        Fallback::Absent(_) => key.none.contains(&text),
        Fallback::By { .. } | Fallback::Required => false,
    }
}
