//! `--key value`, `--key=value` and bare `--flag` words into pairs. Values may start with one hyphen (`-30,30`).

use super::error::ConfigError;
use super::key::Kind;
use super::table;

/// Splits the words after the configuration file into (key, value) pairs, without checking the keys.
///
/// # Errors
/// [`ConfigError::CommandLine`] for a word that is neither a key nor a value, and for a key without its value.
pub fn parse_overrides(words: &[String]) -> Result<Vec<(String, String)>, ConfigError> {
    let mut pairs = Vec::new();
    let mut words = words.iter().peekable();
    while let Some(word) = words.next() {
        let Some(flag) = word.strip_prefix("--").filter(|flag| !flag.is_empty()) else {
            return Err(ConfigError::CommandLine { problem: format!("`{word}` is not a setting") });
        };
        if let Some((key, value)) = flag.split_once('=') {
            pairs.push((key.to_owned(), value.to_owned()));
        } else if let Some(value) = words.next_if(|next| !next.starts_with("--")) {
            pairs.push((flag.to_owned(), value.clone()));
        } else if table::find(flag).is_some_and(|(key, _)| matches!(key.kind, Kind::Bool | Kind::FlagOrPath))
        {
            pairs.push((flag.to_owned(), "true".to_owned()));
        } else if table::find(flag).is_none() {
            // Reported as unknown, with a suggestion, where names are checked.
            pairs.push((flag.to_owned(), String::new()));
        } else {
            return Err(ConfigError::CommandLine { problem: format!("`--{flag}` has no value") });
        }
    }
    Ok(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(line: &str) -> Result<Vec<(String, String)>, String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        parse_overrides(&words).map_err(|e| e.to_string())
    }

    #[test]
    fn values_may_start_with_a_hyphen_and_flags_may_stand_alone() {
        let pairs = of("--log-ratio-clamp -30,30 --beta=0.2 --overwrite_output_dir --max_steps -1").unwrap();
        let expected = [
            ("log-ratio-clamp", "-30,30"),
            ("beta", "0.2"),
            ("overwrite_output_dir", "true"),
            ("max_steps", "-1"),
        ];
        assert_eq!(pairs, expected.map(|(k, v)| (k.to_owned(), v.to_owned())));
    }

    #[test]
    fn a_missing_value_and_a_stray_word_are_named() {
        assert!(of("--beta --seed 3").unwrap_err().contains("`--beta` has no value"));
        assert!(of("0.1").unwrap_err().contains("`0.1` is not a setting"));
        assert!(of("--").unwrap_err().contains("`--`"));
    }
}
