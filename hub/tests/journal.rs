//! The journal on a disk that crashes, lies, fills up, fails and rots: what was acknowledged is there, or an error says
//! that it is not.

mod disk;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use disk::{Disk, Fault, Operation, apply};
use hub_core::decision::Remembered;
use hub_core::journal::{Entry, Line};
use proptest::prelude::*;
use proto::{ClusterName, Epoch, Inventory, PlacementId, PlacementName, Term, WallTime};
use redb::ReadableTable;
use understudy_hub::journal_store::{FILE, JournalError, JournalStore};

const HUB: &str = "hub";
const EIO: i32 = 5;
const ENOSPC: i32 = 28;

fn term(number: u64) -> Entry {
    Entry::Term { term: Term(number) }
}

fn ownership(number: u64) -> Entry {
    Entry::Ownership {
        placement: PlacementId::parse(&format!("uid-{number}")).expect("uid"),
        name: PlacementName::parse("shop", "shop").expect("name"),
        epoch: Epoch(number),
        holder: ClusterName::parse("east").expect("cluster"),
    }
}

/// What is remembered of a placement; `size` pads it, so that it spans pages.
fn remembered(placement: &str, version: u64, size: usize) -> Remembered {
    Remembered {
        placement: PlacementId::parse(placement).expect("uid"),
        name: PlacementName::parse("shop", "shop").expect("name"),
        from: ClusterName::parse("east").expect("cluster"),
        inventory: Inventory { version: format!("{version}{}", "-".repeat(size)), ..Inventory::default() }
            .into(),
        volumes: Vec::new(),
        doubted: Default::default(),
        received: WallTime(7),
        unfenceable: None,
    }
}

/// The appends of a story: short ones, one of several entries, and one that makes the file grow.
fn story() -> Vec<(Vec<Entry>, Vec<Remembered>)> {
    vec![
        (vec![term(1)], vec![]),
        (vec![ownership(1), ownership(2), ownership(3)], vec![remembered("uid-1", 1, 10)]),
        (vec![], vec![remembered("uid-2", 1, 20_000)]),
        (vec![term(2)], vec![remembered("uid-1", 2, 60_000)]),
        (vec![ownership(4)], vec![]),
        ((5..40).map(ownership).collect(), vec![remembered("uid-1", 3, 100)]),
    ]
}

/// A journal on which the story was told, and how much of it was acknowledged when.
struct Told {
    disk: Disk,
    /// What the disk held when the story began, all of it durable.
    before: Vec<u8>,
    /// After this many operations of the story, this state was acknowledged; the first one is the beginning.
    acknowledged: Vec<(usize, Contents)>,
}

/// What a reader of the journal sees.
#[derive(Clone, Debug, PartialEq)]
struct Contents {
    lines: Vec<Line>,
    remembered: Vec<Remembered>,
}

fn open(disk: &Disk) -> Result<(JournalStore, Contents), JournalError> {
    let (store, replayed) = JournalStore::open_on(disk.clone(), HUB)?;
    Ok((store, Contents { lines: replayed.lines, remembered: replayed.remembered }))
}

fn contents(image: Vec<u8>) -> Result<Contents, JournalError> {
    open(&Disk::holding(image)).map(|(_store, contents)| contents)
}

fn tell() -> Told {
    let first = Disk::default();
    drop(JournalStore::create_on(first.clone(), HUB, WallTime(1)).expect("create"));
    let before = first.image();
    let disk = Disk::holding(before.clone());
    let (mut store, at_first) = open(&disk).expect("open");
    let mut acknowledged = vec![(0, at_first)];
    for (entries, remember) in story() {
        store.append(WallTime(2), &entries, &remember).expect("append");
        acknowledged.push((disk.operations().len(), contents(disk.image()).expect("contents")));
    }
    drop(store);
    Told { disk, before, acknowledged }
}

impl Told {
    /// What may be found after a crash behind the first `count` operations: at least what was acknowledged by then, at
    /// most the append that was under way.
    fn allowed(&self, count: usize) -> Vec<&Contents> {
        let done = self.acknowledged.iter().rposition(|(at, _)| *at <= count).expect("the beginning");
        self.acknowledged[done..].iter().take(2).map(|(_, contents)| contents).collect()
    }
}

