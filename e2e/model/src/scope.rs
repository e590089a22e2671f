//! What is searched: each scope closes by itself, and together they cover every rule.

use crate::protocol::{STOP, Scope};
use crate::real::{Setting, Terms};

const STOPS: Terms = Terms { ttl: 2, stops: true };
const CONTINUES: Terms = Terms { ttl: 2, stops: false };
const LONGER: Terms = Terms { ttl: 3, stops: true };

const PLAIN: Setting = edit(STOPS, STOPS);

const fn edit(first: Terms, second: Terms) -> Setting {
    Setting { first, second, stop: STOP, slow_clocks: false }
}

const BASE: Scope = Scope {
    name: "leases",
    about: "grants, waits and a failover, with restarts",
    setting: PLAIN,
    generations: 1,
    epochs: 2,
    wire: 2,
    holds: false,
    moves: false,
    aborts: false,
    restarts: true,
};

/// For the tests of every day: one failover, and nothing restarts.
pub const SMALL: Scope =
    Scope { name: "small", about: "grants, waits and a failover", wire: 1, restarts: false, ..BASE };

pub const SCOPES: &[Scope] = &[
    BASE,
    Scope { name: "there and back", about: "a failover, and one back", epochs: 3, restarts: false, ..BASE },
    Scope { name: "aborts", about: "operations are given up", aborts: true, epochs: 3, ..BASE },
    Scope {
        name: "moves",
        about: "planned moves and failovers",
        moves: true,
        epochs: 3,
        restarts: false,
        ..BASE
    },
    Scope { name: "holds", about: "the hub is silent, and the sites promise", holds: true, ..BASE },
    Scope {
        name: "slow clocks",
        about: "clocks at the bound of their rate",
        setting: Setting { slow_clocks: true, ..PLAIN },
        wire: 1,
        restarts: false,
        ..BASE
    },
    Scope {
        name: "slow clocks and holds",
        about: "promises by clocks at the bound of their rate",
        setting: Setting { slow_clocks: true, ..PLAIN },
        wire: 1,
        holds: true,
        restarts: false,
        ..BASE
    },
    Scope {
        name: "edit: continue",
        about: "onSilence becomes Continue",
        setting: edit(STOPS, CONTINUES),
        generations: 2,
        ..BASE
    },
    Scope {
        name: "edit: stop",
        about: "onSilence becomes Stop",
        setting: edit(CONTINUES, STOPS),
        generations: 2,
        ..BASE
    },
    Scope {
        name: "edit: longer",
        about: "the ttl becomes longer",
        setting: edit(STOPS, LONGER),
        generations: 2,
        restarts: false,
        ..BASE
    },
    Scope {
        name: "edit: shorter",
        about: "the ttl becomes shorter",
        setting: edit(LONGER, STOPS),
        generations: 2,
        ..BASE
    },
    Scope {
        name: "edit and abort",
        about: "onSilence becomes Stop while a failover is given up",
        setting: edit(CONTINUES, STOPS),
        generations: 2,
        epochs: 4,
        wire: 1,
        aborts: true,
        restarts: false,
        ..BASE
    },
];

pub fn named(name: &str) -> Option<Scope> {
    SCOPES.iter().copied().find(|scope| scope.name == name)
}
