//! One named fact that justifies or forbids a step. Status, events, metrics and logs print the same finding.

use crds::conditions::Reason;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub reason: Reason,
    /// Where a human is asked: why the hub does not act alone.
    asked_because: Option<Reason>,
    /// Begins with the object, and ends with what to do where something can be done.
    pub message: String,
}

impl Finding {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Finding { reason, asked_because: None, message: message.into() }
    }

    /// A human is asked, because the hub does not act alone for this reason.
    pub fn ask(because: Reason, message: impl Into<String>) -> Self {
        Finding { asked_because: Some(because), ..Finding::new(Reason::WaitingForApproval, message) }
    }

    /// What would have to change.
    pub fn cause(&self) -> Reason {
        self.asked_because.unwrap_or(self.reason)
    }
}
