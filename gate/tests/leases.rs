//! What the gate believes, and until when: answers as they come over the wire, signed by real certificates.

use std::time::Duration;

use proto::gate::{Certificate, PROMISE_DOMAIN, Promise, Seal, Statement, Target, Ticket};
use proto::{
    ClusterName, Epoch, GateNonce, Generation, Moment, PlacementId, PlacementName, Sealed, WallTime,
};
use tls::pki::{Authority, Existing, Validity};
use tls::{Authorities, Credentials, Files, Identity, StatementError, TrustDomain};
use understudy_gate::judge::{self, Unbelievable};
use understudy_gate::lease::{Gate, Refused, Who};

const TTL: Duration = Duration::from_secs(20);
const HOLD: Duration = Duration::from_secs(15);
const STOP: Duration = Duration::from_secs(25);

fn cluster(name: &str) -> ClusterName {
    ClusterName::parse(name).expect("a name")
}

fn trust_domain() -> TrustDomain {
    TrustDomain::parse("dr.example").expect("a trust domain")
}

/// A hub, two targets, and the gate of a pod at east.
struct Scene {
    authorities: Authorities,
    hub: Credentials,
    west: Credentials,
    north: Credentials,
    gate: Gate,
    now: Moment,
    wall: WallTime,
    asked: u8,
}

fn credentials(authority: &Authority, identity: &Identity) -> Credentials {
    let folder = tempfile::tempdir().expect("a folder");
    let issued = authority.issue(identity, Validity::days(1)).expect("issued");
    issued.write(folder.path(), Existing::Keep).expect("written");
    Credentials::load(Files::in_folder(folder.path()), trust_domain()).expect("loaded")
}

fn agent(authority: &Authority, name: &str) -> Credentials {
    credentials(authority, &Identity::cluster(&format!("u-{name}")).expect("a uid"))
}

fn who() -> Who {
    let placement = PlacementName::parse("shop", "shop").expect("a name");
    Who { cluster: cluster("east"), placement, pod: "uid-1".into() }
}

fn milliseconds_since_1970() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("after 1970");
    i64::try_from(now.as_millis()).expect("a time")
}

impl Scene {
    fn new() -> Scene {
        let authority = Authority::create(&trust_domain()).expect("an authority");
        let folder = tempfile::tempdir().expect("a folder");
        authority.write(folder.path(), Existing::Keep).expect("written");
        let text = std::fs::read_to_string(folder.path().join("ca.crt")).expect("read");
        let mut scene = Scene {
            authorities: Authorities::parse(&text, trust_domain()).expect("authorities"),
            hub: credentials(&authority, &Identity::Hub),
            west: agent(&authority, "west"),
            north: agent(&authority, "north"),
            gate: Gate::new(who()),
            now: Moment(1_000_000),
            wall: WallTime(milliseconds_since_1970()),
            asked: 0,
        };
        scene.gate.compare_clocks(scene.now, scene.wall);
        scene
    }

    fn pass(&mut self, span: Duration) {
        self.now = self.now + span;
        self.wall = self.wall + span;
        assert_eq!(self.gate.compare_clocks(self.now, self.wall), None);
    }

    /// The gate asks, now.
    fn asks(&mut self) -> GateNonce {
        self.asked += 1;
        let nonce = GateNonce::of_bytes([self.asked; 16]);
        self.gate.ask(self.now, nonce.clone());
        nonce
    }

    fn hears(&mut self, sealed: &Sealed) -> Result<(), Unbelievable> {
        judge::hear(&mut self.gate, &self.authorities, self.now, self.wall, sealed)
    }

    fn is_told(&mut self, ticket: Ticket) {
        let answer = sealed(&self.hub, Statement::Ticket(ticket));
        self.hears(&answer).expect("a good ticket");
    }

    fn refusal(&mut self, ticket: Ticket) -> Refused {
        let answer = sealed(&self.hub, Statement::Ticket(ticket));
        let judged = self.hears(&answer);
        let Err(Unbelievable::Refused(refused)) = judged else { panic!("not refused, but: {judged:?}") };
        refused
    }

    fn seconds_left(&self) -> Option<u64> {
        self.gate.deadline().map(|deadline| deadline.since(self.now).as_secs())
    }
}

fn ticket(nonce: GateNonce) -> Ticket {
    let target = |name: &str| Target { cluster: cluster(name), identity: format!("u-{name}") };
    Ticket {
        cluster: cluster("east"),
        placement: PlacementId::parse("p-1").expect("an id"),
        name: who().placement,
        epoch: Epoch(3),
        generation: Generation(5),
        nonce,
        renew: Duration::from_secs(2),
        rpc: Duration::from_secs(2),
        ttl: TTL,
        grace: Duration::from_secs(10),
        stop: STOP,
        targets: vec![target("west"), target("north")],
    }
}

fn promise(target: &str, nonce: GateNonce) -> Promise {
    let placement = PlacementId::parse("p-1").expect("an id");
    let (target, holder) = (cluster(target), cluster("east"));
    Promise { target, holder, placement, epoch: Epoch(3), nonce, hold: HOLD, stop: STOP }
}

