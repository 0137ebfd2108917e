//! The terminal: progress bars where someone watches, plain lines where not, notes, warnings and errors.
//! Everything here goes to standard error; standard output belongs to the commands' data.

use bso_durable::{Event, Observer};
use indicatif::{HumanBytes, HumanDuration, ProgressBar, ProgressDrawTarget, ProgressStyle};
use owo_colors::OwoColorize;
use std::io::{IsTerminal, Write};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Shows events to a person (bars) or a log file (a line every few seconds). Clones share the running task.
#[derive(Clone)]
pub struct Terminal {
    talk: Talk,
    bars: bool,
    task: Arc<Mutex<Option<Running>>>,
}

/// How much is said of events. Errors are printed whatever it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub enum Talk {
    /// Nothing.
    Quiet,
    /// Notes, warnings, progress.
    Usual,
    /// How long every task took as well.
    Timed,
}

struct Running {
    name: String,
    total: Option<u64>,
    unit: &'static str,
    started: Instant,
    last_line: Instant,
    /// What was last said beside the bar.
    detail: String,
    bar: Option<ProgressBar>,
}

/// Without a terminal a line says how far a task is, this often.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Tasks shorter than this need no closing line.
const WORTH_A_LINE: Duration = Duration::from_secs(2);

impl Terminal {
    /// Bars if standard error is a terminal, else lines.
    pub fn new(talk: Talk) -> Self {
        Self { talk, bars: std::io::stderr().is_terminal(), task: Arc::default() }
    }

    /// One line, above the bar if there is one.
    pub fn line(&self, text: &str) {
        let task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        self.say(task.as_ref().and_then(|t| t.bar.as_ref()), &clean(text));
    }

    fn say(&self, bar: Option<&ProgressBar>, line: &str) {
        match bar {
            Some(bar) => bar.suspend(|| write_line(line)),
            None => write_line(line),
        }
    }
}

impl Observer for Terminal {
    fn event(&self, event: Event) {
        if self.talk == Talk::Quiet {
            return;
        }
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        match event {
            Event::Started { task: name, total, unit } => {
                let bar = self.bars.then(|| bar(&name, total, unit));
                let now = Instant::now();
                *task = Some(Running {
                    name,
                    total,
                    unit,
                    started: now,
                    last_line: now,
                    detail: String::new(),
                    bar,
                });
            }
            Event::Advanced { done, detail } => {
                let Some(running) = task.as_mut() else { return };
                running.detail.clone_from(&detail);
                if let Some(bar) = &running.bar {
                    bar.set_position(done);
                    bar.set_message(clean(&detail));
                } else if running.last_line.elapsed() >= LINE_EVERY {
                    running.last_line = Instant::now();
                    write_line(&running.line(done, &detail));
                }
            }
            Event::Finished { done, elapsed } => {
                let Some(running) = task.take() else { return };
                if let Some(bar) = &running.bar {
                    bar.finish_and_clear();
                }
                if elapsed >= WORTH_A_LINE || self.talk == Talk::Timed {
                    let rate = done as f64 / elapsed.as_secs_f64().max(1e-9);
                    let Running { name, unit, detail, .. } = &running;
                    write_line(&match *unit {
                        // How many bytes that were says less than what was in them.
                        "bytes" if !detail.is_empty() => {
                            format!("{}: {} in {}", clean(name), clean(detail), seconds(elapsed))
                        }
                        "bytes" => format!("{}: {} in {}", clean(name), HumanBytes(done), seconds(elapsed)),
                        unit => format!(
                            "{}: {done} {unit} in {} ({}/s)",
                            clean(name),
                            seconds(elapsed),
                            short(rate)
                        ),
                    });
                }
            }
            Event::Note(text) => self.say(task.as_ref().and_then(|t| t.bar.as_ref()), &clean(&text)),
            Event::Warning(text) => {
                let line = format!("{} {}", "warning:".yellow().bold(), clean(&text));
                self.say(task.as_ref().and_then(|t| t.bar.as_ref()), &line);
            }
        }
    }
}

impl Running {
    fn line(&self, done: u64, detail: &str) -> String {
        let elapsed = self.started.elapsed();
        let number = |n: u64| if self.unit == "bytes" { HumanBytes(n).to_string() } else { format!("{n}") };
        let of = self.total.map(|t| format!("/{}", number(t))).unwrap_or_default();
        let unit = if self.unit == "bytes" { String::new() } else { format!(" {}", self.unit) };
        let left = self.total.filter(|_| done > 0).map(|total| {
            let rest = elapsed.mul_f64(total.saturating_sub(done) as f64 / done as f64);
            format!(", {} left", seconds(rest))
        });
        // Where nobody knows how much there is, the rate says how fast it goes.
        let rate = match self.total {
            None => format!(" ({}/s)", short(done as f64 / elapsed.as_secs_f64().max(1e-9))),
            Some(_) => String::new(),
        };
        let detail = if detail.is_empty() { String::new() } else { format!(" | {}", clean(detail)) };
        let done = number(done);
        format!("{}: {done}{of}{unit}{rate}{}{detail}", self.name, left.unwrap_or_default())
    }
}

fn bar(name: &str, total: Option<u64>, unit: &str) -> ProgressBar {
    let target = ProgressDrawTarget::stderr_with_hz(10);
    // Bytes are read in units of their own.
    let (done, of, unit) = match unit {
        "bytes" => ("binary_bytes", "binary_total_bytes", ""),
        _ => ("human_pos", "human_len", unit),
    };
    let (bar, template) = match total {
        Some(total) => (
            ProgressBar::with_draw_target(Some(total), target),
            format!("{{prefix}} {{bar:24.cyan/dim}} {{{done}}}/{{{of}}} {unit}  {{eta}} left  {{wide_msg}}"),
        ),
        None => (
            ProgressBar::with_draw_target(None, target),
            format!("{{prefix}} {{spinner}} {{{done}}} {unit}  {{per_sec}}  {{wide_msg}}"),
        ),
    };
    let style = ProgressStyle::with_template(&template).unwrap_or_else(|_| ProgressStyle::default_bar());
    bar.set_style(style.progress_chars("━━─"));
    bar.set_prefix(clean(name));
    bar
}

/// Prints an error with its causes, each on a line of its own.
pub fn print_error(error: &anyhow::Error) {
    let mut text = format!("{} {}", "error:".red().bold(), clean(&error.to_string()));
    let mut said = error.to_string();
    for cause in error.chain().skip(1) {
        // Libraries often repeat a cause inside their own message.
        let cause = cause.to_string();
        if !said.contains(&cause) {
            text.push_str(&format!("\n  because: {}", clean(&cause)));
            said = cause;
        }
    }
    write_line(&text);
}

/// Prints that the user's wish to stop was met.
pub fn print_stopped(text: &str) {
    write_line(text);
}

/// Prints what to do about an error just printed.
pub fn print_hint(text: &str) {
    write_line(&format!("  remedy: {text}"));
}

/// One line to standard error, in colour where the terminal shows colour. A closed stderr is nobody's loss.
fn write_line(line: &str) {
    let _ = writeln!(anstream::stderr(), "{line}");
}

/// Data and model output are untrusted: control characters (other than newline and tab) must not reach the terminal.
pub fn clean(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' && c != '\t' { '\u{fffd}' } else { c }).collect()
}

/// "12.3 s" below two minutes, else in words.
pub fn seconds(duration: Duration) -> String {
    if duration < Duration::from_secs(120) {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        HumanDuration(duration).to_string()
    }
}

fn short(rate: f64) -> String {
    if rate >= 100.0 { format!("{rate:.0}") } else { format!("{rate:.1}") }
}
