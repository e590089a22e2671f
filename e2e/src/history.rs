//! The history checker: proves from what was written that one cluster wrote at a time, and computes the true loss.
//!
//! The application logs every acknowledged write outside of all clusters; the images keep what survived. Nothing
//! here asks the product what it thinks happened. All sites of a federation share one machine, so the boot clock
//! orders their writes.

mod telling;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    io::{self, Read, Seek, SeekFrom},
    path::Path,
    time::Duration,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::array::{DataClient, DataError};

/// What a pod writes under while nothing protects its claims: it may go on where its own cluster left off, as after the
/// release of a placement, and nowhere else.
const UNPROTECTED: u64 = 0;

/// One write of the application: a line in its image and, once acknowledged, the same line in the log outside.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Record {
    pub image: String,
    pub cluster: String,
    pub epoch: u64,
    /// Counts on from the last record found in the image.
    pub sequence: u64,
    pub boot_nanoseconds: u64,
    pub written: Timestamp,
}

/// Why a history cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum HistoryError {
    #[error("reading the log of writes {path}")]
    File { path: String, source: io::Error },
    #[error("reading what survived at {cluster}")]
    Array { cluster: String, source: DataError },
    #[error("line {number} is no record: {line:?}")]
    Line { number: usize, line: String, source: serde_json::Error },
}

/// All acknowledged writes, in the order of the boot clock.
#[derive(Clone, Debug, Default)]
pub struct History {
    records: Vec<Record>,
}

impl History {
    pub fn new(mut records: Vec<Record>) -> History {
        records.sort_by_key(|record| record.boot_nanoseconds);
        History { records }
    }

    pub fn read(log: &Path) -> Result<History, HistoryError> {
        let text = fs::read_to_string(log)
            .map_err(|source| HistoryError::File { path: log.display().to_string(), source })?;
        // A writer killed inside its write leaves a last line without an end: it claims nothing.
        let finished = text.rfind('\n').map_or(0, |end| end + 1);
        parse_lines(text[..finished].lines()).map(History::new)
    }

    /// What was written to these images alone.
    pub fn of_images(mut self, images: &[String]) -> History {
        self.records.retain(|record| images.contains(&record.image));
        self
    }

    pub fn records(&self) -> &[Record] {
        &self.records
    }
}

/// A log of writes that grows, of which each line is read once.
#[derive(Debug, Default)]
pub struct Following {
    offset: u64,
    records: Vec<Record>,
}

impl Following {
    /// All acknowledged writes up to now.
    pub fn read(&mut self, log: &Path) -> Result<History, HistoryError> {
        let file_error = |source| HistoryError::File { path: log.display().to_string(), source };
        let mut file = fs::File::open(log).map_err(file_error)?;
        file.seek(SeekFrom::Start(self.offset)).map_err(file_error)?;
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(file_error)?;
        // A writer killed inside its write leaves a last line without an end: it claims nothing.
        let finished = text.rfind('\n').map_or(0, |end| end + 1);
        self.records.extend(parse_lines(text[..finished].lines())?);
        self.offset += u64::try_from(finished).unwrap_or_default();
        Ok(History::new(self.records.clone()))
    }
}

/// What the images of one cluster hold now, by image.
#[derive(Clone, Debug, Default)]
pub struct Survivors {
    pub cluster: String,
    pub images: BTreeMap<String, Vec<Record>>,
}

impl Survivors {
    pub fn of(cluster: &str) -> Survivors {
        Survivors { cluster: cluster.to_owned(), images: BTreeMap::new() }
    }

