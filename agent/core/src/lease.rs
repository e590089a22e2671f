//! How long the holder may go on: a lease is a reply, and counts from the send instant of what it answers (protocol R1).

use std::collections::BTreeMap;
use std::time::Duration;

use proto::{ClusterName, Epoch, Moment, Policy};
use serde::{Deserialize, Serialize};

/// The hub's part of a lease: what it granted, in the terms that a shorter ttl needs to shorten it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accounted {
    /// Send instant of the newest heartbeat that the hub has answered with the right to go on.
    pub sent: Moment,
    /// Until when the hub accounts for this cluster; never later than `sent` and the ttl of the policy lived by.
    pub until: Moment,
}

impl Accounted {
    fn shortened_to(self, ttl: Duration) -> Accounted {
        Accounted { until: self.until.min(self.sent + ttl), ..self }
    }
}

/// The targets' part of a lease: until when each has promised to wait for the holder of this epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Promised {
    pub epoch: Epoch,
    pub until: BTreeMap<ClusterName, Moment>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Lease {
    accounted: Option<Accounted>,
    /// A renewal was granted at the present epoch.
    granted: bool,
    /// Until when each target has promised to wait.
    promised: BTreeMap<ClusterName, Moment>,
    /// The clocks disagreed: nothing new is started before a renewal succeeds (R7).
    suspended: bool,
    /// Where the hub's part ends if the hub is not there to confirm it: without the time of a call.
    unconfirmed: Option<Moment>,
    asked: Option<Moment>,
}

impl Lease {
    /// After a restart on the same boot: what was remembered, and the policy that is durable. A grant whose policy was
    /// written down, and whose memory was not, shortens the remembered one as it did before the restart.
    pub fn remembered(accounted: Option<Accounted>, durable: Option<&Policy>) -> Lease {
        let accounted = accounted.map(|accounted| match durable {
            Some(policy) => accounted.shortened_to(policy.timing.ttl),
            None => accounted,
        });
        Lease { accounted, ..Lease::default() }
    }

    /// Another epoch: nothing granted or promised for the last one counts, but the hub accounts for what it has said.
    pub fn enter_epoch(&mut self) {
        self.granted = false;
        self.promised.clear();
        self.asked = None;
    }

    /// The hub has granted the renewal that was sent at `sent` for `ttl`; `lived_by` is the ttl of the policy that this
    /// cluster lives by, that grant's included. A hub that has heard the echo of a shorter ttl waits no longer than that
    /// (R6), so a shorter one also shortens what was granted before, and a longer one of a grant that came late, or of
    /// an older policy, lengthens nothing. One that is over when it comes is no right to start anything.
    pub fn grant(&mut self, now: Moment, sent: Moment, ttl: Duration, lived_by: Duration) {
        self.accounted = self.accounted.map(|accounted| accounted.shortened_to(lived_by));
        self.account(sent, ttl.min(lived_by));
        if now < sent + ttl.min(lived_by) {
            self.granted = true;
            self.suspended = false;
            self.unconfirmed = None;
        }
    }

    /// While an epoch is being entered the hub cannot grant yet; its answer to the heartbeat sent at `sent` shows that
    /// it had not given this cluster up when it heard that one. `sent` must be the send instant of a heartbeat of this
    /// process that the hub has answered, with a reply or a command: the hub counts its own wait from the last heartbeat
    /// that it heard, which is never before this one was sent. It confirms what a jump of the clock has put in doubt: nothing
    /// that was sent before the jump is heard as answered after it.
    pub fn hear(&mut self, sent: Moment, ttl: Duration) {
        self.account(sent, ttl);
        self.unconfirmed = None;
    }

    fn account(&mut self, sent: Moment, ttl: Duration) {
        let new = Accounted { sent, until: sent + ttl };
        self.accounted = Some(self.accounted.map_or(new, |known| Accounted {
            sent: known.sent.max(new.sent),
            until: known.until.max(new.until),
        }));
    }

    /// A target has promised, asked at `asked`, to wait for `hold`.
    pub fn promise(&mut self, target: ClusterName, asked: Moment, hold: Duration) {
        let until = self.promised.entry(target).or_default();
        *until = (asked + hold).max(*until);
    }

