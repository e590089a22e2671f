//! The witness of a federation: an API server in a third place, which hub and agents reach with accounts of their own.

use std::path::PathBuf;

use anyhow::{Context, Result};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::{EAST, HUB, WEST};
use crate::control_plane::ControlPlane;
use crate::installation::{self, WITNESS, WITNESS_NAMESPACE};

pub struct Witness {
    pub control_plane: ControlPlane,
}

impl Witness {
    /// Installs what a user would, with an account for each member cluster.
    pub async fn install(control_plane: ControlPlane) -> Result<Witness> {
        control_plane.apply_yaml(&installation::of(WITNESS)?).await.context("installing the witness")?;
        for cluster in [EAST, WEST] {
            let account = json!({
                "apiVersion": "v1",
                "kind": "ServiceAccount",
                "metadata": {"name": account_of(cluster), "namespace": WITNESS_NAMESPACE},
            });
            control_plane.apply_yaml(&account.to_string()).await?;
        }
        Ok(Witness { control_plane })
    }

    /// The argument by which the hub or an agent knows it.
    pub async fn argument_for(&self, who: &str) -> Result<String> {
        let token = self.control_plane.token(WITNESS_NAMESPACE, &account_of(who)).await?;
        let kubeconfig: PathBuf = self.control_plane.kubeconfig(&token)?;
        Ok(format!(
            "--witness=name=third,kubeconfig={},namespace={WITNESS_NAMESPACE},failureDomain=third-site",
            kubeconfig.display()
        ))
    }

    pub fn leases(&self) -> Api<Lease> {
        Api::namespaced(self.control_plane.client(), WITNESS_NAMESPACE)
    }

    /// The Leases as an account of the witness's namespace reaches them.
    pub async fn leases_as(&self, account: &str) -> Result<Api<Lease>> {
        let token = self.control_plane.token(WITNESS_NAMESPACE, account).await?;
        Ok(Api::namespaced(self.control_plane.client_as(&token).await?, WITNESS_NAMESPACE))
    }

    /// Epoch and holder of the placement, as the witness remembers them.
    pub async fn remembers(&self, placement: &impl ResourceExt) -> Result<Option<(i32, String)>> {
        let name = format!("understudy-placement-{}", placement.uid().context("a uid")?);
        let lease = self.leases().get_opt(&name).await.context("reading the Lease of a placement")?;
        let spec = lease.and_then(|lease| lease.spec);
        Ok(spec.and_then(|spec| spec.lease_transitions.zip(spec.holder_identity)))
    }
}

fn account_of(who: &str) -> String {
    if who == HUB { who.to_owned() } else { format!("understudy-{who}") }
}