    /// Reads the images from a site's array. Read the log of writes before: what is written in between would look lost.
    pub async fn read(
        cluster: &str,
        data_socket: &Path,
        images: impl IntoIterator<Item = impl AsRef<str>>,
    ) -> Result<Survivors, HistoryError> {
        let image_error = |source| HistoryError::Array { cluster: cluster.to_owned(), source };
        let mut array = DataClient::connect(data_socket).await.map_err(image_error)?;
        let mut survivors = Survivors::of(cluster);
        for image in images {
            let lines = array.read(image.as_ref()).await.map_err(image_error)?;
            survivors.add(image.as_ref(), &lines)?;
        }
        Ok(survivors)
    }

    /// Adds an image by its lines, as the array's data plane reads them.
    pub fn add(&mut self, image: &str, lines: &[String]) -> Result<(), HistoryError> {
        let records = parse_lines(lines.iter().map(String::as_str))?;
        self.images.insert(image.to_owned(), records);
        Ok(())
    }
}

fn parse_lines<'a>(lines: impl Iterator<Item = &'a str>) -> Result<Vec<Record>, HistoryError> {
    lines
        .enumerate()
        .map(|(index, line)| {
            serde_json::from_str(line).map_err(|source| HistoryError::Line {
                number: index + 1,
                line: line.to_owned(),
                source,
            })
        })
        .collect()
}

/// A cluster's writing under one epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tenure {
    pub cluster: String,
    pub epoch: u64,
    pub writes: usize,
    pub first_nanoseconds: u64,
    pub last_nanoseconds: u64,
}

/// What must never be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Violation {
    /// Both clusters wrote within the other's time: two writers.
    Overlap { earlier: Tenure, later: Tenure },
    /// A write under an epoch that was over already.
    EpochWentBack { record: Record, after: u64 },
    /// Two clusters wrote under one epoch.
    SharedEpoch { epoch: u64, clusters: BTreeSet<String> },
    /// Within its tenure a writer acknowledged a sequence number that was not above its last.
    SequenceWentBack { record: Record, after: u64 },
    /// The image itself does not count on by one, or an older epoch follows a newer one in it.
    ImageOutOfOrder { image: String, before: Box<Record>, record: Box<Record> },
    /// An acknowledged write is missing although a later one of the same tenure survived.
    LostInTheMiddle { record: Record },
    /// The cluster that wrote last lost its own acknowledged write.
    LostByHolder { record: Record },
}

/// What an image lost of one tenure: acknowledged, and not in the surviving copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    pub image: String,
    pub cluster: String,
    pub epoch: u64,
    pub acknowledged: usize,
    pub lost: usize,
    /// From the last surviving write to the last acknowledged one.
    pub window: Duration,
}

/// What the history proves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    pub tenures: Vec<Tenure>,
    pub violations: Vec<Violation>,
    pub losses: Vec<Loss>,
    pub images: usize,
    pub writes: usize,
}

impl Verdict {
    /// One writer at a time, and nothing lost but tails of ended tenures.
    pub fn holds(&self) -> bool {
        self.violations.is_empty()
    }

    /// Where the application ran, one after the other: a pod that starts anew at the same cluster is no move.
    pub fn clusters(&self) -> Vec<&str> {
        let mut clusters: Vec<&str> = self.tenures.iter().map(|tenure| tenure.cluster.as_str()).collect();
        clusters.dedup();
        clusters
    }

    pub fn lost_writes(&self) -> usize {
        self.losses.iter().map(|loss| loss.lost).sum()
    }

    /// The true loss of the worst image.
    pub fn worst_loss(&self) -> Duration {
        self.losses.iter().map(|loss| loss.window).max().unwrap_or_default()
    }
}

/// Judges a history against what survived at the cluster that holds the images now.
pub fn check(history: &History, survivors: &Survivors) -> Verdict {
    let tenures = tenures(history);
    let mut violations = overlaps(&tenures);
    violations.extend(shared_epochs(&tenures));
    violations.extend(epochs_gone_back(history));
    violations.extend(sequences_gone_back(history));
    violations.extend(images_out_of_order(survivors));
    let (losses, broken) = losses(history, survivors, tenures.last());
    violations.extend(broken);
    let images: BTreeSet<&str> = history.records.iter().map(|record| record.image.as_str()).collect();
    Verdict { images: images.len(), writes: history.records.len(), tenures, violations, losses }
}

