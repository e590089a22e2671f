//! Stand-in for a storage array: the data plane for the pods, one line per request and one per answer.
//!
//! Requests: `create H`, `attach H`, `detach H`, `append H LINE`, `last H`, `read H`, `status H`, with H a volume
//! handle. Answers: `ok REST`, or `ENOENT`, `EROFS`, `EINVAL`, `EIO` and why; `read` answers `ok N` and N lines.
//! An attachment belongs to its connection and ends with it, so a killed pod leaves none behind; the first append
//! attaches. An append is acknowledged when its bytes are in the image's data file.

use std::{collections::BTreeSet, io, path::Path, sync::Arc, time::Duration};

use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    task::JoinSet,
    time::timeout,
};

use super::{
    image::{ImageStatus, Role},
    serve::Site,
    settings::Settings,
    shelf::{Shelf, Slot},
};

const LINE_LIMIT: u64 = 64 * 1024;
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);

pub async fn serve(site: Arc<Site>, listener: UnixListener) -> Result<(), io::Error> {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => {
                let (stream, _) = accepted?;
                connections.spawn(converse(site.clone(), stream));
            }
            Some(ended) = connections.join_next() => ended.map_err(io::Error::other)?,
        }
    }
}

async fn converse(site: Arc<Site>, stream: UnixStream) {
    let mut attached = BTreeSet::new();
    if let Err(error) = answer_all(&site, stream, &mut attached).await {
        tracing::debug!(%error, "a data connection broke");
    }
    let mut shelf = site.shelf.lock().await;
    for handle in attached {
        detach(&mut shelf, &handle);
    }
}

async fn answer_all(
    site: &Site,
    stream: UnixStream,
    attached: &mut BTreeSet<String>,
) -> Result<(), io::Error> {
    let (requests, mut answers) = stream.into_split();
    let mut requests = BufReader::new(requests);
    while let Some(line) = next_line(&mut requests).await? {
        let answer = answer(site, &line, attached).await.unwrap_or_else(|refusal| refusal.to_string());
        answers.write_all(format!("{answer}\n").as_bytes()).await?;
    }
    Ok(())
}

async fn next_line(reader: &mut BufReader<OwnedReadHalf>) -> Result<Option<String>, io::Error> {
    let mut line = String::new();
    let length = reader.take(LINE_LIMIT).read_line(&mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some('\n') => Ok(Some(line)),
        Some(_) => Err(io::Error::other(format!("a line is cut off after {length} bytes"))),
    }
}

async fn answer(site: &Site, line: &str, attached: &mut BTreeSet<String>) -> Result<String, DataError> {
    let mut words = line.splitn(3, ' ');
    let (verb, handle, rest) = (words.next().unwrap_or(""), words.next().unwrap_or(""), words.next());
    check_handle(handle)?;
    let mut shelf = site.shelf.lock().await;
    match (verb, rest) {
        ("create", None) => shelf.provision(handle).map(|()| "ok".to_owned()).map_err(DataError::from),
        ("attach", None) => attach(&mut shelf, handle, attached).map(|()| "ok".to_owned()),
        ("detach", None) => {
            if attached.remove(handle) {
                detach(&mut shelf, handle);
            }
            Ok("ok".to_owned())
        }
        ("append", Some(record)) => append(&mut shelf, handle, record, attached),
        ("last", None) => {
            let text = everything(slot(&mut shelf, handle)?)?;
            Ok(format!("ok {}", text.lines().last().unwrap_or("")))
        }
        ("read", None) => {
            let text = everything(slot(&mut shelf, handle)?)?;
            let lines: Vec<&str> = text.lines().collect();
            Ok([vec![format!("ok {}", lines.len()).as_str()], lines].concat().join("\n"))
        }
        ("status", None) => {
            let settings = Settings::read(&site.directory)?;
            let status = shelf.status(handle, &settings).ok_or_else(|| not_found(handle))?;
            Ok(format!("ok {}", serde_json::to_string(&status).map_err(io::Error::from)?))
        }
        (verb, _) => Err(DataError::Invalid(format!("{verb:?} with these words is no request"))),
    }
}

fn append(
    shelf: &mut Shelf,
    handle: &str,
    record: &str,
    attached: &mut BTreeSet<String>,
) -> Result<String, DataError> {
    if slot(shelf, handle)?.image.role == Role::Secondary {
        return Err(DataError::ReadOnly(format!("image {handle} is not primary here")));
    }
    attach(shelf, handle, attached)?;
    let length = slot(shelf, handle)?.append(format!("{record}\n").as_bytes())?;
    Ok(format!("ok {length}"))
}

fn attach(shelf: &mut Shelf, handle: &str, attached: &mut BTreeSet<String>) -> Result<(), DataError> {
    let slot = slot(shelf, handle)?;
    if attached.insert(handle.to_owned()) {
        slot.attachments += 1;
    }
    Ok(())
}

fn detach(shelf: &mut Shelf, handle: &str) {
    if let Some(slot) = shelf.slot_mut(handle) {
        slot.attachments = slot.attachments.saturating_sub(1);
    }
}