/// The bytes on a disk that lost power behind the first `count` operations: all that was synced, and of the rest what
/// `survives` says; it is given the position among the unsynced ones, and may cut an operation short.
fn after_crash(
    before: &[u8],
    operations: &[Operation],
    count: usize,
    mut survives: impl FnMut(usize, &Operation) -> Option<Operation>,
) -> Vec<u8> {
    let synced = operations[..count].iter().rposition(|one| *one == Operation::Sync).map_or(0, |at| at + 1);
    let mut image = before.to_vec();
    operations[..synced].iter().for_each(|operation| apply(&mut image, operation));
    for (position, operation) in operations[synced..count].iter().enumerate() {
        if let Some(operation) = survives(position, operation) {
            apply(&mut image, &operation);
        }
    }
    image
}

/// The first `numerator` eighths of a write.
fn torn(operation: &Operation, numerator: usize) -> Operation {
    match operation {
        Operation::Write { offset, bytes } => {
            Operation::Write { offset: *offset, bytes: bytes[..bytes.len() * numerator / 8].to_vec() }
        }
        Operation::SetLength(_) | Operation::Sync => operation.clone(),
    }
}

fn assert_allowed(told: &Told, count: usize, how: &str, image: Vec<u8>) {
    let found =
        contents(image).unwrap_or_else(|error| panic!("crash behind operation {count}, {how}: {error:?}"));
    assert!(
        told.allowed(count).contains(&&found),
        "crash behind operation {count}, {how}: found {} lines, {:?}",
        found.lines.len(),
        told.allowed(count).iter().map(|one| one.lines.len()).collect::<Vec<_>>()
    );
}

#[test]
fn a_crash_behind_any_operation_keeps_all_that_was_acknowledged() {
    let told = tell();
    let operations = told.disk.operations();
    assert!(operations.iter().filter(|one| **one == Operation::Sync).count() >= 4 * story().len());
    for count in 0..=operations.len() {
        let crash = |survives: &dyn Fn(usize, &Operation) -> Option<Operation>| {
            after_crash(&told.before, &operations, count, survives)
        };
        assert_allowed(&told, count, "all written", crash(&|_, one| Some(one.clone())));
        assert_allowed(&told, count, "unsynced lost", crash(&|_, _| None));
        assert_allowed(
            &told,
            count,
            "every other lost",
            crash(&|at, one| (at % 2 == 0).then(|| one.clone())),
        );
        for eighths in [1, 4, 7] {
            assert_allowed(&told, count, "torn", crash(&|_, one| Some(torn(one, eighths))));
        }
    }
}