/// In the order in which they began.
fn tenures(history: &History) -> Vec<Tenure> {
    let mut tenures: BTreeMap<(&str, u64), Tenure> = BTreeMap::new();
    for record in &history.records {
        let tenure = tenures.entry((&record.cluster, record.epoch)).or_insert_with(|| Tenure {
            cluster: record.cluster.clone(),
            epoch: record.epoch,
            writes: 0,
            first_nanoseconds: record.boot_nanoseconds,
            last_nanoseconds: record.boot_nanoseconds,
        });
        tenure.writes += 1;
        tenure.last_nanoseconds = record.boot_nanoseconds;
    }
    let mut tenures: Vec<Tenure> = tenures.into_values().collect();
    tenures.sort_by_key(|tenure| tenure.first_nanoseconds);
    tenures
}

fn overlaps(tenures: &[Tenure]) -> Vec<Violation> {
    let pairs = tenures.iter().enumerate().flat_map(|(at, earlier)| {
        tenures[at + 1..]
            .iter()
            .filter(|later| later.cluster != earlier.cluster)
            .map(move |later| (earlier, later))
    });
    pairs
        .filter(|(earlier, later)| earlier.last_nanoseconds >= later.first_nanoseconds)
        .map(|(earlier, later)| Violation::Overlap { earlier: earlier.clone(), later: later.clone() })
        .collect()
}

fn shared_epochs(tenures: &[Tenure]) -> Vec<Violation> {
    let mut writers: BTreeMap<u64, BTreeSet<String>> = BTreeMap::new();
    for tenure in tenures {
        writers.entry(tenure.epoch).or_default().insert(tenure.cluster.clone());
    }
    let shared = writers.into_iter().filter(|(_, clusters)| clusters.len() > 1);
    shared.map(|(epoch, clusters)| Violation::SharedEpoch { epoch, clusters }).collect()
}

/// The first write of each tenure that comes after a newer epoch's.
fn epochs_gone_back(history: &History) -> Vec<Violation> {
    let mut newest = 0;
    let mut told = BTreeSet::new();
    let mut violations = Vec::new();
    let mut before = None;
    for record in &history.records {
        let goes_on = before.replace(record).is_some_and(|before| goes_on_unprotected(before, record));
        if record.epoch < newest && !goes_on && told.insert((&record.cluster, record.epoch)) {
            violations.push(Violation::EpochWentBack { record: record.clone(), after: newest });
        }
        newest = newest.max(record.epoch);
    }
    violations
}

fn goes_on_unprotected(before: &Record, record: &Record) -> bool {
    record.epoch == UNPROTECTED && record.cluster == before.cluster
}

fn sequences_gone_back(history: &History) -> Vec<Violation> {
    let mut last: BTreeMap<(&str, &str, u64), u64> = BTreeMap::new();
    let mut violations = Vec::new();
    for record in &history.records {
        let before = last.insert((&record.image, &record.cluster, record.epoch), record.sequence);
        if let Some(after) = before.filter(|before| *before >= record.sequence) {
            violations.push(Violation::SequenceWentBack { record: record.clone(), after });
        }
    }
    violations
}

fn images_out_of_order(survivors: &Survivors) -> Vec<Violation> {
    let broken = survivors.images.iter().filter_map(|(image, records)| {
        let pair = records.windows(2).find(|pair| {
            let went_back = pair[1].epoch < pair[0].epoch && !goes_on_unprotected(&pair[0], &pair[1]);
            went_back || pair[1].sequence != pair[0].sequence + 1
        })?;
        Some(Violation::ImageOutOfOrder {
            image: image.clone(),
            before: Box::new(pair[0].clone()),
            record: Box::new(pair[1].clone()),
        })
    });
    broken.collect()
}

