//! Until when the application may run: counted from the gate's own questions, by what the hub and the targets answer.

use std::collections::VecDeque;
use std::time::Duration;

use agent_core::lease::Lease;
use agent_core::{Accounted, Promised};
use proto::gate::{Promise, Question, Statement, Target, Ticket};
use proto::{ClusterName, Epoch, GateNonce, Generation, Moment, PlacementId, PlacementName, WallTime};
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Questions that may still be answered; an answer to an older one would grant next to nothing.
const ANSWERABLE: usize = 32;
/// Between two questions, before a ticket has said how often the agent renews.
const FIRST_PERIOD: Duration = Duration::from_millis(500);
/// R7: the clocks may not move apart by more.
const LARGEST_CLOCK_JUMP: Duration = Duration::from_secs(2);

/// Whose lease is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Who {
    pub cluster: ClusterName,
    pub placement: PlacementName,
    /// The uid of the pod.
    pub pod: String,
}

/// What the newest ticket says beside its time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terms {
    pub placement: PlacementId,
    pub epoch: Epoch,
    pub generation: Generation,
    pub renew: Duration,
    pub rpc: Duration,
    pub ttl: Duration,
    pub grace: Duration,
    pub stop: Duration,
    pub targets: Vec<Target>,
}

/// What the next process of this pod has to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remembered {
    pub terms: Terms,
    pub accounted: Option<Accounted>,
    pub promised: Option<Promised>,
}

/// Why an answer counts for nothing.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum Refused {
    #[error("it answers no question of this gate that is still open")]
    Nonce,
    #[error("it is for cluster {0}")]
    Cluster(ClusterName),
    #[error("it is for placement {0}")]
    Placement(PlacementName),
    #[error("it is for another placement of the same name")]
    PlacementId,
    #[error("it is for epoch {found}, and epoch {known} is known")]
    Epoch { found: Epoch, known: Epoch },
    #[error("{0} is no target by the hub's last word")]
    Target(ClusterName),
    #[error("a target that waits for a stop of {found:?} does not wait for one of {needed:?}")]
    Stop { found: Duration, needed: Duration },
    #[error("a promise without a ticket before it says nothing")]
    NoTicket,
}

#[derive(Debug)]
pub struct Gate {
    who: Who,
    lease: Lease,
    terms: Option<Terms>,
    asked: VecDeque<(GateNonce, Moment)>,
    next_question: Moment,
    /// Wall clock less boot clock, in milliseconds.
    clock_offset: Option<i64>,
}

impl Gate {
    /// Knows nothing, so nothing may run.
    pub fn new(who: Who) -> Gate {
        Gate {
            who,
            lease: Lease::default(),
            terms: None,
            asked: VecDeque::new(),
            next_question: Moment(0),
            clock_offset: None,
        }
    }

    /// Goes on where another process of the same pod and boot has stopped.
    pub fn resumed(who: Who, remembered: Remembered) -> Gate {
        let Remembered { terms, accounted, promised } = remembered;
        let mut lease = Lease::remembered(accounted, None);
        if let Some(promised) = promised {
            lease.recall(promised, terms.epoch);
        }
        Gate { lease, terms: Some(terms), ..Gate::new(who) }
    }

    pub fn remembered(&self) -> Option<Remembered> {
        let terms = self.terms.clone()?;
        let promised = self.lease.promised(terms.epoch);
        Some(Remembered { accounted: self.lease.accounted(), promised, terms })
    }

    /// R7: two clocks that part mean that one of them is wrong. Returns by how much, if they do.
    pub fn compare_clocks(&mut self, now: Moment, wall: WallTime) -> Option<Duration> {
        let offset = wall.0.saturating_sub(i64::try_from(now.0).unwrap_or(i64::MAX));
        let jump = self.clock_offset.map_or(0, |before| offset.abs_diff(before));
        let jump = Duration::from_millis(jump);
        self.clock_offset = Some(offset);
        if jump <= LARGEST_CLOCK_JUMP {
            return None;
        }
        // An answer to a question from before the jump would count from a doubtful instant.
        self.asked.clear();
        self.next_question = now;
        let rpc = self.terms.as_ref().map_or(Duration::ZERO, |terms| terms.rpc);
        self.lease.suspend(now, jump, rpc);
        Some(jump)
    }

    /// Between two questions: as often as the agent renews.
    pub fn period(&self) -> Duration {
        self.terms.as_ref().map_or(FIRST_PERIOD, |terms| terms.renew)
    }

    pub fn is_question_due(&self, now: Moment) -> bool {
        now >= self.next_question
    }

