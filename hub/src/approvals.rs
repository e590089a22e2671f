//! The conversation with the hub's API server about humans' answers: DRApprovals, watched, and never written.

use std::pin::pin;

use crds::DRApproval;
use futures::TryStreamExt;
use hub_core::Event;
use hub_core::approval::Approval;
use kube::runtime::{WatchStreamExt, watcher};
use kube::{Api, Client, ResourceExt};
use tokio::sync::mpsc;

use crate::known::Known;

/// Namespace and name of a DRApproval.
type Key = (String, String);

/// Tells every DRApproval as it is, until the driver is gone. One that waits for the driver holds up the watch, not the
/// memory.
pub async fn watch_approvals(client: Client, events: mpsc::Sender<Event>) -> anyhow::Result<()> {
    let api: Api<DRApproval> = Api::all(client);
    let mut stream = pin!(watcher(api, watcher::Config::default()).default_backoff());
    let mut known: Known<Key> = Known::new();
    loop {
        let change = match stream.try_next().await {
            Ok(Some(change)) => change,
            Ok(None) => anyhow::bail!("the watch of DRApprovals ended"),
            Err(error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "watching DRApprovals failed; it is tried again"
                );
                continue;
            }
        };
        for event in told(&mut known, change) {
            events.send(event).await?;
        }
    }
}

fn told(known: &mut Known<Key>, change: watcher::Event<DRApproval>) -> Vec<Event> {
    match change {
        watcher::Event::Init => {
            known.begin_list();
            Vec::new()
        }
        watcher::Event::InitApply(object) | watcher::Event::Apply(object) => {
            known.listed(key(&object));
            seen(&object)
        }
        watcher::Event::Delete(object) => {
            known.deleted(&key(&object));
            vec![gone(key(&object))]
        }
        watcher::Event::InitDone => known.end_list().into_iter().map(gone).collect(),
    }
}

/// Parses at the door. One that is being deleted is taken back already, whatever finalizer still holds it.
fn seen(object: &DRApproval) -> Vec<Event> {
    if object.metadata.deletion_timestamp.is_some() {
        return vec![gone(key(object))];
    }
    match Approval::parse(object) {
        Some(approval) => vec![Event::ApprovalSeen(Box::new(approval))],
        None => {
            tracing::error!(
                namespace = object.namespace(),
                approval = object.name_any(),
                "an unreadable DRApproval does not count"
            );
            // Another one may have had this name before.
            vec![gone(key(object))]
        }
    }
}

fn gone((namespace, name): Key) -> Event {
    Event::ApprovalGone(namespace, name)
}

fn key(object: &DRApproval) -> Key {
    (object.namespace().unwrap_or_default(), object.name_any())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crds::approval::DRApprovalSpec;
    use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
    use k8s_openapi::jiff::Timestamp;
    use watcher::Event::{Apply, Delete, Init, InitApply, InitDone};

    fn approval(name: &str) -> DRApproval {
        let spec = DRApprovalSpec {
            operation: "web-failover-2".into(),
            placement: "web".into(),
            epoch: 2,
            generation: 1,
            approver: "jane".into(),
            approve: true,
            assert_fenced: None,
            expires: None,
        };
        let mut approval = DRApproval::new(name, spec);
        approval.metadata.namespace = Some("shop".into());
        approval
    }

    fn gone_is(name: &str) -> Event {
        Event::ApprovalGone("shop".into(), name.into())
    }

    /// The names that are told as seen, in order.
    fn names(events: &[Event]) -> Vec<&str> {
        let mut names = Vec::new();
        for event in events {
            if let Event::ApprovalSeen(approval) = event {
                names.push(approval.name.as_str());
            }
        }
        names
    }

    /// A watch that has listed these.
    fn having_listed(listed: &[&str]) -> Known<Key> {
        let mut known = Known::new();
        told(&mut known, Init);
        for name in listed {
            told(&mut known, InitApply(approval(name)));
        }
        told(&mut known, InitDone);
        known
    }

    #[test]
    fn an_approval_is_told_with_what_it_names() {
        let events = told(&mut Known::new(), Apply(approval("yes")));
        let expected = Approval::parse(&approval("yes")).expect("an approval");
        assert_eq!(events, [Event::ApprovalSeen(Box::new(expected))]);
    }

    #[test]
    fn an_approval_that_vanished_while_the_watch_was_away_is_told_as_gone() {
        let mut known = having_listed(&["yes", "no"]);
        told(&mut known, Init);
        assert_eq!(names(&told(&mut known, InitApply(approval("no")))), ["no"]);
        assert_eq!(told(&mut known, InitDone), [gone_is("yes")]);
        assert_eq!(told(&mut known, InitDone), [gone_is("no")], "each is gone once");
    }

    #[test]
    fn a_list_that_was_cut_off_and_begun_again_takes_nothing_for_gone() {
        let mut known = having_listed(&["yes"]);
        told(&mut known, Init);
        told(&mut known, Init);
        told(&mut known, InitApply(approval("yes")));
        assert_eq!(told(&mut known, InitDone), []);
    }

    #[test]
    fn an_approval_that_came_by_watch_is_told_as_gone_by_the_next_list() {
        let mut known = having_listed(&[]);
        told(&mut known, Apply(approval("late")));
        told(&mut known, Init);
        assert_eq!(told(&mut known, InitDone), [gone_is("late")]);
    }

    #[test]
    fn a_deleted_approval_is_gone_and_no_list_tells_it_again() {
        let mut known = having_listed(&["yes"]);
        assert_eq!(told(&mut known, Delete(approval("yes"))), [gone_is("yes")]);
        told(&mut known, Init);
        assert_eq!(told(&mut known, InitDone), []);
    }

    #[test]
    fn an_approval_that_is_being_deleted_counts_no_more() {
        let mut leaving = approval("yes");
        leaving.metadata.deletion_timestamp = Some(Time(Timestamp::UNIX_EPOCH));
        assert_eq!(told(&mut Known::new(), Apply(leaving)), [gone_is("yes")]);
    }

    #[test]
    fn an_unreadable_approval_takes_the_place_of_none() {
        let mut unreadable = approval("yes");
        unreadable.spec.epoch = -1;
        assert_eq!(told(&mut Known::new(), Apply(unreadable)), [gone_is("yes")]);
    }
}
