//! The reckoning after a failover: what was announced beside what was measured, and everything that is not right.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use anyhow::{Context, Result};
use crds::conditions::ConditionType;
use crds::operation::{DROperation, OperationKind, OperationPhase, StepStatus};
use crds::placement::DRPlacement;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::MicroTime;
use kube::ResourceExt;

use super::promotions::Promotions;
use super::readers::condition_of;
use super::{Federation, Loss, SLOW};
use crate::history::{Tenure, Verdict};

/// Kubernetes keeps the times of snapshots in whole seconds.
const GRANULARITY: Duration = Duration::from_secs(1);

/// What the placement had promised while all was well.
#[derive(Clone, Debug)]
pub struct Announcement {
    pub recovery_time: Duration,
    pub recovery_time_shown: String,
    pub loss_shown: String,
}

/// From when to when the application was away, part by part.
#[derive(Clone, Debug)]
pub struct Phases {
    pub detect: Duration,
    pub wait: Duration,
    /// The part of `promote` until every VolumeReplication was written.
    pub written: Duration,
    pub promote: Duration,
    pub start: Duration,
}

/// What one volume has lost: by the receipt, and in truth.
#[derive(Clone, Debug)]
pub struct VolumeLoss {
    pub claim: String,
    pub receipt: Option<Duration>,
    pub receipt_shown: String,
    pub truth: Duration,
}

/// One failover, reckoned up.
#[derive(Clone, Debug)]
pub struct Reckoning {
    pub announced: Announcement,
    pub operation: String,
    pub proof: String,
    pub phases: Phases,
    /// From the loss of the site to the first write at the other one.
    pub away: Duration,
    /// From the last write at the lost site to the first at the other one.
    pub silence: Duration,
    pub losses: Vec<VolumeLoss>,
    pub verdict: Verdict,
    /// What is not right, each in a sentence.
    pub wrong: Vec<String>,
}

impl Federation {
    /// What the placement promises now.
    pub async fn announcement(&self) -> Result<Announcement> {
        let status = self.placement().await?.status.context("the DRPlacement has no status")?;
        let shown = status.expected_rto.context("the DRPlacement has no expectedRTO")?;
        let recovery_time =
            crds::span::parse(&shown).with_context(|| format!("reading expectedRTO {shown}"))?;
        let loss_shown = status.expected_loss.unwrap_or_else(|| "unknown".to_owned());
        Ok(Announcement { recovery_time, recovery_time_shown: shown, loss_shown })
    }

    /// Waits until the failover to the cluster has ended and its application serves there again.
    pub async fn await_failover(&self, cluster: &str) -> Result<DROperation> {
        let is_so = |operation: &DROperation| {
            let phase = operation.status.as_ref().and_then(|status| status.phase);
            operation.spec.kind == OperationKind::FailOver && phase == Some(OperationPhase::Succeeded)
        };
        let operation = self.await_operation("a failover has succeeded", SLOW, is_so).await?;
        self.await_placement(&format!("it is active and available at {cluster}"), SLOW, |placement| {
            serves_at(placement, cluster)
        })
        .await?;
        Ok(operation)
    }

    /// Reckons the failover of a lost site to the cluster; writes have been made there already.
    pub async fn reckon(
        &self,
        announced: Announcement,
        loss: &Loss,
        operation: &DROperation,
        cluster: &str,
    ) -> Result<Reckoning> {
        let verdict = self.verdict(cluster).await?;
        let (before, after) = handover(&verdict, cluster)?;
        let away = Duration::from_nanos(after.first_nanoseconds.saturating_sub(loss.boot_nanoseconds));
        let silence = Duration::from_nanos(after.first_nanoseconds.saturating_sub(before.last_nanoseconds));
        let status = operation.status.clone().context("the DROperation has no status")?;
        let mut reckoning = Reckoning {
            announced,
            operation: operation.name_any(),
            proof: status.fence_proof.clone().unwrap_or_else(|| "none".to_owned()),
            phases: phases(operation, &loss.promotions)?,
            away,
            silence,
            losses: self.losses(operation, &verdict)?,
            verdict,
            wrong: Vec::new(),
        };
        reckoning.wrong = self.what_is_wrong(&reckoning, cluster).await?;
        Ok(reckoning)
    }

