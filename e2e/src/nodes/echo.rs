//! Patience of the stand-in nodes: what was just done shows in their view a moment later, and is not done again until then.

use std::{collections::HashMap, time::Duration};

use tokio::time::Instant;

/// Long enough for a watch to tell of the change. What somebody undoes in that time is done again only afterwards.
const ECHO: Duration = Duration::from_millis(500);

#[derive(Default)]
pub struct Echoes {
    awaited: HashMap<String, Instant>,
}

impl Echoes {
    pub fn note(&mut self, done: String, now: Instant) {
        self.awaited.insert(done, now + ECHO);
    }

    /// Until when the echo of `wanted` is awaited, if it was done just now.
    pub fn awaited(&mut self, wanted: &str, now: Instant) -> Option<Instant> {
        self.awaited.retain(|_, until| *until > now);
        self.awaited.get(wanted).copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_action_is_not_repeated_until_its_echo_should_have_come() {
        let (mut echoes, now) = (Echoes::default(), Instant::now());
        echoes.note("attach".to_owned(), now);
        assert_eq!(echoes.awaited("attach", now + ECHO / 2), Some(now + ECHO));
        assert_eq!(echoes.awaited("detach", now + ECHO / 2), None);
        assert_eq!(echoes.awaited("attach", now + ECHO), None);
    }
}
