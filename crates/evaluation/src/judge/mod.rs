//! A language model as judge, behind any endpoint that speaks OpenAI's chat completions. Every judgment is kept on disk
//! under a hash of what was asked: asking again is free, and an interrupted evaluation goes on where it was.

mod budget;
mod cache;
mod client;
mod question;
mod reply;

pub use question::{Aspect, Question};
pub use reply::{Preferred, Rating};

use crate::error::EvaluationError;
use bso_durable::{Event, Interrupt, Observer, Task};
use budget::Budget;
use cache::Cache;
use client::{Asked, Client};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Which judge, and how much of it.
#[derive(Clone, PartialEq)]
pub struct JudgeConfig {
    /// `http(s)://host[:port]/v1`; `/chat/completions` is added.
    pub base_url: String,
    /// The model's name at the endpoint.
    pub model: String,
    /// Sent as a bearer token, if any. Never written anywhere.
    pub api_key: Option<String>,
    /// Requests at a time, at least 1.
    pub concurrency: usize,
    /// Most requests sent, tries counted each; `None`: no limit.
    pub max_requests: Option<u64>,
    /// Most tokens, prompts and answers, as the endpoint counts them; `None`: no limit.
    pub max_tokens: Option<u64>,
    /// Tries of one question.
    pub tries: u32,
    /// The wait before the second try; it doubles. `Retry-After` wins where it is longer, up to a minute.
    pub backoff: Duration,
    /// How long an answer may take.
    pub timeout: Duration,
    /// Where judgments are kept.
    pub cache: PathBuf,
}

impl std::fmt::Debug for JudgeConfig {
    /// Without the key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "JudgeConfig {{ {} at {} }}", self.model, self.base_url)
    }
}

/// What became of the questions: none disappears.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JudgeCounts {
    /// Questions.
    pub questions: usize,
    /// Answered from the cache.
    pub cached: usize,
    /// Answers that hold no verdict.
    pub unparsed: usize,
    /// Questions without an answer after all tries.
    pub failed: usize,
    /// Questions that the budget left unasked.
    pub over_budget: usize,
    /// Requests sent, tries counted each.
    pub requests: u64,
    /// Tokens as the endpoint counts them.
    pub tokens: u64,
}

/// A judge at work.
pub struct Judge {
    client: Client,
    cache: Cache,
    budget: Budget,
    config: JudgeConfig,
    counts: Mutex<JudgeCounts>,
}

/// What one question came to.
enum Came {
    Text(String),
    Failed(String),
    OverBudget,
}

impl Judge {
    /// Opens the cache; asks nothing yet.
    ///
    /// # Errors
    /// A cache folder that cannot be made.
    pub fn new(config: JudgeConfig) -> Result<Self, EvaluationError> {
        Ok(Self {
            client: Client::new(&config),
            cache: Cache::open(&config.cache)?,
            budget: Budget::new(config.max_requests, config.max_tokens),
            counts: Mutex::default(),
            config,
        })
    }

    /// Ratings of single answers, in order; `None` where none was to be had ([`Judge::counts`] says why).
    ///
    /// # Errors
    /// An endpoint that refuses for good or answers nothing at all; [`EvaluationError::Interrupted`].
    pub fn rate(
        &self,
        items: &[(&str, &str)],
        interrupt: &Interrupt,
        observer: &dyn Observer,
    ) -> Result<Vec<Option<Rating>>, EvaluationError> {
        let questions: Vec<Question> =
            items.iter().map(|(prompt, answer)| Question::rate(prompt, answer)).collect();
        self.ask_all(&questions, reply::rating, interrupt, observer)
    }

    /// Which of two answers is better, in order: each pair is asked in both orders, and verdicts that contradict each other
    /// are a tie, as is one that says so.
    ///
    /// # Errors
    /// As [`Judge::rate`].
    pub fn compare(
        &self,
        aspect: Aspect,
        items: &[(&str, &str, &str)],
        interrupt: &Interrupt,
        observer: &dyn Observer,
    ) -> Result<Vec<Option<Preferred>>, EvaluationError> {
        let questions: Vec<Question> = items
            .iter()
            .flat_map(|(prompt, first, second)| {
                [
                    Question::compare(aspect, prompt, first, second),
                    Question::compare(aspect, prompt, second, first),
                ]
            })
            .collect();
        let verdicts = self.ask_all(&questions, reply::preferred, interrupt, observer)?;
        Ok(verdicts.chunks(2).map(|both| Some((both[0]?).and_swapped(both[1]?))).collect())
    }

