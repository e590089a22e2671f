//! One named fact that justifies or forbids a step. Status, events, metrics and logs print the same finding.

use crds::conditions::Reason;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub reason: Reason,
    /// Begins with the object, and ends with what to do where something can be done.
    pub message: String,
}

impl Finding {
    pub fn new(reason: Reason, message: impl Into<String>) -> Self {
        Finding { reason, message: message.into() }
    }
}
