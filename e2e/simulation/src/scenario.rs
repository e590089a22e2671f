//! The stories: what is prepared, what is done to it, and how it must end, wherever a process dies in between.

use agent_core::Kind;
use crds::DRPlacement;
use crds::placement::{FailoverMode, FencingLevel};
use proto::{ClusterName, Role};
use serde_json::json;

use crate::application::{App, Number, handle_of, number_of};
use crate::crash::{Plan, Side};
use crate::faults::Fault;
use crate::kubernetes::{NAMESPACE, deployments, kustomization};
use crate::reference;
use crate::transition::{Happening, Time};
use crate::wishes::Pace;
use crate::world::{Human, World, cluster};

/// Longer than any wait of the timing below: W is 7.2 s.
const PREPARED_WITHIN: Time = 60_000;
/// The right end must stay right.
pub(crate) const STAYS: Time = 2_500;

#[derive(Clone, Copy)]
pub struct Scenario {
    pub name: &'static str,
    /// The operation that it shows when nobody dies.
    pub shows: &'static str,
    /// Everything up to the moment from which effects are counted.
    pub prepare: fn(&mut World) -> Result<(), String>,
    pub act: fn(&mut World),
    /// How it must end; what is wrong, as long as it is.
    pub ends: fn(&World) -> Result<(), String>,
    pub within: Time,
}

/// One run, from its seed.
pub struct Run {
    pub world: World,
    pub outcome: Result<(), String>,
}

impl Run {
    /// The story, and how it ended, for whoever reads a failure.
    pub fn told(&self) -> String {
        let mut told = self.world.trace.join("\n");
        if let Err(wrong) = &self.outcome {
            told.push_str(&format!("\nwrong: {wrong}\n"));
        }
        told
    }
}

impl Scenario {
    pub fn run(&self, seed: u64, plan: Option<Plan>) -> Run {
        let mut world = World::new(seed, &["east", "west"]);
        let outcome = self.play(&mut world, plan);
        Run { world, outcome }
    }

    fn play(&self, world: &mut World, plan: Option<Plan>) -> Result<(), String> {
        (self.prepare)(world)?;
        world.say(format!("-- {}", self.name));
        world.crashes.counting = true;
        world.crashes.plan = plan;
        (self.act)(world);
        wait(world, self.within, self.ends)?;
        world.crashes.counting = false;
        world.pass(STAYS);
        unbroken(world)?;
        (self.ends)(world)?;
        world.books(world.first())
    }

    /// The number of places at which a process can die in this story.
    pub fn plans(&self, seed: u64) -> Result<Vec<Plan>, Box<Run>> {
        let run = self.run(seed, None);
        if run.outcome.is_err() {
            return Err(Box::new(run));
        }
        let mut plans = run.world.crashes.plans();
        // Before the first effect after another one is right after that one, but for what is under way.
        plans.retain(|plan| plan.side == Side::After || plan.index % 2 == 0);
        Ok(plans)
    }
}

pub(crate) fn unbroken(world: &World) -> Result<(), String> {
    world.watch.violations.first().map_or(Ok(()), |violation| Err(violation.clone()))
}

pub(crate) fn wait(
    world: &mut World,
    within: Time,
    ends: fn(&World) -> Result<(), String>,
) -> Result<(), String> {
    let end = world.now + within;
    let reached = world.pass_until(end, |world| ends(world).is_ok());
    unbroken(world)?;
    if reached {
        Ok(())
    } else {
        Err(format!("after {within} ms: {}", ends(world).err().unwrap_or_default()))
    }
}

/// The DRPlacement of all stories: automatic.
fn wish(app: &App) -> DRPlacement {
    let labels = json!({"matchLabels": {"app": app.namespace}});
    let Pace { rpc, ttl, suspect, unreachable } = app.pace;
    let other = if app.home.as_str() == "east" { "west" } else { "east" };
    let wish = json!({
        "apiVersion": "understudy.dev/v1alpha1", "kind": "DRPlacement",
        "metadata": {"name": app.namespace, "namespace": app.namespace, "uid": app.id, "generation": 1},
        "spec": {
            "preferredCluster": app.home,
            "clusters": [app.home.as_str(), other],
            "protect": {"volumes": labels, "workloads": labels},
            "replication": {"volumeReplicationClass": "mirror"},
            "failover": {
                "mode": "Automatic", "maxDataLoss": "20s",
                "timing": {"renew": "500ms", "rpc": rpc, "ttl": ttl, "hold": "2s", "grace": "1s",
                    "stop": "4s", "suspect": suspect, "unreachable": unreachable},
            },
        },
    });
    serde_json::from_value(wish).unwrap_or_else(|error| unreachable!("the wish: {error}"))
}

