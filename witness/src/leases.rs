//! Reading and writing the Leases of a witness. Every call has a deadline, and a write never undoes a newer one.

use std::collections::BTreeMap;
use std::time::Duration;

use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use k8s_openapi::jiff::Timestamp;
use kube::api::{ListParams, PostParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use kube::{Api, Client, Config, ResourceExt};
use proto::{ClusterName, Epoch, PlacementId, Testimony, WallTime, WitnessLook};
use thiserror::Error;
use tokio::time::timeout;

use crate::settings::WitnessSettings;

/// On the Lease of a cluster, with its name.
const CLUSTER: &str = "understudy.dev/cluster";
/// On the Lease of a placement, with its uid.
const PLACEMENT: &str = "understudy.dev/placement";
const PART_OF: (&str, &str) = ("app.kubernetes.io/part-of", "understudy");
/// The highest epoch in full; `leaseTransitions`, which `kubectl` shows, holds no more than 31 bits.
const EPOCH: &str = "understudy.dev/epoch";
/// A Lease that is not renewed for so many periods is out of date, for whoever looks at it with other tools.
const PERIODS: u32 = 3;

#[derive(Debug, Error)]
pub enum WitnessError {
    #[error(
        "reading kubeconfig {path:?} of witness {name:?}: make the file readable, or name the right one in kubeconfig="
    )]
    Kubeconfig { name: String, path: std::path::PathBuf, source: Box<kube::config::KubeconfigError> },
    #[error("making a client of kubeconfig {path:?} for witness {name:?}: correct the file")]
    Client { name: String, path: std::path::PathBuf, source: Box<kube::Error> },
    #[error("{doing} at witness {name:?}")]
    Call { name: String, doing: &'static str, source: Box<kube::Error> },
    #[error("witness {name:?} has not answered within {deadline:?}")]
    Late { name: String, deadline: Duration },
}

/// One witness, and what is to be said to it.
pub struct Witness {
    settings: WitnessSettings,
    api: Api<Lease>,
    /// This cluster's own Lease as it was last written.
    own: Option<Lease>,
    /// The Leases of placements as they were last seen, so that each write is one call.
    placements: BTreeMap<String, Lease>,
}

/// A sign of life of one cluster.
#[derive(Clone, Debug)]
pub struct SignOfLife {
    pub cluster: ClusterName,
    /// When the next one follows.
    pub every: Duration,
    /// Shown to people; nobody compares it.
    pub wall: WallTime,
}

impl Witness {
    /// Reads the kubeconfig. Nothing is asked of the witness yet.
    pub async fn new(settings: WitnessSettings) -> Result<Witness, WitnessError> {
        let api = api(&settings).await?;
        Ok(Witness { settings, api, own: None, placements: BTreeMap::new() })
    }

    pub fn name(&self) -> &str {
        &self.settings.name
    }

    /// Advances this cluster's Lease if asked to, then looks at those of all clusters. After a failure the kubeconfig is
    /// read again: its credentials may have been renewed.
    pub async fn visit_as_cluster(
        &mut self,
        sign: Option<&SignOfLife>,
        deadline: Duration,
    ) -> Result<WitnessLook, WitnessError> {
        let visit = async |witness: &mut Witness| {
            if let Some(sign) = sign {
                witness.advance(sign).await?;
            }
            // Any that has the label: an agent need not read what is remembered of a thousand placements.
            witness.look(CLUSTER).await
        };
        self.within(deadline, visit).await
    }

    /// Writes down what the witness is to remember, then looks at everything. Writing takes half the time at most: what is left
    /// is told at the next visit, and the look comes in any case.
    pub async fn visit_as_hub(
        &mut self,
        testimonies: &[Testimony],
        deadline: Duration,
    ) -> Result<WitnessLook, WitnessError> {
        let visit = async |witness: &mut Witness| {
            if let Ok(told) = timeout(deadline / 2, witness.remember_all(testimonies)).await {
                told?;
            }
            witness.look(&format!("{}={}", PART_OF.0, PART_OF.1)).await
        };
        self.within(deadline, visit).await
    }