/// Compares, image by image and tenure by tenure, what was acknowledged with what survived.
fn losses(history: &History, survivors: &Survivors, last: Option<&Tenure>) -> (Vec<Loss>, Vec<Violation>) {
    let mut acknowledged: BTreeMap<(&str, u64, &str), Vec<&Record>> = BTreeMap::new();
    for record in &history.records {
        acknowledged.entry((&record.image, record.epoch, &record.cluster)).or_default().push(record);
    }
    let (mut losses, mut violations) = (Vec::new(), Vec::new());
    for ((image, epoch, cluster), writes) in acknowledged {
        let surviving = survivors.images.get(image).map_or(&[][..], Vec::as_slice);
        let (lost_in_the_middle, tail) = what_is_missing(&writes, surviving);
        let told = lost_in_the_middle.into_iter().cloned();
        violations.extend(told.map(|record| Violation::LostInTheMiddle { record }));
        let Some(first_lost) = tail.first() else { continue };
        let holder = last.filter(|last| last.cluster == survivors.cluster);
        if holder.is_some_and(|holder| holder.cluster == cluster && holder.epoch == epoch) {
            violations.push(Violation::LostByHolder { record: (*first_lost).clone() });
            continue;
        }
        let window = window(surviving, &writes);
        let (acknowledged, lost) = (writes.len(), tail.len());
        losses.push(Loss {
            image: image.to_owned(),
            cluster: cluster.to_owned(),
            epoch,
            acknowledged,
            lost,
            window,
        });
    }
    (losses, violations)
}

/// Holes before the last surviving write, and the tail behind it. Only a tail is what a snapshot can lack.
fn what_is_missing<'a>(writes: &[&'a Record], surviving: &[Record]) -> (Vec<&'a Record>, Vec<&'a Record>) {
    let surviving: BTreeSet<&Record> = surviving.iter().collect();
    let tail = writes.iter().rposition(|record| surviving.contains(record)).map_or(0, |last| last + 1);
    let holes = writes[..tail].iter().filter(|record| !surviving.contains(*record)).copied().collect();
    (holes, writes[tail..].to_vec())
}