    /// The next question, which counts from now on (R1).
    pub fn ask(&mut self, now: Moment, nonce: GateNonce) -> Question {
        self.next_question = now + self.period();
        self.asked.push_back((nonce.clone(), now));
        if self.asked.len() > ANSWERABLE {
            self.asked.pop_front();
        }
        let lives_by = self.terms.as_ref().map_or(Generation(0), |terms| terms.generation);
        let Who { cluster: _, placement, pod } = &self.who;
        let in_doubt = self.lease.is_in_doubt();
        Question { placement: placement.clone(), pod: pod.clone(), nonce, lives_by, in_doubt }
    }

    /// The uid in the certificate that must have signed a promise of this target.
    pub fn identity_of(&self, target: &ClusterName) -> Option<&str> {
        let targets = &self.terms.as_ref()?.targets;
        targets.iter().find(|known| known.cluster == *target).map(|known| known.identity.as_str())
    }

    /// A statement whose signature has been verified.
    pub fn hear(&mut self, now: Moment, statement: Statement) -> Result<(), Refused> {
        let sent = self.sent(statement.nonce())?;
        match statement {
            Statement::Ticket(ticket) => self.take_ticket(now, sent, ticket),
            Statement::Promise(promise) => self.take_promise(sent, &promise),
        }
    }

    fn sent(&self, nonce: &GateNonce) -> Result<Moment, Refused> {
        let asked = self.asked.iter().find(|(asked, _)| asked == nonce);
        asked.map(|(_, sent)| *sent).ok_or(Refused::Nonce)
    }

    fn take_ticket(&mut self, now: Moment, sent: Moment, ticket: Ticket) -> Result<(), Refused> {
        let Ticket {
            cluster,
            placement,
            name,
            epoch,
            generation,
            nonce: _,
            renew,
            rpc,
            ttl,
            grace,
            stop,
            targets,
        } = ticket;
        if cluster != self.who.cluster {
            return Err(Refused::Cluster(cluster));
        }
        if name != self.who.placement {
            return Err(Refused::Placement(name));
        }
        match &self.terms {
            // Deleted and made anew under its name: nothing of the former counts.
            Some(known) if known.placement != placement => {
                self.lease = Lease::default();
                self.terms = None;
            }
            Some(known) if epoch < known.epoch => {
                return Err(Refused::Epoch { found: epoch, known: known.epoch });
            }
            Some(known) if epoch > known.epoch => self.lease.enter_epoch(),
            Some(_) | None => {}
        }
        let newer = self.terms.as_ref().is_none_or(|known| generation >= known.generation);
        match &mut self.terms {
            Some(known) if !newer => known.epoch = epoch,
            terms => {
                let newest = Terms { placement, epoch, generation, renew, rpc, ttl, grace, stop, targets };
                *terms = Some(newest);
            }
        }
        let lived_by = self.terms.as_ref().map_or(ttl, |terms| terms.ttl);
        self.lease.grant(now, sent, ttl, lived_by);
        Ok(())
    }

    fn take_promise(&mut self, sent: Moment, promise: &Promise) -> Result<(), Refused> {
        let Promise { target, holder, placement, epoch, nonce: _, hold, stop } = promise;
        let terms = self.terms.as_ref().ok_or(Refused::NoTicket)?;
        if *holder != self.who.cluster {
            return Err(Refused::Cluster(holder.clone()));
        }
        if *placement != terms.placement {
            return Err(Refused::PlacementId);
        }
        if *epoch != terms.epoch {
            return Err(Refused::Epoch { found: *epoch, known: terms.epoch });
        }
        if !terms.targets.iter().any(|known| known.cluster == *target) {
            return Err(Refused::Target(target.clone()));
        }
        if *stop < terms.stop {
            return Err(Refused::Stop { found: *stop, needed: terms.stop });
        }
        self.lease.promise(target.clone(), sent, *hold);
        Ok(())
    }

    /// Whether the application may be started: this process itself has heard the hub, and the lease is not in doubt.
    pub fn may_start(&self, now: Moment) -> bool {
        self.lease.is_granted(now, self.targets())
    }

    /// When the application must be ended; none: there is no lease at all.
    pub fn deadline(&self) -> Option<Moment> {
        self.lease.deadline(self.targets())
    }

    /// How long the application may take to end itself.
    pub fn grace(&self) -> Duration {
        self.terms.as_ref().map_or(Duration::ZERO, |terms| terms.grace)
    }

    fn targets(&self) -> impl Iterator<Item = &ClusterName> {
        self.terms.iter().flat_map(|terms| &terms.targets).map(|target| &target.cluster)
    }
}