    /// What became of all questions so far.
    pub fn counts(&self) -> JudgeCounts {
        let (requests, tokens) = self.budget.spent();
        JudgeCounts { requests, tokens, ..*lock(&self.counts) }
    }

    /// The folder of kept judgments.
    pub fn cache(&self) -> &Path {
        &self.config.cache
    }

    fn ask_all<T: Send + Copy>(
        &self,
        questions: &[Question],
        parse: fn(&str) -> Option<T>,
        interrupt: &Interrupt,
        observer: &dyn Observer,
    ) -> Result<Vec<Option<T>>, EvaluationError> {
        let task = Mutex::new(Task::start(observer, "judging", Some(questions.len() as u64), "questions"));
        let results: Mutex<Vec<Option<T>>> = Mutex::new(vec![None; questions.len()]);
        let (next, fatal, failure) = (AtomicUsize::new(0), Mutex::new(None), Mutex::new(None));
        let work = || {
            loop {
                let at = next.fetch_add(1, Ordering::Relaxed);
                if at >= questions.len() || interrupt.is_raised() || lock(&fatal).is_some() {
                    return;
                }
                match self.ask(&questions[at], interrupt) {
                    Ok(came) => {
                        if let Came::Failed(problem) = &came {
                            *lock(&failure) = Some(problem.clone());
                        }
                        lock(&results)[at] = self.count(came, parse);
                    }
                    Err(error) => {
                        lock(&fatal).get_or_insert(error);
                    }
                }
                lock(&task).advance(1, || {
                    let counts = self.counts();
                    format!("{} requests, {} unparsed", counts.requests, counts.unparsed)
                });
            }
        };
        std::thread::scope(|scope| {
            for _ in 0..self.config.concurrency.clamp(1, questions.len().max(1)) {
                scope.spawn(work);
            }
        });
        if interrupt.is_raised() {
            return Err(EvaluationError::Interrupted);
        }
        if let Some(problem) = lock(&failure).take() {
            let text = format!(
                "{} questions to the judge came to nothing; the last: {problem}",
                self.counts().failed
            );
            observer.event(Event::Warning(text));
        }
        match lock(&fatal).take() {
            Some(error) => Err(error),
            None => Ok(std::mem::take(&mut *lock(&results))),
        }
    }

    /// From the cache, or from the endpoint within the budget.
    fn ask(&self, question: &Question, interrupt: &Interrupt) -> Result<Came, EvaluationError> {
        let request = question.request(&self.config.model);
        let key = Cache::key(&request);
        if let Some(text) = self.cache.get(&key)? {
            lock(&self.counts).cached += 1;
            return Ok(Came::Text(text));
        }
        let mut problem = String::new();
        for attempt in 0..self.config.tries.max(1) {
            if interrupt.is_raised() {
                return Err(EvaluationError::Interrupted);
            }
            if !self.budget.take_request() {
                return Ok(Came::OverBudget);
            }
            match self.client.ask(&request)? {
                Asked::Answer { text, tokens } => {
                    self.budget.add_tokens(tokens);
                    self.cache.put(&key, &request, &text)?;
                    return Ok(Came::Text(text));
                }
                Asked::Again { problem: why, wait } => {
                    problem = why;
                    if attempt + 1 < self.config.tries {
                        let backoff = self.config.backoff * 2u32.saturating_pow(attempt.min(10));
                        pause(wait.unwrap_or_default().max(backoff), interrupt);
                    }
                }
            }
        }
        // Nothing ever came: this is no bad moment but a wrong address.
        if self.budget.nothing_came() && lock(&self.counts).cached == 0 {
            return Err(EvaluationError::Unreachable { url: self.client.url().to_owned(), problem });
        }
        Ok(Came::Failed(problem))
    }

    fn count<T>(&self, came: Came, parse: fn(&str) -> Option<T>) -> Option<T> {
        let mut counts = lock(&self.counts);
        counts.questions += 1;
        match came {
            Came::Text(text) => {
                let parsed = parse(&text);
                counts.unparsed += usize::from(parsed.is_none());
                parsed
            }
            Came::Failed(_) => {
                counts.failed += 1;
                None
            }
            Came::OverBudget => {
                counts.over_budget += 1;
                None
            }
        }
    }
}

/// Waits, a minute at most, and not against the user's wish.
fn pause(time: Duration, interrupt: &Interrupt) {
    let end = Instant::now() + time.min(Duration::from_secs(60));
    while !interrupt.is_raised() && Instant::now() < end {
        std::thread::sleep(end.saturating_duration_since(Instant::now()).min(Duration::from_millis(50)));
    }
}

/// A poisoned lock belongs to a thread that panicked, and the panic is passed on by the scope.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
