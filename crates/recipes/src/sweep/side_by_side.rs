//! The runs themselves, several at a time: threads of this process with an engine each.

use super::record::Record;
use super::runs::Run;
use crate::RecipeError;
use crate::train::{Trained, train};
use bso_durable::{Event, Interrupt, Observer, Task};
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Trains `runs`, `jobs` at a time; each that ends is recorded at once. A run that fails takes nothing from the others.
///
/// # Errors
/// A record that cannot be written; [`RecipeError::Interrupted`] when the user asks to stop: every run under way has a
/// checkpoint then.
pub fn train_all(
    runs: &[&Run],
    jobs: usize,
    record: &mut Record,
    (interrupt, observer): (&Interrupt, &dyn Observer),
) -> Result<(), RecipeError> {
    let queue = Mutex::new(runs.iter());
    let board = Board::new(runs.len(), jobs, observer);
    let record = Mutex::new(record);
    let next = || locked(&queue).next().filter(|_| !interrupt.is_raised());
    let work = || -> Result<(), RecipeError> {
        while let Some(run) = next() {
            let outcome = train(
                &run.config,
                interrupt,
                &OfRun { name: &run.name, board: &board, total: Mutex::new(None) },
            );
            board.leave(&run.name);
            match &outcome {
                Err(RecipeError::Interrupted) => break,
                Ok(trained) if trained.interrupted => break,
                _ => {}
            }
            locked(&record).end(&run.name, outcome.as_ref())?;
            board.tell(run, &outcome);
        }
        Ok(())
    };
    let outcomes: Vec<Result<(), RecipeError>> = std::thread::scope(|scope| {
        let workers: Vec<_> = (0..jobs).map(|_| scope.spawn(work)).collect();
        let joined = workers.into_iter().map(|worker| worker.join());
        joined.map(|joined| joined.unwrap_or_else(|panic| std::panic::resume_unwind(panic))).collect()
    });
    outcomes.into_iter().collect::<Result<(), RecipeError>>()?;
    if interrupt.is_raised() { Err(RecipeError::Interrupted) } else { Ok(()) }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is told of all runs together: a bar that counts those that ended, with how far the others are beside it.
struct Board<'a> {
    observer: &'a dyn Observer,
    started: Instant,
    total: usize,
    jobs: usize,
    state: Mutex<State<'a>>,
}

struct State<'a> {
    task: Task<'a>,
    ended: usize,
    under_way: BTreeMap<String, String>,
}

impl<'a> Board<'a> {
    fn new(total: usize, jobs: usize, observer: &'a dyn Observer) -> Self {
        let task = Task::start(observer, "sweep", Some(total as u64), "runs");
        let state = Mutex::new(State { task, ended: 0, under_way: BTreeMap::new() });
        Self { observer, started: Instant::now(), total, jobs, state }
    }

    fn show(&self, name: &str, doing: String) {
        let mut state = locked(&self.state);
        state.under_way.insert(name.to_owned(), doing);
        let State { task, under_way, .. } = &mut *state;
        task.advance(0, || under_way.iter().map(|(n, d)| format!("{n} {d}")).collect::<Vec<_>>().join(" | "));
    }

    fn leave(&self, name: &str) {
        locked(&self.state).under_way.remove(name);
    }

    /// One line for a run that ended.
    fn tell(&self, run: &Run, outcome: &Result<Trained, RecipeError>) {
        let mut state = locked(&self.state);
        state.ended += 1;
        state.task.advance(1, String::new);
        let left = self.total - state.ended;
        let each = self.started.elapsed().as_secs_f64() / state.ended.max(self.jobs).min(self.total) as f64;
        let rest = humantime::format_duration(Duration::from_secs((each * left as f64).round() as u64));
        let left = if left > 0 { format!("; {left} left, about {rest}") } else { String::new() };
        let at = format!("{}/{}", state.ended, self.total);
        drop(state);
        self.observer.event(match outcome {
            Ok(trained) => Event::Note(format!(
                "{at:<12}{}: {} steps in {:.1} s{}{}{left}",
                run.name,
                trained.steps,
                trained.seconds,
                figures(trained),
                findings(trained)
            )),
            Err(error) => Event::Warning(format!("{at} {} failed: {error}{left}", run.name)),
        });
    }
}

fn figures(trained: &Trained) -> String {
    let shown =
        [("train_loss", "loss"), ("eval_loss", "held-out loss"), ("eval_rewards/accuracies", "accuracy")];
    let of = |key: &str| trained.results.iter().find(|(name, _)| name == key).map(|(_, value)| *value);
    shown.iter().filter_map(|(key, title)| Some(format!(", {title} {:.4}", of(key)?))).collect()
}

/// What the figures warn of, by name: the page says all of it.
fn findings(trained: &Trained) -> String {
    let mut titles: Vec<&str> = trained.findings.iter().map(|finding| finding.symptom.title()).collect();
    titles.dedup();
    if titles.is_empty() { String::new() } else { format!(" ({})", titles.join(", ")) }
}

/// Hears one run.
struct OfRun<'a, 'b> {
    name: &'a str,
    board: &'a Board<'b>,
    total: Mutex<Option<u64>>,
}

impl Observer for OfRun<'_, '_> {
    fn event(&self, event: Event) {
        match event {
            // What a run says at its start stands in its manifest.
            Event::Note(_) | Event::Finished { .. } => {}
            Event::Started { task, total, .. } => {
                *locked(&self.total) = total;
                self.board.show(self.name, task);
            }
            Event::Advanced { done, .. } => {
                let of = locked(&self.total).map(|total| format!("/{total}")).unwrap_or_default();
                self.board.show(self.name, format!("{done}{of}"));
            }
            Event::Warning(text) => {
                self.board.observer.event(Event::Warning(format!("{}: {text}", self.name)));
            }
        }
    }
}