/// Two clusters, each application at its home, and everything that Understudy needs, not yet started.
pub fn found(world: &mut World) {
    let sites = world.array.sites.clone();
    for site in &sites {
        add_classes(world, site);
    }
    for app in 0..world.apps.len() {
        found_app(world, app);
    }
    for site in &sites {
        world.wake_controllers(site);
    }
}

fn found_app(world: &mut World, number: Number) {
    let app = &world.apps[number];
    let (home, claims) = (app.home.clone(), app.claims.clone());
    let mut wish = wish(app);
    if let Some((mode, fencing)) = app.differs {
        mode.set(&mut wish);
        fencing.set(&mut wish);
    }
    for claim in &claims {
        add_volume(world, &home, claim);
    }
    for site in world.array.sites.clone() {
        add_workload(world, &site, number, u32::from(site == home));
    }
    for claim in &claims {
        let handle = handle_of(claim);
        world.array.provision(&home, &handle);
        let delay = world.random.within(&(0..=1_500));
        world.later(delay, Happening::SnapshotDue { handle });
    }
    world.apps[number].wish = Some(wish);
    world.watch_wish(number);
}

fn add_classes(world: &mut World, site: &ClusterName) {
    let kubernetes = &mut world.site_mut(site).kubernetes;
    kubernetes.put(
        Kind::StorageClass,
        "rbd",
        json!({"metadata": {"name": "rbd"}, "provisioner": "rbd.csi", "parameters": {"pool": "replicated"}}),
    );
    kubernetes.put(
        Kind::ReplicationClass,
        "mirror",
        json!({"metadata": {"name": "mirror"},
            "spec": {"provisioner": "rbd.csi", "parameters": {"schedulingInterval": "1m"}}}),
    );
    kubernetes.put(
        Kind::AddonsNode,
        "node",
        json!({"metadata": {"name": "node", "namespace": "csi"}, "spec": {"driver": {"name": "rbd.csi"}},
            "status": {"state": "Connected"}}),
    );
}

