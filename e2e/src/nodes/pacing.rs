//! Delays of the stand-in nodes without sleeping: since when something could have been done, and when it may.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// Each pass asks for everything that still waits; what it does not ask for is forgotten.
pub struct Pacing {
    now: Instant,
    before: HashMap<String, Instant>,
    waiting: HashMap<String, Instant>,
    next: Option<Instant>,
}

impl Pacing {
    pub fn new(now: Instant) -> Self {
        Self { now, before: HashMap::new(), waiting: HashMap::new(), next: None }
    }

    pub fn begin_pass(&mut self, now: Instant) {
        self.now = now;
        self.before = std::mem::take(&mut self.waiting);
        self.next = None;
    }

    /// Whether `delay` has passed since the first of the passes that asked for `what` one after the other.
    pub fn is_due(&mut self, what: String, delay: Duration) -> bool {
        let since = self.before.get(&what).copied().unwrap_or(self.now);
        self.waiting.insert(what, since);
        let due = since + delay;
        if due > self.now {
            self.wake_at(due);
        }
        due <= self.now
    }

    pub fn wake_at(&mut self, instant: Instant) {
        self.next = Some(self.next.map_or(instant, |next| next.min(instant)));
    }

    /// When to look again although nothing has changed.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(1);

    #[test]
    fn a_delay_counts_from_the_first_of_the_passes_that_ask() {
        let begin = Instant::now();
        let mut pacing = Pacing::new(begin);
        assert!(!pacing.is_due("attach".to_owned(), DELAY));
        pacing.begin_pass(begin + DELAY / 2);
        assert!(!pacing.is_due("attach".to_owned(), DELAY));
        assert_eq!(pacing.next(), Some(begin + DELAY));
        pacing.begin_pass(begin + DELAY);
        assert!(pacing.is_due("attach".to_owned(), DELAY));
    }

    #[test]
    fn what_a_pass_did_not_ask_for_waits_from_the_start_again() {
        let begin = Instant::now();
        let mut pacing = Pacing::new(begin);
        assert!(!pacing.is_due("attach".to_owned(), DELAY));
        pacing.begin_pass(begin + DELAY / 2);
        pacing.begin_pass(begin + DELAY);
        assert!(!pacing.is_due("attach".to_owned(), DELAY));
    }
}
