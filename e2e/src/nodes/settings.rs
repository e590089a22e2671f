//! The stand-in nodes' settings: a JSON file that a test rewrites while the nodes run, to make them slow, stuck or cut off.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{
    sync::watch,
    task::JoinHandle,
    time::{sleep, timeout},
};

const FILE: &str = "settings.json";
/// The nodes' answer: the settings that they act by.
const IN_FORCE_FILE: &str = "settings-in-force.json";
const LOOK_AGAIN: Duration = Duration::from_millis(20);
const IN_FORCE_DEADLINE: Duration = Duration::from_secs(180);

/// How the nodes of a site behave; the default is: at once, and well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// The nodes do not speak with the API server; their pods go on running.
    pub cut_off: bool,
    /// Pods whose names begin so ignore SIGTERM and their grace: they go on running until this is taken back.
    pub stuck_terminating: Vec<String>,
    /// Nodes that take no new pods, as if all of their room were used.
    pub full_nodes: Vec<String>,
    #[serde(with = "milliseconds", rename = "attach_delay_ms")]
    pub attach_delay: Duration,
    #[serde(with = "milliseconds", rename = "detach_delay_ms")]
    pub detach_delay: Duration,
    /// From a pod's volumes being attached to its processes running: mounting, pulling, starting.
    #[serde(with = "milliseconds", rename = "start_delay_ms")]
    pub start_delay: Duration,
    #[serde(with = "milliseconds", rename = "provision_delay_ms")]
    pub provision_delay: Duration,
    /// The pause before a container's first restart; it doubles up to five seconds.
    #[serde(with = "milliseconds", rename = "restart_delay_ms")]
    pub restart_delay: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            cut_off: false,
            stuck_terminating: Vec::new(),
            full_nodes: Vec::new(),
            attach_delay: Duration::ZERO,
            detach_delay: Duration::ZERO,
            start_delay: Duration::ZERO,
            provision_delay: Duration::from_millis(200),
            restart_delay: Duration::from_millis(200),
        }
    }
}

impl Settings {
    /// For nodes that do not run yet: they begin with these settings.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        self.write_to(&directory.join(FILE))
    }

    /// For nodes that run in `directory`: writes the settings and waits until the nodes act by them.
    pub async fn put_in_force(&self, directory: &Path) -> anyhow::Result<()> {
        self.write(directory)?;
        let taken = async {
            while read(&directory.join(IN_FORCE_FILE)).ok().flatten().as_ref() != Some(self) {
                sleep(LOOK_AGAIN).await;
            }
        };
        timeout(IN_FORCE_DEADLINE, taken).await.with_context(|| {
            let directory = directory.display();
            format!("the nodes in {directory} did not take their settings within {IN_FORCE_DEADLINE:?}: do they run?")
        })
    }

    /// The settings in `directory`, or the default where none were written.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        Ok(read(&directory.join(FILE))?.unwrap_or_default())
    }

    fn write_to(&self, path: &Path) -> anyhow::Result<()> {
        write_atomically(path, &serde_json::to_vec_pretty(self).context("encoding the nodes' settings")?)
            .with_context(|| format!("writing the nodes' settings {}", path.display()))
    }

    pub fn is_stuck(&self, pod: &str) -> bool {
        self.stuck_terminating.iter().any(|prefix| pod.starts_with(prefix))
    }
}

fn read(path: &Path) -> anyhow::Result<Option<Settings>> {
    let reading = || format!("reading the nodes' settings {}", path.display());
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map(Some).with_context(reading),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(reading),
    }
}

/// Follows the file; a file that cannot be read leaves the last settings in force.
pub(super) fn follow(directory: PathBuf) -> anyhow::Result<(watch::Receiver<Settings>, JoinHandle<()>)> {
    let (sender, receiver) = watch::channel(Settings::read(&directory)?);
    let task = tokio::spawn(async move {
        let mut answered = None;
        while !sender.is_closed() {
            sleep(LOOK_AGAIN).await;
            // Answered one look later than sent, so that every part of the nodes has heard of it by then.
            let current = sender.borrow().clone();
            if answered.as_ref() != Some(&current) {
                warn_of(current.write_to(&directory.join(IN_FORCE_FILE)));
                answered = Some(current);
            }
            warn_of(Settings::read(&directory).map(|read| {
                sender.send_if_modified(|current| {
                    let changed = *current != read;
                    *current = read;
                    changed
                });
            }));
        }
    });
    Ok((receiver, task))
}

fn warn_of(outcome: anyhow::Result<()>) {
    if let Err(error) = outcome {
        tracing::warn!(error = format!("{error:#}"), "settings not followed, the last stay in force");
    }
}

/// A reader sees the old file or the new one, never half of one.
pub(super) fn write_atomically(path: &Path, content: &[u8]) -> io::Result<()> {
    let fresh = path.with_extension("new");
    fs::write(&fresh, content)?;
    fs::rename(&fresh, path)
}

mod milliseconds {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub fn serialize<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(duration.as_millis()).unwrap_or(u64::MAX))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_their_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let settings = Settings {
            cut_off: true,
            stuck_terminating: vec!["shop-".to_owned()],
            attach_delay: Duration::from_millis(1500),
            ..Settings::default()
        };
        settings.write(folder.path()).expect("settings are written");
        assert_eq!(Settings::read(folder.path()).expect("settings are read"), settings);
    }

    #[test]
    fn a_misspelt_setting_is_refused_by_its_name() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::write(folder.path().join(FILE), r#"{"cutoff": true}"#).expect("a file");
        let refused = Settings::read(folder.path()).expect_err("no such setting");
        assert!(format!("{refused:#}").contains("cutoff"), "{refused:#}");
    }
}
