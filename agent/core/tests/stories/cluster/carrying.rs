//! A decision is carried out, and written down line by line.

use agent_core::{AskId, Decision, Effect, Event, Failed, Failure, Recorded};
use proto::*;

use super::Cluster;

impl Cluster {
    pub(super) fn carry_out(&mut self, decision: Decision, events: &mut Vec<Event>) {
        let Decision { remember, keep, apply, send, ask, answer, admit, probe, visit, note: _, reached: _ } =
            decision;
        self.visits.extend(visit);
        self.admitted.extend(admit);
        self.probed.extend(probe.into_iter().map(|probe| probe.mark));
        for write in remember {
            let site = &write.state;
            let operation = site.operation.as_ref().map_or("-", |operation| operation.0.as_str());
            let promise =
                site.promise.as_ref().map_or(String::new(), |it| format!(", promised until {}", it.until.0));
            let handed_over = if site.has_handed_over() { ", handed over" } else { "" };
            let resync = site.resync.as_ref().map_or(String::new(), |it| format!(", resync by {}", it.0));
            let verb = if self.writable { "write" } else { "cannot write" };
            self.line(format!(
                "{verb} DRSiteState {:?} epoch {} by {operation}, claims [{}]{promise}{handed_over}{resync}",
                site.role,
                site.epoch_seen,
                site.claims.iter().cloned().collect::<Vec<_>>().join(" ")
            ));
            events.push(self.write_site(write.state));
        }
        if let Some(memory) = keep {
            self.remembered_boot = Some(memory.boot);
            self.remembered_offset = memory.clock_offset;
            self.leases = memory.leases;
            self.promises = memory.promises;
            self.paths = memory.paths;
            events.push(Event::MemoryWritten { success: true });
        }
        for (placement, effect) in apply {
            self.line(effect.to_string());
            let stops = matches!(effect, Effect::Scale { replicas: 0, .. });
            let demotes = matches!(effect, Effect::DemoteReplication { .. });
            if (stops && self.stops_linger) || (demotes && self.demotions_linger) {
                self.lingering.push((placement, effect));
                continue;
            }
            let key = effect.key();
            let (result, more) = self.apply(effect);
            let finished = Event::Finished { placement, key, result };
            if self.watch_is_faster {
                events.extend(more);
                events.push(finished);
            } else {
                events.push(finished);
                events.extend(more);
            }
        }
        for message in send {
            self.told(&message);
        }
        for ask in ask {
            self.line(format!("ask {} for a hold at epoch {}", ask.peer.cluster, ask.request.epoch));
            self.hold_requests.push(ask.request.clone());
            self.asked.push((ask.peer.cluster, ask.request.epoch, ask.asked));
        }
        for (AskId(number), answer) in answer {
            match answer {
                HoldAnswer::Promised { hold, tickets } => {
                    self.line(format!("answer question {number}: Promised {{ hold: {hold:?} }}"));
                    self.promised_to_gates.extend(tickets);
                }
                HoldAnswer::Refused { .. } => self.line(format!("answer question {number}: {answer:?}")),
            }
        }
    }

    fn told(&mut self, message: &FromAgent) {
        match message {
            FromAgent::Hello(_) => self.line("hello".into()),
            FromAgent::Heartbeat(heartbeat) => {
                self.nonce = heartbeat.nonce;
                self.told_paths = heartbeat.paths.clone();
                self.renewed_gates = heartbeat.renewals.iter().flat_map(|it| it.gates.clone()).collect();
                for renewal in &heartbeat.renewals {
                    self.line(format!("renew epoch {} (echo {})", renewal.epoch, renewal.echo.0));
                }
            }
            FromAgent::Report(report) => {
                let known = self.reported.take().and_then(|before| before.inventory);
                let inventory = report.inventory.clone().or(known);
                self.reported = Some(Report { inventory, ..report.clone() });
                let staged = report.staged.as_ref().map_or("", |_| ", staged");
                let inventory = report.inventory.as_ref().map_or("", |_| ", inventory");
                let ailments: Vec<&str> =
                    report.ailments.iter().map(|ailment| ailment.reason.as_str()).collect();
                let ailments = if ailments.is_empty() {
                    String::new()
                } else {
                    format!(", ails {}", ailments.join(" "))
                };
                self.line(format!(
                    "report {:?} at {}, {} pods{staged}{inventory}{ailments}",
                    report.role, report.epoch_seen, report.pods
                ));
            }
            FromAgent::Acknowledgement(answer) => {
                self.line(format!("acknowledge {}: {:?}", answer.command, answer.outcome));
            }
        }
    }

    fn write_site(&mut self, state: agent_core::SiteState) -> Event {
        let placement = state.placement.clone();
        if !self.writable {
            let failed = Failed { failure: Failure::Unavailable, message: "no API server".into() };
            return Event::SiteWritten { placement, result: Err(failed) };
        }
        self.version += 1;
        let recorded = Recorded { state, resource_version: self.version.to_string() };
        self.sites.insert(placement.clone(), recorded.clone());
        Event::SiteWritten { placement, result: Ok(Box::new(recorded)) }
    }
}
