//! What an approver does: says yes to a proposed operation, with the rights of `understudy-approver` and no more.

use std::collections::BTreeSet;

use anyhow::{Context, Result};
use crds::approval::{DRApproval, DRApprovalSpec};
use crds::operation::{DROperation, OperationKind, OperationPhase};
use kube::api::PostParams;
use kube::{Api, ResourceExt};
use serde_json::json;

use super::moves::{is, phase_of};
use super::{Federation, SLOW};
use crate::patience::within;

const ACCOUNT: &str = "ops";

impl Federation {
    /// Says yes to what is proposed, as it was looked at.
    pub async fn approve(&self, operation: &DROperation) -> Result<DRApproval> {
        self.approve_asserting(operation, None).await
    }

    /// Says yes to what is proposed, as often as it is asked, until it has succeeded: where a site is silent for a moment, a
    /// proposal is withdrawn and an operation before the point of no return aborted, and both are proposed anew.
    pub async fn approve_until_done(&self, kind: OperationKind, epoch: i64) -> Result<DROperation> {
        let mut approved = BTreeSet::new();
        let what = format!("{kind:?} to epoch {epoch} succeeds, once approved");
        let done = within(SLOW, &what, async || {
            for operation in self.operations().await?.into_iter().filter(|one| is(one, kind, epoch)) {
                match phase_of(&operation) {
                    Some(OperationPhase::Succeeded) => return Ok(Some(operation)),
                    Some(OperationPhase::Proposed) if approved.insert(operation.name_any()) => {
                        self.approve(&operation).await?;
                    }
                    _ => {}
                }
            }
            Ok(None)
        });
        self.told_of_operations(done.await).await
    }

    /// The same, and that a cluster has been seen to be off.
    pub async fn approve_asserting(&self, operation: &DROperation, off: Option<&str>) -> Result<DRApproval> {
        let name = operation.name_any();
        // Whoever has asserted what does not count for this operation is told to make another.
        let answer = off.map_or(format!("{name}-yes"), |off| format!("{name}-yes-{off}-is-off"));
        let generation = operation.status.as_ref().and_then(|status| status.generation);
        let approval = DRApproval::new(
            &answer,
            DRApprovalSpec {
                operation: name.clone(),
                placement: operation.spec.placement.clone(),
                epoch: operation.spec.epoch,
                generation: generation.with_context(|| format!("the proposal {name} names no generation"))?,
                approver: self.approver(),
                approve: true,
                assert_fenced: off.map(str::to_owned),
                expires: None,
            },
        );
        let made = self.approvals_api().await?.create(&PostParams::default(), &approval).await;
        made.with_context(|| format!("approving {name}"))
    }

    /// The user that the API server knows the approver by.
    pub fn approver(&self) -> String {
        format!("system:serviceaccount:{}:{ACCOUNT}", self.options.application.namespace)
    }

    async fn approvals_api(&self) -> Result<Api<DRApproval>> {
        let (hub, namespace) = (&self.hub.control_plane, &self.options.application.namespace);
        hub.apply_yaml(&account(namespace)).await.context("making the approver")?;
        let token = hub.token(namespace, ACCOUNT).await?;
        Ok(Api::namespaced(hub.client_as(&token).await?, namespace))
    }
}

fn account(namespace: &str) -> String {
    let account = json!({
        "apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": ACCOUNT, "namespace": namespace},
    });
    let binding = json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "RoleBinding",
        "metadata": {"name": ACCOUNT, "namespace": namespace},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "understudy-approver"},
        "subjects": [{"kind": "ServiceAccount", "name": ACCOUNT, "namespace": namespace}],
    });
    format!("{account}\n---\n{binding}")
}
