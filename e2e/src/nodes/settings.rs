//! The stand-in nodes' settings: a JSON file that a test rewrites while the nodes run, to make them slow, stuck or cut off.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use serde::{Deserialize, Serialize};
use tokio::{sync::watch, task::JoinHandle};

const FILE: &str = "settings.json";
const LOOK_AGAIN: Duration = Duration::from_millis(25);

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
    /// Puts these settings in force for the nodes that run in `directory`, within a few tens of milliseconds.
    pub fn write(&self, directory: &Path) -> anyhow::Result<()> {
        let path = directory.join(FILE);
        write_atomically(&path, &serde_json::to_vec_pretty(self).context("encoding the nodes' settings")?)
            .with_context(|| format!("writing the nodes' settings {}", path.display()))
    }

    /// The settings in `directory`, or the default where none were written.
    pub fn read(directory: &Path) -> anyhow::Result<Self> {
        let path = directory.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .with_context(|| format!("reading the nodes' settings {}", path.display())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => {
                Err(error).with_context(|| format!("reading the nodes' settings {}", path.display()))
            }
        }
    }

    pub fn is_stuck(&self, pod: &str) -> bool {
        self.stuck_terminating.iter().any(|prefix| pod.starts_with(prefix))
    }
}

/// Follows the file; a file that cannot be read leaves the last settings in force.
pub(super) fn follow(directory: PathBuf) -> anyhow::Result<(watch::Receiver<Settings>, JoinHandle<()>)> {
    let (sender, receiver) = watch::channel(Settings::read(&directory)?);
    let task = tokio::spawn(async move {
        while !sender.is_closed() {
            tokio::time::sleep(LOOK_AGAIN).await;
            match Settings::read(&directory) {
                Ok(read) => {
                    sender.send_if_modified(|current| {
                        let changed = *current != read;
                        *current = read;
                        changed
                    });
                }
                Err(error) => {
                    tracing::warn!(error = format!("{error:#}"), "settings not read, the last stay")
                }
            }
        }
    });
    Ok((receiver, task))
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
