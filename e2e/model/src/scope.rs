//! What is searched: each scope closes by itself, and together they cover every rule.

use crate::protocol::Scope;
use crate::real::Terms;

const PLAIN: &[Terms] = &[Terms { ttl: 2, stops: true }];
const CONTINUES_LATER: &[Terms] = &[Terms { ttl: 2, stops: true }, Terms { ttl: 2, stops: false }];
const STOPS_LATER: &[Terms] = &[Terms { ttl: 2, stops: false }, Terms { ttl: 2, stops: true }];
const LONGER_LATER: &[Terms] = &[Terms { ttl: 2, stops: true }, Terms { ttl: 3, stops: true }];
const SHORTER_LATER: &[Terms] = &[Terms { ttl: 3, stops: true }, Terms { ttl: 2, stops: true }];

const BASE: Scope = Scope {
    name: "leases",
    about: "grants, waits, failovers there and back, with restarts",
    terms: PLAIN,
    epochs: 3,
    wire: 2,
    holds: false,
    moves: false,
    aborts: false,
    restarts: true,
    slow_clocks: false,
};

pub const SCOPES: [Scope; 9] = [
    BASE,
    Scope { name: "moves", about: "planned moves, failovers and aborts", moves: true, aborts: true, ..BASE },
    Scope { name: "holds", about: "the hub is silent, and the sites promise", holds: true, epochs: 2, ..BASE },
    Scope { name: "slow clocks", about: "clocks at the bound of their rate", slow_clocks: true, epochs: 2, ..BASE },
    Scope {
        name: "slow clocks and holds",
        about: "promises by clocks at the bound of their rate",
        slow_clocks: true,
        holds: true,
        restarts: false,
        epochs: 2,
        ..BASE
    },
    Scope { name: "edit: continue", about: "onSilence becomes Continue", terms: CONTINUES_LATER, epochs: 2, ..BASE },
    Scope { name: "edit: stop", about: "onSilence becomes Stop", terms: STOPS_LATER, epochs: 2, ..BASE },
    Scope { name: "edit: longer", about: "the ttl becomes longer", terms: LONGER_LATER, epochs: 2, ..BASE },
    Scope { name: "edit: shorter", about: "the ttl becomes shorter", terms: SHORTER_LATER, epochs: 2, ..BASE },
];
