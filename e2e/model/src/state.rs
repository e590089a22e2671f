//! One moment of the protocol, as small as it can be told: one placement, the hub, two sites, and what is on the wire.
//!
//! All times are spans from now, in ticks, and end where they stop to matter. So the same situation at another hour is the
//! same state, and the search closes.

pub const SITES: [usize; 2] = [0, 1];

pub fn other(site: usize) -> usize {
    1 - site
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct State {
    pub hub: Hub,
    pub sites: [Site; 2],
    pub wire: Wire,
    /// The generation of the DRPlacement.
    pub generation: u8,
    /// A promotion was begun while the application ran at the other site.
    pub promoted_beside: bool,
}

/// What the hub knows. All but `since` is in its journal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Hub {
    pub facts: Facts,
    /// Since it last granted to the holder, heard it, or started.
    pub since: u8,
}

/// The journal of one placement, without what no longer matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Facts {
    pub owner: usize,
    pub epoch: u8,
    /// The highest epoch that was entered or burned.
    pub highest: u8,
    /// Granted since the last echo.
    pub granted: Generations,
    pub echoed: u8,
    pub operation: Option<Operation>,
}

/// A set of generations: no scope has more than eight.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Generations(u8);

impl Generations {
    pub fn only(generation: u8) -> Generations {
        Generations(1 << generation)
    }

    pub fn insert(&mut self, generation: u8) {
        self.0 |= 1 << generation;
    }

    pub fn forget_below(&mut self, generation: u8) {
        self.0 &= u8::MAX << generation;
    }

    /// Oldest first.
    pub fn iter(self) -> impl Iterator<Item = u8> {
        (0..8).filter(move |generation| self.0 & (1 << generation) != 0)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Kind {
    FailOver,
    Migrate,
    /// Back to a holder that was told to stop, after an abort.
    Readopt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Proof {
    NeverHeld,
    Acknowledged,
    LeaseExpired,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Operation {
    pub kind: Kind,
    pub to: usize,
    pub epoch: u8,
    pub proof: Option<Proof>,
    /// Its promotion is issued: the point of no return.
    pub issued: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Role {
    Holder,
    Promoting,
    Standby,
    Fenced,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum App {
    Stopped,
    Runs,
    /// It was told to stop, and has stopped for certain after so many ticks of its site's clock.
    Stops(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Site {
    pub role: Role,
    pub epoch: u8,
    /// The epoch of the command that is carried out.
    pub commanded: Option<u8>,
    /// The epoch of the last promotion that was answered with Done.
    pub answered: Option<u8>,
    pub lease: Span,
    /// A renewal was granted at this epoch.
    pub granted: bool,
    /// For how long the other site waits for this one.
    pub promised: u8,
    /// For how long this site has promised to wait for the other one.
    pub owes: u8,
    /// The generation that it lives by.
    pub lives_by: u8,
    pub app: App,
    /// Ticks until its clock may miss another one.
    pub steady: u8,
}

/// The hub's part of a lease: how long ago the renewal was sent that it was granted for, and how long it lasts still.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    pub sent: u8,
    pub left: u8,
}

/// The age of what a process has sent that has ended since: it answers nothing that is known any more.
pub const FORGOTTEN: u8 = u8::MAX;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Message {
    /// A heartbeat, with a renewal if the site asks for one: its epoch and what it lives by.
    Heartbeat {
        from: usize,
        age: u8,
        renewal: Option<(u8, u8)>,
    },
    Grant {
        to: usize,
        age: u8,
        epoch: u8,
        generation: u8,
    },
    /// An answer that grants nothing and denies nothing for good.
    Reply {
        to: usize,
        age: u8,
    },
    Superseded {
        to: usize,
        age: u8,
        asked: u8,
        epoch: u8,
    },
    Assignment {
        to: usize,
        holder: usize,
        epoch: u8,
        generation: u8,
    },
    Fence {
        to: usize,
        age: u8,
        epoch: u8,
    },
    Promote {
        to: usize,
        age: u8,
        epoch: u8,
        proof: Proof,
    },
    Stopped {
        from: usize,
        epoch: u8,
    },
    Promoted {
        from: usize,
        epoch: u8,
    },
    Ask {
        from: usize,
        age: u8,
        epoch: u8,
    },
    Promise {
        to: usize,
        age: u8,
        epoch: u8,
    },
}

impl Message {
    /// How long ago, by its site's clock, the heartbeat or the question was sent that this message is about.
    pub fn age_mut(&mut self) -> Option<(usize, &mut u8)> {
        match self {
            Message::Heartbeat { from: site, age, .. }
            | Message::Grant { to: site, age, .. }
            | Message::Reply { to: site, age }
            | Message::Superseded { to: site, age, .. }
            | Message::Fence { to: site, age, .. }
            | Message::Promote { to: site, age, .. }
            | Message::Ask { from: site, age, .. }
            | Message::Promise { to: site, age, .. } => Some((*site, age)),
            Message::Assignment { .. } | Message::Stopped { .. } | Message::Promoted { .. } => None,
        }
    }

    /// Whether it is on its way to a process that has to know what it answers.
    pub fn answers(&self) -> Option<usize> {
        match self {
            Message::Grant { to, .. }
            | Message::Reply { to, .. }
            | Message::Superseded { to, .. }
            | Message::Fence { to, .. }
            | Message::Promote { to, .. }
            | Message::Promise { to, .. } => Some(*to),
            Message::Heartbeat { .. }
            | Message::Ask { .. }
            | Message::Assignment { .. }
            | Message::Stopped { .. }
            | Message::Promoted { .. } => None,
        }
    }
}

/// What is under way: a set, in any order. Always sorted, so that the same set is the same state.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Wire([Option<Message>; 3]);

impl Wire {
    pub fn iter(&self) -> impl Iterator<Item = Message> + '_ {
        self.0.iter().copied().flatten()
    }

    /// What does not fit is lost.
    pub fn send(&mut self, message: Message, room: usize) {
        let known = self.0.contains(&Some(message));
        if known || self.iter().count() >= room {
            return;
        }
        if let Some(free) = self.0.iter_mut().find(|place| place.is_none()) {
            *free = Some(message);
        }
        self.0.sort_unstable();
    }

    pub fn remove(&mut self, message: Message) {
        for place in &mut self.0 {
            place.take_if(|known| *known == message);
        }
        self.0.sort_unstable();
    }

    /// Changes every message, or takes it away.
    pub fn pass(&mut self, change: impl Fn(Message) -> Option<Message>) {
        let before = std::mem::take(self);
        for message in before.iter().filter_map(change) {
            self.send(message, before.0.len());
        }
    }
}

impl State {
    /// East was adopted a moment ago, at epoch 1, and nobody has been granted anything yet.
    pub fn beginning(ttl: u8) -> State {
        let site = |role, left| Site {
            role,
            epoch: 1,
            commanded: None,
            answered: None,
            lease: Span { sent: 0, left },
            granted: false,
            promised: 0,
            owes: 0,
            lives_by: 1,
            app: App::Stopped,
            steady: 0,
        };
        let facts = Facts {
            owner: 0,
            epoch: 1,
            highest: 1,
            granted: Generations::default(),
            echoed: 0,
            operation: None,
        };
        State {
            hub: Hub { facts, since: 0 },
            sites: [site(Role::Holder, ttl), site(Role::Standby, 0)],
            wire: Wire::default(),
            generation: 1,
            promoted_beside: false,
        }
    }
}
