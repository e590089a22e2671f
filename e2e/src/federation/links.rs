//! The network between the sites: one relay for each directed link, so that each can be cut on its own, or the sites' own
//! network, where there is one.

use std::net::SocketAddr;
use std::sync::Arc;

use anyhow::{Context, Result};

use crate::network::Network;
use crate::relay::Relay;

/// What a link carries. The connection is made from its first end to its second; both directions of it are cut at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Carries {
    /// An agent's stream to the hub.
    Session,
    /// An agent's probes of another agent, and its holds.
    Peer,
    /// Probes of another site's API server.
    Api,
    /// A storage array that asks the other for its snapshots.
    Mirror,
}

/// From where to where a link leads; `hub` is a site as well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub from: String,
    pub to: String,
    pub carries: Carries,
}

impl Route {
    pub fn new(from: &str, to: &str, carries: Carries) -> Route {
        Route { from: from.to_owned(), to: to.to_owned(), carries }
    }

    fn joins(&self, one: &str, other: &str) -> bool {
        (self.from == one && self.to == other) || (self.from == other && self.to == one)
    }

    fn touches(&self, site: &str) -> bool {
        self.from == site || self.to == site
    }
}

/// All links of a federation.
pub struct Links {
    ways: Ways,
}

enum Ways {
    Relays(Vec<(Route, Relay)>),
    Network { network: Arc<Network>, targets: Vec<(Route, SocketAddr)> },
}

impl Links {
    /// Lays a link to each target.
    pub async fn lay(routes: impl IntoIterator<Item = (Route, SocketAddr)>) -> Result<Links> {
        let mut links = Vec::new();
        for (route, target) in routes {
            links.push((route, Relay::start(None, target).await?));
        }
        Ok(Links { ways: Ways::Relays(links) })
    }

    /// Of sites that have a network of their own, and connect to the targets themselves.
    pub fn of(network: &Arc<Network>, routes: Vec<(Route, SocketAddr)>) -> Links {
        Links { ways: Ways::Network { network: Arc::clone(network), targets: routes } }
    }

    /// Where to connect in order to get over the link.
    pub fn address(&self, from: &str, to: &str, carries: Carries) -> Result<SocketAddr> {
        let wanted = Route::new(from, to, carries);
        let found = match &self.ways {
            Ways::Relays(links) => {
                links.iter().find(|(route, _)| *route == wanted).map(|(_, relay)| relay.address())
            }
            Ways::Network { targets, .. } => {
                targets.iter().find(|(route, _)| *route == wanted).map(|(_, target)| *target)
            }
        };
        found.with_context(|| format!("there is no link {wanted:?}"))
    }

    /// Makes black holes of all links between the two, whatever they carry and whoever connects.
    pub fn cut_between(&self, one: &str, other: &str) -> Result<()> {
        match &self.ways {
            Ways::Relays(links) => each(links, |route| route.joins(one, other), Relay::cut),
            Ways::Network { network, .. } => network.cut(one, other)?,
        }
        Ok(())
    }

    pub fn heal_between(&self, one: &str, other: &str) -> Result<()> {
        match &self.ways {
            Ways::Relays(links) => each(links, |route| route.joins(one, other), Relay::heal),
            Ways::Network { network, .. } => network.heal(one, other)?,
        }
        Ok(())
    }

    /// Makes black holes of everything that leads to the site or away from it.
    pub fn isolate(&self, site: &str) -> Result<()> {
        match &self.ways {
            Ways::Relays(links) => each(links, |route| route.touches(site), Relay::cut),
            Ways::Network { network, .. } => network.isolate(site)?,
        }
        Ok(())
    }

    pub fn reconnect(&self, site: &str) -> Result<()> {
        match &self.ways {
            Ways::Relays(links) => each(links, |route| route.touches(site), Relay::heal),
            Ways::Network { network, .. } => network.reconnect(site)?,
        }
        Ok(())
    }
}

fn each(links: &[(Route, Relay)], meant: impl Fn(&Route) -> bool, act: impl Fn(&Relay)) {
    links.iter().filter(|(route, _)| meant(route)).for_each(|(_, relay)| act(relay));
}
