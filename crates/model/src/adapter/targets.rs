//! Which linear layers get an adapter: PEFT's rules for matching module names.

use crate::error::ModelError;
use fancy_regex::Regex;

/// The modules that are adapted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Targets {
    /// Every linear layer but the head.
    AllLinear,
    /// Modules with one of these names, or whose name ends in a dot and one of them (`q_proj`, `3.mlp.up_proj`).
    Names(Vec<String>),
    /// Modules whose whole name the regular expression matches.
    Pattern(String),
}

/// Characters that stand in patterns and in no module's name.
const PATTERN_CHARACTERS: [char; 12] = ['*', '+', '?', '(', ')', '[', ']', '{', '|', '^', '$', '\\'];
const ALL_LINEAR: &str = "all-linear";
/// The names of scalar heads.
const SCORES: [&str; 2] = ["score", "score_head"];

/// The names that families give the output head's module.
pub(crate) const HEAD_MODULES: [&str; 2] = ["lm_head", "embed_out"];

impl Targets {
    /// What a list of words means: `all-linear`, one pattern, or names.
    ///
    /// # Errors
    /// No word at all; a pattern among names; a pattern that is not a regular expression.
    pub fn from_words(words: &[String]) -> Result<Self, ModelError> {
        let is_pattern = |word: &String| word.contains(PATTERN_CHARACTERS);
        match words {
            [] => Err(ModelError::argument("no module is targeted", "name some, or write all-linear")),
            [word] if word == ALL_LINEAR => Ok(Self::AllLinear),
            [word] if is_pattern(word) => {
                compile(word)?;
                Ok(Self::Pattern(word.clone()))
            }
            words => match words.iter().find(|word| is_pattern(word) || *word == ALL_LINEAR) {
                None => Ok(Self::Names(words.to_vec())),
                Some(word) => Err(ModelError::argument(
                    format!("{word:?} stands among names of modules"),
                    "give a pattern or all-linear alone: a pattern can hold alternatives, as .*(q|v)_proj",
                )),
            },
        }
    }

    /// As [`Targets::from_words`] takes it.
    pub fn words(&self) -> Vec<String> {
        match self {
            Self::AllLinear => vec![ALL_LINEAR.to_owned()],
            Self::Names(names) => names.clone(),
            Self::Pattern(pattern) => vec![pattern.clone()],
        }
    }

    /// A test of module names. `all-linear` leaves out heads.
    pub(crate) fn matcher(&self) -> Result<impl Fn(&str) -> bool, ModelError> {
        let pattern = match self {
            Self::Pattern(pattern) => Some(compile(pattern)?),
            _ => None,
        };
        Ok(move |module: &str| match self {
            Self::AllLinear => !HEAD_MODULES.contains(&module) && !SCORES.contains(&module),
            Self::Names(names) => names.iter().any(|name| is_name_of(name, module)),
            // A pattern that takes too long to decide matches nothing.
            Self::Pattern(_) => pattern.as_ref().is_some_and(|p| p.is_match(module).unwrap_or(false)),
        })
    }
}

/// Whether `name` is the module's name, or its end after a dot.
pub(crate) fn is_name_of(name: &str, module: &str) -> bool {
    module.strip_suffix(name).is_some_and(|before| before.is_empty() || before.ends_with('.'))
}

fn compile(pattern: &str) -> Result<Regex, ModelError> {
    Regex::new(&format!("^(?:{pattern})$")).map_err(|error| {
        ModelError::argument(
            format!("{pattern:?} is not a regular expression ({error})"),
            "correct it, or name the modules",
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn matches(words: &[&str], module: &str) -> bool {
        let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
        Targets::from_words(&words).unwrap().matcher().unwrap()(module)
    }

    #[test]
    fn names_match_whole_or_after_a_dot_and_patterns_match_the_whole_name() {
        let query = "model.layers.3.self_attn.q_proj";
        for words in
            [&["q_proj"][..], &["v_proj", "self_attn.q_proj"], &[query], &[".*[qv]_proj"], &["all-linear"]]
        {
            assert!(matches(words, query), "{words:?}");
        }
        for words in [&["proj"][..], &["_proj"], &["k_proj"], &["q_proj|x"], &["model.*attn"], &["layers"]] {
            assert!(!matches(words, query), "{words:?}");
        }
        assert!(["lm_head", "embed_out", "score"].iter().all(|head| !matches(&["all-linear"], head)));
        assert!(matches(&["lm_head"], "lm_head"));
        assert!(
            matches(&[r"model\.layers\.(?!3\.).*"], "model.layers.4.mlp.up_proj"),
            "as Python has look-around"
        );
    }

    #[test]
    fn what_cannot_be_meant_is_refused() {
        for words in [&[][..], &["q_proj", ".*"], &["(q_proj"], &["q_proj", "all-linear"]] {
            let words: Vec<String> = words.iter().map(|w| (*w).to_owned()).collect();
            assert!(Targets::from_words(&words).is_err(), "{words:?}");
        }
    }
}
