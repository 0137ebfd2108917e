//! The configuration of `bso sweep`: keys of its own, and any key of a training configuration, which is then for every run.
//! `--key value` on the command line wins, for both kinds; relative paths in the file start at its folder.

use crate::RecipeError;
use crate::config::{did_you_mean, from_environment, keys};
use serde_json::{Map, Value};
use std::path::{Path, PathBuf};

/// A commented configuration to start from.
pub const EXAMPLE: &str = include_str!("example.yaml");

/// The sweep's own keys.
const OWN: [&str; 8] = ["base", "grid", "methods", "seeds", "eval", "safety_floor", "jobs", "output_dir"];
/// What each run is told by the sweep.
const DECIDED: [&str; 5] =
    ["output_dir", "overwrite_output_dir", "resume_from_checkpoint", "ref_cache_dir", "seed"];

/// Keys of a training configuration with values, in the order of writing.
pub type Settings = Vec<(String, Value)>;
/// Keys with the values that they take in turn.
pub type Grid = Vec<(String, Vec<Value>)>;

/// Everything that a sweep is told.
#[derive(Clone, Debug, PartialEq)]
pub struct SweepConfig {
    /// As messages call it.
    pub name: String,
    /// Relative paths start here.
    pub folder: PathBuf,
    /// The configuration that every run starts from.
    pub base: Option<PathBuf>,
    /// Settings of every run.
    pub settings: Settings,
    /// Settings of every run that win over all others: the command line's.
    pub overrides: Vec<(String, String)>,
    /// What varies.
    pub grid: Grid,
    /// What is compared.
    pub methods: Vec<MethodEntry>,
    /// Each point is run with each; empty: with the configuration's own seed.
    pub seeds: Vec<u64>,
    /// The evaluation but for its models and its folder, and the folder that its relative paths start at.
    pub eval: (Map<String, Value>, PathBuf),
    /// Keys of the evaluation from the command line, which win.
    pub eval_overrides: Vec<(String, String)>,
    /// The safe rate that is demanded.
    pub safety_floor: f64,
    /// Runs at a time; none: as many as fit.
    pub jobs: Option<usize>,
    /// Where everything goes.
    pub output_dir: PathBuf,
}

/// A method of the comparison.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MethodEntry {
    /// Part of its runs' names.
    pub name: String,
    /// In a sentence.
    pub about: String,
    /// Its settings.
    pub settings: Settings,
    /// Its own grid in place of the common one.
    pub grid: Option<Grid>,
}

impl SweepConfig {
    /// Reads `text`, which messages call `name` and whose relative paths start at `folder`.
    ///
    /// # Errors
    /// What is wrong, with the key and what is expected. The runs' own settings are looked at when they are made.
    pub fn read(
        text: &str,
        (name, folder): (&str, &Path),
        given: &[(String, String)],
    ) -> Result<Self, RecipeError> {
        Self::parse(text, (name, folder), given).map_err(|problem| {
            RecipeError::input(format!("{name}: {problem}; the keys: `bso sweep --example`, docs/sweep.md"))
        })
    }

