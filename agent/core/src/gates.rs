//! The gates of a placement's pods here: what they ask by, and what they live by.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use proto::gate::{MOST_GATES, Question};
use proto::{Ailment, Fencing, GateNonce, Generation, Moment, PlacementName};

use crate::agent::Agent;
use crate::ailments::{ailment, reason};
use crate::placement::Placement;

/// Nonces of one gate that may still be answered: it asks once in each renewal period, and keeps as many.
const ANSWERABLE: usize = 16;
/// A gate that has not asked for this long, or for two renewal periods if that is longer, is not asked for any more.
const PATIENCE: Duration = Duration::from_secs(30);

/// At most so often does a gate whose clocks have parted make the agent renew out of turn: anybody who knows the pod could.
const HURRY: Duration = Duration::from_millis(100);

/// A pod, not yet finished, that uses a protected claim, has a gate and has a node to run on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatedPod {
    pub name: String,
    pub uid: String,
    /// Its gate runs, or has run: before that it cannot ask.
    pub started: bool,
}

#[derive(Clone, Debug, Default, PartialEq)]
pub struct Gates {
    /// By the uid of the pod.
    heard: BTreeMap<String, Heard>,
    /// Since when the gate of each pod is known to have started; none: it has not.
    known: BTreeMap<String, Option<Moment>>,
}

#[derive(Clone, Debug, PartialEq)]
struct Heard {
    at: Moment,
    lives_by: Generation,
    nonces: VecDeque<GateNonce>,
}

impl Gates {
    /// The pods that there are now: what is not among them is forgotten.
    pub fn follow(&mut self, now: Moment, pods: &[GatedPod]) {
        let is_there = |uid: &String| pods.iter().any(|pod| pod.uid == *uid);
        self.heard.retain(|uid, _| is_there(uid));
        self.known.retain(|uid, _| is_there(uid));
        for pod in pods {
            let started = self.known.entry(pod.uid.clone()).or_default();
            *started = started.or(pod.started.then_some(now));
        }
    }

    /// Only pods of this placement are answered: an endpoint that anybody can reach must not be made to ask for anything.
    pub fn asked(&mut self, now: Moment, question: Question) {
        let Question { placement: _, pod, nonce, lives_by, in_doubt: _ } = question;
        let is_new = !self.heard.contains_key(&pod);
        if !self.known.contains_key(&pod) || (is_new && self.heard.len() >= MOST_GATES) {
            return;
        }
        let heard = self.heard.entry(pod).or_insert(Heard { at: now, lives_by, nonces: VecDeque::new() });
        (heard.at, heard.lives_by) = (now, lives_by);
        heard.nonces.push_back(nonce);
        if heard.nonces.len() > ANSWERABLE {
            heard.nonces.pop_front();
        }
    }

    /// The newest of each gate that is still there.
    pub fn nonces(&self, now: Moment, renew: Duration) -> Vec<GateNonce> {
        let patience = PATIENCE.max(renew * 2);
        let present = self.heard.values().filter(|heard| now.since(heard.at) < patience);
        present.filter_map(|heard| heard.nonces.back().cloned()).collect()
    }

    /// The oldest generation that a gate may live by: the holder echoes no newer one (R6). None: there are no gates.
    pub fn live_by(&self) -> Option<Generation> {
        let of_pod = |uid: &String| self.heard.get(uid).map_or(Generation(0), |heard| heard.lives_by);
        self.known.keys().map(of_pod).min()
    }

    /// Whether a gate here waits for answers to this. What nobody has asked is for nobody.
    pub fn wait_for(&self, nonce: &GateNonce) -> bool {
        self.heard.values().any(|heard| heard.nonces.contains(nonce))
    }

    /// A gate that does not ask may not be there at all, whatever the pod's specification says.
    pub fn silent(
        &self,
        now: Moment,
        limit: Duration,
        placement: &PlacementName,
        pods: &[GatedPod],
    ) -> Option<Ailment> {
        let started = |uid: &String| self.known.get(uid).copied().flatten();
        let last = |uid: &String| self.heard.get(uid).map(|heard| heard.at).max(started(uid));
        let silent = |pod: &&GatedPod| last(&pod.uid).is_some_and(|at| now.since(at) > limit);
        let pod = pods.iter().find(silent)?;
        let message = format!(
            "Pod {}/{}: its gate has not asked this cluster's agent for its lease lately: see the log of its container {}, and whether it reaches the agent",
            placement.namespace,
            pod.name,
            proto::gate::GUARDING_CONTAINER
        );
        Some(ailment(reason::GATE_SILENT, message))
    }
}

impl Agent {
    /// A gate names its placement as its pod does, and proves nothing by it.
    pub(crate) fn gate_asked(&mut self, question: Question) {
        let now = self.now;
        let asked_for = self.placements.values_mut().find(|placement| placement.name == question.placement);
        let Some(placement) = asked_for else { return };
        let (nonce, in_doubt) = (question.nonce.clone(), question.in_doubt);
        placement.gates.asked(now, question);
        if in_doubt && placement.gates.wait_for(&nonce) {
            let last = self.sent.values().map(|sent| sent.at).max();
            self.next_heartbeat = self.next_heartbeat.min(last.map_or(now, |last| last + HURRY));
        }
    }

