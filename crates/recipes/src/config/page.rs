//! docs/configuration.md, made from the table.

use super::key::{Applies, Category, Fallback, Key, Kind, Status};
use super::preset::PRESETS;
use super::table;
use super::{ClosedSet, LossType};

const INTRODUCTION: &str = "\
# Configuration

*Made from the key table in `crates/recipes/src/config/table`; a test keeps the two equal. To make it anew:
`BSO_WRITE_DOCS=1 cargo test -p bso-recipes config`.*

A configuration is a YAML file of `key: value` lines. `bso config init METHOD` writes a ready, commented one for every
method, `bso config show FILE` prints what a file resolves to, and `bso train FILE --key value ...` trains with it.

- **Who wins:** the command line over the file, the file over its `preset`, the preset over the defaults below.
- **Command line:** `--key value` or `--key=value`, with `_` or `-` in the key; values may start with a hyphen
  (`--log_ratio_clamp -30,30`); lists are comma-separated; `--flag` alone means true.
- **Paths** in a file start at the file's folder, those on the command line at the working directory.
- **Names on the hub**, `org/name` or `org/name@revision` (a branch, tag or commit), stand for models and data sets wherever no such
  path exists; `./org/name` is always a path. They are fetched into the cache of `huggingface_hub`, by its variables: `HF_ENDPOINT`,
  `HF_HOME`, `HF_HUB_CACHE`, `HF_TOKEN`, `HF_HUB_OFFLINE`.
- **Several data sets:** `dataset_name: [a.jsonl, {name: org/pairs, weight: 2, split: train}]`; on the command line a list is written in
  the same way, in quotes.
- **Variables:** `${NAME}`, `${NAME:-default}` and `${NAME:?what to set}` are expanded in a file's values; an empty
  variable counts as not set; `$${` is a literal `${`. A variable whose key is given on the command line is not needed.
- **Unknown keys** are an error with a suggestion. Keys and values that are known and not there yet are refused by name.
- **Keys that the chosen loss does not read** are told at the start of a run, and so are aliases.
- **The generator** is a name with `generator_params`, or with `generator_lambda`, `generator_scale`, `generator_mu`,
  or a mapping: `generator: {name: sba, lambda: 0.2, scale: 4}`, `generator: {name: kernel, kernel: \"2*cosh(0.7*u)\"}`.
  Another generator on the command line takes its own default parameters.
- A run writes its resolved configuration to `config.yaml` in its folder; training with that file repeats the run.
";

/// The whole page.
pub fn page() -> String {
    let mut text = INTRODUCTION.to_owned();
    for category in Category::ALL {
        text.push_str(&format!("\n## {}\n\n", category.title()));
        text.push_str("| key | value | default | source of the default | meaning |\n|---|---|---|---|---|\n");
        for key in table::keys().filter(|key| key.category == *category) {
            text.push_str(&row(key));
        }
    }
    text.push_str(&presets());
    text.push_str(&other_names());
    text
}

fn row(key: &Key) -> String {
    let mut value = code_words(key);
    if !key.unit.is_empty() {
        value.push_str(&format!(" ({})", key.unit));
    }
    let mut meaning = key.doc.to_owned();
    if let Applies::To(losses) = key.applies {
        meaning.push_str(&format!(" *Read by {}.*", readers(losses)));
    }
    match key.status {
        Status::Supported => {}
        Status::NotYet(why) => meaning.push_str(&format!(" **Not supported yet:** {why}.")),
        Status::NoEffect(why) => meaning.push_str(&format!(" **No effect:** {why}.")),
    }
    let cells = [&format!("`{}`", key.name), &value, &default(key), key.source, &meaning];
    format!("| {} |\n", cells.map(escaped).join(" | "))
}

/// The type, with each alternative as code and the planned ones apart.
fn code_words(key: &Key) -> String {
    let mut text = match key.kind {
        Kind::Choice(choices) => {
            let names = |planned: bool| -> Vec<String> {
                let of = choices.iter().filter(|c| c.not_yet.is_some() == planned);
                of.map(|c| format!("`{}`", c.name)).collect()
            };
            let planned = names(true);
            let later =
                if planned.is_empty() { String::new() } else { format!("; not yet: {}", planned.join(", ")) };
            names(false).join(", ") + &later
        }
        _ => key.kind.text(),
    };
    if let Some(none) = key.none.first() {
        text.push_str(&format!(", or `{none}`"));
    }
    text
}

fn default(key: &Key) -> String {
    let code = |text: &str| if text.is_empty() { "none".to_owned() } else { format!("`{text}`") };
    match key.fallback {
        Fallback::Value(text) => code(text),
        Fallback::Absent(meaning) => {
            format!("{}: {meaning}", code(key.none.first().copied().unwrap_or("none")))
        }
        Fallback::Required => "required".to_owned(),
        Fallback::By { cases: [], otherwise, .. } => otherwise.map_or("required".to_owned(), code),
        Fallback::By { key, cases, otherwise } => {
            let cases: Vec<_> =
                cases.iter().map(|(case, text)| format!("{} for {key} {case}", code(text))).collect();
            format!("{}, else {}", cases.join(", "), otherwise.map_or("required".to_owned(), code))
        }
    }
}

fn readers(losses: &[LossType]) -> String {
    let names = |losses: &[LossType]| losses.iter().map(|l| l.name()).collect::<Vec<_>>().join(", ");
    let others: Vec<_> = LossType::ALL.iter().copied().filter(|l| !losses.contains(l)).collect();
    if others.len() < losses.len() { format!("all losses but {}", names(&others)) } else { names(losses) }
}

fn presets() -> String {
    let mut text = String::from(
        "\n## Presets and methods\n\nAs `preset: NAME` in a file, or written out by `bso config init NAME`.\n\n\
         | name | what | values | source |\n|---|---|---|---|\n",
    );
    for preset in PRESETS {
        let values: Vec<_> = preset.values().iter().map(|(key, value)| format!("`{key}: {value}`")).collect();
        let cells = [&format!("`{}`", preset.name), preset.doc, &values.join(", "), preset.source];
        text.push_str(&format!("| {} |\n", cells.map(escaped).join(" | ")));
    }
    text
}

fn other_names() -> String {
    let mut text = String::from(
        "\n## Other names that are understood\n\nTaking one is told at the start of a run.\n\n| written | read as |\n|---|---|\n",
    );
    for key in table::keys() {
        for alias in key.aliases {
            text.push_str(&format!("| `{alias}` | `{}` |\n", key.name));
        }
        let Kind::Choice(choices) = key.kind else { continue };
        for choice in choices.iter().filter(|c| c.not_yet.is_none()) {
            for also in choice.also {
                text.push_str(&format!("| `{}: {also}` | `{}: {}` |\n", key.name, key.name, choice.name));
            }
        }
    }
    text
}

fn escaped(cell: &str) -> String {
    cell.replace('|', "\\|")
}
