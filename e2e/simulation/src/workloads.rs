//! The controllers and kubelets of a member cluster: claims bind, workloads make pods, pods use volumes and write.

use std::collections::BTreeMap;

use agent_core::Kind;
use proto::ClusterName;
use serde_json::{Value, json};

use crate::application::number_of;
use crate::kubernetes::deployments;
use crate::transition::{Happening, Time};
use crate::world::World;

/// A controller looks at a change this soon.
const CONTROLLER: std::ops::RangeInclusive<u64> = 10..=60;
/// From creation until the containers run.
const STARTING: std::ops::RangeInclusive<u64> = 150..=600;
/// From deletion until the containers have stopped; the placement allows for a second.
const STOPPING: std::ops::RangeInclusive<u64> = 100..=900;
const DETACHING: std::ops::RangeInclusive<u64> = 50..=400;
const MOUNT_AGAIN: u64 = 300;
/// A pod that was refused is tried again.
const MAKE_AGAIN: Time = 500;
/// How often a running writer writes.
const WRITING: std::ops::RangeInclusive<u64> = 150..=250;

/// Claims of a pod or of a pod template.
fn claims(volumes: &Value) -> Vec<String> {
    let volumes = volumes.as_array().map(Vec::as_slice).unwrap_or_default();
    let name = |volume: &Value| Some(volume["persistentVolumeClaim"]["claimName"].as_str()?.to_owned());
    volumes.iter().filter_map(name).collect()
}

impl World {
    pub(crate) fn wake_controllers(&mut self, site: &ClusterName) {
        let delay = self.random.within(&CONTROLLER);
        self.look_after(site, delay);
    }

    /// One look sees everything that has changed before it.
    fn look_after(&mut self, site: &ClusterName, delay: Time) {
        let at = self.now + delay;
        let here = self.site_mut(site);
        if here.controllers_look.is_none_or(|due| due > at) {
            here.controllers_look = Some(at);
            self.later(delay, Happening::ControllersLook { site: site.clone() });
        }
    }

    pub(crate) fn controllers_look(&mut self, site: &ClusterName) {
        let now = self.now;
        if self.site_mut(site).controllers_look.take_if(|due| *due <= now).is_none() {
            return;
        }
        if !self.site(site).up {
            return;
        }
        self.bind_claims(site);
        self.make_pods(site);
        self.tell_readiness(site);
    }

    fn bind_claims(&mut self, site: &ClusterName) {
        let kubernetes = &mut self.site_mut(site).kubernetes;
        let unbound: Vec<(String, Value)> = kubernetes
            .of(&Kind::Claim)
            .filter(|(_, claim)| claim["status"]["phase"] != "Bound")
            .map(|(name, claim)| (name.to_owned(), claim.clone()))
            .collect();
        for (name, mut claim) in unbound {
            let Some(volume) = claim["spec"]["volumeName"].as_str().map(str::to_owned) else { continue };
            let uid = claim["metadata"]["uid"].clone();
            let Some(mut object) = kubernetes.get(&Kind::Volume, &volume).cloned() else { continue };
            let reference = &object["spec"]["claimRef"];
            let free = reference["uid"].is_null() || reference["uid"] == uid;
            if reference["name"] != json!(name) || !free {
                continue;
            }
            object["spec"]["claimRef"]["uid"] = uid;
            object["status"]["phase"] = json!("Bound");
            kubernetes.put(Kind::Volume, &volume, object);
            claim["status"]["phase"] = json!("Bound");
            kubernetes.put(Kind::Claim, &name, claim);
        }
    }

    fn make_pods(&mut self, site: &ClusterName) {
        let pods = self.pods(site);
        let workloads: Vec<(String, u64)> = self
            .site(site)
            .kubernetes
            .of(&deployments())
            .map(|(name, object)| (name.to_owned(), object["spec"]["replicas"].as_u64().unwrap_or(1)))
            .collect();
        for (workload, wanted) in workloads {
            let pods = pods.get(&workload).map(Vec::as_slice).unwrap_or_default();
            let living: Vec<&String> =
                pods.iter().filter(|(_, lives)| *lives).map(|(name, _)| name).collect();
            let surplus = living.len().saturating_sub(usize::try_from(wanted).unwrap_or(usize::MAX));
            for pod in living.into_iter().take(surplus) {
                self.delete_pod(site, pod);
            }
            // One at a time, as `strategy: Recreate` does: never beside one that is still ending.
            if pods.is_empty() && wanted > 0 {
                self.create_pod(site, &workload);
            }
        }
    }