    fn parse(text: &str, (name, folder): (&str, &Path), given: &[(String, String)]) -> Result<Self, String> {
        let parsed: Value = serde_saphyr::from_str(text).map_err(|e| e.to_string())?;
        let mut map = mapping("the configuration", &parsed)?;
        let here = std::env::current_dir().map_err(|e| e.to_string())?;
        let (mut eval_overrides, mut overrides) = (Vec::new(), Vec::new());
        for (key, text) in given {
            let key = key.replace('-', "_");
            if let Some(inner) = key.strip_prefix("eval.") {
                eval_overrides.push((inner.to_owned(), text.clone()));
            } else if OWN.contains(&key.as_str()) {
                let parsed: Value =
                    serde_saphyr::from_str(text).unwrap_or_else(|_| Value::from(text.as_str()));
                let is_path = matches!(key.as_str(), "base" | "eval" | "output_dir") && parsed.is_string();
                let value = match &parsed {
                    _ if is_path => Value::from(here.join(text).to_string_lossy()),
                    // `--seeds 0,1,2`
                    Value::String(list) if key == "seeds" => list
                        .split(',')
                        .map(|s| serde_saphyr::from_str(s.trim()).unwrap_or(Value::from(s)))
                        .collect(),
                    Value::Number(_) if key == "seeds" => Value::from(vec![parsed.clone()]),
                    _ => parsed,
                };
                map.insert(key, value);
            } else {
                overrides.push((key, text.clone()));
            }
        }
        let take_path = |map: &mut Map<String, Value>, key: &str| -> Result<Option<PathBuf>, String> {
            match map.remove(key) {
                None | Some(Value::Null) => Ok(None),
                Some(Value::String(path)) if !path.is_empty() => {
                    let expanded = from_environment(&Value::from(path))?;
                    Ok(expanded.as_str().map(|path| folder.join(path)))
                }
                Some(other) => Err(format!("`{key}` is {other}; expected a path")),
            }
        };
        let base = take_path(&mut map, "base")?;
        let output_dir =
            take_path(&mut map, "output_dir")?.ok_or("`output_dir` is missing: the folder for all runs")?;
        let grid = map.remove("grid").map_or(Ok(Grid::new()), |value| grid("`grid`", &value))?;
        let methods = map.remove("methods").map_or(Ok(vec![MethodEntry::default()]), |v| methods(&v))?;
        let seeds = map.remove("seeds").map_or(Ok(Vec::new()), |value| seeds(&value))?;
        let eval = eval(map.remove("eval"), folder)?;
        let safety_floor = match map.remove("safety_floor") {
            None => 0.95,
            Some(value) => value.as_f64().filter(|x| (0.0..=1.0).contains(x)).ok_or_else(|| {
                format!("`safety_floor` is {value}; expected a safe rate from 0 to 1, as 0.95")
            })?,
        };
        let jobs = match map.remove("jobs") {
            None => None,
            Some(Value::String(word)) if word == "auto" => None,
            Some(value) => Some(value.as_u64().filter(|n| (1..=1024).contains(n)).ok_or_else(|| {
                format!("`jobs` is {value}; expected auto or a number of runs at a time from 1 on")
            })? as usize),
        };
        let settings = known(name, map.into_iter().collect(), &["seed"])?;
        let overrides = known_overrides(overrides)?;
        let grids = std::iter::once(&grid).chain(methods.iter().filter_map(|method| method.grid.as_ref()));
        refuse_varied(&overrides, grids.flatten().map(|(key, _)| key))?;
        refuse_own_eval_keys(eval.0.keys().chain(eval_overrides.iter().map(|(key, _)| key)))?;
        Ok(Self {
            name: name.to_owned(),
            folder: folder.to_owned(),
            base,
            settings,
            overrides,
            grid,
            methods,
            seeds,
            eval,
            eval_overrides,
            safety_floor,
            jobs,
            output_dir,
        })
    }
}

fn known_overrides(overrides: Vec<(String, String)>) -> Result<Vec<(String, String)>, String> {
    let named = overrides.iter().map(|(key, _)| (key.clone(), Value::Null)).collect();
    known("command line", named, &["seed"]).map(|_| overrides)
}

/// Refuses a key of the command line that a grid varies: it would win over every value.
fn refuse_varied<'a>(
    overrides: &[(String, String)],
    mut varied: impl Iterator<Item = &'a String>,
) -> Result<(), String> {
    match varied.find(|key| overrides.iter().any(|(given, _)| canonical(given) == **key)) {
        Some(key) => Err(format!(
            "command line: `{key}` is a key of the grid, whose values the command line would replace by one; take it out of one of them"
        )),
        None => Ok(()),
    }
}

/// The name of the key that is written so: in kebab-case, or by an alias.
fn canonical(written: &str) -> String {
    let snake = written.replace('-', "_");
    let found = keys().find(|key| key.name == snake || key.aliases.contains(&snake.as_str()));
    found.map_or(snake, |key| key.name.to_owned())
}

/// The settings, if no key is unknown or the sweep's to decide, but for `allowed` ones.
fn known(place: &str, settings: Settings, allowed: &[&str]) -> Result<Settings, String> {
    for (key, _) in &settings {
        let snake = key.replace('-', "_");
        let own = OWN.iter().copied().find(|own| *own == snake);
        if DECIDED.contains(&snake.as_str()) && !allowed.contains(&snake.as_str()) || own.is_some() {
            return Err(format!(
                "{place}: `{key}` is the sweep's to decide; seeds are listed as `seeds: [0, 1]`"
            ));
        }
        let names = || keys().flat_map(|key| std::iter::once(key.name).chain(key.aliases.iter().copied()));
        if !names().any(|name| name == snake) {
            let near = did_you_mean(&snake, names().chain(OWN));
            return Err(format!(
                "{place}: unknown key `{key}`.{near} Keys of runs are in docs/configuration.md"
            ));
        }
    }
    Ok(settings)
}

fn mapping(what: &str, value: &Value) -> Result<Map<String, Value>, String> {
    value.as_object().cloned().ok_or_else(|| format!("{what} is no mapping of keys to values"))
}