    async fn within(
        &mut self,
        deadline: Duration,
        visit: impl AsyncFnOnce(&mut Witness) -> Result<WitnessLook, WitnessError>,
    ) -> Result<WitnessLook, WitnessError> {
        let late = WitnessError::Late { name: self.settings.name.clone(), deadline };
        let visited = timeout(deadline, visit(self)).await.unwrap_or(Err(late));
        if visited.is_err() {
            self.own = None;
            self.placements.clear();
            if let Ok(api) = api(&self.settings).await {
                self.api = api;
            }
        }
        visited
    }

    async fn advance(&mut self, sign: &SignOfLife) -> Result<(), WitnessError> {
        let name = format!("understudy-{}", sign.cluster);
        let known = match self.own.take() {
            Some(own) => Some(own),
            None => self.api.get_opt(&name).await.map_err(self.failed("reading this cluster's Lease"))?,
        };
        let exists = known.is_some();
        let mut lease = known.unwrap_or_else(|| self.fresh(&name, CLUSTER, sign.cluster.as_str()));
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = Some(sign.cluster.to_string());
        spec.renew_time = Timestamp::from_millisecond(sign.wall.0).map(MicroTime).ok();
        let lasts = (sign.every * PERIODS).as_millis().div_ceil(1000);
        spec.lease_duration_seconds = Some(i32::try_from(lasts).unwrap_or(i32::MAX));
        let written = self.write(&name, &lease, exists).await;
        self.own = Some(written.map_err(self.failed("advancing this cluster's Lease"))?);
        Ok(())
    }

    async fn remember_all(&mut self, testimonies: &[Testimony]) -> Result<(), WitnessError> {
        for testimony in testimonies {
            self.remember(testimony).await?;
        }
        Ok(())
    }

    /// A newer epoch stays: whoever wrote it knows more, which the look that follows shows.
    async fn remember(&mut self, testimony: &Testimony) -> Result<(), WitnessError> {
        let name = format!("understudy-placement-{}", testimony.placement);
        let known = match self.placements.remove(&name) {
            Some(known) => Some(known),
            None => {
                let reading = self.failed("reading the Lease of a placement");
                self.api.get_opt(&name).await.map_err(reading)?
            }
        };
        let remembered = known.as_ref().and_then(testimony_of);
        if remembered.is_some_and(|known| known.epoch > testimony.epoch || known == *testimony) {
            return Ok(());
        }
        let exists = known.is_some();
        let mut lease = known.unwrap_or_else(|| self.fresh(&name, PLACEMENT, testimony.placement.as_str()));
        lease.annotations_mut().insert(EPOCH.to_owned(), testimony.epoch.to_string());
        let spec = lease.spec.get_or_insert_with(LeaseSpec::default);
        spec.holder_identity = testimony.holder.as_ref().map(ToString::to_string);
        spec.lease_transitions = Some(i32::try_from(testimony.epoch.0).unwrap_or(i32::MAX));
        let written = self.write(&name, &lease, exists).await;
        written.map(drop).map_err(self.failed("writing the Lease of a placement"))
    }

    /// With the version that was read as precondition.
    async fn write(&self, name: &str, lease: &Lease, exists: bool) -> Result<Lease, kube::Error> {
        let as_usual = PostParams::default();
        if exists {
            self.api.replace(name, &as_usual, lease).await
        } else {
            self.api.create(&as_usual, lease).await
        }
    }

    async fn look(&mut self, labels: &str) -> Result<WitnessLook, WitnessError> {
        let wanted = ListParams::default().labels(labels);
        let leases = self.api.list(&wanted).await.map_err(self.failed("listing the Leases"))?;
        let look = WitnessLook {
            clusters: leases.iter().filter_map(version_of_cluster).collect(),
            placements: leases.iter().filter_map(testimony_of).collect(),
        };
        let placements = leases.items.into_iter().filter(|lease| labelled(lease, PLACEMENT).is_some());
        self.placements = placements.map(|lease| (lease.name_any(), lease)).collect();
        Ok(look)
    }

    fn fresh(&self, name: &str, label: &str, value: &str) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.name = Some(name.to_owned());
        lease.metadata.namespace = Some(self.settings.namespace.clone());
        let labels = [PART_OF, (label, value)];
        lease.metadata.labels =
            Some(labels.into_iter().map(|(key, value)| (key.to_owned(), value.to_owned())).collect());
        lease
    }

    fn failed(&self, doing: &'static str) -> impl Fn(kube::Error) -> WitnessError {
        let name = self.settings.name.clone();
        move |source| WitnessError::Call { name: name.clone(), doing, source: Box::new(source) }
    }
}

