//! How many requests and tokens may be spent, and have been.

use std::sync::atomic::{AtomicU64, Ordering};

pub(super) struct Budget {
    max_requests: Option<u64>,
    max_tokens: Option<u64>,
    requests: AtomicU64,
    tokens: AtomicU64,
    answers: AtomicU64,
}

impl Budget {
    pub(super) fn new(max_requests: Option<u64>, max_tokens: Option<u64>) -> Self {
        let zero = || AtomicU64::new(0);
        Self { max_requests, max_tokens, requests: zero(), tokens: zero(), answers: zero() }
    }

    /// Takes one request out of the budget; false when there is none left. Requests under way may carry the tokens over
    /// their limit by what they take.
    pub(super) fn take_request(&self) -> bool {
        if self.max_tokens.is_some_and(|most| self.tokens.load(Ordering::SeqCst) >= most) {
            return false;
        }
        let most = self.max_requests.unwrap_or(u64::MAX);
        let take = |spent: u64| (spent < most).then_some(spent + 1);
        self.requests.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok()
    }

    pub(super) fn add_tokens(&self, tokens: u64) {
        self.answers.fetch_add(1, Ordering::SeqCst);
        self.tokens.fetch_add(tokens, Ordering::SeqCst);
    }

    /// Requests and tokens so far.
    pub(super) fn spent(&self) -> (u64, u64) {
        (self.requests.load(Ordering::SeqCst), self.tokens.load(Ordering::SeqCst))
    }

    /// Whether no request was answered yet.
    pub(super) fn nothing_came(&self) -> bool {
        self.answers.load(Ordering::SeqCst) == 0
    }
}