fn sealed(by: &Credentials, statement: Statement) -> Sealed {
    signed(by, statement.domain(), Sealed::of(&statement))
}

fn signed(by: &Credentials, domain: &[u8], sealed: Sealed) -> Sealed {
    let signature = by.sign(domain, &sealed.body).expect("signed");
    let chain = signature.chain.into_iter().map(Certificate).collect();
    Sealed { seal: Some(Seal { scheme: signature.scheme, signature: signature.bytes, chain }), ..sealed }
}

#[test]
fn without_a_ticket_nothing_may_start_and_nothing_has_a_deadline() {
    let scene = Scene::new();
    assert!(!scene.gate.may_start(scene.now));
    assert_eq!(scene.gate.deadline(), None);
}

#[test]
fn the_deadline_counts_from_the_gates_own_question() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    scene.pass(Duration::from_secs(7));
    scene.is_told(ticket(nonce));
    assert_eq!(scene.seconds_left(), Some(13));
    assert!(scene.gate.may_start(scene.now));
    scene.pass(Duration::from_secs(13));
    assert!(!scene.gate.may_start(scene.now), "over");
}

#[test]
fn a_ticket_that_is_over_when_it_comes_starts_nothing() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    scene.pass(TTL);
    scene.is_told(ticket(nonce));
    assert!(!scene.gate.may_start(scene.now));
}

#[test]
fn a_replayed_ticket_lengthens_nothing() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    let answer = sealed(&scene.hub, Statement::Ticket(ticket(nonce)));
    scene.hears(&answer).expect("a good ticket");
    let before = scene.gate.deadline();
    scene.pass(Duration::from_secs(5));
    scene.hears(&answer).expect("the same again");
    assert_eq!(scene.gate.deadline(), before);
}

#[test]
fn what_nobody_has_asked_is_not_answered() {
    let mut scene = Scene::new();
    scene.asks();
    assert_eq!(scene.refusal(ticket(GateNonce::of_bytes([99; 16]))), Refused::Nonce);
    assert_eq!(scene.gate.deadline(), None);
}

#[test]
fn a_ticket_for_another_cluster_or_placement_counts_for_nothing() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    let elsewhere = Ticket { cluster: cluster("west"), ..ticket(nonce.clone()) };
    assert_eq!(scene.refusal(elsewhere), Refused::Cluster(cluster("west")));
    let name = PlacementName::parse("shop", "mail").expect("a name");
    let another = Ticket { name: name.clone(), ..ticket(nonce) };
    assert_eq!(scene.refusal(another), Refused::Placement(name));
    assert_eq!(scene.gate.deadline(), None);
}

#[test]
fn a_ticket_that_was_changed_or_is_not_the_hubs_is_not_believed() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    let statement = Statement::Ticket(ticket(nonce.clone()));
    let good = sealed(&scene.hub, statement.clone());
    let longer = Ticket { ttl: TTL * 100, ..ticket(nonce) };
    let changed = Sealed { body: Sealed::of(&Statement::Ticket(longer)).body, ..good.clone() };
    let by_an_agent = sealed(&scene.west, statement.clone());
    let of_another_kind = signed(&scene.hub, PROMISE_DOMAIN, Sealed::of(&statement));
    let a_strangers = sealed(&Scene::new().hub, statement);
    for forged in [changed, by_an_agent, of_another_kind, a_strangers] {
        let judged = scene.hears(&forged);
        assert!(matches!(judged, Err(Unbelievable::Unproven(_))), "{judged:?}");
    }
    let judged = scene.hears(&Sealed { seal: None, ..good });
    assert!(matches!(judged, Err(Unbelievable::Unsealed)), "{judged:?}");
    assert_eq!(scene.gate.deadline(), None);
}

#[test]
fn a_ticket_with_an_expired_certificate_is_not_believed() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    let answer = sealed(&scene.hub, Statement::Ticket(ticket(nonce)));
    let later = scene.wall + Duration::from_secs(3 * 24 * 60 * 60);
    let judged = judge::hear(&mut scene.gate, &scene.authorities, scene.now, later, &answer);
    assert!(matches!(judged, Err(Unbelievable::Unproven(StatementError::Chain(_)))), "{judged:?}");
    assert_eq!(scene.gate.deadline(), None);
}

#[test]
fn a_silent_hub_is_survived_by_the_promises_of_all_targets_and_not_of_one() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    scene.is_told(ticket(nonce));
    scene.pass(Duration::from_secs(12));
    let nonce = scene.asks();
    scene.pass(Duration::from_secs(1));
    let from_west = sealed(&scene.west, Statement::Promise(promise("west", nonce.clone())));
    scene.hears(&from_west).expect("a good promise");
    assert_eq!(scene.seconds_left(), Some(7), "north has not promised");
    let in_norths_name = sealed(&scene.west, Statement::Promise(promise("north", nonce.clone())));
    assert!(matches!(scene.hears(&in_norths_name), Err(Unbelievable::Unproven(_))));
    assert_eq!(scene.seconds_left(), Some(7));
    let from_north = sealed(&scene.north, Statement::Promise(promise("north", nonce)));
    scene.hears(&from_north).expect("a good promise");
    assert_eq!(scene.seconds_left(), Some(14), "from the question");
}

