//! The methods that the demo compares: each is a config that `bso train` would take as well.

use crate::RecipeError;
use serde::Deserialize;
use std::path::Path;

/// One method of the comparison.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    /// Folder and table name.
    pub name: String,
    /// What it is, in a sentence.
    #[serde(default)]
    pub about: String,
    /// The lines of its config that differ from the others', `key: value`.
    pub settings: String,
}

/// Shared by all methods of the comparison, so that only the objective differs.
pub const BETA: f64 = 0.5;
/// C of the BSO methods and of the optimum that distances are measured to, in reward units.
pub const SAFETY_PENALTY: f64 = 10.0;

/// Names of folders that the demo itself writes.
const TAKEN: [&str; 6] = ["base", "data", "sft", "reference", "optimum", "report"];

impl Method {
    /// The six that the demo shows.
    ///
    /// # Errors
    /// Never: the list is part of the program, and a test reads it.
    pub fn quick() -> Result<Vec<Self>, RecipeError> {
        Self::parse(include_str!("quick.yaml"), "the demo's own list")
    }

    /// Every comparator.
    ///
    /// # Errors
    /// Never, as for [`Method::quick`].
    pub fn full() -> Result<Vec<Self>, RecipeError> {
        let more = Self::parse(include_str!("full.yaml"), "the demo's own list")?;
        Ok(Self::quick()?.into_iter().chain(more).collect())
    }

    /// Those of a YAML list of `name`, `about` (may be left out) and `settings`.
    ///
    /// # Errors
    /// A file that cannot be read or is no such list; names that are no folder names, or double.
    pub fn from_file(path: &Path) -> Result<Vec<Self>, RecipeError> {
        let text = std::fs::read_to_string(path)
            .map_err(|e| RecipeError::input(format!("{}: cannot read it: {e}", path.display())))?;
        Self::parse(&text, &path.display().to_string())
    }

    fn parse(text: &str, name: &str) -> Result<Vec<Self>, RecipeError> {
        let refuse = |problem: String| {
            RecipeError::input(format!(
                "{name}: {problem}; a list of methods is YAML with `- name: NAME`, `about: TEXT` and `settings: |` with lines \
                 `key: value` below it"
            ))
        };
        let methods: Vec<Self> = serde_saphyr::from_str(text).map_err(|e| refuse(e.to_string()))?;
        for (index, method) in methods.iter().enumerate() {
            let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
            let is_name = method.name.starts_with(|c: char| c.is_ascii_alphanumeric())
                && method.name.chars().all(fits)
                && !TAKEN.contains(&method.name.as_str());
            if !is_name {
                return Err(refuse(format!(
                    "`{}` cannot be a method's name (letters, digits, - _ . and none of {})",
                    method.name,
                    TAKEN.join(", ")
                )));
            }
            if methods[..index].iter().any(|other| other.name == method.name) {
                return Err(refuse(format!("`{}` stands there twice", method.name)));
            }
        }
        if methods.is_empty() {
            return Err(refuse("it holds no method".to_owned()));
        }
        Ok(methods)
    }
}

/// The config of supervised training.
pub fn sft_config(sizes: &super::Sizes, seed: u64) -> String {
    format!(
        "# Supervised training of the small decoder on SafeWorld's text.\n\
         stage: sft\nmodel_name_or_path: base\ndevice: cpu\ndtype: f32\ndataset_name: data/sft.jsonl\nmax_length: 128\n\
         eval_split: 0.0\nper_device_train_batch_size: 16\nnum_train_epochs: {}\nlearning_rate: 3.0e-3\n\
         lr_scheduler_type: cosine\nwarmup_ratio: 0.05\nweight_decay: 0.01\nmax_grad_norm: 1.0\nlogging_steps: 5\n\
         save_strategy: \"no\"\nreport_to: none\nseed: {seed}\noutput_dir: sft\noverwrite_output_dir: true\n",
        sizes.sft_epochs
    )
}

/// The config of one method: what all share, where its own settings say nothing else.
pub fn preference_config(method: &Method, sizes: &super::Sizes, seed: u64) -> String {
    let shared = format!(
        "stage: preference\nmodel_name_or_path: sft\ndevice: cpu\ndtype: f32\ndataset_name: data/pairs.jsonl\nmax_length: 128\n\
         eval_split: 0.05\neval_strategy: epoch\nbeta: {BETA}\nper_device_train_batch_size: 32\nnum_train_epochs: {}\n\
         learning_rate: {:e}\nlr_scheduler_type: cosine\nwarmup_ratio: 0.05\nmax_grad_norm: 1.0\nlogging_steps: 5\n\
         save_strategy: \"no\"\nreport_to: none\nseed: {seed}\noutput_dir: {}\noverwrite_output_dir: true\n",
        sizes.preference_epochs, sizes.learning_rate, method.name
    );
    let key = |line: &str| line.split(':').next().map(str::trim).unwrap_or_default().to_owned();
    let own: Vec<String> = method.settings.lines().map(key).collect();
    let shared: String =
        shared.lines().filter(|line| !own.contains(&key(line))).map(|line| format!("{line}\n")).collect();
    let about = method.about.replace('\n', " ");
    format!("# {about}\n{shared}{}\n", method.settings.trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_settings_win_and_every_config_of_the_suite_resolves() {
        for method in Method::full().unwrap() {
            let text = preference_config(&method, &super::super::Sizes::default(), 3);
            let resolved = crate::config::load_text(&text, &method.name, &[]).unwrap();
            assert_eq!(resolved.config.model.seed, 3);
            if method.name == "kto" {
                assert!(text.contains("judged.jsonl") && !text.contains("pairs.jsonl"), "{text}");
            }
        }
    }

    #[test]
    fn lists_that_are_none_are_refused_with_what_is_wrong() {
        for (text, part) in [
            ("- name: ../x\n  settings: \"\"", "cannot be a method's name"),
            ("- name: sft\n  settings: \"\"", "cannot be a method's name"),
            ("- name: a\n  settings: \"\"\n- name: a\n  settings: \"\"", "twice"),
            ("[]", "no method"),
            ("- name: a\n  loss: dpo", "settings"),
            ("dpo", "list"),
        ] {
            let error = Method::parse(text, "mine.yaml").unwrap_err().to_string();
            assert!(error.contains(part) && error.contains("mine.yaml"), "{text}: {error}");
        }
    }
}
