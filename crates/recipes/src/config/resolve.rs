//! From what was written to one value per key. Layers, the strongest last: the table's defaults, the preset, the
//! file, the command line. Two settings have several spellings and are merged layer by layer: the generator with
//! its parameters, and SafeDPO's delta.

use super::choices::{ClosedSet, LossType, Stage};
use super::dataset::DatasetSource;
use super::error::{ConfigError, Place};
use super::expand::{self, Failure};
use super::key::{Fallback, Key, Status};
use super::preset::{self, Preset};
use super::table;
use super::value::{self, Misfit, Setting};
use super::written::{Entry, Written};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};

/// A checked value with its place.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub setting: Setting,
    pub place: Place,
}

pub(super) type Layer = HashMap<&'static str, Given>;

/// Looks up an environment variable.
pub(super) type Variables<'a> = &'a dyn Fn(&str) -> Option<String>;

/// What the environment contributes.
pub(super) struct Surroundings<'a> {
    /// Relative paths of the command line and of defaults start here.
    pub working_dir: &'a Path,
    /// Environment variables.
    pub variable: Variables<'a>,
}

/// The layers, ready to be asked for values.
pub(super) struct Resolver {
    /// Preset, file, command line.
    pub layers: [Layer; 3],
    pub working_dir: PathBuf,
    pub notices: Vec<String>,
    pub stage: Stage,
    pub loss: LossType,
}

impl Resolver {
    /// Files come weakest first, each with the folder that its relative paths start at.
    pub fn new(
        files: Vec<(Written, PathBuf)>,
        command_line: Written,
        around: &Surroundings<'_>,
    ) -> Result<Self, ConfigError> {
        let mut notices: Vec<String> = files.iter().flat_map(|(file, _)| file.notices.clone()).collect();
        notices.extend(command_line.notices);
        let above = checked(command_line.entries, around.working_dir, None, &[], &mut notices)?;
        let overridden: Vec<_> = above.keys().copied().collect();
        let mut below = Layer::new();
        for (file, base) in files {
            let layer = checked(file.entries, &base, Some(around.variable), &overridden, &mut notices)?;
            lay_over(&mut below, layer);
        }
        let preset = match above.get("preset").or(below.get("preset")).map(|g| &g.setting) {
            Some(Setting::Text(name)) => Some(preset::find(name, "preset")?),
            _ => None,
        };
        let mut resolver = Self {
            layers: [preset_layer(preset, around.working_dir)?, below, above],
            working_dir: around.working_dir.to_owned(),
            notices,
            stage: Stage::Preference,
            loss: LossType::Nll,
        };
        resolver.stage = resolver.choice("stage")?;
        resolver.loss = resolver.choice("loss_type")?;
        resolver.stage_fits_loss()?;
        resolver.tell_unread_keys()?;
        Ok(resolver)
    }

    /// What was given for `name`, the strongest layer first.
    pub fn given(&self, name: &str) -> Option<&Given> {
        self.layers.iter().rev().find_map(|layer| layer.get(name))
    }

    /// The layer that gives `name`: 0 preset, 1 file, 2 command line.
    pub fn layer_of(&self, name: &str) -> Option<usize> {
        (0..self.layers.len()).rev().find(|i| self.layers[*i].contains_key(name))
    }

    /// The value of `name`: given, or by its default.
    pub fn get(&self, name: &str) -> Result<Setting, ConfigError> {
        match self.given(name) {
            Some(given) => Ok(given.setting.clone()),
            None => self.default(lookup(name)?),
        }
    }

    pub fn default(&self, key: &'static Key) -> Result<Setting, ConfigError> {
        let required = || ConfigError::Required { key: key.name, example: key.example };
        let text = match key.fallback {
            Fallback::Value(text) => text,
            Fallback::Absent(_) => return Ok(Setting::Absent),
            Fallback::Required => return Err(required()),
            Fallback::By { key: other, cases, otherwise } => {
                let decided = self.get(other)?;
                let case = cases.iter().find(|(name, _)| matches!(&decided, Setting::Choice(c) if c == name));
                case.map(|(_, text)| *text).or(otherwise).ok_or_else(required)?
            }
        };
        parse(key, text, &self.working_dir)
    }