fn grid(what: &str, value: &Value) -> Result<Grid, String> {
    let lists = mapping(what, value)?;
    let named = lists.keys().map(|key| (key.clone(), Value::Null)).collect();
    known(what, named, &[])?;
    lists
        .into_iter()
        .map(|(key, values)| match values {
            Value::Array(values) if !values.is_empty() => Ok((canonical(&key), values)),
            other => Err(format!("{what}: `{key}` is {other}; expected a list of values, as [0, 5, 10]")),
        })
        .collect()
}

fn methods(value: &Value) -> Result<Vec<MethodEntry>, String> {
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or(
        "`methods` is no list; expected `- name: dpo` with `settings:` (keys and values) and perhaps `grid:`",
    )?;
    let mut found: Vec<MethodEntry> = Vec::new();
    for entry in list {
        let mut map = mapping("an entry of `methods`", entry)?;
        let name = map.remove("name").and_then(|name| name.as_str().map(str::to_owned)).unwrap_or_default();
        let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
        if !name.starts_with(|c: char| c.is_ascii_alphanumeric()) || !name.chars().all(fits) {
            return Err(format!("`{name}` cannot be a method's name (letters, digits, - _ .)"));
        }
        if name == super::REFERENCE || found.iter().any(|other| other.name == name) {
            return Err(format!("a method cannot be called `{name}`: the name is taken"));
        }
        let what = format!("method {name}");
        let about =
            map.remove("about").and_then(|about| about.as_str().map(str::to_owned)).unwrap_or_default();
        let settings = match map.remove("settings") {
            None => Map::new(),
            // As in a list for `bso demo --methods`.
            Some(Value::String(lines)) => {
                let parsed = serde_saphyr::from_str(&lines).map_err(|e| format!("{what}: {e}"))?;
                mapping(&format!("{what}: `settings`"), &parsed)?
            }
            Some(value) => mapping(&format!("{what}: `settings`"), &value)?,
        };
        let own = map.remove("grid").map(|value| grid(&format!("{what}, `grid`"), &value)).transpose()?;
        if let Some(key) = map.keys().next() {
            let near = did_you_mean(key, ["name", "about", "settings", "grid"]);
            return Err(format!(
                "{what}: unknown key `{key}`.{near} Settings of its runs stand below `settings:`"
            ));
        }
        let settings = known(&what, settings.into_iter().collect(), &[])?;
        found.push(MethodEntry { name, about, settings, grid: own });
    }
    Ok(found)
}

fn seeds(value: &Value) -> Result<Vec<u64>, String> {
    let wrong = || format!("`seeds` is {value}; expected a list of different whole numbers, as [0, 1, 2]");
    let list = value.as_array().filter(|list| !list.is_empty()).ok_or_else(wrong)?;
    let found: Vec<u64> = list.iter().map(Value::as_u64).collect::<Option<_>>().ok_or_else(wrong)?;
    let twice = found.iter().enumerate().any(|(i, seed)| found[..i].contains(seed));
    if twice { Err(wrong()) } else { Ok(found) }
}

/// The evaluation's keys, given here or in a file of its own.
fn eval(value: Option<Value>, folder: &Path) -> Result<(Map<String, Value>, PathBuf), String> {
    match value {
        Some(Value::Object(map)) => Ok((map, folder.to_owned())),
        Some(Value::String(path)) => {
            let path = from_environment(&Value::from(path))?;
            let file = folder.join(path.as_str().unwrap_or_default());
            let text = std::fs::read_to_string(&file).map_err(|e| format!("`eval`: cannot read {}: {e}", file.display()))?;
            let parsed: Value = serde_saphyr::from_str(&text).map_err(|e| format!("{}: {e}", file.display()))?;
            let mut map = mapping(&file.display().to_string(), &parsed)?;
            // The file may serve `bso eval` as well.
            ["models", "baseline", "output_dir"].iter().for_each(|key| drop(map.shift_remove(*key)));
            Ok((map, file.parent().unwrap_or(folder).to_owned()))
        }
        None => Err("`eval` is missing: the path of a configuration for `bso eval`, or its keys (prompt_sets, reward_model, \
                     cost_model, ...)"
            .to_owned()),
        Some(other) => Err(format!("`eval` is {other}; expected the path of a configuration for `bso eval`, or its keys")),
    }
}

fn refuse_own_eval_keys<'a>(mut keys: impl Iterator<Item = &'a String>) -> Result<(), String> {
    match keys.find(|key| ["models", "baseline", "output_dir"].contains(&key.as_str())) {
        Some(key) => Err(format!(
            "`eval.{key}` is the sweep's to decide: its models are the runs, against the model that they start from"
        )),
        None => Ok(()),
    }
}