    fn losses(&self, operation: &DROperation, verdict: &Verdict) -> Result<Vec<VolumeLoss>> {
        let status = operation.status.as_ref().context("the DROperation has no status")?;
        let receipts: BTreeMap<&str, &str> =
            status.loss_receipt.iter().map(|loss| (loss.claim.as_str(), loss.lost.as_str())).collect();
        let application = &self.options.application;
        let volumes = application.claims().into_iter().zip(application.volume_handles());
        Ok(volumes
            .map(|(claim, handle)| {
                let shown = receipts.get(claim.as_str()).copied().unwrap_or("not on the receipt");
                let truth =
                    verdict.losses.iter().filter(|loss| loss.image == handle).map(|loss| loss.window).max();
                VolumeLoss {
                    receipt: crds::span::parse(shown).ok(),
                    receipt_shown: shown.to_owned(),
                    truth: truth.unwrap_or_default(),
                    claim,
                }
            })
            .collect())
    }

    async fn what_is_wrong(&self, reckoning: &Reckoning, cluster: &str) -> Result<Vec<String>> {
        let mut wrong = Vec::new();
        if reckoning.away > reckoning.announced.recovery_time {
            wrong.push(format!(
                "the application was away for {:.1} s, and {} was announced",
                reckoning.away.as_secs_f64(),
                reckoning.announced.recovery_time_shown
            ));
        }
        if !reckoning.verdict.holds() {
            wrong.push(format!("the history is violated {} time(s)", reckoning.verdict.violations.len()));
        }
        wrong.extend(reckoning.losses.iter().filter_map(VolumeLoss::is_wrong));
        if let Err(error) = self.ensure_all_were_forced(cluster) {
            wrong.push(format!("{error:#}"));
        }
        // Short timings call a cluster silent as soon as a busy machine holds its agent up for a moment.
        let what = format!("the placement says that it is active and available at {cluster}");
        let served = self.await_placement(&what, SLOW, |placement| serves_at(placement, cluster));
        if let Err(error) = served.await {
            wrong.push(format!("{error:#}"));
        }
        Ok(wrong)
    }
}

impl VolumeLoss {
    fn is_wrong(&self) -> Option<String> {
        let VolumeLoss { claim, receipt, receipt_shown, truth } = self;
        match receipt {
            None => Some(format!("{claim}: the receipt says {receipt_shown:?}, which is no span of time")),
            Some(receipt) if *truth > *receipt + GRANULARITY => Some(format!(
                "{claim}: lost {:.3} s of writes, and the receipt says {receipt_shown}",
                truth.as_secs_f64()
            )),
            Some(_) => None,
        }
    }
}

impl Reckoning {
    pub fn is_right(&self) -> bool {
        self.wrong.is_empty()
    }
}

pub(super) fn serves_at(placement: &DRPlacement, cluster: &str) -> bool {
    let active = placement.status.as_ref().and_then(|status| status.active_cluster.as_deref());
    let available = condition_of(placement, ConditionType::Available);
    active == Some(cluster) && available.is_some_and(|condition| condition.status == "True")
}

/// The last tenure elsewhere, and the first of the cluster after it.
fn handover<'a>(verdict: &'a Verdict, cluster: &str) -> Result<(&'a Tenure, &'a Tenure)> {
    let after = verdict.tenures.iter().rposition(|tenure| tenure.cluster != cluster);
    let after = after.context("nobody wrote before the loss")?;
    let next = verdict.tenures.get(after + 1);
    Ok((&verdict.tenures[after], next.with_context(|| format!("nobody has written at {cluster} yet"))?))
}