    pub fn bool(&self, name: &str) -> Result<bool, ConfigError> {
        match self.get(name)? {
            Setting::Bool(flag) => Ok(flag),
            other => Err(mistyped(name, &other)),
        }
    }
    pub fn optional_bool(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        match self.get(name)? {
            Setting::Absent => Ok(None),
            Setting::Bool(flag) => Ok(Some(flag)),
            other => Err(mistyped(name, &other)),
        }
    }
    pub fn integer(&self, name: &str) -> Result<u64, ConfigError> {
        self.optional_integer(name)?.ok_or_else(|| mistyped(name, &Setting::Absent))
    }
    pub fn optional_integer(&self, name: &str) -> Result<Option<u64>, ConfigError> {
        match self.get(name)? {
            Setting::Integer(n) => Ok(Some(n)),
            Setting::Absent => Ok(None),
            other => Err(mistyped(name, &other)),
        }
    }
    pub fn real(&self, name: &str) -> Result<f64, ConfigError> {
        self.optional_real(name)?.ok_or_else(|| mistyped(name, &Setting::Absent))
    }
    pub fn optional_real(&self, name: &str) -> Result<Option<f64>, ConfigError> {
        match self.get(name)? {
            Setting::Real(x) => Ok(Some(x)),
            Setting::Absent => Ok(None),
            other => Err(mistyped(name, &other)),
        }
    }
    pub fn interval(&self, name: &str) -> Result<Option<(f64, f64)>, ConfigError> {
        match self.get(name)? {
            Setting::Interval(low, high) => Ok(Some((low, high))),
            Setting::Absent => Ok(None),
            other => Err(mistyped(name, &other)),
        }
    }
    pub fn path(&self, name: &str) -> Result<PathBuf, ConfigError> {
        self.optional_path(name)?.ok_or_else(|| mistyped(name, &Setting::Absent))
    }
    /// No data set where none is named.
    pub fn optional_datasets(&self, name: &str) -> Result<Vec<DatasetSource>, ConfigError> {
        match self.get(name)? {
            Setting::Datasets(sources) => Ok(sources),
            Setting::Absent => Ok(Vec::new()),
            other => Err(mistyped(name, &other)),
        }
    }
    pub fn optional_path(&self, name: &str) -> Result<Option<PathBuf>, ConfigError> {
        match self.get(name)? {
            Setting::Path(path) => Ok(Some(path)),
            Setting::Absent => Ok(None),
            other => Err(mistyped(name, &other)),
        }
    }
    pub fn text(&self, name: &str) -> Result<String, ConfigError> {
        self.optional_text(name)?.ok_or_else(|| mistyped(name, &Setting::Absent))
    }
    pub fn optional_text(&self, name: &str) -> Result<Option<String>, ConfigError> {
        match self.get(name)? {
            Setting::Text(text) => Ok(Some(text)),
            Setting::Absent => Ok(None),
            other => Err(mistyped(name, &other)),
        }
    }
    pub fn choice<E: ClosedSet>(&self, name: &str) -> Result<E, ConfigError> {
        self.optional_choice(name)?.ok_or_else(|| mistyped(name, &Setting::Absent))
    }
    pub fn optional_choice<E: ClosedSet>(&self, name: &str) -> Result<Option<E>, ConfigError> {
        match self.get(name)? {
            Setting::Absent => Ok(None),
            Setting::Choice(member) => E::from_name(member)
                .map(Some)
                .ok_or_else(|| ConfigError::Table(format!("`{name}: {member}` has no meaning"))),
            other => Err(mistyped(name, &other)),
        }
    }

