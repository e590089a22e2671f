//! Stand-in for a storage array: its adjustable delays and bad habits, `DIR/settings.json`.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::Path,
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::span;

const FILE: &str = "settings.json";

/// Delays and bad habits of one array. Without a file there is no latency, and the habits are the real ones
/// that cost no time: a promotion before the demotion has crossed is answered "busy", two primaries are silent,
/// split-brain is only told after the demotion.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// What a promotion takes (seen: 8.7 s forced, waiting for the local mirror daemon).
    #[serde(with = "span")]
    pub promote_delay: Duration,
    /// What a demotion takes.
    #[serde(with = "span")]
    pub demote_delay: Duration,
    /// What a snapshot takes from one site to the other.
    #[serde(with = "span")]
    pub sync_delay: Duration,
    /// How long a resynced image stays away, and again how long it then reports no snapshot.
    #[serde(with = "span")]
    pub resync_delay: Duration,
    /// Overrides the class parameter `schedulingInterval` of every image.
    #[serde(with = "span::optional")]
    pub snapshot_interval: Option<Duration>,
    /// How often the peer is asked for news.
    #[serde(with = "span")]
    pub mirror_poll: Duration,
    /// Volumes that cannot be promoted, not even by force, and the message why. `*` is every volume, here and below.
    pub fail_promote: BTreeMap<String, String>,
    /// Volumes whose promotion is not answered for as long as they are listed here.
    pub promote_hangs: Handles,
    /// Volumes whose demotion is refused, and the message why.
    pub demote_refused: BTreeMap<String, String>,
    /// Volumes whose first promotion without force is answered "busy" although it would be right.
    pub busy_first_promote: Handles,
    /// Volumes of this site's copies that take no snapshot from the peer any more.
    pub stall_replication: Handles,
    /// Volumes that claim a split-brain which is none.
    pub spurious_split_brain: Handles,
    /// Volumes for which a resync never says ready.
    pub never_ready: Handles,
    /// Whether the driver reports the state of the replication (newer drivers do; the one seen did not).
    pub reports_replicating: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Settings {
            promote_delay: Duration::ZERO,
            demote_delay: Duration::ZERO,
            sync_delay: Duration::ZERO,
            resync_delay: Duration::ZERO,
            snapshot_interval: None,
            mirror_poll: Duration::from_millis(50),
            fail_promote: BTreeMap::new(),
            promote_hangs: Handles::default(),
            demote_refused: BTreeMap::new(),
            busy_first_promote: Handles::default(),
            stall_replication: Handles::default(),
            spurious_split_brain: Handles::default(),
            never_ready: Handles::default(),
            reports_replicating: false,
        }
    }
}

impl Settings {
    /// The settings in force now; a missing file is the default.
    pub fn read(directory: &Path) -> Result<Settings, io::Error> {
        let path = directory.join(FILE);
        match fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text)
                .map_err(|error| io::Error::other(format!("reading {}: {error}", path.display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Settings::default()),
            Err(error) => Err(error),
        }
    }

    /// Puts these settings in force for the array's next call.
    pub fn write(&self, directory: &Path) -> Result<(), io::Error> {
        fs::create_dir_all(directory)?;
        let text = serde_json::to_vec_pretty(self)?;
        write_atomically(&directory.join(FILE), &text)
    }

    pub fn promotion_failure(&self, handle: &str) -> Option<&str> {
        message_for(&self.fail_promote, handle)
    }

    pub fn demotion_refusal(&self, handle: &str) -> Option<&str> {
        message_for(&self.demote_refused, handle)
    }
}

fn message_for<'a>(messages: &'a BTreeMap<String, String>, handle: &str) -> Option<&'a str> {
    messages.get(handle).or_else(|| messages.get("*")).map(String::as_str)
}

/// A set of volume handles, in which `*` stands for all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Handles(BTreeSet<String>);

impl Handles {
    pub fn all() -> Self {
        Handles::of(["*"])
    }

    pub fn of<H: Into<String>>(handles: impl IntoIterator<Item = H>) -> Self {
        Handles(handles.into_iter().map(Into::into).collect())
    }

    pub fn contain(&self, handle: &str) -> bool {
        self.0.contains(handle) || self.0.contains("*")
    }
}

/// A reader sees the old bytes or the new ones, never a part: also after a kill in between.
pub(super) fn write_atomically(path: &Path, bytes: &[u8]) -> Result<(), io::Error> {
    let unfinished = path.with_extension(format!("{}.new", std::process::id()));
    fs::write(&unfinished, bytes)?;
    fs::rename(&unfinished, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_survive_their_file() {
        let directory = tempfile::tempdir().expect("a scratch folder");
        let settings = Settings {
            promote_delay: Duration::from_millis(8_700),
            snapshot_interval: Some(Duration::from_secs(2)),
            fail_promote: BTreeMap::from([("vol-3".to_owned(), "disk on fire".to_owned())]),
            stall_replication: Handles::all(),
            ..Settings::default()
        };
        settings.write(directory.path()).expect("settings are written");
        assert_eq!(Settings::read(directory.path()).expect("settings are read"), settings);
    }

    #[test]
    fn a_misspelt_habit_is_refused_by_name() {
        let directory = tempfile::tempdir().expect("a scratch folder");
        fs::write(directory.path().join(FILE), r#"{"promote_hang": ["*"]}"#).expect("a file");
        let refused = Settings::read(directory.path()).expect_err("an unknown field");
        assert!(refused.to_string().contains("promote_hang"), "{refused}");
    }

    #[test]
    fn a_star_stands_for_every_volume() {
        assert!(Handles::all().contain("vol-1"));
        assert!(!Handles::of(["vol-2"]).contain("vol-1"));
    }
}