pub fn add_volume(world: &mut World, site: &ClusterName, claim: &str) {
    let namespace = world.apps[number_of(claim)].namespace.clone();
    let kubernetes = &mut world.site_mut(site).kubernetes;
    kubernetes.put(
        Kind::Volume,
        &format!("pv-{claim}"),
        json!({
            "apiVersion": "v1", "kind": "PersistentVolume", "metadata": {"name": format!("pv-{claim}")},
            "spec": {
                "csi": {"driver": "rbd.csi", "volumeHandle": handle_of(claim)},
                "capacity": {"storage": "1Gi"}, "accessModes": ["ReadWriteOnce"], "storageClassName": "rbd",
                "persistentVolumeReclaimPolicy": "Retain",
                "claimRef": {"namespace": namespace, "name": claim},
            },
            "status": {"phase": "Available"},
        }),
    );
    kubernetes.put(
        Kind::Claim,
        claim,
        json!({
            "apiVersion": "v1", "kind": "PersistentVolumeClaim",
            "metadata": {"name": claim, "namespace": namespace, "labels": {"app": namespace}},
            "spec": {"volumeName": format!("pv-{claim}"), "storageClassName": "rbd",
                "accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
        }),
    );
}

fn add_workload(world: &mut World, site: &ClusterName, app: Number, replicas: u32) {
    let App { namespace, workload, claims, .. } = &world.apps[app];
    let (namespace, workload) = (namespace.clone(), workload.clone());
    let volumes: Vec<_> =
        claims.iter().map(|claim| json!({"persistentVolumeClaim": {"claimName": claim}})).collect();
    world.site_mut(site).kubernetes.put(
        deployments(),
        &workload,
        json!({
            "metadata": {"name": workload, "namespace": namespace, "labels": {"app": namespace}},
            "spec": {"replicas": replicas, "template": {"spec": {"volumes": volumes}}},
            "status": {"readyReplicas": 0},
        }),
    );
}

pub fn start(world: &mut World) {
    world.later(0, Happening::HubStarts);
    for site in world.sites.keys().cloned().collect::<Vec<_>>() {
        let delay = world.random.within(&(0..=400));
        world.later(delay, Happening::AgentStarts { site });
    }
}

/// Each application runs at its home, adopted, copied, and armed if it can be.
pub fn protected(world: &mut World) -> Result<(), String> {
    found(world);
    start(world);
    wait(world, PREPARED_WITHIN, |world| world.apps.iter().try_for_each(|app| is_protected(world, app)))
}

fn is_protected(world: &World, app: &App) -> Result<(), String> {
    runs_as_wished(world, app, app.home.as_str())?;
    let may_act_alone = app.wish.as_ref().is_some_and(|wish| {
        let failover = &wish.spec.failover;
        failover.mode == FailoverMode::Automatic && failover.fencing == FencingLevel::SelfFence
    });
    says(app, "FailoverReady")?;
    if may_act_alone { says(app, "AutomaticFailoverArmed") } else { Ok(()) }
}

fn armed(world: &World) -> Result<(), String> {
    says(world.first(), "AutomaticFailoverArmed")?;
    says(world.first(), "FailoverReady")
}

fn says(app: &App, wanted: &str) -> Result<(), String> {
    let status = app.wish.as_ref().and_then(|wish| wish.status.as_ref()).ok_or("no status yet")?;
    let condition = status.conditions.iter().find(|condition| condition.type_ == wanted);
    let condition = condition.ok_or_else(|| format!("no condition {wanted}"))?;
    if condition.status != "True" {
        return Err(format!("{wanted} is {}: {}", condition.reason, condition.message));
    }
    Ok(())
}

/// The first application runs in this cluster, nowhere else, and nothing is under way.
pub fn serves(world: &World, name: &str) -> Result<(), String> {
    runs_as_wished(world, world.first(), name)
}

pub fn runs_as_wished(world: &World, app: &App, name: &str) -> Result<(), String> {
    let site = cluster(name);
    let (epoch, owner) =
        reference::owner(&app.lines).ok_or_else(|| format!("{}: nobody owns it yet", app.id))?;
    if *owner != site {
        let id = &app.id;
        return Err(format!(
            "{id}: {owner} owns it at epoch {epoch}, not {site}; the hub waits for {}",
            app.waits
        ));
    }
    if let Some(intent) = reference::running(&app.lines) {
        return Err(format!("{} has not ended; the hub waits for {}", intent.operation, app.waits));
    }
    if let Some(reason) = reference::needs_human(&app.lines) {
        return Err(format!("a human is needed: {reason}"));
    }
    runs_here(world, app, &site)?;
    let recorded = world.site(&site).kubernetes.site_states.get(&app.id);
    let state = &recorded.ok_or_else(|| format!("{}: no DRSiteState", app.id))?.state;
    if state.role != Role::Holder || state.epoch_seen != epoch {
        return Err(format!("{}: {site} is {:?} at epoch {}", app.id, state.role, state.epoch_seen));
    }
    let mut others = world.array.sites.iter().filter(|other| **other != site && world.site(other).up);
    others.try_for_each(|other| rests(world, app, other))
}

pub(crate) fn runs_here(world: &World, app: &App, site: &ClusterName) -> Result<(), String> {
    let here = world.site(site);
    let id = &app.id;
    if !world.runs(here, app.number) {
        return Err(format!("{id}: no pod runs in {site}"));
    }
    if here.agent.is_none() || here.stream.is_none() || world.hub.hub.is_none() {
        return Err(format!("the agent of {site} and the hub are not connected"));
    }
    let primary = app.claims.iter().all(|claim| world.array.is_writable(site, &handle_of(claim)));
    let written = app.history.has_gone_on_since(world.now.saturating_sub(1_000));
    if primary && written { Ok(()) } else { Err(format!("{id}: nothing is written in {site}")) }
}

/// Nothing of the application runs or wants to run here.
fn rests(world: &World, app: &App, site: &ClusterName) -> Result<(), String> {
    let here = world.site(site);
    let workload = here.kubernetes.get(&deployments(), &app.workload);
    let wanted = workload.map(|workload| workload["spec"]["replicas"].clone());
    let mut pods = here.kubernetes.of(&Kind::Pod).map(|(_, pod)| &pod["metadata"]["namespace"]);
    if wanted != Some(json!(0)) || pods.any(|namespace| namespace == app.namespace.as_str()) {
        return Err(format!("{site} still wants {wanted:?} replicas of {}", app.workload));
    }
    let state = here.kubernetes.site_states.get(&app.id);
    let state = state.ok_or_else(|| format!("{site} has no DRSiteState of {}", app.id))?;
    match state.state.role {
        Role::Standby | Role::Fenced => Ok(()),
        Role::Holder | Role::Promoting | Role::Unknown => {
            Err(format!("{}: {site} is {:?} at epoch {}", app.id, state.state.role, state.state.epoch_seen))
        }
    }
}

pub const DEPLOY: Scenario = Scenario {
    name: "an application is adopted where it runs",
    shows: "deploy",
    prepare: |world| {
        found(world);
        Ok(())
    },
    act: start,
    ends: |world| {
        serves(world, "east")?;
        armed(world)
    },
    within: 60_000,
};

pub const FAIL_OVER: Scenario = Scenario {
    name: "the holder's site dies",
    shows: "failover",
    prepare: protected,
    act: |world| world.fails(Fault::Dies(cluster("east"))),
    ends: |world| serves(world, "west"),
    within: 60_000,
};

fn serves_once_east_is_back(world: &World, name: &str) -> Result<(), String> {
    let (hub, east) = (crate::network::End::Hub, crate::network::End::Agent(cluster("east")));
    if world.network.is_up(hub, east) { serves(world, name) } else { Err("east is still cut off".to_owned()) }
}

pub const CUT_OFF: Scenario = Scenario {
    name: "the holder is cut off, fences itself, and returns when another one has taken over",
    shows: "failover",
    prepare: protected,
    act: |world| {
        world.fails(Fault::Isolate(cluster("east")));
        world.later(25_000, Happening::Fails(Fault::Heal));
    },
    ends: |world| serves_once_east_is_back(world, "west"),
    within: 60_000,
};

pub const READOPT: Scenario = Scenario {
    name: "an accused holder answers in time and is adopted again",
    shows: "readopt",
    prepare: protected,
    act: |world| {
        world.fails(Fault::Isolate(cluster("east")));
        world.later(4_500, Happening::Fails(Fault::Heal));
    },
    ends: |world| serves_once_east_is_back(world, "east"),
    within: 60_000,
};

pub const RELEASE: Scenario = Scenario {
    name: "the placement is deleted, and the application runs on",
    shows: "release",
    prepare: protected,
    act: |world| delete(world, 0),
    ends: |world| {
        if !reference::is_released(&world.first().lines) || world.first().wish.is_some() {
            return Err(format!("not released; the hub waits for {}", world.first().waits));
        }
        for site in world.sites.values() {
            if !site.kubernetes.site_states.is_empty() {
                return Err(format!("{} still has a DRSiteState", site.name));
            }
        }
        runs_here(world, world.first(), &cluster("east"))
    },
    within: 60_000,
};

pub(crate) fn delete(world: &mut World, app: Number) {
    if let Some(wish) = &mut world.apps[app].wish {
        let stamp = json!("2026-01-01T00:00:00Z");
        wish.metadata.deletion_timestamp = serde_json::from_value(stamp).ok();
    }
    world.tell_wish(app);
}

/// The user edits the DRPlacement.
pub fn edit(world: &mut World, app: Number, edit: impl FnOnce(&mut DRPlacement)) {
    if let Some(wish) = &mut world.apps[app].wish {
        edit(wish);
        wish.metadata.generation = wish.metadata.generation.map(|generation| generation + 1);
    }
    world.watch_wish(app);
    world.say(format!("user: edits {}", world.apps[app].id));
    world.tell_wish(app);
}

pub(crate) fn prefer(world: &mut World, name: &str) {
    edit(world, 0, |wish| wish.spec.preferred_cluster = name.to_owned());
}

/// It has been moved to the other cluster before, and is as well protected there.
fn moved(world: &mut World) -> Result<(), String> {
    protected(world)?;
    prefer(world, "west");
    wait(world, PREPARED_WITHIN, |world| {
        serves(world, "west")?;
        armed(world)
    })
}

/// No write is lost, and nothing was forced.
fn whole(world: &World) -> Result<(), String> {
    let app = world.first();
    let (_, owner) = reference::owner(&app.lines).ok_or("nobody owns it")?;
    for claim in &app.claims {
        let image = world.array.image(owner, &handle_of(claim)).ok_or("no image")?;
        let lost = app.history.missing_in(&image.log);
        if !lost.is_empty() {
            return Err(format!("{} writes are lost from {claim}", lost.len()));
        }
    }
    if world.array.forced.is_empty() { Ok(()) } else { Err(format!("forced: {:?}", world.array.forced)) }
}

pub const MIGRATE: Scenario = Scenario {
    name: "the user prefers the other cluster",
    shows: "migrate",
    prepare: protected,
    act: |world| prefer(world, "west"),
    ends: |world| {
        serves(world, "west")?;
        whole(world)
    },
    within: 90_000,
};

pub const SLOW_CROSSING: Scenario = Scenario {
    name: "a planned move whose last writes take long to cross",
    shows: "migrate",
    prepare: protected,
    act: |world| {
        world.fails(Fault::SlowCrossing(6_000));
        prefer(world, "west");
        world.later(30_000, Happening::Fails(Fault::Heal));
    },
    ends: |world| {
        serves(world, "west")?;
        whole(world)
    },
    within: 90_000,
};

pub const FAIL_BACK: Scenario = Scenario {
    name: "the user prefers the first cluster again",
    shows: "migrate",
    prepare: moved,
    act: |world| prefer(world, "east"),
    ends: |world| {
        serves(world, "east")?;
        whole(world)
    },
    within: 90_000,
};

pub const REVERT: Scenario = Scenario {
    name: "the user takes the wish for a move back while it runs",
    shows: "readopt",
    prepare: protected,
    act: |world| {
        prefer(world, "west");
        world.fails(Fault::SlowCrossing(8_000));
        world.later(2_500, Happening::Fails(Fault::Prefer(cluster("east"))));
        world.later(30_000, Happening::Fails(Fault::Heal));
    },
    ends: |world| {
        let back = world.first().wish.as_ref().is_some_and(|wish| wish.spec.preferred_cluster == "east");
        if !back {
            return Err("the wish has not been taken back yet".to_owned());
        }
        serves(world, "east")?;
        whole(world)
    },
    within: 90_000,
};

/// The application runs in east, protected, and Flux applies it in both clusters.
fn applied_by_flux(world: &mut World) -> Result<(), String> {
    found(world);
    for site in world.array.sites.clone() {
        let kubernetes = &mut world.site_mut(&site).kubernetes;
        let metadata = json!({"name": "flux", "namespace": NAMESPACE});
        kubernetes.put(kustomization(), "flux", json!({"metadata": metadata, "spec": {}}));
        let labelled = kubernetes.change(&deployments(), "web", |web| {
            for (part, value) in [("name", "flux"), ("namespace", NAMESPACE)] {
                web["metadata"]["labels"][format!("kustomize.toolkit.fluxcd.io/{part}")] = json!(value);
            }
        });
        labelled.map_err(|failed| failed.message)?;
    }
    start(world);
    wait(world, PREPARED_WITHIN, |world| {
        serves(world, "east")?;
        armed(world)
    })
}

/// Flux was paused, and nobody has left it so.
fn flux_goes_on(world: &World) -> Result<(), String> {
    if !world.trace.iter().any(|line| line.contains("east: pause Kustomization")) {
        return Err("Flux was never paused in east".to_owned());
    }
    for site in world.sites.values() {
        let flux = site.kubernetes.get(&kustomization(), "flux").ok_or("no Kustomization")?;
        let marks = flux["metadata"]["annotations"].as_object().into_iter().flatten();
        if flux["spec"]["suspend"] == json!(true) || marks.into_iter().any(|(_, mark)| !mark.is_null()) {
            return Err(format!("Flux is paused in {}: {flux}", site.name));
        }
    }
    Ok(())
}

pub const MIGRATE_WITH_FLUX: Scenario = Scenario {
    name: "the user prefers the other cluster, and Flux applies the application in both",
    shows: "migrate",
    prepare: applied_by_flux,
    act: |world| prefer(world, "west"),
    ends: |world| {
        serves(world, "west")?;
        whole(world)?;
        flux_goes_on(world)
    },
    within: 90_000,
};

/// East has died, and west has taken over.
fn failed_over(world: &mut World) -> Result<(), String> {
    protected(world)?;
    world.hub.human = Human::Careful;
    world.fails(Fault::Dies(cluster("east")));
    wait(world, PREPARED_WITHIN, |world| serves(world, "west"))
}

pub const FAIL_BACK_AFTER_DISASTER: Scenario = Scenario {
    name: "the lost cluster returns, is copied anew with approval, and gets the application back",
    shows: "failback",
    prepare: failed_over,
    act: |world| world.fails(Fault::Returns(cluster("east"))),
    ends: |world| serves(world, "east"),
    within: 150_000,
};

pub const ALL: [&Scenario; 11] = [
    &DEPLOY,
    &FAIL_OVER,
    &CUT_OFF,
    &READOPT,
    &RELEASE,
    &MIGRATE,
    &SLOW_CROSSING,
    &FAIL_BACK,
    &REVERT,
    &FAIL_BACK_AFTER_DISASTER,
    &MIGRATE_WITH_FLUX,
];