    /// Where `name` was given, for messages.
    pub fn place(&self, name: &str) -> Place {
        self.given(name).map_or(Place::Default, |given| given.place.clone())
    }

    fn stage_fits_loss(&self) -> Result<(), ConfigError> {
        let of_loss = match self.loss {
            LossType::Nll => Stage::Sft,
            LossType::Reward => Stage::Reward,
            LossType::Cost => Stage::Cost,
            LossType::PpoLag => Stage::PpoLag,
            _ => Stage::Preference,
        };
        if of_loss == self.stage {
            return Ok(());
        }
        let problem = format!(
            "`stage: {}` does not go with `loss_type: {}`; stage sft has the loss nll, stages reward, cost and ppo_lag those of their names, stage preference one of the others",
            self.stage, self.loss
        );
        Err(ConfigError::Conflict { place: self.place("loss_type"), problem })
    }

    /// A key that the loss does not read is not an error (one config may serve several losses), but it is told.
    fn tell_unread_keys(&mut self) -> Result<(), ConfigError> {
        let positive = |setting: &Setting| matches!(setting, Setting::Real(x) if *x > 0.0);
        for layer in &self.layers[1..] {
            let mut unread: Vec<_> = layer
                .iter()
                .filter_map(|(name, given)| table::key(name).map(|key| (key, given)))
                .filter(|(key, _)| !key.applies.to(self.loss))
                .collect();
            unread.sort_by_key(|(key, _)| key.name);
            for (key, given) in unread {
                let place = given.place.clone();
                if key.name == "label_smoothing" && self.loss == LossType::Dpo && positive(&given.setting) {
                    let problem =
                        "dpo has no label smoothing; write `loss_type: cdpo` for DPO with it".to_owned();
                    return Err(ConfigError::Conflict { place, problem });
                }
                self.notices.push(format!("{place}: `{}` is not read by loss_type {}", key.name, self.loss));
            }
        }
        Ok(())
    }

    /// SafeDPO's delta, under that name or as safety_penalty; the stronger layer wins.
    pub fn delta(&self) -> Result<f64, ConfigError> {
        match (self.layer_of("delta"), self.layer_of("safety_penalty")) {
            (Some(a), Some(b)) if a == b => {
                let problem =
                    "`delta` and `safety_penalty` are the same thing for safedpo; keep one".to_owned();
                Err(ConfigError::Conflict { place: self.place("delta"), problem })
            }
            (a, Some(b)) if a.is_none_or(|a| a < b) => self.real("safety_penalty"),
            _ => self.real("delta"),
        }
    }
}

/// Keys that lose their meaning in the files below one that gives the first.
const REPLACES: [(&str, &[&str]); 4] = [
    ("generator", &["generator_params", "generator_lambda", "generator_scale", "generator_mu", "kernel"]),
    ("generator_params", &["generator_lambda", "generator_scale", "generator_mu"]),
    ("delta", &["safety_penalty"]),
    ("safety_penalty", &["delta"]),
];

fn lay_over(below: &mut Layer, layer: Layer) {
    for (_, replaced) in REPLACES.iter().filter(|(key, _)| layer.contains_key(key)) {
        below.retain(|key, _| !replaced.contains(key));
    }
    below.extend(layer);
}

pub(super) fn lookup(name: &str) -> Result<&'static Key, ConfigError> {
    table::key(name).ok_or_else(|| ConfigError::Table(format!("no key `{name}`")))
}

fn mistyped(name: &str, setting: &Setting) -> ConfigError {
    ConfigError::Table(format!("`{name}` has the value {setting:?}"))
}

/// A value written by this program itself: in the table or a preset.
pub(super) fn parse(key: &Key, text: &str, base: &Path) -> Result<Setting, ConfigError> {
    match value::read(key, &Value::from(text), base) {
        Ok(read) => Ok(read.setting),
        Err(Misfit::Wrong(expected)) => {
            Err(ConfigError::Table(format!("`{}: {text}` is not {expected}", key.name)))
        }
        Err(Misfit::NotYet(_, why) | Misfit::NotHere(why)) => {
            Err(ConfigError::Table(format!("`{}: {text}`: {why}", key.name)))
        }
    }
}

