//! The hub's journal on disk: each line durable before anything follows from it (protocol R8), and never read as less
//! than it was.
//!
//! One redb file with two tables: the journal's lines, and what the hub remembers of each placement. Calls block on the
//! disk, so the driver makes them from a thread that may.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use hub_core::decision::Remembered;
use hub_core::journal::{ChainError, Entry, Line, Tip};
use proto::WallTime;
use redb::backends::FileBackend;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, StorageBackend, TableDefinition, WriteTransaction,
};
use thiserror::Error;

/// The journal's file within its directory.
pub const FILE: &str = "journal.redb";
/// Where a new journal is made before it gets its name: a file named [`FILE`] always holds a whole Genesis.
const FILE_IN_THE_MAKING: &str = "journal.redb.new";
const LOCK_FILE: &str = "journal.lock";

/// Index of a line, and the line as JSON.
const LINES: TableDefinition<u64, &[u8]> = TableDefinition::new("lines");
/// Uid of a placement, and what is remembered of it as JSON.
const REMEMBERED: TableDefinition<&str, &[u8]> = TableDefinition::new("remembered");

/// The tables are read once, at the start: what follows only appends.
const CACHE_BYTES: usize = 16 << 20;

/// The only writer of one journal.
#[derive(Debug)]
pub struct JournalStore {
    database: Database,
    tip: Tip,
    /// Why nothing may be appended any more. After a failed write nobody knows what the disk holds, and asking it again
    /// can be answered with a success that is none.
    poisoned: Option<String>,
    _lock: Option<DirectoryLock>,
}

/// What the journal held when it was opened.
#[derive(Debug)]
pub struct Replayed {
    /// The first one is the Genesis.
    pub lines: Vec<Line>,
    pub remembered: Vec<Remembered>,
    /// There was no journal, and this is a new one.
    pub fresh: bool,
}

/// How long an append took.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AppendTimes {
    pub total: Duration,
    /// The part of it in which the disk was asked to make the lines durable.
    pub commit: Duration,
}

#[derive(Debug, Error)]
pub enum JournalError {
    #[error("cannot {doing} {}", .path.display())]
    File { doing: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "the journal in {} is in use by another hub ({holder}): stop that one, or give this one its own --journal directory",
        .directory.display()
    )]
    InUse { directory: PathBuf, holder: String },
    #[error(
        "the journal is empty, which a journal never is: its content was lost. Restore it from a backup, or remove the file to start with a new one (every placement then needs a human)"
    )]
    Emptied,
    #[error(
        "the disk failed while {doing} of the journal: the journal may be whole. Look at the disk's health, space and permissions, then start the hub again"
    )]
    Disk { doing: &'static str, source: io::Error },
    #[error(
        "cannot read the journal while {doing}: it was altered or damaged. Restore it from a backup, or remove the file to start with a new one (every placement then needs a human)"
    )]
    Damaged { doing: &'static str, source: Box<redb::Error> },
    #[error(
        "what the journal remembers of placement {placement:?} cannot be understood: it was damaged, or written by a newer hub. Run that version, or restore the journal from a backup"
    )]
    NotRemembered { placement: String, source: serde_json::Error },
    #[error(
        "journal line {index} cannot be understood: it was damaged, or written by a newer hub. Run that version, or restore the journal from a backup"
    )]
    NotALine { index: u64, source: serde_json::Error },
    #[error(transparent)]
    Chain(#[from] ChainError),
    #[error(
        "the journal does not begin with a Genesis: it is not the journal of a hub. Point --journal at the right directory"
    )]
    NoGenesis,
    #[error(
        "the journal belongs to hub {found:?}, and this is hub {expected:?}: point --journal at this hub's own directory, or correct --hub-name"
    )]
    Foreign { expected: String, found: String },
    #[error(
        "cannot append to the journal while {doing}: this hub must end, because it cannot know what the disk holds. Look at the disk's space and health; the hub may then be started again"
    )]
    Append { doing: &'static str, source: Box<redb::Error> },
    #[error("cannot write a journal entry as JSON: report this as a bug; nothing was written")]
    Unwritable { source: serde_json::Error },
    #[error("nothing can be appended to the journal after a failed append ({reason}): this hub must end")]
    Poisoned { reason: String },
}

impl JournalStore {
    /// Opens the journal of hub `hub` in `directory`, or makes a new one where there is none. A damaged journal is an
    /// error, never an empty journal.
    pub fn open(
        directory: &Path,
        hub: &str,
        now: WallTime,
    ) -> Result<(JournalStore, Replayed), JournalError> {
        let lock = DirectoryLock::take(directory)?;
        let path = directory.join(FILE);
        let fresh = !path.try_exists().map_err(file_error("look for the journal", &path))?;
        if fresh {
            make_new(directory, hub, now)?;
        }
        let file = open_file(&path, OpenOptions::new().read(true).write(true))?;
        let (mut store, replayed) = JournalStore::open_on(backend(file)?, hub)?;
        store._lock = Some(lock);
        Ok((store, Replayed { fresh, ..replayed }))
    }

