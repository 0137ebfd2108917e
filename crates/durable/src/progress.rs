//! Progress as events. Libraries report; only the command line prints.

use std::time::{Duration, Instant};

/// What long work tells whoever watches.
#[derive(Clone, Debug, PartialEq)]
pub enum Event {
    /// A task begins; `total` counts `unit`s, if known.
    Started {
        /// What is being done, in a few words.
        task: String,
        /// How many units there are, if known.
        total: Option<u64>,
        /// What is counted, in the plural ("rows", "steps").
        unit: &'static str,
    },
    /// So many units are done.
    Advanced {
        /// Units done since the start of the task.
        done: u64,
        /// What to show beside the bar (loss, rate), possibly empty.
        detail: String,
    },
    /// The task ended.
    Finished {
        /// Units done in all.
        done: u64,
        /// How long it took.
        elapsed: Duration,
    },
    /// Something the user should read.
    Note(String),
    /// Something the user should act on.
    Warning(String),
}

/// Receives events. The terminal and [`Silent`] are its implementations.
pub trait Observer: Sync {
    /// Takes one event; must return quickly.
    fn event(&self, event: Event);
}

/// Hears everything and says nothing (tests, machine output).
pub struct Silent;

impl Observer for Silent {
    fn event(&self, _: Event) {}
}

/// A running task: says Started at once, Advanced as asked (at most about ten times a second) and Finished when dropped.
pub struct Task<'a> {
    observer: &'a dyn Observer,
    started: Instant,
    last_said: Option<Instant>,
    done: u64,
}

impl<'a> Task<'a> {
    /// Announces a task.
    pub fn start(
        observer: &'a dyn Observer,
        task: impl Into<String>,
        total: Option<u64>,
        unit: &'static str,
    ) -> Self {
        observer.event(Event::Started { task: task.into(), total, unit });
        Self { observer, started: Instant::now(), last_said: None, done: 0 }
    }

    /// `n` more units are done; `detail` is built only when it will be shown.
    pub fn advance(&mut self, n: u64, detail: impl FnOnce() -> String) {
        self.done += n;
        if self.last_said.is_none_or(|t| t.elapsed() >= Duration::from_millis(100)) {
            self.observer.event(Event::Advanced { done: self.done, detail: detail() });
            self.last_said = Some(Instant::now());
        }
    }
}

impl Task<'_> {
    /// The end, with what there is to say of the whole.
    pub fn end(self, detail: String) {
        self.observer.event(Event::Advanced { done: self.done, detail });
    }
}

impl Drop for Task<'_> {
    fn drop(&mut self) {
        self.observer.event(Event::Finished { done: self.done, elapsed: self.started.elapsed() });
    }
}
