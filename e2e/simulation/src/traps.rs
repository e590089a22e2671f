//! Plans at chosen moments: each sets the scene in which one rule makes the difference. With every rule kept they end as
//! they must.

use proto::ClusterName;

mod leases;
mod losses;
mod memories;
mod people;

use crate::adversity::follow;
use crate::plan::Plan;
use crate::random::Random;
use crate::scenario::Run;
use crate::transition::Time;
use crate::world::{World, cluster};

#[derive(Clone, Copy)]
pub struct Trap {
    pub name: &'static str,
    pub clusters: &'static [&'static str],
    /// Of each application.
    pub homes: &'static [&'static str],
    /// Whether there is a witness in a third place.
    pub witness: bool,
    pub plan: fn(&mut Random) -> Plan,
}

impl Trap {
    pub fn plan(&self, seed: u64) -> Plan {
        (self.plan)(&mut Random::new(seed ^ 0x7a7))
    }

    pub fn run(&self, seed: u64) -> Run {
        self.with(seed, &self.plan(seed))
    }

    pub fn with(&self, seed: u64, plan: &Plan) -> Run {
        let world = World::with_apps(seed, self.clusters, self.homes);
        follow(if self.witness { world.with_witness() } else { world }, plan)
    }
}

fn east() -> ClusterName {
    cluster("east")
}

fn west() -> ClusterName {
    cluster("west")
}

const TWO: &[&str] = &["east", "west"];
const ONE: &[&str] = &["east"];
/// A rest that ends nothing: the last pods of a slow stop.
const SLOW_STOP: Time = 1_800;

fn trap(name: &'static str, plan: fn(&mut Random) -> Plan) -> Trap {
    Trap { name, clusters: TWO, homes: ONE, witness: false, plan }
}

fn beside_a_witness(name: &'static str, plan: fn(&mut Random) -> Plan) -> Trap {
    Trap { witness: true, ..trap(name, plan) }
}

/// All of them.
pub fn all() -> Vec<Trap> {
    let mut traps = vec![
        trap("the hub dies as the holder is cut off", leases::hub_dies),
        trap("answers come late, and then not at all", leases::late_answers),
        trap("the clocks are as far apart as they may be", leases::clocks_apart),
        trap("a second hub commands with the same epochs", memories::second_hub),
        trap("the holder lives by a promise, and then by nothing", leases::promise),
        trap("whoever has promised is started anew", leases::promise_forgotten),
        trap("whoever has promised starts cold", leases::promise_of_another_boot),
        trap("whoever has promised starts by a clock that is ahead", leases::promise_by_another_clock),
        trap("the holder's lease was remembered by a clock that was ahead", leases::lease_by_another_clock),
        trap("a promise that cannot be written down", leases::promise_unwritten),
        trap("a stricter policy is granted and never heard", leases::policy_unheard),
        trap("a laxer policy is told and never granted", leases::policy_told),
        trap("a stricter policy that is not written down", leases::policy_unwritten),
        trap("what was said before is said again during a move", memories::said_again),
        trap("a move is wished for and taken back, again and again", people::taken_back),
        trap("the hub cannot read the wish", memories::wish_unread),
        trap("the holder is cut off from the hub alone", leases::hub_alone),
        trap("the holder comes back to its peers before the wait is over", leases::back_to_peers),
        trap("nothing has been mirrored for long", losses::stale_copy),
        trap("a second site is lost", losses::second_loss),
        trap("the same site is lost again", losses::same_loss),
        trap("a paused placement loses its site", people::paused),
        trap("a pause comes in the middle of a move", people::paused_move),
        trap("a site is lost in mode Manual", people::manual),
        trap("a human says yes, and the holder runs on", people::yes_alone),
        trap("a human says yes to something else", people::careless),
        trap("the hub is started again while a human is asked", people::question_stands),
        trap("the next holder is lost while the copy is split", losses::split_copy),
        trap("the holder's API server stops before it is cut off", leases::mute_holder),
        trap("the holder's API server stops, and the hub hears no more of it", leases::mute_and_unheard),
        trap("the holder is started again while it stops", leases::started_again),
        trap("the holder's machine sleeps while it is cut off", leases::sleeps),
        trap("the holder is back from a power failure", leases::cold_start),
        trap("one volume is not promoted", losses::one_volume),
        trap("the hub's journal is an old one", memories::old_journal),
        trap("the hub's journal is an old one, and the holder is away", memories::old_journal_alone),
        trap("a resync is given up in the middle", losses::resync_given_up),
        trap("a standby is scaled up by others", people::standby_scaled),
        trap("a planned move whose last writes cross slowly", losses::slow_crossing),
        trap("the holder answers when it is too late", losses::too_late),
        trap("the hub starts while the wish cannot be understood", memories::wish_not_understood),
        trap("the new holder is lost before it is told to start", losses::lost_before_the_start),
        trap(
            "the hub's journal is from before the promotion that it began",
            memories::old_journal_before_promotion,
        ),
        trap("admission learns late that the holder is fenced", leases::admission_lags),
        trap(
            "the hub's journal is from before it gave the placement back",
            memories::old_journal_after_readoption,
        ),
        trap("the holder's API server stops while the sites do not reach each other", leases::mute_and_apart),
    ];
    traps.extend([
        beside_a_witness("the witness is silent as the holder is lost", memories::witness_silent),
        beside_a_witness("the holder's Lease advances at the witness alone", memories::witness_alone),
        beside_a_witness(
            "the hub's whole cluster is an old one, and only the witness knows",
            memories::witness_knows,
        ),
        beside_a_witness("the witness forgets whatever it is told", memories::witness_forgets),
    ]);
    traps.extend([
        Trap {
            clusters: &["east", "west", "north"],
            ..trap("two of three sites are silent", losses::two_dark)
        },
        Trap {
            homes: &["east", "east", "east", "west", "east"],
            ..trap("many placements leave a site", losses::many_leave)
        },
        Trap {
            homes: &["east", "west", "west"],
            ..trap("each site is lost within an hour", losses::both_in_turn)
        },
    ]);
    traps
}