    /// Of each workload its pods, and whether they are to live on.
    fn pods(&self, site: &ClusterName) -> BTreeMap<String, Vec<(String, bool)>> {
        let mut found: BTreeMap<String, Vec<(String, bool)>> = BTreeMap::new();
        for (name, pod) in self.site(site).kubernetes.of(&Kind::Pod) {
            let workload = pod["metadata"]["labels"]["workload"].as_str().unwrap_or_default();
            let lives = pod["metadata"]["deletionTimestamp"].is_null();
            found.entry(workload.to_owned()).or_default().push((name.to_owned(), lives));
        }
        found
    }

    fn create_pod(&mut self, site: &ClusterName, workload: &str) {
        let Some(object) = self.site(site).kubernetes.get(&deployments(), workload).cloned() else { return };
        let volumes = object["spec"]["template"]["spec"]["volumes"].clone();
        if !self.site(site).kubernetes.admits_users_of(&claims(&volumes)) {
            self.say(format!("{site}: a pod of {workload} is refused"));
            return self.look_after(site, MAKE_AGAIN);
        }
        self.pods += 1;
        let name = format!("{workload}-{}", self.pods);
        self.say(format!("{site}: pod {name} is made"));
        let pod = json!({
            "metadata": {"name": name, "namespace": object["metadata"]["namespace"], "labels": {"workload": workload},
                "ownerReferences": [{"kind": "ReplicaSet", "name": format!("{workload}-x"), "controller": true}]},
            "spec": {"volumes": volumes, "terminationGracePeriodSeconds": 1},
            "status": {"phase": "Pending"},
        });
        self.site_mut(site).kubernetes.put(Kind::Pod, &name, pod);
        let (delay, boot) = (self.random.within(&STARTING), self.site(site).boot);
        self.later(delay, Happening::PodTriesToStart { site: site.clone(), pod: name, boot });
    }

    fn delete_pod(&mut self, site: &ClusterName, pod: &str) {
        let stamp = json!(self.now.to_string());
        let kubernetes = &mut self.site_mut(site).kubernetes;
        let _gone_is_fine = kubernetes.change(&Kind::Pod, pod, |object| {
            object["metadata"]["deletionTimestamp"] = stamp;
        });
        if self.site(site).nodes_up {
            self.end_pod_later(site, pod);
        }
    }

    fn end_pod_later(&mut self, site: &ClusterName, pod: &str) {
        let delay = self.random.within(&STOPPING) + self.pod_delay;
        let boot = self.site(site).boot;
        self.later(delay, Happening::PodEnds { site: site.clone(), pod: pod.to_owned(), boot });
    }

    fn tell_readiness(&mut self, site: &ClusterName) {
        let (pods, here, kind) = (self.pods(site), self.site(site), deployments());
        let news = here.kubernetes.of(&kind).filter_map(|(name, object)| {
            let pods = pods.get(name).map(Vec::as_slice).unwrap_or_default();
            let running = pods.iter().filter(|(pod, _)| here.containers.contains_key(pod)).count();
            (object["status"]["readyReplicas"] != json!(running)).then(|| (name.to_owned(), running))
        });
        for (name, running) in news.collect::<Vec<_>>() {
            let kubernetes = &mut self.site_mut(site).kubernetes;
            let _gone_is_fine = kubernetes.change(&deployments(), &name, |object| {
                object["status"]["readyReplicas"] = json!(running);
            });
        }
    }

    /// The kubelet attaches, mounts and starts, or tries again.
    pub(crate) fn pod_tries_to_start(&mut self, site: &ClusterName, pod: &str, boot: u64) {
        let here = self.site(site);
        let Some(object) = here.kubernetes.get(&Kind::Pod, pod).cloned() else { return };
        let deleted = !object["metadata"]["deletionTimestamp"].is_null();
        if here.boot != boot || !here.up || !here.nodes_up || deleted {
            return;
        }
        let volumes = self.volumes_of(site, &object);
        for (volume, _) in &volumes {
            let attachment = json!({
                "metadata": {"name": format!("va-{volume}")},
                "spec": {"source": {"persistentVolumeName": volume}},
            });
            self.site_mut(site).kubernetes.put(Kind::Attachment, &format!("va-{volume}"), attachment);
        }
        let wanted = claims(&object["spec"]["volumes"]).len();
        let writable = volumes.iter().all(|(_, handle)| self.array.is_writable(site, handle));
        if volumes.len() < wanted || !writable {
            let again = Happening::PodTriesToStart { site: site.clone(), pod: pod.to_owned(), boot };
            return self.later(MOUNT_AGAIN, again);
        }
        self.say(format!("{site}: pod {pod} runs"));
        let app = number_of(object["metadata"]["namespace"].as_str().unwrap_or_default());
        let here = self.site_mut(site);
        here.containers.insert(pod.to_owned(), app);
        here.mounted.insert(pod.to_owned(), volumes.into_iter().map(|(_, handle)| handle).collect());
        self.watch.look_at_pods = true;
        let kubernetes = &mut self.site_mut(site).kubernetes;
        let _gone_is_fine = kubernetes.change(&Kind::Pod, pod, |object| {
            object["status"]["phase"] = json!("Running");
        });
        self.wake_controllers(site);
        self.later(0, Happening::Writes { site: site.clone(), pod: pod.to_owned(), boot });
    }