/// From the last surviving write, of this tenure or an earlier one, to the last acknowledged one.
fn window(surviving: &[Record], writes: &[&Record]) -> Duration {
    let Some((first, last)) = writes.first().zip(writes.last()) else { return Duration::ZERO };
    let until_then = surviving.iter().filter(|record| record.epoch <= last.epoch);
    let boots = until_then.map(|record| record.boot_nanoseconds);
    let kept = boots.filter(|boot| *boot <= last.boot_nanoseconds).max().unwrap_or(first.boot_nanoseconds);
    Duration::from_nanos(last.boot_nanoseconds.saturating_sub(kept))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A write to the only image, `at` milliseconds after boot.
    fn write(cluster: &str, epoch: u64, sequence: u64, at: u64) -> Record {
        Record {
            image: "vol-1".to_owned(),
            cluster: cluster.to_owned(),
            epoch,
            sequence,
            boot_nanoseconds: at * 1_000_000,
            written: Timestamp::UNIX_EPOCH,
        }
    }

    fn run(cluster: &str, epoch: u64, sequences: std::ops::RangeInclusive<u64>, from: u64) -> Vec<Record> {
        sequences
            .enumerate()
            .map(|(n, sequence)| write(cluster, epoch, sequence, from + 20 * n as u64))
            .collect()
    }

    fn survived(cluster: &str, records: Vec<Record>) -> Survivors {
        Survivors { cluster: cluster.to_owned(), images: BTreeMap::from([("vol-1".to_owned(), records)]) }
    }

    /// East writes ten, the last three never cross; west goes on after the seventh.
    fn failover() -> (Vec<Record>, Vec<Record>) {
        let east = run("east", 1, 1..=10, 1_000);
        let west = run("west", 2, 8..=12, 5_000);
        ([east.clone(), west.clone()].concat(), [east[..7].to_vec(), west].concat())
    }

    #[test]
    fn a_failover_in_order_holds_and_its_loss_is_counted() {
        let (log, image) = failover();
        let verdict = check(&History::new(log), &survived("west", image));
        assert!(verdict.holds(), "{verdict}");
        assert_eq!(verdict.lost_writes(), 3);
        assert_eq!(verdict.worst_loss(), Duration::from_millis(60));
        let told = verdict.to_string();
        assert!(told.contains("3 of      10 writes of east, epoch 1     0.060 s"), "{told}");
        assert!(told.contains("3.820 s after the last write of east"), "{told}");
    }

    #[test]
    fn a_planned_move_loses_nothing() {
        let log = [run("east", 1, 1..=10, 1_000), run("west", 2, 11..=15, 5_000)].concat();
        let verdict = check(&History::new(log.clone()), &survived("west", log));
        assert!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
        assert!(verdict.to_string().ends_with("every acknowledged write survived."), "{verdict}");
    }

    #[test]
    fn two_writers_at_once_are_caught() {
        let (mut log, image) = failover();
        log.push(write("east", 1, 11, 5_010));
        let verdict = check(&History::new(log), &survived("west", image));
        let overlap = |violation: &Violation| matches!(violation, Violation::Overlap { .. });
        assert!(verdict.violations.iter().any(overlap), "{verdict}");
        assert!(
            verdict.to_string().contains("east (epoch 1) and west (epoch 2) both wrote for 0.010 s"),
            "{verdict}"
        );
    }

    #[test]
    fn a_writer_inside_a_pause_of_the_other_is_caught() {
        let log = vec![write("east", 1, 1, 1_000), write("west", 2, 2, 2_000), write("east", 1, 3, 3_000)];
        let verdict = check(&History::new(log.clone()), &survived("west", log[..2].to_vec()));
        assert!(matches!(verdict.violations[0], Violation::Overlap { .. }), "{verdict}");
    }

    #[test]
    fn an_epoch_that_goes_back_is_caught() {
        let log = [run("east", 5, 1..=3, 1_000), run("west", 4, 4..=5, 5_000)].concat();
        let verdict = check(&History::new(log), &Survivors::of("west"));
        let back = Violation::EpochWentBack { record: write("west", 4, 4, 5_000), after: 5 };
        assert!(verdict.violations.contains(&back), "{verdict}");
    }

    #[test]
    fn a_cluster_goes_on_without_protection_where_it_left_off_and_no_other_does() {
        let let_go = |writer| [run("east", 1, 1..=3, 1_000), run(writer, UNPROTECTED, 4..=5, 5_000)].concat();
        let verdict = check(&History::new(let_go("east")), &survived("east", let_go("east")));
        assert!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
        let verdict = check(&History::new(let_go("west")), &survived("west", let_go("west")));
        let back = Violation::EpochWentBack { record: write("west", UNPROTECTED, 4, 5_000), after: 1 };
        assert!(verdict.violations.contains(&back), "{verdict}");
        let out_of_order = |violation: &Violation| matches!(violation, Violation::ImageOutOfOrder { .. });
        assert!(verdict.violations.iter().any(out_of_order), "{verdict}");
    }

    #[test]
    fn two_clusters_under_one_epoch_are_caught() {
        let log = [run("east", 1, 1..=3, 1_000), run("west", 1, 4..=5, 5_000)].concat();
        let verdict = check(&History::new(log.clone()), &survived("west", log));
        let clusters = BTreeSet::from(["east".to_owned(), "west".to_owned()]);
        assert_eq!(verdict.violations, [Violation::SharedEpoch { epoch: 1, clusters }]);
    }

    #[test]
    fn a_sequence_acknowledged_twice_is_caught() {
        let log = vec![write("east", 1, 1, 1_000), write("east", 1, 2, 1_020), write("east", 1, 2, 1_040)];
        let verdict = check(&History::new(log), &survived("east", vec![]));
        let twice = Violation::SequenceWentBack { record: write("east", 1, 2, 1_040), after: 2 };
        assert!(verdict.violations.contains(&twice), "{verdict}");
    }

    #[test]
    fn a_hole_in_what_survived_is_caught() {
        let (log, mut image) = failover();
        let hole = image.remove(3);
        let verdict = check(&History::new(log), &survived("west", image));
        assert!(verdict.violations.contains(&Violation::LostInTheMiddle { record: hole }), "{verdict}");
        let out_of_order = |violation: &Violation| matches!(violation, Violation::ImageOutOfOrder { .. });
        assert!(verdict.violations.iter().any(out_of_order), "{verdict}");
    }

    #[test]
    fn a_holder_that_lost_its_own_write_is_caught() {
        let (log, mut image) = failover();
        let lost = image.pop().expect("west wrote");
        let verdict = check(&History::new(log), &survived("west", image));
        assert_eq!(verdict.violations, [Violation::LostByHolder { record: lost }]);
    }

    #[test]
    fn before_the_new_holder_writes_the_old_one_s_loss_is_no_violation() {
        let log = run("east", 1, 1..=10, 1_000);
        let verdict = check(&History::new(log.clone()), &survived("west", log[..4].to_vec()));
        assert!(verdict.holds(), "{verdict}");
        assert_eq!(verdict.lost_writes(), 6);
    }

    #[test]
    fn an_image_of_which_nothing_survived_lost_its_whole_tenure() {
        let log = run("east", 1, 1..=10, 1_000);
        let verdict = check(&History::new(log), &Survivors::of("west"));
        assert_eq!(verdict.losses[0].lost, 10);
        assert_eq!(verdict.worst_loss(), Duration::from_millis(180));
    }

    #[test]
    fn a_write_that_survived_without_acknowledgement_is_no_fault() {
        let log = run("east", 1, 1..=3, 1_000);
        let verdict = check(&History::new(log), &survived("east", run("east", 1, 1..=4, 1_000)));
        assert!(verdict.holds() && verdict.losses.is_empty(), "{verdict}");
    }

    #[test]
    fn a_log_that_grows_is_followed_and_a_torn_line_counts_once_it_is_whole() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let log = folder.path().join("writes.jsonl");
        let line = |sequence| {
            serde_json::to_string(&write("east", 1, sequence, 1_000 + sequence)).expect("a record is JSON")
        };
        let (first, second) = (line(1), line(2));
        let (half, rest) = second.split_at(9);
        let mut following = Following::default();
        fs::write(&log, format!("{first}\n{half}")).expect("a torn log");
        assert_eq!(following.read(&log).expect("a readable log").records().len(), 1);
        fs::write(&log, format!("{first}\n{half}{rest}\n")).expect("a whole log");
        assert_eq!(following.read(&log).expect("a readable log").records().len(), 2);
        assert_eq!(following.read(&log).expect("a readable log").records().len(), 2);
    }

    #[test]
    fn a_torn_last_line_of_the_log_is_left_out_and_any_other_is_refused() {
        let folder = tempfile::tempdir().expect("a scratch folder");
        let log = folder.path().join("writes.jsonl");
        let line = serde_json::to_string(&write("east", 1, 1, 1_000)).expect("a record is JSON");
        fs::write(&log, format!("{line}\n{{\"image\"")).expect("a torn log");
        assert_eq!(History::read(&log).expect("a readable log").records().len(), 1);
        fs::write(&log, format!("{{\"image\"\n{line}\n")).expect("a broken log");
        let refused = History::read(&log).expect_err("a broken line");
        assert!(refused.to_string().starts_with("line 1 is no record"), "{refused}");
    }
}
