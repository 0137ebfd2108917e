//! Chat templates, rendered as transformers renders them: Jinja with `trim_blocks`, `lstrip_blocks`, loop controls,
//! `raise_exception`, `strftime_now`, Python's `tojson` and string methods, `{% generation %}` transparent.
//! Knows text only; tokens are the tokenizer's.

mod methods;
mod python;
mod source;

use crate::error::DataError;
use crate::message::Message;
use minijinja::value::{Kwargs, Value, ValueKind};
use minijinja::{Environment, Error, ErrorKind, UndefinedBehavior};
use std::collections::BTreeMap;
use std::fmt;

/// Instructions that one rendering may take: a template is somebody else's program.
const FUEL: u64 = 20_000_000;
/// The longest template source accepted, in bytes.
const MAX_SOURCE: usize = 4 << 20;
const NAME: &str = "chat_template";

/// A compiled template with the special tokens it may write.
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    name: String,
    tokens: BTreeMap<String, String>,
}

/// What `raise_exception` was given; carried through the engine as the error's source.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

impl ChatTemplate {
    /// Compiles `source`. `name` says in errors where it came from; `tokens` are `bos_token`, `eos_token` and such.
    ///
    /// # Errors
    /// The template does not compile, with its line.
    pub fn new(
        source: &str,
        name: impl Into<String>,
        tokens: BTreeMap<String, String>,
    ) -> Result<Self, DataError> {
        let name = name.into();
        let refuse = |problem: String| DataError::Template { template: name.clone(), problem };
        if source.len() > MAX_SOURCE {
            return Err(refuse(format!("its source is longer than {} MiB", MAX_SOURCE >> 20)));
        }
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_undefined_behavior(UndefinedBehavior::Lenient);
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment.set_fuel(Some(FUEL));
        environment.set_unknown_method_callback(methods::call);
        environment
            .set_formatter(|out, _state, value| out.write_str(&python::to_str(value)).map_err(Error::from));
        python::install(&mut environment);
        environment.add_function("raise_exception", raise_exception);
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_template_owned(NAME, source::prepare(source))
            .map_err(|e| refuse(format!("it does not compile: {}", describe(&e))))?;
        Ok(Self { environment, source: source.to_owned(), name, tokens })
    }

    /// The source as given.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Where the template came from.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Renders a conversation, with the header of an assistant turn at its end if `add_generation_prompt`.
    ///
    /// # Errors
    /// The template raises (its own message is given) or uses something undefined.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, DataError> {
        let mut context: BTreeMap<&str, Value> =
            self.tokens.iter().map(|(k, v)| (k.as_str(), Value::from(v.as_str()))).collect();
        context.insert("messages", Value::from_serialize(messages));
        context.insert("tools", Value::from(()));
        context.insert("documents", Value::from(()));
        context.insert("add_generation_prompt", Value::from(add_generation_prompt));
        self.environment.get_template(NAME).and_then(|t| t.render(context)).map_err(|e| self.failed(&e))
    }

    fn failed(&self, error: &Error) -> DataError {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(e) = cause {
            if let Some(Raised(message)) = e.downcast_ref() {
                return DataError::Template {
                    template: self.name.clone(),
                    problem: format!(
                        "it refuses the conversation: {message:?}; change the rows or choose another chat_template"
                    ),
                };
            }
            cause = e.source();
        }
        DataError::Template { template: self.name.clone(), problem: describe(error) }
    }
}

impl fmt::Debug for ChatTemplate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatTemplate").field("name", &self.name).finish_non_exhaustive()
    }
}

fn describe(error: &Error) -> String {
    let what = error.detail().map_or_else(|| error.kind().to_string(), |d| format!("{}: {d}", error.kind()));
    match error.line() {
        Some(line) => format!("{what} (line {line})"),
        None => what,
    }
}

fn raise_exception(message: &Value) -> Result<Value, Error> {
    let message = python::to_str(message);
    Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
}

/// `datetime.now().strftime(format)`.
fn strftime_now(format: &str) -> Result<String, Error> {
    use fmt::Write;
    let mut text = String::new();
    write!(text, "{}", chrono::Local::now().format(format)).map_err(|_| {
        Error::new(ErrorKind::InvalidOperation, format!("strftime_now cannot use {format:?}"))
    })?;
    Ok(text)
}

/// Whether a keyword argument was given, for filters that take Python's names.
fn keyword<'a, T: minijinja::value::ArgType<'a, Output = T>>(
    kwargs: &'a Kwargs,
    name: &'a str,
) -> Result<Option<T>, Error> {
    if kwargs.has(name) { kwargs.get(name).map(Some) } else { Ok(None) }
}

fn is_text(value: &Value) -> bool {
    value.kind() == ValueKind::String
}

#[cfg(test)]
mod tests;