fn slot<'a>(shelf: &'a mut Shelf, handle: &str) -> Result<&'a mut Slot, DataError> {
    shelf.slot_mut(handle).ok_or_else(|| not_found(handle))
}

fn everything(slot: &Slot) -> Result<String, DataError> {
    String::from_utf8(slot.everything()?).map_err(|error| DataError::Broken(error.to_string()))
}

fn not_found(handle: &str) -> DataError {
    DataError::NotFound(format!("image {handle} does not exist here"))
}

/// A handle is a folder's name here, so it may not lead elsewhere.
fn check_handle(handle: &str) -> Result<(), DataError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if handle.is_empty() || handle.starts_with('.') || !handle.chars().all(allowed) {
        return Err(DataError::Invalid(format!(
            "{handle:?} is no volume handle: letters, digits and -_. only"
        )));
    }
    Ok(())
}

/// Why a pod's request was not done.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataError {
    #[error("ENOENT {0}")]
    NotFound(String),
    /// The fence of last resort: a demoted or never promoted image takes no write.
    #[error("EROFS {0}")]
    ReadOnly(String),
    #[error("EINVAL {0}")]
    Invalid(String),
    #[error("EIO {0}")]
    Broken(String),
}

impl From<io::Error> for DataError {
    fn from(error: io::Error) -> Self {
        DataError::Broken(error.to_string())
    }
}

impl DataError {
    fn parse(answer: &str) -> DataError {
        let (code, why) = answer.split_once(' ').unwrap_or((answer, ""));
        let why = why.to_owned();
        match code {
            "ENOENT" => DataError::NotFound(why),
            "EROFS" => DataError::ReadOnly(why),
            "EINVAL" => DataError::Invalid(why),
            "EIO" => DataError::Broken(why),
            _ => DataError::Broken(format!("the array answered {answer:?}")),
        }
    }
}

/// A pod's, a node's or a test's end of the data plane.
pub struct DataClient {
    answers: BufReader<OwnedReadHalf>,
    requests: OwnedWriteHalf,
}

impl DataClient {
    pub async fn connect(socket: &Path) -> Result<DataClient, DataError> {
        let connected =
            timeout(ANSWER_DEADLINE, UnixStream::connect(socket)).await.map_err(|_| no_answer())?;
        let stream = connected
            .map_err(|error| DataError::Broken(format!("connecting to {}: {error}", socket.display())))?;
        let (answers, requests) = stream.into_split();
        Ok(DataClient { answers: BufReader::new(answers), requests })
    }

    /// Makes a new, writable, unmirrored image; one that exists stays as it is.
    pub async fn create(&mut self, handle: &str) -> Result<(), DataError> {
        self.ask(&format!("create {handle}")).await.map(drop)
    }

    /// Holds the image until `detach` or the end of this connection: it cannot be demoted meanwhile.
    pub async fn attach(&mut self, handle: &str) -> Result<(), DataError> {
        self.ask(&format!("attach {handle}")).await.map(drop)
    }

    pub async fn detach(&mut self, handle: &str) -> Result<(), DataError> {
        self.ask(&format!("detach {handle}")).await.map(drop)
    }

    /// Appends a line; when this returns, the line is in the array's data file.
    pub async fn append(&mut self, handle: &str, line: &str) -> Result<(), DataError> {
        if line.contains('\n') {
            return Err(DataError::Invalid("a record is one line".to_owned()));
        }
        self.ask(&format!("append {handle} {line}")).await.map(drop)
    }

    /// The newest line of the image, if it has any.
    pub async fn last(&mut self, handle: &str) -> Result<Option<String>, DataError> {
        let line = self.ask(&format!("last {handle}")).await?;
        Ok(Some(line).filter(|line| !line.is_empty()))
    }

    /// All lines of the image, oldest first.
    pub async fn read(&mut self, handle: &str) -> Result<Vec<String>, DataError> {
        let count = self.ask(&format!("read {handle}")).await?;
        let count: usize =
            count.parse().map_err(|_| DataError::Broken(format!("{count:?} is no number of lines")))?;
        let mut lines = Vec::new();
        for _ in 0..count {
            lines.push(self.line().await?);
        }
        Ok(lines)
    }

    pub async fn status(&mut self, handle: &str) -> Result<ImageStatus, DataError> {
        let text = self.ask(&format!("status {handle}")).await?;
        serde_json::from_str(&text).map_err(|error| DataError::Broken(format!("reading the status: {error}")))
    }

    async fn ask(&mut self, request: &str) -> Result<String, DataError> {
        self.requests.write_all(format!("{request}\n").as_bytes()).await?;
        let answer = self.line().await?;
        match answer.strip_prefix("ok") {
            Some(rest) => Ok(rest.trim_start().to_owned()),
            None => Err(DataError::parse(&answer)),
        }
    }

    async fn line(&mut self) -> Result<String, DataError> {
        let line = timeout(ANSWER_DEADLINE, next_line(&mut self.answers)).await.map_err(|_| no_answer())?;
        line?.ok_or_else(|| DataError::Broken("the array closed the connection".to_owned()))
    }
}

fn no_answer() -> DataError {
    DataError::Broken(format!("the array did not answer within {ANSWER_DEADLINE:?}"))
}
