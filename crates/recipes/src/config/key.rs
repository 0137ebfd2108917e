//! What is known about a key: one [`Key`] per setting. Validation, `bso config init`, the documentation and
//! the defaults all read the same entry; the entries stand in `table`.

use super::choices::LossType;

/// A heading of the documentation and of ready configs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Category {
    /// Where everything starts: presets and stage.
    Start,
    /// Weights, numbers, device.
    Model,
    /// Rows, preference, transform, tokens.
    Data,
    /// The loss.
    Objective,
    /// Methods of several stages.
    Stages,
    /// Batches, steps, learning rate.
    Schedule,
    /// The optimiser.
    Optimiser,
    /// Low-rank adapters.
    Lora,
    /// Evaluation, checkpoints, logs, folders.
    Run,
}

impl Category {
    /// Every category, in the order of the documentation.
    pub const ALL: &'static [Self] = &[
        Self::Start,
        Self::Model,
        Self::Data,
        Self::Objective,
        Self::Stages,
        Self::Schedule,
        Self::Optimiser,
        Self::Lora,
        Self::Run,
    ];

    /// The heading.
    pub fn title(self) -> &'static str {
        match self {
            Self::Start => "Start",
            Self::Model => "Model",
            Self::Data => "Data",
            Self::Objective => "Objective",
            Self::Stages => "Methods of several stages",
            Self::Schedule => "Schedule",
            Self::Optimiser => "Optimiser",
            Self::Lora => "LoRA",
            Self::Run => "Run",
        }
    }
}

/// An interval of real numbers; infinite bounds are open.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
    /// Lower bound.
    pub low: f64,
    /// Whether the lower bound itself is outside.
    pub low_open: bool,
    /// Upper bound.
    pub high: f64,
    /// Whether the upper bound itself is outside.
    pub high_open: bool,
}

impl Range {
    /// (0, inf).
    pub const POSITIVE: Self = Self { low: 0.0, low_open: true, high: f64::INFINITY, high_open: true };
    /// `[0, inf)`.
    pub const NOT_NEGATIVE: Self = Self { low: 0.0, low_open: false, high: f64::INFINITY, high_open: true };
    /// All finite numbers.
    pub const ANY: Self =
        Self { low: f64::NEG_INFINITY, low_open: true, high: f64::INFINITY, high_open: true };
    /// `[low, high)`.
    pub const fn below(low: f64, high: f64) -> Self {
        Self { low, low_open: false, high, high_open: true }
    }
    /// `(low, high]`.
    pub const fn above(low: f64, high: f64) -> Self {
        Self { low, low_open: true, high, high_open: false }
    }

    /// Whether `x` is inside; never for NaN.
    pub fn contains(&self, x: f64) -> bool {
        let above = if self.low_open { x > self.low } else { x >= self.low };
        let below = if self.high_open { x < self.high } else { x <= self.high };
        above && below
    }

    /// "> 0", "[0, 0.5)"; empty for any finite number.
    pub fn text(&self) -> String {
        match (self.low.is_finite(), self.high.is_finite()) {
            (false, false) => String::new(),
            (true, false) => format!("{} {}", if self.low_open { ">" } else { ">=" }, self.low),
            (false, true) => format!("{} {}", if self.high_open { "<" } else { "<=" }, self.high),
            (true, true) => format!(
                "{}{}, {}{}",
                if self.low_open { '(' } else { '[' },
                self.low,
                self.high,
                if self.high_open { ')' } else { ']' }
            ),
        }
    }
}

/// One alternative of a closed set.
#[derive(Clone, Copy, Debug)]
pub struct Choice {
    /// The canonical name.
    pub name: &'static str,
    /// Other names that mean the same; using one is told.
    pub also: &'static [&'static str],
    /// Why it cannot be chosen yet.
    pub not_yet: Option<&'static str>,
}

/// A supported alternative.
pub const fn choice(name: &'static str) -> Choice {
    Choice { name, also: &[], not_yet: None }
}