async fn api(settings: &WitnessSettings) -> Result<Api<Lease>, WitnessError> {
    let (name, path) = (settings.name.clone(), settings.kubeconfig.clone());
    let unreadable = |source| WitnessError::Kubeconfig {
        name: name.clone(),
        path: path.clone(),
        source: Box::new(source),
    };
    let kubeconfig = Kubeconfig::read_from(&path).map_err(unreadable)?;
    let config = Config::from_custom_kubeconfig(kubeconfig, &KubeConfigOptions::default()).await;
    let client = Client::try_from(config.map_err(unreadable)?);
    let client = client.map_err(|source| WitnessError::Client {
        name,
        path: path.clone(),
        source: Box::new(source),
    })?;
    Ok(Api::namespaced(client, &settings.namespace))
}

fn labelled<'a>(lease: &'a Lease, label: &str) -> Option<&'a str> {
    lease.labels().get(label).map(String::as_str)
}

fn version_of_cluster(lease: &Lease) -> Option<(ClusterName, String)> {
    let cluster = ClusterName::parse(labelled(lease, CLUSTER)?).ok()?;
    Some((cluster, lease.resource_version()?))
}

fn testimony_of(lease: &Lease) -> Option<Testimony> {
    let placement = PlacementId::parse(labelled(lease, PLACEMENT)?).ok()?;
    let holder = lease.spec.as_ref().and_then(|spec| spec.holder_identity.as_deref());
    let holder = holder.and_then(|holder| ClusterName::parse(holder).ok());
    Some(Testimony { placement, epoch: epoch_of(lease), holder })
}

/// The higher of the two places where it stands: nobody lowers it by taking one away.
fn epoch_of(lease: &Lease) -> Epoch {
    let annotated = lease.annotations().get(EPOCH).and_then(|text| text.parse().ok()).unwrap_or(0);
    let transitions = lease.spec.as_ref().and_then(|spec| spec.lease_transitions).unwrap_or(0);
    Epoch(u64::try_from(transitions).unwrap_or(0).max(annotated))
}

#[cfg(test)]
mod slow_tests;

#[cfg(test)]
mod tests {
    use super::*;

    fn lease(labels: &[(&str, &str)]) -> Lease {
        let mut lease = Lease::default();
        lease.metadata.resource_version = Some("7".to_owned());
        let labels: BTreeMap<String, String> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        lease.metadata.labels = Some(labels);
        lease
    }

    #[tokio::test]
    async fn a_kubeconfig_that_is_not_there_is_named_with_its_witness() {
        let given = "name=third,kubeconfig=/nowhere/at/all,namespace=n,failureDomain=f";
        let settings = given.parse().expect("settings");
        let refused = Witness::new(settings).await.err().expect("a refusal").to_string();
        let said = ["/nowhere/at/all", "\"third\"", "name the right one in kubeconfig="];
        assert!(said.iter().all(|part| refused.contains(part)), "{refused}");
    }

    #[test]
    fn an_epoch_beyond_what_a_lease_counts_is_read_in_full() {
        let mut long = lease(&[(PLACEMENT, "uid-1")]);
        long.annotations_mut().insert(EPOCH.to_owned(), "5000000000".to_owned());
        long.spec = Some(LeaseSpec { lease_transitions: Some(i32::MAX), ..LeaseSpec::default() });
        assert_eq!(testimony_of(&long).map(|testimony| testimony.epoch), Some(Epoch(5_000_000_000)));
        long.annotations_mut().clear();
        assert_eq!(epoch_of(&long), Epoch(2_147_483_647));
    }

    #[test]
    fn a_lease_of_somebody_else_is_neither_a_cluster_nor_a_placement() {
        let foreign = lease(&[("app", "other")]);
        assert_eq!((version_of_cluster(&foreign), testimony_of(&foreign)), (None, None));
        let east = version_of_cluster(&lease(&[(CLUSTER, "east")]));
        assert_eq!(
            east.map(|(cluster, version)| (cluster.to_string(), version)),
            Some(("east".into(), "7".into()))
        );
    }
}