    /// Opens the journal that `backend` holds, and verifies every page and every line of it.
    pub fn open_on(
        backend: impl StorageBackend,
        hub: &str,
    ) -> Result<(JournalStore, Replayed), JournalError> {
        if backend.len().map_err(unreadable("asking for its length"))? == 0 {
            return Err(JournalError::Emptied);
        }
        let database = database(backend).map_err(unreadable("opening it"))?;
        let (lines, tip) = read_lines(&database)?;
        let remembered = read_remembered(&database)?;
        check_genesis(&lines, hub)?;
        let store = JournalStore { database, tip, poisoned: None, _lock: None };
        Ok((store, Replayed { lines, remembered, fresh: false }))
    }

    /// Makes a new journal on an empty `backend`.
    pub fn create_on(
        backend: impl StorageBackend,
        hub: &str,
        now: WallTime,
    ) -> Result<JournalStore, JournalError> {
        let database = database(backend).map_err(failed("making it"))?;
        let mut store = JournalStore { database, tip: Tip::default(), poisoned: None, _lock: None };
        store.append(now, &[Entry::Genesis { hub: hub.to_owned() }], &[])?;
        Ok(store)
    }

    /// Makes `entries` and `remember` durable, all or nothing. Once this has failed it always fails: the caller ends
    /// the process.
    pub fn append(
        &mut self,
        at: WallTime,
        entries: &[Entry],
        remember: &[Remembered],
    ) -> Result<AppendTimes, JournalError> {
        if let Some(reason) = &self.poisoned {
            return Err(JournalError::Poisoned { reason: reason.clone() });
        }
        if entries.is_empty() && remember.is_empty() {
            return Ok(AppendTimes::default());
        }
        let appended = self.append_durably(at, entries, remember);
        if let Err(error) = &appended {
            self.poisoned = Some(with_causes(error));
        }
        appended
    }

    fn append_durably(
        &mut self,
        at: WallTime,
        entries: &[Entry],
        remember: &[Remembered],
    ) -> Result<AppendTimes, JournalError> {
        let started = Instant::now();
        let mut tip = self.tip.clone();
        let lines: Vec<Line> = entries.iter().map(|entry| tip.seal(at, entry.clone())).collect();
        let transaction = begin(&self.database)?;
        write_lines(&transaction, &lines)?;
        write_remembered(&transaction, remember)?;
        let written = Instant::now();
        transaction.commit().map_err(failed("committing"))?;
        repeat_commit(&self.database)?;
        self.tip = tip;
        Ok(AppendTimes { total: started.elapsed(), commit: written.elapsed() })
    }
}

/// An empty transaction. The file has two commit slots, of which one bit selects one: now both hold the lines just
/// committed, and no single damage can bring back the time before them.
fn repeat_commit(database: &Database) -> Result<(), JournalError> {
    begin(database)?.commit().map_err(failed("sealing"))
}

fn begin(database: &Database) -> Result<WriteTransaction, JournalError> {
    let mut transaction = database.begin_write().map_err(failed("beginning"))?;
    transaction.set_durability(Durability::Immediate).map_err(failed("asking for durability"))?;
    transaction.set_two_phase_commit(true);
    Ok(transaction)
}

fn write_lines(transaction: &WriteTransaction, lines: &[Line]) -> Result<(), JournalError> {
    let mut table = transaction.open_table(LINES).map_err(failed("opening its lines"))?;
    for line in lines {
        table.insert(line.index, json(line)?.as_slice()).map_err(failed("writing a line"))?;
    }
    Ok(())
}

