//! Stand-in for a storage array: every csi-addons call as a JSON line in `DIR/calls.log`.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::Path,
    sync::Arc,
    time::Instant,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tonic::{Code, Status};

const FILE: &str = "calls.log";

/// One call of the csi-addons sidecar, and how it was answered.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    pub method: String,
    pub handle: String,
    /// The images of the group, if the handle is a group's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub images: Vec<String>,
    pub force: bool,
    pub arrived: Timestamp,
    pub took_milliseconds: u64,
    /// The name of the gRPC code, `Ok` or `FailedPrecondition`; `Cancelled` if the caller went away first.
    pub answer: String,
    pub message: String,
}

impl Call {
    /// The images that the call was about.
    pub fn images(&self) -> &[String] {
        if self.images.is_empty() { std::slice::from_ref(&self.handle) } else { &self.images }
    }

    pub fn succeeded(&self) -> bool {
        self.answer == name(Code::Ok)
    }
}

/// All calls answered so far, oldest first; a missing log is an array that nobody has called.
pub fn calls(directory: &Path) -> Result<Vec<Call>, io::Error> {
    let text = match std::fs::read_to_string(directory.join(FILE)) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let finished = text.rfind('\n').map_or(0, |end| end + 1);
    text[..finished].lines().map(|line| serde_json::from_str(line).map_err(io::Error::from)).collect()
}

/// The forced promotions that were granted: what the VolumeReplication itself never shows.
pub fn forced_promotions(directory: &Path) -> Result<Vec<Call>, io::Error> {
    let mut calls = calls(directory)?;
    calls.retain(|call| call.method == "PromoteVolume" && call.force && call.succeeded());
    Ok(calls)
}

/// The open log of one array process.
#[derive(Clone)]
pub(super) struct CallLog(Arc<File>);

impl CallLog {
    pub fn open(directory: &Path) -> Result<CallLog, io::Error> {
        let file = OpenOptions::new().create(true).append(true).open(directory.join(FILE))?;
        Ok(CallLog(Arc::new(file)))
    }

    /// Notes the call for its answer; if the caller goes away first, that is its answer.
    pub fn arrived(&self, method: &'static str, handle: &str, force: bool) -> OpenCall {
        let handle = handle.to_owned();
        OpenCall {
            log: self.clone(),
            method,
            handle,
            images: Vec::new(),
            force,
            arrived: Timestamp::now(),
            since: Instant::now(),
            answered: false,
        }
    }
}

pub(super) struct OpenCall {
    log: CallLog,
    method: &'static str,
    handle: String,
    images: Vec<String>,
    force: bool,
    arrived: Timestamp,
    since: Instant,
    answered: bool,
}

impl OpenCall {
    /// It is about a group of these.
    pub fn concerns(&mut self, images: &[String]) {
        self.images = images.to_vec();
    }

    pub fn answer<T>(mut self, result: Result<T, Status>) -> Result<T, Status> {
        match &result {
            Ok(_) => self.write(Code::Ok, ""),
            Err(status) => self.write(status.code(), status.message()),
        }
        result
    }

    fn write(&mut self, code: Code, message: &str) {
        self.answered = true;
        let call = Call {
            method: self.method.to_owned(),
            handle: self.handle.clone(),
            images: std::mem::take(&mut self.images),
            force: self.force,
            arrived: self.arrived,
            took_milliseconds: u64::try_from(self.since.elapsed().as_millis()).unwrap_or(u64::MAX),
            answer: name(code),
            message: message.to_owned(),
        };
        let written = serde_json::to_vec(&call).map_err(io::Error::from).and_then(|mut line| {
            line.push(b'\n');
            (&*self.log.0).write_all(&line)
        });
        if let Err(error) = written {
            tracing::warn!(%error, method = self.method, "a call could not be logged");
        }
    }
}

impl Drop for OpenCall {
    fn drop(&mut self) {
        if !self.answered {
            self.write(Code::Cancelled, "the caller went away");
        }
    }
}

fn name(code: Code) -> String {
    format!("{code:?}")
}
