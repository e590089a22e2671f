//! Stands in for the external attacher: what the controller manager wants attached is attached, and detached again.

use k8s_openapi::api::storage::v1::VolumeAttachment;

use super::{action::Action, pacing::Pacing, settings::Settings, view::View};

pub fn decide(view: &View, driver: &str, settings: &Settings, pacing: &mut Pacing) -> Vec<Action> {
    let attachments = view.attachments();
    let ours = attachments.iter().filter(|attachment| attachment.spec.attacher == driver);
    ours.filter_map(|attachment| step(attachment, driver, settings, pacing)).collect()
}

fn step(
    attachment: &VolumeAttachment,
    driver: &str,
    settings: &Settings,
    pacing: &mut Pacing,
) -> Option<Action> {
    let name = attachment.metadata.name.clone()?;
    let uid = attachment.metadata.uid.as_deref()?;
    let own = format!("external-attacher/{}", driver.replace('/', "-"));
    let held = attachment.metadata.finalizers.clone().unwrap_or_default();
    if attachment.metadata.deletion_timestamp.is_some() {
        let due = held.contains(&own) && pacing.is_due(format!("detach {uid}"), settings.detach_delay);
        let finalizers = held.into_iter().filter(|finalizer| *finalizer != own).collect();
        return due.then_some(Action::Detached { attachment: name, finalizers });
    }
    let attached = attachment.status.as_ref().is_some_and(|status| status.attached);
    if attached || !pacing.is_due(format!("attach {uid}"), settings.attach_delay) {
        return None;
    }
    let others = held.into_iter().filter(|finalizer| *finalizer != own);
    let finalizers = others.chain([own.clone()]).collect();
    Some(Action::MarkAttached { attachment: name, finalizers })
}