#[test]
fn a_promise_counts_only_for_this_holder_epoch_and_time_to_stop() {
    let mut scene = Scene::new();
    let early = scene.asks();
    let before_any_ticket = sealed(&scene.west, Statement::Promise(promise("west", early.clone())));
    assert!(scene.hears(&before_any_ticket).is_err());
    scene.is_told(ticket(early));
    let good = promise("west", scene.asks());
    for bad in [
        Promise { holder: cluster("north"), ..good.clone() },
        Promise { epoch: Epoch(2), ..good.clone() },
        Promise { placement: PlacementId::parse("p-2").expect("an id"), ..good.clone() },
        Promise { stop: STOP - Duration::from_millis(1), ..good.clone() },
        Promise { target: cluster("south"), ..good },
    ] {
        let judged = scene.hears(&sealed(&scene.west, Statement::Promise(bad)));
        assert!(matches!(judged, Err(Unbelievable::Refused(_))), "{judged:?}");
    }
}

#[test]
fn promises_end_with_their_epoch_and_an_older_epoch_is_not_granted_again() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    let old = ticket(scene.asks());
    scene.is_told(Ticket { ttl: Duration::from_secs(5), ..ticket(nonce.clone()) });
    let promises = [
        sealed(&scene.west, Statement::Promise(promise("west", nonce.clone()))),
        sealed(&scene.north, Statement::Promise(promise("north", nonce))),
    ];
    promises.iter().for_each(|promise| scene.hears(promise).expect("a good promise"));
    assert_eq!(scene.seconds_left(), Some(15));
    let nonce = scene.asks();
    scene.is_told(Ticket { epoch: Epoch(4), ttl: Duration::from_secs(5), ..ticket(nonce) });
    assert_eq!(scene.seconds_left(), Some(5), "nothing that was promised at the epoch before");
    assert_eq!(scene.refusal(old), Refused::Epoch { found: Epoch(3), known: Epoch(4) });
}

#[test]
fn a_shorter_ttl_shortens_what_was_granted_and_a_late_longer_one_lengthens_nothing() {
    let mut scene = Scene::new();
    let (first, second, third) = (scene.asks(), scene.asks(), scene.asks());
    let longer = |nonce| Ticket { ttl: Duration::from_secs(600), ..ticket(nonce) };
    scene.is_told(longer(first));
    assert_eq!(scene.seconds_left(), Some(600));
    scene.is_told(Ticket { generation: Generation(6), ..ticket(second) });
    assert_eq!(scene.seconds_left(), Some(20));
    scene.is_told(longer(third));
    assert_eq!(scene.seconds_left(), Some(20), "an answer of the older policy, late");
    let asked = scene.gate.ask(scene.now, GateNonce::of_bytes([77; 16]));
    assert_eq!(asked.lives_by, Generation(6));
}

#[test]
fn a_jump_of_a_clock_brings_the_deadline_closer_and_starts_nothing_until_a_ticket_comes() {
    let mut scene = Scene::new();
    let (nonce, late) = (scene.asks(), scene.asks());
    scene.is_told(ticket(nonce));
    scene.wall = scene.wall + Duration::from_secs(5);
    assert_eq!(scene.gate.compare_clocks(scene.now, scene.wall), Some(Duration::from_secs(5)));
    assert_eq!(scene.seconds_left(), Some(15));
    assert!(!scene.gate.may_start(scene.now));
    assert_eq!(scene.refusal(ticket(late)), Refused::Nonce, "it was asked before the jump");
    let nonce = GateNonce::of_bytes([77; 16]);
    assert!(scene.gate.is_question_due(scene.now));
    assert!(scene.gate.ask(scene.now, nonce.clone()).in_doubt, "the agent must not wait with it");
    scene.is_told(ticket(nonce));
    assert!(!scene.gate.ask(scene.now, GateNonce::of_bytes([78; 16])).in_doubt);
    assert_eq!((scene.seconds_left(), scene.gate.may_start(scene.now)), (Some(20), true));
}

#[test]
fn the_next_process_of_the_pod_goes_on_with_the_lease_and_starts_nothing_by_it() {
    let mut scene = Scene::new();
    let nonce = scene.asks();
    scene.is_told(ticket(nonce));
    let text = serde_json::to_string(&scene.gate.remembered().expect("a lease")).expect("text");
    let resumed = Gate::resumed(who(), serde_json::from_str(&text).expect("the same"));
    assert_eq!(resumed.deadline(), scene.gate.deadline());
    assert!(!resumed.may_start(scene.now));
    assert_eq!(resumed.remembered(), scene.gate.remembered());
}
