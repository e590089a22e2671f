//! Delays without sleeping: remembers since when something could have been done, and says when it may.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// One pass asks for everything that is still waiting; what is no longer asked for is forgotten.
#[derive(Default)]
pub struct Pacing {
    waiting: HashMap<String, Instant>,
    asked: HashMap<String, Instant>,
    next: Option<Instant>,
}

impl Pacing {
    pub fn begin_pass(&mut self) {
        self.waiting = std::mem::take(&mut self.asked);
        self.next = None;
    }

    /// Whether `delay` has passed since `what` was first asked for.
    pub fn is_due(&mut self, what: String, delay: Duration) -> bool {
        let now = Instant::now();
        let since = self.waiting.get(&what).copied().unwrap_or(now);
        self.asked.insert(what, since);
        let due = since + delay;
        if due > now {
            self.next = Some(self.next.map_or(due, |next| next.min(due)));
        }
        due <= now
    }

    /// Something was learned that may allow more at once.
    pub fn wake_now(&mut self) {
        self.next = Some(Instant::now());
    }

    /// When the next of the waiting becomes due.
    pub fn next(&self) -> Option<Instant> {
        self.next
    }
}
