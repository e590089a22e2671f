//! Which rows of the protocol's link table a run has been in, under which mode and which fencing level.

use std::collections::BTreeMap;

use crds::placement::{FailoverMode, FailoverSpec, FencingLevel, OnSilence};

use crate::application::App;
use crate::network::End;
use crate::reference;
use crate::transition::Time;
use crate::world::World;

/// A holder, B target: hub to A, hub to B, A to B, and A's API server.
const ROWS: [(&str, [Option<bool>; 4]); 12] = [
    ("up up up up: renews", [Some(true), Some(true), Some(true), Some(true)]),
    ("up up up down: not fence-capable", [Some(true), Some(true), Some(true), Some(false)]),
    ("up up down up: replication degraded", [Some(true), Some(true), Some(false), Some(true)]),
    ("up up down down: page", [Some(true), Some(true), Some(false), Some(false)]),
    ("up down any any: unprotected", [Some(true), Some(false), None, None]),
    ("down up up up: veto", [Some(false), Some(true), Some(true), Some(true)]),
    ("down up up down: veto", [Some(false), Some(true), Some(true), Some(false)]),
    ("down up down up: fails over after W", [Some(false), Some(true), Some(false), Some(true)]),
    ("down up down down: the same", [Some(false), Some(true), Some(false), Some(false)]),
    ("down down up any: freeze", [Some(false), Some(false), Some(true), None]),
    ("down down down up: freeze, A fences", [Some(false), Some(false), Some(false), Some(true)]),
    ("down down down down: freeze", [Some(false), Some(false), Some(false), Some(false)]),
];

const LOOK_EVERY: Time = 250;

#[derive(Clone, Debug, Default)]
pub struct Coverage {
    pub counting: bool,
    next: Time,
    /// Row, mode, fencing level: how often seen.
    pub hits: BTreeMap<(usize, &'static str, &'static str), u64>,
}

impl Coverage {
    pub fn add(&mut self, other: &Coverage) {
        for (key, count) in &other.hits {
            *self.hits.entry(*key).or_default() += count;
        }
    }

    /// One line for each row, one column for each mode and level that was met.
    pub fn table(&self) -> String {
        let columns: std::collections::BTreeSet<(&str, &str)> =
            self.hits.keys().map(|(_, mode, level)| (*mode, *level)).collect();
        let mut table =
            String::from("link table (H-A H-B A-B A\'s API), seen every 250 ms of simulated time\n");
        for (mode, level) in &columns {
            table.push_str(&format!("{:>21}", format!("{mode}/{level}")));
        }
        table.push('\n');
        for (row, (name, _)) in ROWS.iter().enumerate() {
            for (mode, level) in &columns {
                let seen = self.hits.iter().find(|((of, a, b), _)| (of, a, b) == (&row, mode, level));
                table.push_str(&format!("{:>21}", seen.map_or(0, |(_, count)| *count)));
            }
            table.push_str(&format!("  {name}\n"));
        }
        table
    }

    /// Rows that nobody was in.
    pub fn missing(&self) -> Vec<&'static str> {
        let seen = |row| self.hits.keys().any(|(hit, _, _)| *hit == row);
        ROWS.iter().enumerate().filter(|(row, _)| !seen(*row)).map(|(_, (name, _))| *name).collect()
    }
}

fn mode(failover: &FailoverSpec) -> &'static str {
    match (failover.mode, failover.on_silence) {
        (FailoverMode::Automatic, _) => "Automatic",
        (FailoverMode::Confirm, Some(OnSilence::Continue)) => "ConfirmContinue",
        (FailoverMode::Confirm, Some(OnSilence::Stop) | None) => "ConfirmStop",
        (FailoverMode::Manual, _) => "Manual",
    }
}

fn level(failover: &FailoverSpec) -> &'static str {
    match failover.fencing {
        FencingLevel::SelfFence => "SelfFence",
        FencingLevel::Gate => "Gate",
        FencingLevel::Storage => "Storage",
        FencingLevel::External => "External",
        FencingLevel::None => "None",
    }
}

impl World {
    pub(crate) fn cover(&mut self) {
        if !self.coverage.counting || self.now < self.coverage.next {
            return;
        }
        self.coverage.next = self.now + LOOK_EVERY;
        self.nothing_stays_started_at_a_standby();
        for app in &self.apps {
            let (Some(row), Some(wish)) = (self.row(app), &app.wish) else { continue };
            let key = (row, mode(&wish.spec.failover), level(&wish.spec.failover));
            *self.coverage.hits.entry(key).or_default() += 1;
        }
    }

    fn row(&self, app: &App) -> Option<usize> {
        let (_, a) = reference::owner(&app.lines)?;
        let b = self.array.peer(a)?;
        let heard = |site| {
            self.linked(site)
                && self.site(site).up
                && self.site(site).agent.is_some()
                && self.hub.hub.is_some()
        };
        let between = self.network.is_up(End::Agent(a.clone()), End::Agent(b.clone()));
        let facts = [
            heard(a),
            heard(&b),
            between && self.site(a).up && self.site(&b).up,
            self.site(a).up && self.site(a).api_up,
        ];
        ROWS.iter().position(|(_, wanted)| {
            wanted.iter().zip(facts).all(|(wanted, fact)| wanted.is_none_or(|wanted| wanted == fact))
        })
    }
}
