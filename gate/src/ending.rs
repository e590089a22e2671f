//! How an application ends with its lease: asked first, killed when its grace is over, all of it in one moment.

use std::collections::BTreeSet;
use std::time::Duration;

use proto::Moment;

/// A process of the pod, but for the gate itself and the one that holds the sandbox.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub id: u32,
    /// In ticks since boot: tells it from a later one with the same id.
    pub started: u64,
    /// The first process of a container, which nobody in the pod has started.
    pub begins_a_container: bool,
}

/// What is to be done to the pod now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Act {
    Wait,
    /// Ask these to end.
    Ask(Vec<Process>),
    /// Everything goes at once, and what would have been started again waits for the next sandbox's gate.
    EndSandbox,
}

#[derive(Debug)]
pub struct Ending {
    kill_at: Moment,
    /// All that was there when the lease was over; none: nobody has been asked yet.
    asked: Option<BTreeSet<Process>>,
}

impl Ending {
    /// The grace counts from the deadline, not from when it was noticed.
    pub fn new(deadline: Moment, grace: Duration) -> Ending {
        Ending { kill_at: deadline + grace, asked: None }
    }

    pub fn next(&mut self, now: Moment, processes: &[Process]) -> Act {
        if now >= self.kill_at || processes.is_empty() {
            return Act::EndSandbox;
        }
        let Some(asked) = &self.asked else {
            self.asked = Some(processes.iter().cloned().collect());
            return Act::Ask(processes.to_vec());
        };
        // A container that ended is started again by its node: it must not get to work.
        let restarted = |process: &Process| process.begins_a_container && !asked.contains(process);
        if processes.iter().any(restarted) { Act::EndSandbox } else { Act::Wait }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn process(id: u32, begins_a_container: bool) -> Process {
        Process { id, started: u64::from(id) * 100, begins_a_container }
    }

    #[test]
    fn everything_is_asked_once_and_ended_when_its_grace_is_over() {
        let running = [process(7, true), process(8, false)];
        let mut ending = Ending::new(Moment(5_000), GRACE);
        assert_eq!(ending.next(Moment(5_020), &running), Act::Ask(running.to_vec()));
        assert_eq!(ending.next(Moment(5_040), &running), Act::Wait);
        assert_eq!(ending.next(Moment(14_999), &running), Act::Wait);
        assert_eq!(ending.next(Moment(15_000), &running), Act::EndSandbox);
    }

    #[test]
    fn nothing_is_waited_for_when_all_have_ended() {
        let mut ending = Ending::new(Moment(5_000), GRACE);
        ending.next(Moment(5_000), &[process(7, true)]);
        assert_eq!(ending.next(Moment(5_100), &[]), Act::EndSandbox);
    }

    #[test]
    fn a_container_that_is_started_again_ends_the_sandbox_at_once() {
        let mut ending = Ending::new(Moment(5_000), GRACE);
        ending.next(Moment(5_000), &[process(7, true)]);
        assert_eq!(ending.next(Moment(5_100), &[process(7, true), process(9, false)]), Act::Wait, "a child");
        let reused = Process { started: 1, ..process(7, true) };
        assert_eq!(ending.next(Moment(5_200), &[reused]), Act::EndSandbox);
    }

    #[test]
    fn a_gate_that_comes_late_gives_no_grace_beyond_the_deadline_and_grace() {
        let mut ending = Ending::new(Moment(5_000), GRACE);
        assert_eq!(ending.next(Moment(60_000), &[process(7, true)]), Act::EndSandbox);
    }
}