    /// The bound volumes of a pod, and their handles.
    fn volumes_of(&self, site: &ClusterName, pod: &Value) -> Vec<(String, String)> {
        let kubernetes = &self.site(site).kubernetes;
        let named = claims(&pod["spec"]["volumes"]);
        let volume = |claim: &String| {
            let claim = kubernetes.get(&Kind::Claim, claim)?;
            let bound = claim["status"]["phase"] == "Bound";
            let volume = claim["spec"]["volumeName"].as_str().filter(|_| bound)?;
            let handle = kubernetes.get(&Kind::Volume, volume)?["spec"]["csi"]["volumeHandle"].as_str()?;
            Some((volume.to_owned(), handle.to_owned()))
        };
        named.iter().filter_map(volume).collect()
    }

    pub(crate) fn pod_ends(&mut self, site: &ClusterName, pod: &str, boot: u64) {
        if self.site(site).boot != boot || !self.site(site).up {
            return;
        }
        let Some(object) = self.site(site).kubernetes.get(&Kind::Pod, pod).cloned() else { return };
        let volumes = self.volumes_of(site, &object);
        if self.site_mut(site).containers.remove(pod).is_some() {
            self.say(format!("{site}: pod {pod} has ended"));
        }
        self.site_mut(site).mounted.remove(pod);
        self.site_mut(site).kubernetes.remove(&Kind::Pod, pod);
        for (volume, _) in volumes {
            let delay = self.random.within(&DETACHING);
            self.later(delay, Happening::Detaches { site: site.clone(), volume, boot });
        }
        self.wake_controllers(site);
    }

    pub(crate) fn detaches(&mut self, site: &ClusterName, volume: &str, boot: u64) {
        let here = self.site(site);
        let used = here
            .kubernetes
            .of(&Kind::Pod)
            .any(|(_, pod)| self.volumes_of(site, pod).iter().any(|(name, _)| name == volume));
        if here.boot == boot && here.up && !used {
            self.site_mut(site).kubernetes.remove(&Kind::Attachment, &format!("va-{volume}"));
        }
    }

    /// The kubelets are back after a cold start: what was bound to them starts or ends.
    pub(crate) fn nodes_come(&mut self, site: &ClusterName, boot: u64) {
        if self.site(site).boot != boot || !self.site(site).up {
            return;
        }
        self.say(format!("{site}: its nodes are back"));
        self.site_mut(site).nodes_up = true;
        let pods: Vec<(String, bool)> = self
            .site(site)
            .kubernetes
            .of(&Kind::Pod)
            .map(|(name, pod)| (name.to_owned(), pod["metadata"]["deletionTimestamp"].is_null()))
            .collect();
        let attached: Vec<String> = self
            .site(site)
            .kubernetes
            .of(&Kind::Attachment)
            .filter_map(|(name, _)| Some(name.strip_prefix("va-")?.to_owned()))
            .collect();
        for volume in attached {
            let delay = self.random.within(&DETACHING);
            self.later(delay, Happening::Detaches { site: site.clone(), volume, boot });
        }
        for (pod, lives) in pods {
            if lives {
                self.later(50, Happening::PodTriesToStart { site: site.clone(), pod, boot });
            } else {
                self.end_pod_later(site, &pod);
            }
        }
    }

    /// One number to every volume of the pod, as long as it runs on primary images.
    pub(crate) fn writes(&mut self, site: &ClusterName, pod: &str, boot: u64) {
        let here = self.site(site);
        let Some(app) = here.containers.get(pod).copied().filter(|_| here.boot == boot && here.up) else {
            return;
        };
        let Some(mounted) = here.mounted.get(pod).cloned() else { return };
        if mounted.iter().all(|handle| self.array.is_writable(site, handle)) {
            let number = self.apps[app].history.write(self.now, site);
            for handle in &mounted {
                self.array.append(site, handle, number);
            }
        }
        let delay = self.random.within(&WRITING);
        self.later(delay, Happening::Writes { site: site.clone(), pod: pod.to_owned(), boot });
    }
}
