//! A witness in a third place: with it a hub that shares west's site may act alone, and while it is silent nobody does.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use crds::conditions::ConditionType;
use crds::operation::{OperationKind, OperationPhase};
use e2e::federation::readers::condition_of;
use e2e::federation::witness::Witness;
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::patience::within;
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use kube::api::PostParams;
use kube::{Api, ResourceExt};

/// W of the federation's timing: (ttl + stop), stretched by what a clock may be wrong, rounded up.
const WAIT: Duration = Duration::from_millis(7500);
const LOOK_AGAIN: Duration = Duration::from_millis(50);

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_site_is_replaced_with_the_witness_and_not_while_it_is_silent() -> Result<()> {
    let options = Options { witness: true, ..Options::short(1) };
    let federation = Federation::protected(options, progress()).await?;
    let witness = federation.witness.as_ref().context("a witness")?;
    is_armed(&federation, "True", "Armed").await?;
    both_clusters_advance(witness).await?;
    remembers(&federation, witness, 1, EAST).await?;
    nobody_says_what_is_not_theirs(&federation, witness).await?;

    witness.control_plane.kill9();
    is_armed(&federation, "False", "WitnessUnavailable").await?;
    let loss = federation.lose(EAST)?;
    nothing_is_moved(&federation, &loss).await?;

    witness.control_plane.restart().await?;
    federation.await_failover(WEST).await?;
    federation.await_writes(WEST, 20, SLOW).await?;
    let epoch = federation.placement().await?.status.and_then(|status| status.epoch).context("an epoch")?;
    remembers(&federation, witness, i32::try_from(epoch)?, WEST).await?;
    let verdict = federation.verdict(WEST).await?;
    ensure!(verdict.holds(), "{verdict}");
    Ok(())
}

async fn is_armed(federation: &Federation, status: &str, reason: &str) -> Result<()> {
    let what = format!("AutomaticFailoverArmed is {status}: {reason}");
    let placement = federation.await_placement(&what, SLOW, |placement| {
        condition_of(placement, ConditionType::AutomaticFailoverArmed)
            .is_some_and(|condition| condition.status == status && condition.reason == reason)
    });
    placement.await.map(drop)
}

async fn both_clusters_advance(witness: &Witness) -> Result<()> {
    for cluster in [EAST, WEST] {
        let name = format!("understudy-{cluster}");
        let version =
            async || Ok(witness.leases().get_opt(&name).await?.and_then(|it| it.resource_version()));
        let before = within(SLOW, "it has a Lease", version).await?;
        let what = format!("{cluster} advances its Lease");
        within(SLOW, &what, async || Ok(version().await?.filter(|now| *now != before))).await?;
    }
    Ok(())
}

async fn remembers(federation: &Federation, witness: &Witness, epoch: i32, holder: &str) -> Result<()> {
    let placement = federation.placement().await?;
    let what = format!("the witness remembers epoch {epoch} of {holder}");
    let waited = within(SLOW, &what, async || {
        let known = witness.remembers(&placement).await?;
        Ok(known.filter(|known| *known == (epoch, holder.to_owned())).map(drop))
    });
    waited.await
}

/// The policy of deploy/witness, tried with the accounts that hub and agents have.
async fn nobody_says_what_is_not_theirs(federation: &Federation, witness: &Witness) -> Result<()> {
    let uid = federation.placement().await?.uid().context("a uid")?;
    let cases = [
        ("understudy-east", "understudy-west".to_owned()),
        ("understudy-east", format!("understudy-placement-{uid}")),
        ("hub", "understudy-east".to_owned()),
    ];
    for (account, lease) in cases {
        let refused = refusal(&witness.leases_as(account).await?, &lease, |_| {}).await;
        let refused = refused.with_context(|| format!("{account} writes {lease}"))?;
        ensure!(refused.contains("is not that of the account"), "{account} writes {lease}: {refused}");
    }
    let name = format!("understudy-placement-{uid}");
    let hub = witness.leases_as("hub").await?;
    let lowered = refusal(&hub, &name, |spec| spec.lease_transitions = Some(0)).await;
    let refused = lowered.context("the hub lowers the epoch")?;
    ensure!(refused.contains("never decreases"), "{refused}");
    let deleted = hub.delete(&name, &Default::default()).await;
    ensure!(deleted.is_err(), "the hub deleted a Lease of the witness");
    Ok(())
}

/// What the policy says to a changed Lease. Whom it belongs to writes it meanwhile: a conflict is no answer of the policy.
async fn refusal(leases: &Api<Lease>, name: &str, change: impl Fn(&mut LeaseSpec)) -> Result<String> {
    within(SLOW, "the policy answers", async || {
        let mut changed = leases.get(name).await.context("reading it")?;
        change(changed.spec.get_or_insert_with(LeaseSpec::default));
        match leases.replace(name, &PostParams::default(), &changed).await {
            Err(kube::Error::Api(status)) if status.code == 409 => Ok(None),
            Err(refused) => Ok(Some(refused.to_string())),
            Ok(_) => bail!("it was written"),
        }
    })
    .await
}

/// For longer than a failover takes; what is proposed meanwhile waits for a human.
async fn nothing_is_moved(federation: &Federation, loss: &e2e::federation::Loss) -> Result<()> {
    let until = Instant::now() + WAIT * 2;
    while Instant::now() < until {
        let promoted = loss.promotions.seen();
        ensure!(promoted.is_empty(), "promoted at west: {promoted:?}");
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let operations = federation.operations().await?;
    let begun = operations.iter().find(|operation| {
        let phase = operation.status.as_ref().and_then(|status| status.phase);
        let only_words = matches!(phase, None | Some(OperationPhase::Proposed | OperationPhase::Withdrawn));
        operation.spec.kind == OperationKind::FailOver && !only_words
    });
    ensure!(begun.is_none(), "begun: {begun:?}");
    is_armed(federation, "False", "WitnessUnavailable").await?;
    federation.hub.service.still_runs()?;
    federation.west.agent.still_runs()
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
