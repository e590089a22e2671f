//! What proves a move: every acknowledged byte is at the new holder, nothing was forced, and what existed is the same object.

use std::collections::BTreeMap;
use std::fs;

use anyhow::{Context, Result, ensure};
use k8s_openapi::api::core::v1::{PersistentVolume, PersistentVolumeClaim};
use kube::api::ListParams;
use kube::{Api, ResourceExt};

use super::{Federation, SLOW};
use crate::array::DataClient;
use crate::history::Record;
use crate::patience::within;

impl Federation {
    /// Compares what the application has had acknowledged, wherever that was, with what the cluster's volumes hold, byte by
    /// byte: one line after the other is there, in its order. Returns how many.
    pub async fn ensure_nothing_lost(&self, cluster: &str) -> Result<usize> {
        // The log is read first: what is written in between may be in the volumes already.
        let acknowledged = self.acknowledged()?;
        let mut array = DataClient::connect(&self.site(cluster)?.data_socket()).await?;
        let mut compared = 0;
        for (image, lines) in &acknowledged {
            let held = array.read(image).await.with_context(|| format!("reading {image} at {cluster}"))?;
            let mut rest = held.iter();
            for line in lines {
                ensure!(
                    rest.any(|held| held == line),
                    "{cluster} does not hold what was acknowledged: {line}"
                );
                compared += 1;
            }
        }
        ensure!(compared > 0, "nothing was ever written");
        Ok(compared)
    }

    /// The acknowledged lines of each volume as they were written.
    fn acknowledged(&self) -> Result<BTreeMap<String, Vec<String>>> {
        let text = fs::read_to_string(&self.writes).context("reading what was written")?;
        let finished = text.rfind('\n').map_or(0, |end| end + 1);
        let mut lines: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for line in text[..finished].lines() {
            let record: Record = serde_json::from_str(line).with_context(|| format!("no record: {line}"))?;
            lines.entry(record.image).or_default().push(line.to_owned());
        }
        Ok(lines)
    }

    /// The storage arrays count what no VolumeReplication shows.
    pub fn ensure_never_forced(&self) -> Result<()> {
        for site in [&self.east, &self.west] {
            let forced = site.forced_promotions()?;
            ensure!(forced.is_empty(), "{} was promoted by force: {forced:?}", site.name);
        }
        Ok(())
    }

    /// How often each volume was promoted by force at the cluster.
    pub fn forced_per_volume(&self, cluster: &str) -> Result<BTreeMap<String, usize>> {
        let mut counts = BTreeMap::new();
        for call in self.site(cluster)?.forced_promotions()? {
            call.images().iter().for_each(|image| *counts.entry(image.clone()).or_default() += 1);
        }
        Ok(counts)
    }

    /// Waits until so many claims stand at the cluster, each with its volume, and returns their uids.
    pub async fn await_storage(&self, cluster: &str, claims: usize) -> Result<BTreeMap<String, String>> {
        let what = format!("{claims} claims and their volumes stand at {cluster}");
        let waited = within(SLOW, &what, async || {
            let found = self.storage_uids(cluster).await?;
            Ok((found.len() == 2 * claims).then_some(found))
        });
        self.or_diagnosis(waited).await
    }

    /// The uids of the application's claims and of their volumes at the cluster, by kind and name.
    pub async fn storage_uids(&self, cluster: &str) -> Result<BTreeMap<String, String>> {
        let client = self.site(cluster)?.control_plane.client();
        let namespace = &self.options.application.namespace;
        let all = ListParams::default();
        let claims = Api::<PersistentVolumeClaim>::namespaced(client.clone(), namespace).list(&all).await?;
        let volumes = Api::<PersistentVolume>::all(client).list(&all).await?;
        let claims = claims.iter().map(|claim| (format!("claim {}", claim.name_any()), claim.uid()));
        let volumes = volumes.iter().map(|volume| (format!("volume {}", volume.name_any()), volume.uid()));
        Ok(claims.chain(volumes).map(|(name, uid)| (name, uid.unwrap_or_default())).collect())
    }
}