    /// Whether a question that was asked is to be answered: others need not be remembered.
    pub fn answers_gate(&self, nonce: &GateNonce) -> bool {
        self.placements.values().any(|placement| placement.gates.wait_for(nonce))
    }
}

/// Where the gates are relied upon, one that does not ask is named.
pub(crate) fn silent(placement: &Placement, now: Moment) -> Option<Ailment> {
    let policy = placement.assignment.as_ref()?.policy;
    let (_, survey) = placement.survey.as_ref()?;
    let relied_upon = policy.fencing == Fencing::Gate;
    let silent = || placement.gates.silent(now, policy.timing.suspect, &placement.name, &survey.gated);
    relied_upon.then(silent).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    const RENEW: Duration = Duration::from_secs(60);

    /// It asks as often as the hub is asked, and its question waits for the next time.
    #[test]
    fn a_gate_that_asks_once_a_minute_is_asked_for() {
        let mut gates = Gates::default();
        gates.follow(Moment(0), &pods(&["web-0"]));
        let nonce = GateNonce::of_bytes([1; 16]);
        let placement = PlacementName::parse("shop", "web").expect("a name");
        let lives_by = Generation(0);
        gates.asked(
            Moment(0),
            Question { placement, pod: "uid-web-0".into(), nonce: nonce.clone(), lives_by, in_doubt: false },
        );
        assert_eq!(gates.nonces(Moment(59_000), RENEW), vec![nonce]);
        assert_eq!(gates.nonces(Moment(59_000), Duration::from_secs(5)), Vec::new());
    }

    fn pods(names: &[&str]) -> Vec<GatedPod> {
        let pod = |name: &&str| GatedPod { name: (*name).into(), uid: format!("uid-{name}"), started: true };
        names.iter().map(pod).collect()
    }

    fn question(pod: &str, number: u8, lives_by: u64) -> Question {
        Question {
            placement: PlacementName::parse("shop", "shop").expect("a name"),
            pod: format!("uid-{pod}"),
            nonce: GateNonce::of_bytes([number; 16]),
            lives_by: Generation(lives_by),
            in_doubt: false,
        }
    }

    #[test]
    fn only_pods_of_the_placement_are_asked_for() {
        let mut gates = Gates::default();
        gates.follow(Moment(0), &pods(&["a"]));
        gates.asked(Moment(1), question("a", 1, 0));
        gates.asked(Moment(1), question("stranger", 2, 0));
        assert_eq!(gates.nonces(Moment(2), RENEW), vec![GateNonce::of_bytes([1; 16])]);
    }

    #[test]
    fn the_newest_nonce_is_asked_for_and_an_answer_to_an_older_one_still_finds_its_gate() {
        let mut gates = Gates::default();
        gates.follow(Moment(0), &pods(&["a", "b"]));
        gates.asked(Moment(1), question("a", 1, 0));
        gates.asked(Moment(2), question("a", 2, 0));
        gates.asked(Moment(2), question("b", 3, 0));
        assert_eq!(gates.nonces(Moment(3), RENEW).len(), 2);
        assert_eq!(
            [1, 3, 9].map(|number| gates.wait_for(&GateNonce::of_bytes([number; 16]))),
            [true, true, false]
        );
    }

    #[test]
    fn the_oldest_generation_that_any_gate_lives_by_holds_the_echo_back() {
        let mut gates = Gates::default();
        assert_eq!(gates.live_by(), None, "without gates nothing is held back");
        gates.follow(Moment(0), &pods(&["a", "b"]));
        gates.asked(Moment(1), question("a", 1, 7));
        assert_eq!(gates.live_by(), Some(Generation(0)), "b may live by anything");
        gates.asked(Moment(1), question("b", 2, 6));
        assert_eq!(gates.live_by(), Some(Generation(6)));
        gates.follow(Moment(2), &pods(&["a"]));
        assert_eq!(gates.live_by(), Some(Generation(7)), "b is gone");
    }

    #[test]
    fn a_gate_that_has_never_asked_is_named_after_a_while() {
        let mut gates = Gates::default();
        let (name, mut pods) = (PlacementName::parse("shop", "shop").expect("a name"), pods(&["a"]));
        let limit = Duration::from_secs(3);
        pods[0].started = false;
        gates.follow(Moment(0), &pods);
        assert_eq!(
            gates.silent(Moment(60_000), limit, &name, &pods),
            None,
            "its image is still being pulled"
        );
        pods[0].started = true;
        gates.follow(Moment(60_000), &pods);
        assert_eq!(gates.silent(Moment(63_000), limit, &name, &pods), None);
        let told = gates.silent(Moment(63_001), limit, &name, &pods).expect("an ailment");
        assert!(told.message.contains("shop/a"), "{}", told.message);
        gates.asked(Moment(63_002), question("a", 1, 0));
        assert_eq!(gates.silent(Moment(63_003), limit, &name, &pods), None);
    }
}