fn preset_layer(preset: Option<&'static Preset>, base: &Path) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    let Some(preset) = preset else { return Ok(layer) };
    for (name, text) in preset.values() {
        let key = lookup(name)?;
        layer.insert(key.name, Given { setting: parse(key, text, base)?, place: Place::Preset(preset.name) });
    }
    Ok(layer)
}

/// Expands, checks and types the entries of one source. Entries in `overridden` may lack their variables.
fn checked(
    entries: Vec<Entry>,
    base: &Path,
    variable: Option<Variables<'_>>,
    overridden: &[&str],
    notices: &mut Vec<String>,
) -> Result<Layer, ConfigError> {
    let mut layer = Layer::new();
    for Entry { key, value, place } in entries {
        let value = match variable.map(|lookup| expand::expand(&value, lookup)) {
            None => value,
            Some(Ok(value)) => value,
            Some(Err(Failure::Missing { .. })) if overridden.contains(&key.name) => continue,
            Some(Err(failure)) => return Err(not_expanded(key, &value, place, failure)),
        };
        let read = value::read(key, &value, base).map_err(|misfit| refused(key, &value, &place, misfit))?;
        if let Some(alias) = read.alias {
            let canonical = value::to_yaml(key, &read.setting);
            notices.push(format!("{place}: `{}: {alias}` is read as `{canonical}`", key.name));
        }
        if !is_default(key, &read.setting, base)? {
            match key.status {
                Status::Supported => {}
                Status::NotYet(why) => {
                    let what = format!("{}: {}", key.name, value::to_yaml(key, &read.setting));
                    return Err(ConfigError::NotSupported { place, what, why: why.into() });
                }
                Status::NoEffect(why) => {
                    notices.push(format!("{place}: `{}` has no effect: {why}", key.name))
                }
            }
        }
        layer.insert(key.name, Given { setting: read.setting, place });
    }
    Ok(layer)
}

fn is_default(key: &Key, setting: &Setting, base: &Path) -> Result<bool, ConfigError> {
    match key.fallback {
        Fallback::Value(text) => Ok(parse(key, text, base)? == *setting),
        Fallback::Absent(_) => Ok(*setting == Setting::Absent),
        Fallback::By { .. } | Fallback::Required => Ok(false),
    }
}

fn refused(key: &Key, value: &Value, place: &Place, misfit: Misfit) -> ConfigError {
    let place = place.clone();
    match misfit {
        Misfit::Wrong(expected) => {
            let found = if value.is_null() { "empty".to_owned() } else { format!("`{}`", plain(value)) };
            ConfigError::Value { place, key: key.name.into(), found, expected }
        }
        Misfit::NotHere(why) => ConfigError::NotHere { place, why },
        Misfit::NotYet(name, why) => {
            ConfigError::NotSupported { place, what: format!("{}: {name}", key.name), why }
        }
    }
}

fn not_expanded(key: &Key, value: &Value, place: Place, failure: Failure) -> ConfigError {
    let key = key.name.to_owned();
    match failure {
        Failure::Malformed(problem) => ConfigError::Expansion { place, key, problem, found: plain(value) },
        Failure::Missing { variable, hint } => {
            let what = hint.map(|hint| format!(" to {hint}")).unwrap_or_default();
            let remedy = format!("set {variable}{what}, or pass `--{key} VALUE`");
            ConfigError::MissingVariable { place, key, variable, remedy }
        }
    }
}

/// A value for a message: text without JSON's quotes, cut where it is long.
fn plain(value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    if text.chars().count() <= 80 { text } else { text.chars().take(77).chain("...".chars()).collect() }
}