/// Cuts the operation at the ends of its steps, so that the parts add up whatever ran side by side.
fn phases(operation: &DROperation, promotions: &Promotions) -> Result<Phases> {
    let status = operation.status.as_ref().context("the DROperation has no status")?;
    let lost = status.lost_at.as_ref().context("the DROperation has no lostAt")?;
    let started = status.started.as_ref().context("the DROperation has no start")?;
    let end = |name: &str| {
        let step: Option<&StepStatus> = status.plan.iter().find(|step| step.name == name);
        step.and_then(|step| step.finished.as_ref()).with_context(|| format!("the step {name} has no end"))
    };
    let (fenced, owned, ready) = (end("AwaitFence")?, end("TakeOwnership")?, end("AwaitReady")?);
    let written = promotions.seen().into_values().max().context("no VolumeReplication became primary")?;
    Ok(Phases {
        detect: between(lost, started),
        wait: between(started, fenced),
        written: between(fenced, &MicroTime(written)),
        promote: between(fenced, owned),
        start: between(owned, ready),
    })
}

fn between(from: &MicroTime, to: &MicroTime) -> Duration {
    Duration::try_from(to.0.duration_since(from.0)).unwrap_or_default()
}

impl fmt::Display for Reckoning {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Reckoning { announced, operation, proof, phases, away, silence, losses, verdict, wrong } = self;
        let Phases { detect, wait, written, promote, start } = phases;
        writeln!(out, "{operation}, fence proven by {proof}")?;
        for (name, span, meaning) in [
            ("detect", detect, "last heartbeat to decision"),
            ("wait", wait, "until the lost holder has certainly stopped"),
            ("promote", promote, "volumes primary, ownership taken;"),
            ("", written, "  of it until every VolumeReplication was written"),
            ("start", start, "scaled up, and ready"),
        ] {
            writeln!(out, "  {name:<8} {:>7.3} s   {meaning}", span.as_secs_f64())?;
        }
        writeln!(out, "  {:<8} {:>7.3} s", "sum", (*detect + *wait + *promote + *start).as_secs_f64())?;
        writeln!(
            out,
            "Recovery time: {:.3} s from the loss to the first write elsewhere; {} was announced.",
            away.as_secs_f64(),
            announced.recovery_time_shown
        )?;
        writeln!(out, "Writers were silent for {:.3} s.", silence.as_secs_f64())?;
        let width = losses.iter().map(|loss| loss.claim.len()).max().unwrap_or_default();
        writeln!(out, "Loss, by the receipt and in truth ({} was expected before):", announced.loss_shown)?;
        for VolumeLoss { claim, receipt: _, receipt_shown, truth } in losses {
            writeln!(out, "  {claim:<width$}  {receipt_shown:>6}   {:>7.3} s", truth.as_secs_f64())?;
        }
        write!(out, "{verdict}")?;
        for wrong in wrong {
            write!(out, "\n  ✗ {wrong}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lost(receipt: &str, truth: Duration) -> VolumeLoss {
        VolumeLoss {
            claim: "shop-data".to_owned(),
            receipt: crds::span::parse(receipt).ok(),
            receipt_shown: receipt.to_owned(),
            truth,
        }
    }

    #[test]
    fn a_receipt_that_promises_less_than_was_lost_is_wrong() {
        let second = Duration::from_secs(1);
        assert_eq!(lost("3s", 4 * second).is_wrong(), None);
        let wrong = lost("3s", 5 * second).is_wrong().expect("a complaint");
        assert!(wrong.contains("5.000 s") && wrong.contains("says 3s"), "{wrong}");
    }

    #[test]
    fn a_receipt_that_does_not_know_is_wrong() {
        assert!(lost("unknown", Duration::ZERO).is_wrong().is_some());
    }

    #[test]
    fn a_handover_needs_a_writer_after_the_lost_one() {
        let tenure = |cluster: &str, epoch| Tenure {
            cluster: cluster.to_owned(),
            epoch,
            writes: 1,
            first_nanoseconds: epoch * 10,
            last_nanoseconds: epoch * 10 + 5,
        };
        let verdict =
            |tenures| Verdict { tenures, violations: Vec::new(), losses: Vec::new(), images: 1, writes: 1 };
        let both = verdict(vec![tenure("east", 1), tenure("west", 2)]);
        let (before, after) = handover(&both, "west").expect("both wrote");
        assert_eq!((before.cluster.as_str(), after.cluster.as_str()), ("east", "west"));
        assert!(handover(&verdict(vec![tenure("east", 1)]), "west").is_err());
        assert!(handover(&verdict(vec![tenure("west", 2)]), "west").is_err());
    }
}