/// A supported alternative with other names.
pub const fn known_as(name: &'static str, also: &'static [&'static str]) -> Choice {
    Choice { name, also, not_yet: None }
}

/// An alternative that is planned; choosing it is refused with `why`.
pub const fn later(name: &'static str, also: &'static [&'static str], why: &'static str) -> Choice {
    Choice { name, also, not_yet: Some(why) }
}

/// The type of a key's value.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    /// true or false.
    Bool,
    /// A whole number.
    Integer {
        /// Smallest.
        min: u64,
        /// Largest.
        max: u64,
    },
    /// A real number.
    Real(Range),
    /// One of a closed set.
    Choice(&'static [Choice]),
    /// Free text.
    Text,
    /// A file or folder.
    Path,
    /// A file or folder, or a name on the hub.
    Source,
    /// One data set or a list: files, folders or names on the hub, each possibly with a weight and a split.
    Datasets,
    /// `[low, high]` with low < high.
    Interval,
    /// A list of numbers.
    Numbers,
    /// A list of words.
    Words,
    /// A mapping of words to words.
    Mapping,
    /// true, false or a path.
    FlagOrPath,
    /// `auto`, the name of a template, or the path of one.
    Template,
    /// The name of a device.
    Device,
}

impl Kind {
    /// The type in words.
    pub fn text(&self) -> String {
        match self {
            Self::Bool => "true or false".into(),
            // Bounds that no real value meets are no news to the reader.
            Self::Integer { min, max } if *max >= 1 << 32 => format!("whole number >= {min}"),
            Self::Integer { min, max } => format!("whole number {min} to {max}"),
            Self::Real(range) => format!("number {}", range.text()).trim_end().into(),
            Self::Choice(choices) => {
                let names: Vec<_> = choices.iter().filter(|c| c.not_yet.is_none()).map(|c| c.name).collect();
                names.join(", ").replace(", ", " | ")
            }
            Self::Text => "text".into(),
            Self::Path => "path".into(),
            Self::Source => "path, or org/name[@revision] on the hub".into(),
            Self::Datasets => {
                "path or org/name[@revision], or a list of them or of {name, weight, split}".into()
            }
            Self::Interval => "[low, high]".into(),
            Self::Numbers => "list of numbers".into(),
            Self::Words => "list of names".into(),
            Self::Mapping => "mapping of names to names".into(),
            Self::FlagOrPath => "true, false or path".into(),
            Self::Device => "auto | cpu | cuda | cuda:N".into(),
            Self::Template => "auto, a template's name, or the path of a .jinja file".into(),
        }
    }
}

/// What holds when a key is not given. Values are written as on the command line.
#[derive(Clone, Copy, Debug)]
pub enum Fallback {
    /// Always this.
    Value(&'static str),
    /// This, by the value of another key.
    By {
        /// The deciding key.
        key: &'static str,
        /// Its value and what follows from it.
        cases: &'static [(&'static str, &'static str)],
        /// In every other case; `None` makes the key required there.
        otherwise: Option<&'static str>,
    },
    /// No value; the text says what that means.
    Absent(&'static str),
    /// The user must say.
    Required,
}

/// Which losses read a key.
#[derive(Clone, Copy, Debug)]
pub enum Applies {
    /// All.
    Always,
    /// These.
    To(&'static [LossType]),
}

impl Applies {
    /// Whether `loss` reads the key.
    pub fn to(&self, loss: LossType) -> bool {
        match self {
            Self::Always => true,
            Self::To(losses) => losses.contains(&loss),
        }
    }
}

/// Whether a key does something today.
#[derive(Clone, Copy, Debug)]
pub enum Status {
    /// It does.
    Supported,
    /// Any value but the default is refused, for this reason.
    NotYet(&'static str),
    /// Accepted for the sake of other programs' configs; any value but the default is told to have no effect, for this reason.
    NoEffect(&'static str),
}

/// Everything known about one setting.
#[derive(Clone, Copy, Debug)]
pub struct Key {
    /// The canonical name, TRL's where TRL has one.
    pub name: &'static str,
    /// Its heading.
    pub category: Category,
    /// Type and range.
    pub kind: Kind,
    /// Words that mean "no value", the canonical one first; empty where a value is needed.
    pub none: &'static [&'static str],
    /// The unit; empty for pure numbers.
    pub unit: &'static str,
    /// What holds when it is not given.
    pub fallback: Fallback,
    /// A typical value, for messages and ready configs, where the default is no value.
    pub example: &'static str,
    /// Where the default comes from.
    pub source: &'static str,
    /// What it does, in a sentence.
    pub doc: &'static str,
    /// Which losses read it.
    pub applies: Applies,
    /// Whether it does something today.
    pub status: Status,
    /// Other programs' names for it; using one is told.
    pub aliases: &'static [&'static str],
    /// Whether the trained weights depend on it (and so [`super::TrainConfig::fingerprint`]).
    pub decides_result: bool,
    /// Whether ready configs show it as a live line even at its default.
    pub prominent: bool,
}

impl Key {
    /// A key with a default that is written as on the command line.
    pub const fn new(name: &'static str, category: Category, kind: Kind, default: &'static str) -> Self {
        Self {
            name,
            category,
            kind,
            none: &[],
            unit: "",
            fallback: Fallback::Value(default),
            example: default,
            source: "",
            doc: "",
            applies: Applies::Always,
            status: Status::Supported,
            aliases: &[],
            decides_result: true,
            prominent: false,
        }
    }
    /// A key without a default.
    pub const fn required(name: &'static str, category: Category, kind: Kind, example: &'static str) -> Self {
        Self { fallback: Fallback::Required, example, prominent: true, ..Self::new(name, category, kind, "") }
    }
    /// A key that may have no value; `none[0]` is how that is written and `meaning` what follows.
    pub const fn optional(
        name: &'static str,
        category: Category,
        kind: Kind,
        none: &'static [&'static str],
        meaning: &'static str,
    ) -> Self {
        Self { none, fallback: Fallback::Absent(meaning), example: "", ..Self::new(name, category, kind, "") }
    }
    /// Sets what decides the default.
    pub const fn by(
        mut self,
        key: &'static str,
        cases: &'static [(&'static str, &'static str)],
        otherwise: Option<&'static str>,
    ) -> Self {
        self.fallback = Fallback::By { key, cases, otherwise };
        self
    }
    /// Sets the words for "no value".
    pub const fn or_none(mut self, none: &'static [&'static str]) -> Self {
        self.none = none;
        self
    }
    /// Sets the unit.
    pub const fn unit(mut self, unit: &'static str) -> Self {
        self.unit = unit;
        self
    }
    /// Sets the typical value.
    pub const fn example(mut self, example: &'static str) -> Self {
        self.example = example;
        self
    }
    /// Sets the default's source and the sentence.
    pub const fn says(mut self, source: &'static str, doc: &'static str) -> Self {
        self.source = source;
        self.doc = doc;
        self
    }
    /// Sets the losses that read it.
    pub const fn only(mut self, losses: &'static [LossType]) -> Self {
        self.applies = Applies::To(losses);
        self
    }
    /// Marks it as planned.
    pub const fn not_yet(mut self, why: &'static str) -> Self {
        self.status = Status::NotYet(why);
        self
    }
    /// Marks it as accepted without effect.
    pub const fn no_effect(mut self, why: &'static str) -> Self {
        self.status = Status::NoEffect(why);
        self
    }
    /// Sets other programs' names.
    pub const fn aliases(mut self, aliases: &'static [&'static str]) -> Self {
        self.aliases = aliases;
        self
    }
    /// Marks it as without influence on the trained weights.
    pub const fn bookkeeping(mut self) -> Self {
        self.decides_result = false;
        self
    }
    /// Shows it in ready configs even at its default.
    pub const fn prominent(mut self) -> Self {
        self.prominent = true;
        self
    }

    /// The type in words, with the words for "no value".
    pub fn expected(&self) -> String {
        let mut text = self.kind.text();
        if let Some(none) = self.none.first() {
            text.push_str(&format!(", or {none}"));
        }
        text
    }
}
