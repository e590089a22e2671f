//! What happens, live in a terminal: one line each, with the seconds since the start and since the loss of a site.
//!
//! Everything told is read from the real objects of the three clusters, by watch; nothing comes from inside hub or agent.

mod findings;

use std::collections::HashMap;
use std::io::{IsTerminal, Write, stdout};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use crds::cluster::DRCluster;
use crds::site_state::DRSiteState;
use futures::TryStreamExt;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use kube::api::{ApiResource, DynamicObject, GroupVersionKind};
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Resource};
use serde::de::DeserializeOwned;
use tokio::task::JoinSet;

use self::findings::Finding;
use crate::federation::Federation;

/// How loud a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Weight {
    /// What builds and starts, and every small change.
    Quiet,
    Plain,
    /// What the story is about.
    Strong,
    Good,
    Bad,
}

impl Weight {
    fn code(self) -> &'static str {
        match self {
            Weight::Quiet => "2",
            Weight::Plain => "0",
            Weight::Strong => "1",
            Weight::Good => "1;32",
            Weight::Bad => "1;31",
        }
    }
}

/// Prints lines as things happen.
pub struct Timeline {
    started: Instant,
    lost: OnceLock<Instant>,
    coloured: bool,
    one_at_a_time: Mutex<()>,
}

impl Timeline {
    /// For standard output: plain where that is no terminal, or where NO_COLOR says so.
    pub fn start() -> Arc<Timeline> {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Arc::new(Timeline {
            started: Instant::now(),
            lost: OnceLock::new(),
            coloured: stdout().is_terminal() && !unwanted,
            one_at_a_time: Mutex::new(()),
        })
    }

    /// From here on the seconds since the loss are told as well.
    pub fn mark_loss(&self, at: Instant) {
        // A second loss is told on the clock of the first.
        let _first = self.lost.set(at);
    }

    pub fn say(&self, place: &str, weight: Weight, what: &str) {
        let since_start = format!("{:7.1} s", self.started.elapsed().as_secs_f64());
        let since_loss = match self.lost.get() {
            Some(lost) => format!("{:+7.2} s", lost.elapsed().as_secs_f64()),
            None => " ".repeat(9),
        };
        let line = self.painted(weight, &format!("{place:<5}  {what}"));
        self.print(&format!("{} {} {line}", self.painted(Weight::Quiet, &since_start), since_loss));
    }

    /// Text on lines of its own, without times.
    pub fn tell(&self, weight: Weight, text: &str) {
        for line in text.lines() {
            self.print(&self.painted(weight, line));
        }
    }

    fn painted(&self, weight: Weight, text: &str) -> String {
        if self.coloured && weight != Weight::Plain {
            format!("\x1b[{}m{text}\x1b[0m", weight.code())
        } else {
            text.to_owned()
        }
    }

    fn print(&self, line: &str) {
        let _mine = self.one_at_a_time.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody reads any more: that is no reason to end.
        let _unread = writeln!(stdout(), "{line}");
    }

    /// Watches the federation and tells what changes, until the tasks are dropped.
    pub fn follow(self: &Arc<Self>, federation: &Federation) -> JoinSet<()> {
        let namespace = federation.options.application.namespace.as_str();
        let mut watches = JoinSet::new();
        let hub = federation.hub.control_plane.client();
        watches.spawn(watch(self.clone(), "hub", federation.placements(), findings::of_placement));
        watches.spawn(watch(self.clone(), "hub", federation.operations_api(), findings::of_operation));
        watches.spawn(watch(self.clone(), "hub", Api::<DRCluster>::all(hub.clone()), findings::of_cluster));
        let events: Api<Event> = Api::namespaced(hub, namespace);
        watches.spawn(watch(self.clone(), "hub", events, findings::of_event));
        for (name, site) in [("east", &federation.east), ("west", &federation.west)] {
            let client = site.control_plane.client();
            let states: Api<DRSiteState> = Api::namespaced(client.clone(), namespace);
            watches.spawn(watch(self.clone(), name, states, findings::of_site_state));
            let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
            watches.spawn(watch(self.clone(), name, pods, findings::of_pod));
            let kind =
                GroupVersionKind::gvk("replication.storage.openshift.io", "v1alpha1", "VolumeReplication");
            let replications: Api<DynamicObject> =
                Api::namespaced_with(client, namespace, &ApiResource::from_gvk(&kind));
            watches.spawn(watch(self.clone(), name, replications, findings::of_replication));
        }
        watches
    }
}

/// Tells of each object what is new about it.
async fn watch<K>(
    timeline: Arc<Timeline>,
    place: &'static str,
    api: Api<K>,
    findings_of: fn(&K) -> Vec<Finding>,
) where
    K: Resource + Clone + std::fmt::Debug + DeserializeOwned + Send + 'static,
{
    let mut told: HashMap<String, String> = HashMap::new();
    let changes = watcher(api, watcher::Config::default()).default_backoff().touched_objects();
    let mut changes = std::pin::pin!(changes);
    loop {
        match changes.try_next().await {
            Ok(Some(object)) => {
                for Finding { about, weight, what } in findings_of(&object) {
                    let before = told.insert(about, what.clone());
                    if before.as_ref() != Some(&what) && !what.is_empty() {
                        timeline.say(place, weight, &what);
                    }
                }
            }
            Ok(None) => return,
            // A lost site cannot be watched; a watch that breaks off is taken up again by itself.
            Err(_) => {}
        }
    }
}
