//! A counterexample, one line for each step: what was done, and what has changed by it.

use std::fmt::Write;

use crate::protocol::Step;
use crate::search::Violation;
use crate::state::{App, Message, Role, Site, State};

const NAMES: [&str; 2] = ["east", "west"];

pub fn tell(violation: &Violation) -> String {
    let mut story = String::new();
    for (number, pair) in violation.path.windows(2).enumerate() {
        if let [(before, Some(step)), (after, _)] = pair {
            let _ = writeln!(story, "{:>4}  {:62} {}", number + 1, action(step), changes(before, after));
        }
    }
    let _ = write!(story, "      violated: {}", violation.property);
    story
}

fn action(step: &Step) -> String {
    match step {
        Step::Tick(None) => "a tick passes".to_owned(),
        Step::Tick(Some(site)) => format!("a tick passes that {}'s clock misses", NAMES[*site]),
        Step::Deliver(message) => format!("delivered: {}", content(message)),
        Step::Double(message) => format!("delivered, and still under way: {}", content(message)),
        Step::Lose(message) => format!("lost: {}", content(message)),
        Step::Beat(site) => format!("{} sends a heartbeat", NAMES[*site]),
        Step::Ask(site) => format!("{} asks the other site for a promise", NAMES[*site]),
        Step::Starts(site) => format!("the application starts at {}", NAMES[*site]),
        Step::HasStopped(site) => format!("the application has stopped at {}", NAMES[*site]),
        Step::SaysStopped(site) => format!("{} acknowledges its fence", NAMES[*site]),
        Step::SaysPromoted(site) => format!("{} acknowledges its promotion", NAMES[*site]),
        Step::RestartAgent(site) => format!("the agent of {} restarts", NAMES[*site]),
        Step::RestartHub => "the hub restarts".to_owned(),
        Step::Rejoin(site) => format!("{} becomes a standby again", NAMES[*site]),
        Step::Assign(site) => format!("the hub sends {} its assignment", NAMES[*site]),
        Step::Begin(kind, to) => format!("the hub begins: {kind:?} to {}", NAMES[*to]),
        Step::Abort => "the hub gives the operation up".to_owned(),
        Step::WaitIsOver => "the hub has waited long enough".to_owned(),
        Step::IssuePromotion => "the hub passes the point of no return".to_owned(),
        Step::CommandFence => "the hub sends the fence".to_owned(),
        Step::CommandPromotion => "the hub sends the promotion".to_owned(),
        Step::Edit => "the user edits the DRPlacement".to_owned(),
    }
}

fn content(message: &Message) -> String {
    match *message {
        Message::Heartbeat { from, renewal: None, .. } => format!("{}'s heartbeat", NAMES[from]),
        Message::Heartbeat { from, renewal: Some((epoch, echo)), .. } => {
            format!("{}'s renewal of epoch {epoch}, echoing generation {echo}", NAMES[from])
        }
        Message::Grant { to, age, epoch, generation } => {
            let to = NAMES[to];
            format!("grant to {to}, {age} old, of epoch {epoch}, generation {generation}")
        }
        Message::Reply { to, age } => format!("reply to {}, {age} old", NAMES[to]),
        Message::Superseded { to, epoch, .. } => format!("denial to {}: superseded by {epoch}", NAMES[to]),
        Message::Assignment { to, holder, epoch, generation } => {
            let (to, holder) = (NAMES[to], NAMES[holder]);
            format!("assignment to {to}: {holder} holds epoch {epoch}, generation {generation}")
        }
        Message::Fence { to, age, epoch } => format!("fence of epoch {epoch} to {}, {age} old", NAMES[to]),
        Message::Promote { to, age, epoch, proof } => {
            format!("promotion of epoch {epoch} to {}, {age} old, {proof:?}", NAMES[to])
        }
        Message::Stopped { from, epoch } => format!("{} has stopped for epoch {epoch}", NAMES[from]),
        Message::Promoted { from, epoch } => format!("{} is promoted at epoch {epoch}", NAMES[from]),
        Message::Ask { from, .. } => format!("{}'s question for a promise", NAMES[from]),
        Message::Promise { to, age, epoch } => {
            format!("promise to {}, {age} old, for epoch {epoch}", NAMES[to])
        }
    }
}

fn changes(before: &State, after: &State) -> String {
    let mut told = Vec::new();
    let (old, new) = (&before.hub.facts, &after.hub.facts);
    if old.owner != new.owner || old.epoch != new.epoch {
        told.push(format!("owner: {} at epoch {}", NAMES[new.owner], new.epoch));
    }
    for (site, name) in NAMES.iter().enumerate() {
        let (was, is) = (standing(&before.sites[site]), standing(&after.sites[site]));
        if was != is {
            told.push(format!("{name}: {is}"));
        }
    }
    told.join("; ")
}

fn standing(site: &Site) -> String {
    let role = match site.role {
        Role::Holder => "holder",
        Role::Promoting => "promoting",
        Role::Standby => "standby",
        Role::Fenced => "fenced",
    };
    let app = match site.app {
        App::Stopped => "stopped",
        App::Runs => "RUNS",
        App::Stops(_) => "stopping",
    };
    let Site { epoch, lease, promised, owes, .. } = site;
    let mut told = format!("{role} {epoch}, {app}, lease {}", lease.left);
    for (what, left) in [("is promised", promised), ("owes", owes)] {
        if *left > 0 {
            let _ = write!(told, ", {what} {left}");
        }
    }
    told
}