#[test]
fn a_crash_while_recovering_from_a_crash_keeps_all_that_was_acknowledged() {
    let told = tell();
    let operations = told.disk.operations();
    for count in (0..=operations.len()).step_by(5) {
        let crashed =
            after_crash(&told.before, &operations, count, |at, one| (at % 2 == 0).then(|| one.clone()));
        let recovering = Disk::holding(crashed.clone());
        drop(open(&recovering).expect("recover"));
        let recovery = recovering.operations();
        for again in 0..=recovery.len() {
            let image = after_crash(&crashed, &recovery, again, |at, one| (at % 2 == 1).then(|| one.clone()));
            assert_allowed(&told, count, "and again while recovering", image);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn whatever_part_of_the_unsynced_writes_survives_all_that_was_acknowledged_is_kept(
        place in any::<prop::sample::Index>(),
        fates in prop::collection::vec(0..=8usize, 64),
    ) {
        let told = TOLD.get_or_init(tell);
        let operations = told.disk.operations();
        let count = place.index(operations.len() + 1);
        let image = after_crash(&told.before, &operations, count, |at, one| match fates[at % fates.len()] {
            0 => None,
            8 => Some(one.clone()),
            eighths => Some(torn(one, eighths)),
        });
        assert_allowed(told, count, "random survivors", image);
    }
}

static TOLD: std::sync::OnceLock<Told> = std::sync::OnceLock::new();

/// Flips each bit that `bits` names, one at a time.
fn assert_flips_are_harmless_or_found(image: &[u8], bits: impl Iterator<Item = usize>) {
    let whole = contents(image.to_vec()).expect("undamaged");
    let (mut harmless, mut found) = (0, 0);
    for bit in bits {
        let mut damaged = image.to_vec();
        damaged[bit / 8] ^= 1 << (bit % 8);
        match contents(damaged) {
            Ok(contents) => {
                assert!(
                    contents == whole,
                    "bit {bit} ({:#x}.{}) changed the journal unnoticed",
                    bit / 8,
                    bit % 8
                );
                harmless += 1;
            }
            Err(error) => {
                assert!(!matches!(error, JournalError::Emptied), "bit {bit}: {error}");
                found += 1;
            }
        }
    }
    assert!(
        found > 0 && harmless > 0,
        "{found} found, {harmless} harmless: the flips did not reach what they should"
    );
}

const HEADER_BITS: usize = 512 * 8;

/// Every bit of the header, and one of every few of all the rest.
fn bits_to_flip(image: &[u8]) -> impl Iterator<Item = usize> + use<> {
    (0..HEADER_BITS).chain((HEADER_BITS..image.len() * 8).step_by(211))
}

#[test]
fn a_flipped_bit_in_a_journal_that_was_closed_is_harmless_or_found() {
    let image = tell().disk.image();
    assert_flips_are_harmless_or_found(&image, bits_to_flip(&image));
}

#[test]
fn a_flipped_bit_in_a_journal_whose_hub_was_killed_is_harmless_or_found() {
    let told = tell();
    let operations = told.disk.operations();
    let (count, _) = *told.acknowledged.last().expect("the story's end");
    let image = after_crash(&told.before, &operations, count, |_, one| Some(one.clone()));
    assert_flips_are_harmless_or_found(&image, bits_to_flip(&image));
}

#[test]
fn after_a_failed_write_or_sync_nothing_more_is_tried_and_nothing_acknowledged_is_lost() {
    let told = tell();
    for error in [EIO, ENOSPC] {
        for after in 0.. {
            for fault in [Fault::Write { after, error }, Fault::Sync { after, error }] {
                assert_failure_is_final(&told, fault);
            }
            if after > told.disk.operations().len() {
                break;
            }
        }
    }
}

/// Tells the story again with `fault`.
fn assert_failure_is_final(told: &Told, fault: Fault) {
    let disk = Disk::holding(told.before.clone());
    let (mut store, _) = open(&disk).expect("open");
    disk.fail(fault);
    let mut acknowledged = 0;
    let failure = story().into_iter().find_map(|(entries, remember)| {
        let failure = store.append(WallTime(2), &entries, &remember).err();
        acknowledged += usize::from(failure.is_none());
        failure
    });
    let Some(failure) = failure else {
        assert_eq!(disk.tried_after_fault(), None, "{fault:?} struck, and every append was acknowledged");
        return;
    };
    assert!(matches!(failure, JournalError::Append { .. }), "{fault:?}: {failure:?}");
    let tried = disk.tried_after_fault();
    let next =
        store.append(WallTime(3), &[term(99)], &[]).expect_err("a poisoned journal takes nothing more");
    assert!(matches!(next, JournalError::Poisoned { .. }), "{fault:?}: {next:?}");
    drop(store);
    assert_eq!(tried, Some(0), "{fault:?}: the disk was asked again after it had failed");
    assert_eq!(
        disk.tried_after_fault(),
        Some(0),
        "{fault:?}: closing asked the disk again after it had failed"
    );
    let found = contents(disk.image()).expect("reopen");
    let allowed = told.acknowledged[acknowledged..].iter().take(2).map(|(_, contents)| contents);
    assert!(allowed.into_iter().any(|one| *one == found), "{fault:?}: lost what was acknowledged");
}

#[test]
fn a_truncated_journal_is_an_error_or_whole() {
    let image = tell().disk.image();
    let whole = contents(image.clone()).expect("undamaged");
    for length in (0..image.len()).step_by(509) {
        match contents(image[..length].to_vec()) {
            Ok(found) => assert!(found == whole, "truncated to {length}: lines were lost unnoticed"),
            Err(JournalError::Emptied) => assert_eq!(length, 0),
            Err(JournalError::Damaged { .. }) => {}
            Err(error) => panic!("truncated to {length}: {error:?}"),
        }
    }
}

#[test]
fn a_disk_that_does_not_answer_is_not_taken_for_a_damaged_journal() {
    let disk = Disk::holding(tell().disk.image());
    disk.fail(Fault::Read { error: EIO });
    let refused = open(&disk).expect_err("an unreadable disk");
    assert!(matches!(refused, JournalError::Disk { .. }), "{refused:?}");
    assert!(!refused.to_string().contains("remove the file"), "{refused}");

    let disk = Disk::holding(disk.image());
    disk.fail(Fault::Write { after: 0, error: ENOSPC });
    let refused = open(&disk).expect_err("opening verifies, and writes down that it did");
    assert!(matches!(refused, JournalError::Disk { .. }), "{refused:?}");
    assert!(refused.to_string().contains("space"), "{refused}");
}

#[test]
fn a_journal_of_zeros_is_an_error() {
    let image = vec![0; tell().disk.image().len()];
    assert!(matches!(contents(image), Err(JournalError::Damaged { .. })));
}

#[test]
fn a_missing_journal_is_made_anew_and_says_so_and_an_emptied_one_is_refused() {
    let directory = tempfile::tempdir().expect("directory");
    let (store, replayed) = JournalStore::open(directory.path(), HUB, WallTime(5)).expect("open");
    assert!(replayed.fresh);
    assert_eq!(replayed.lines.len(), 1);
    assert_eq!(replayed.lines[0].entry, Entry::Genesis { hub: HUB.into() });
    drop(store);

    let (store, replayed) = JournalStore::open(directory.path(), HUB, WallTime(6)).expect("reopen");
    assert!(!replayed.fresh);
    assert_eq!(replayed.lines[0].at, WallTime(5));
    drop(store);

    std::fs::write(directory.path().join(FILE), b"").expect("empty it");
    let refused = JournalStore::open(directory.path(), HUB, WallTime(7)).expect_err("an emptied journal");
    assert!(matches!(refused, JournalError::Emptied));
    assert!(refused.to_string().contains("Restore it from a backup, or remove the file"), "{refused}");
}

#[test]
fn a_journal_whose_making_was_interrupted_is_made_anew() {
    let directory = tempfile::tempdir().expect("directory");
    std::fs::write(directory.path().join(format!("{FILE}.new")), b"half a journal").expect("write");
    let (_store, replayed) = JournalStore::open(directory.path(), HUB, WallTime(5)).expect("open");
    assert!(replayed.fresh);
}

#[test]
fn a_second_hub_on_the_same_journal_is_refused_and_told_who_has_it() {
    let directory = tempfile::tempdir().expect("directory");
    let first = JournalStore::open(directory.path(), HUB, WallTime(5)).expect("open");
    let refused = JournalStore::open(directory.path(), HUB, WallTime(5)).expect_err("a second hub");
    assert!(refused.to_string().contains(&format!("process {}", std::process::id())), "{refused}");
    drop(first);
    JournalStore::open(directory.path(), HUB, WallTime(5)).expect("free again");
}

#[test]
fn the_journal_of_another_hub_is_refused_with_both_names() {
    let directory = tempfile::tempdir().expect("directory");
    drop(JournalStore::open(directory.path(), "north", WallTime(5)).expect("open"));
    let refused = JournalStore::open(directory.path(), "south", WallTime(5)).expect_err("another hub's");
    assert!(refused.to_string().contains("belongs to hub \"north\", and this is hub \"south\""), "{refused}");
}

#[test]
fn a_line_altered_within_valid_pages_is_named() {
    let refused = contents(with_table(|table| {
        let line = table.get(2).expect("read").expect("line 2").value().to_vec();
        let altered = String::from_utf8(line).expect("JSON").replace("\"uid-1\"", "\"uid-9\"");
        table.insert(2, altered.as_bytes()).expect("write");
    }));
    let refused = refused.expect_err("an altered line").to_string();
    assert!(refused.starts_with("journal line 2 does not match its hash"), "{refused}");
}

#[test]
fn a_line_removed_from_valid_pages_is_named() {
    let refused = contents(with_table(|table| {
        table.remove(3).expect("remove");
    }));
    let refused = refused.expect_err("a missing line").to_string();
    assert!(refused.starts_with("journal line 4 stands where line 3 is due"), "{refused}");
}

#[test]
fn a_line_that_is_no_line_is_named() {
    let refused = contents(with_table(|table| {
        table.insert(1, b"{}".as_slice()).expect("write");
    }));
    assert!(matches!(refused, Err(JournalError::NotALine { index: 1, .. })), "{refused:?}");
}

/// The story's journal after somebody with redb at hand has changed its lines.
fn with_table(change: impl FnOnce(&mut redb::Table<'_, u64, &'static [u8]>)) -> Vec<u8> {
    let disk = Disk::holding(tell().disk.image());
    let database = redb::Database::builder().create_with_backend(disk.clone()).expect("open");
    let transaction = database.begin_write().expect("begin");
    change(&mut transaction.open_table(redb::TableDefinition::new("lines")).expect("table"));
    transaction.commit().expect("commit");
    drop(database);
    disk.image()
}

/// Names the directory for the process that this test starts, which is this test again.
const CHILD_DIRECTORY: &str = "UNDERSTUDY_JOURNAL_TEST_DIRECTORY";
const ACKNOWLEDGED: &str = "acknowledged line ";

#[test]
fn a_killed_process_leaves_every_line_that_it_had_acknowledged() {
    if let Some(directory) = std::env::var_os(CHILD_DIRECTORY) {
        append_until_killed(Path::new(&directory));
        return;
    }
    let directory = tempfile::tempdir().expect("directory");
    let mut lines_before = 0;
    for kill_after in [1, 2, 7, 19, 40] {
        let acknowledged = last_line_of_a_killed_process(directory.path(), kill_after);
        let (_store, replayed) = JournalStore::open(directory.path(), HUB, WallTime(9)).expect("reopen");
        let found = replayed.lines.len() as u64;
        assert!(found > acknowledged, "line {acknowledged} was acknowledged, and {found} are there");
        assert!(found > lines_before, "the process appended nothing");
        lines_before = found;
    }
}

/// Starts this test as a child, kills it with SIGKILL after some acknowledgements, and returns the last of them.
fn last_line_of_a_killed_process(directory: &Path, kill_after: usize) -> u64 {
    let mut child = Command::new(std::env::current_exe().expect("this test"))
        .args(["--exact", "a_killed_process_leaves_every_line_that_it_had_acknowledged", "--nocapture"])
        .env(CHILD_DIRECTORY, directory)
        .stdout(Stdio::piped())
        .spawn()
        .expect("start the child");
    let output = BufReader::new(child.stdout.take().expect("its output"));
    let mut last = None;
    let mut seen = 0;
    for text in output.lines() {
        let text = text.expect("its output");
        let Some(index) = text.find(ACKNOWLEDGED).map(|at| &text[at + ACKNOWLEDGED.len()..]) else {
            continue;
        };
        last = Some(index.parse().expect("an index"));
        seen += 1;
        if seen == kill_after {
            child.kill().expect("kill");
        }
    }
    child.wait().expect("its end");
    assert!(seen >= kill_after, "the child ended by itself after {seen} appends");
    last.expect("an acknowledged line")
}

/// Ends by itself in the end, so that a failing parent leaves nothing behind.
fn append_until_killed(directory: &Path) {
    let (mut store, replayed) = JournalStore::open(directory, HUB, WallTime(9)).expect("open");
    let first = replayed.lines.len() as u64;
    for index in first..first + 10_000 {
        store.append(WallTime(9), &[term(index)], &[remembered("uid-1", index, 3000)]).expect("append");
        println!("{ACKNOWLEDGED}{index}");
    }
}