fn write_remembered(transaction: &WriteTransaction, remember: &[Remembered]) -> Result<(), JournalError> {
    let mut table = transaction.open_table(REMEMBERED).map_err(failed("opening what it remembers"))?;
    for value in remember {
        table
            .insert(value.placement.as_str(), json(value)?.as_slice())
            .map_err(failed("writing what is to be remembered"))?;
    }
    Ok(())
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>, JournalError> {
    serde_json::to_vec(value).map_err(|source| JournalError::Unwritable { source })
}

/// All lines, each checked against the one before it.
fn read_lines(database: &Database) -> Result<(Vec<Line>, Tip), JournalError> {
    let doing = "reading its lines";
    let transaction = database.begin_read().map_err(unreadable(doing))?;
    let table = transaction.open_table(LINES).map_err(unreadable(doing))?;
    let mut lines = Vec::new();
    let mut tip = Tip::default();
    for row in table.iter().map_err(unreadable(doing))? {
        let (index, value) = row.map_err(unreadable(doing))?;
        let line: Line = serde_json::from_slice(value.value())
            .map_err(|source| JournalError::NotALine { index: index.value(), source })?;
        tip.check(&line)?;
        lines.push(line);
    }
    Ok((lines, tip))
}

fn read_remembered(database: &Database) -> Result<Vec<Remembered>, JournalError> {
    let doing = "reading what it remembers";
    let transaction = database.begin_read().map_err(unreadable(doing))?;
    let table = transaction.open_table(REMEMBERED).map_err(unreadable(doing))?;
    let mut remembered = Vec::new();
    for row in table.iter().map_err(unreadable(doing))? {
        let (placement, value) = row.map_err(unreadable(doing))?;
        let value = serde_json::from_slice(value.value()).map_err(|source| JournalError::NotRemembered {
            placement: placement.value().to_owned(),
            source,
        })?;
        remembered.push(value);
    }
    Ok(remembered)
}

fn check_genesis(lines: &[Line], hub: &str) -> Result<(), JournalError> {
    match lines.first().map(|line| &line.entry) {
        Some(Entry::Genesis { hub: found }) if found == hub => Ok(()),
        Some(Entry::Genesis { hub: found }) => {
            Err(JournalError::Foreign { expected: hub.to_owned(), found: found.clone() })
        }
        Some(_) | None => Err(JournalError::NoGenesis),
    }
}

/// Verifies the checksum of every page: a plain opening trusts the file.
fn database(backend: impl StorageBackend) -> Result<Database, redb::DatabaseError> {
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .set_check_integrity_on_open(true)
        .create_with_backend(backend)
}

fn backend(file: File) -> Result<FileBackend, JournalError> {
    FileBackend::new(file).map_err(unreadable("opening it"))
}

/// A crash at any point leaves either no journal or a whole one: the file gets its name when the Genesis is durable.
fn make_new(directory: &Path, hub: &str, now: WallTime) -> Result<(), JournalError> {
    let unfinished = directory.join(FILE_IN_THE_MAKING);
    let file = open_file(&unfinished, OpenOptions::new().read(true).write(true).create(true).truncate(true))?;
    drop(JournalStore::create_on(backend(file)?, hub, now)?);
    let path = directory.join(FILE);
    fs::rename(&unfinished, &path).map_err(file_error("name the new journal", &path))?;
    sync_directory(directory)
}

fn open_file(path: &Path, options: &mut OpenOptions) -> Result<File, JournalError> {
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    options.open(path).map_err(file_error("open", path))
}

/// Makes the names within a directory durable.
fn sync_directory(directory: &Path) -> Result<(), JournalError> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(file_error("sync the directory", directory))
}

/// Held for as long as the process may write in the directory; the kernel lets go of it when the process ends.
#[derive(Debug)]
struct DirectoryLock {
    file: File,
}

/// Closing the file is not enough: a child that is being started has it too until it becomes another program.
impl Drop for DirectoryLock {
    fn drop(&mut self) {
        // The lock goes with the file at the latest.
        let _ = self.file.unlock();
    }
}

impl DirectoryLock {
    fn take(directory: &Path) -> Result<DirectoryLock, JournalError> {
        make_directory(directory)?;
        let path = directory.join(LOCK_FILE);
        let mut file =
            open_file(&path, OpenOptions::new().read(true).write(true).create(true).truncate(false))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => {
                let mut holder = String::new();
                // Only for the message.
                let _ = file.read_to_string(&mut holder);
                return Err(JournalError::InUse {
                    directory: directory.to_owned(),
                    holder: holder.trim().to_owned(),
                });
            }
            Err(TryLockError::Error(source)) => return Err(file_error("lock", &path)(source)),
        }
        let name = format!("process {}\n", std::process::id());
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(name.as_bytes()))
            .map_err(file_error("write", &path))?;
        Ok(DirectoryLock { file })
    }
}

fn make_directory(directory: &Path) -> Result<(), JournalError> {
    if directory.is_dir() {
        return Ok(());
    }
    fs::create_dir_all(directory).map_err(file_error("make the journal's directory", directory))?;
    match directory.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => sync_directory(parent),
        Some(_) | None => Ok(()),
    }
}

fn file_error(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> JournalError {
    let path = path.to_owned();
    move |source| JournalError::File { doing, path, source }
}

/// A disk that does not answer says nothing about the journal; only what it did answer can be damaged.
fn unreadable<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> JournalError {
    move |source| {
        let source = source.into();
        if let redb::Error::Io(source) = source {
            if is_about_the_content(&source) {
                return JournalError::Damaged { doing, source: Box::new(redb::Error::Io(source)) };
            }
            return JournalError::Disk { doing, source };
        }
        JournalError::Damaged { doing, source: Box::new(source) }
    }
}

fn is_about_the_content(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
}

fn failed<E: Into<redb::Error>>(doing: &'static str) -> impl FnOnce(E) -> JournalError {
    move |source| JournalError::Append { doing, source: Box::new(source.into()) }
}

fn with_causes(error: &dyn std::error::Error) -> String {
    std::iter::successors(Some(error), |error| error.source())
        .map(ToString::to_string)
        .collect::<Vec<_>>()
        .join(": ")
}