    /// What the targets have promised at this epoch, to be remembered; none: nothing.
    pub fn promised(&self, epoch: Epoch) -> Option<Promised> {
        (!self.promised.is_empty()).then(|| Promised { epoch, until: self.promised.clone() })
    }

    /// After a restart on the same boot. The promises of another epoch were not given to this holder.
    pub fn recall(&mut self, promised: Promised, epoch: Epoch) {
        if promised.epoch == epoch {
            self.promised = promised.until;
        }
    }

    /// The target has taken its word back by entering another epoch.
    pub fn forget_promise(&mut self, target: &ClusterName) {
        self.promised.remove(target);
    }

    /// The later of what the hub has granted and what *all* targets have promised.
    pub fn deadline<'a>(&self, targets: impl Iterator<Item = &'a ClusterName>) -> Option<Moment> {
        let promises: Option<Vec<Moment>> =
            targets.map(|target| self.promised.get(target).copied()).collect();
        let all_promised = promises.and_then(|promises| promises.into_iter().min());
        self.until().max(all_promised)
    }

    fn until(&self) -> Option<Moment> {
        self.accounted.map(|accounted| accounted.until)
    }

    /// Whether the hub's part is none, or past. What follows is worth remembering at once: without it a restart would
    /// stop the application.
    pub fn is_over(&self, now: Moment) -> bool {
        self.until().is_none_or(|until| until <= now)
    }

    /// The hub's part of the deadline, to be remembered.
    pub fn accounted(&self) -> Option<Accounted> {
        self.accounted
    }

    /// Whether pods may be started: granted at this epoch, and not in doubt.
    pub fn is_granted<'a>(&self, now: Moment, targets: impl Iterator<Item = &'a ClusterName>) -> bool {
        self.granted && !self.suspended && self.deadline(targets).is_some_and(|deadline| now < deadline)
    }

    /// Boot time and wall time have moved apart by `jump`: one of them is wrong. The deadline comes closer by as much as
    /// boot time may have missed, but a hub that answers within one call's time can still confirm it.
    pub fn suspend(&mut self, now: Moment, jump: Duration, rpc: Duration) {
        self.suspended = true;
        self.unconfirmed = self.until().map(|until| until - jump);
        if let Some(accounted) = &mut self.accounted {
            accounted.sent = accounted.sent - jump;
        }
        let promised = self.promised.values_mut();
        for until in promised.chain(self.accounted.iter_mut().map(|accounted| &mut accounted.until)) {
            *until = (*until).min((*until - jump).max(now + rpc));
        }
    }

    /// A renewal that will have been sent was sent by another clock.
    pub fn doubt(&mut self, now: Moment) {
        self.accounted = self.accounted.filter(|accounted| accounted.sent <= now);
    }

    /// Whether only a renewal that is granted would bring the time back that a jump of the clock may have taken.
    pub fn is_in_doubt(&self) -> bool {
        self.suspended
    }

    /// The hub is away: there is nobody who could confirm what is in doubt.
    pub fn lose_hub(&mut self) {
        if let (Some(accounted), Some(unconfirmed)) = (&mut self.accounted, self.unconfirmed.take()) {
            accounted.until = accounted.until.min(unconfirmed);
        }
    }

    /// After a third of the ttl without a grant the targets are asked, once in each renewal period.
    pub fn hold_is_due(&mut self, now: Moment, policy: &Policy) -> bool {
        let Some(until) = self.until() else { return false };
        let silent = until < now + policy.timing.ttl * 2 / 3;
        let rested = self.asked.is_none_or(|asked| now.since(asked) >= policy.timing.renew);
        let due = silent && rested;
        if due {
            self.asked = Some(now);
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TTL: Duration = Duration::from_secs(20);

    fn name(text: &str) -> ClusterName {
        ClusterName::parse(text).expect("a name")
    }

    #[test]
    fn a_late_grant_counts_from_the_instant_its_renewal_was_sent() {
        let mut lease = Lease::default();
        lease.grant(Moment(10_000), Moment(10_000), TTL, TTL);
        lease.grant(Moment(4_000), Moment(4_000), TTL, TTL);
        assert_eq!(lease.deadline([].iter()), Some(Moment(30_000)));
    }

    #[test]
    fn a_shorter_ttl_shortens_what_was_granted_before_and_a_late_longer_one_lengthens_nothing() {
        let long = Duration::from_secs(600);
        let mut lease = Lease::default();
        lease.grant(Moment(10_000), Moment(10_000), long, long);
        lease.grant(Moment(4_000), Moment(4_000), TTL, TTL);
        assert_eq!(lease.until(), Some(Moment(30_000)), "counted from the newest answered renewal");
        lease.grant(Moment(11_000), Moment(11_000), long, TTL);
        assert_eq!(lease.until(), Some(Moment(31_000)), "the answer of an older policy");
    }

    #[test]
    fn a_longer_ttl_counts_from_the_renewal_that_brought_it() {
        let long = Duration::from_secs(600);
        let mut lease = Lease::default();
        lease.grant(Moment(10_000), Moment(10_000), TTL, TTL);
        lease.grant(Moment(4_000), Moment(4_000), long, long);
        assert_eq!(lease.until(), Some(Moment(604_000)));
    }

    /// What lasts may come from a heartbeat that was heard while an epoch was entered; that is no right to start.
    #[test]
    fn a_grant_that_is_over_when_it_comes_starts_nothing() {
        let mut lease = Lease::default();
        lease.hear(Moment(25_000), TTL);
        lease.grant(Moment(30_000), Moment(10_000), TTL, TTL);
        assert!(!lease.is_granted(Moment(30_000), [].into_iter()));
        lease.grant(Moment(30_000), Moment(29_000), TTL, TTL);
        assert!(lease.is_granted(Moment(30_000), [].into_iter()));
    }

    #[test]
    fn the_promise_of_one_of_two_targets_extends_nothing() {
        let (west, north) = (name("west"), name("north"));
        let mut lease = Lease::default();
        lease.grant(Moment(0), Moment(0), TTL, TTL);
        lease.promise(west.clone(), Moment(15_000), Duration::from_secs(15));
        assert_eq!(lease.deadline([&west, &north].into_iter()), Some(Moment(20_000)));
        lease.promise(north.clone(), Moment(14_000), Duration::from_secs(15));
        assert_eq!(lease.deadline([&west, &north].into_iter()), Some(Moment(29_000)));
    }

    #[test]
    fn without_any_target_no_promise_can_extend() {
        let mut lease = Lease::default();
        lease.grant(Moment(0), Moment(0), TTL, TTL);
        assert_eq!(lease.deadline([].into_iter()), Some(Moment(20_000)));
    }

    #[test]
    fn a_jump_of_the_clock_takes_as_much_from_the_deadline_and_leaves_time_for_one_call() {
        let rpc = Duration::from_secs(2);
        let mut lease = Lease::default();
        lease.grant(Moment(10_000), Moment(10_000), TTL, TTL);
        lease.suspend(Moment(11_000), Duration::from_secs(5), rpc);
        assert_eq!(lease.until(), Some(Moment(25_000)));
        assert!(!lease.is_granted(Moment(11_000), [].into_iter()));
        lease.suspend(Moment(11_000), Duration::from_secs(3600), rpc);
        assert_eq!(lease.until(), Some(Moment(13_000)));
    }

    /// A new holder that is not granted yet is answered all the same.
    #[test]
    fn what_the_hub_has_answered_after_the_jump_is_not_in_doubt_when_it_goes_away() {
        let mut lease = Lease::default();
        lease.grant(Moment(10_000), Moment(10_000), TTL, TTL);
        lease.suspend(Moment(11_000), Duration::from_secs(25), Duration::from_secs(2));
        lease.hear(Moment(11_500), TTL);
        lease.lose_hub();
        assert_eq!(lease.until(), Some(Moment(31_500)));
        assert!(!lease.is_granted(Moment(11_600), [].into_iter()), "nothing is started before a grant");
    }

    #[test]
    fn after_a_jump_of_the_clock_a_hub_that_is_away_leaves_no_time_for_a_call() {
        let mut lease = Lease::default();
        lease.grant(Moment(10_000), Moment(10_000), TTL, TTL);
        lease.lose_hub();
        assert_eq!(lease.until(), Some(Moment(30_000)), "nothing is in doubt");
        lease.suspend(Moment(11_000), Duration::from_secs(25), Duration::from_secs(2));
        assert_eq!(lease.until(), Some(Moment(13_000)));
        lease.lose_hub();
        assert_eq!(lease.until(), Some(Moment(5_000)));
    }
}
