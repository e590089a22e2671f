//! The lease on a volume of the pod's own: from the container that waits to the one that guards, and to one that is
//! started again. It counts only in the same sandbox and boot.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::lease::Remembered;

const BOOT: &str = "/proc/sys/kernel/random/boot_id";

#[derive(Debug, Error)]
#[error("{doing} {path}: the pod needs its volume understudy-gate, of medium Memory")]
pub struct MemoryError {
    doing: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

pub struct Memory {
    file: PathBuf,
    boot: String,
    sandbox: u64,
}

#[derive(Serialize, Deserialize)]
struct Written {
    boot: String,
    sandbox: u64,
    remembered: Remembered,
}

impl Memory {
    pub fn open(folder: PathBuf, sandbox: u64) -> Result<Memory, MemoryError> {
        let failed = |source| MemoryError { doing: "reading", path: BOOT.to_owned(), source };
        let boot = fs::read_to_string(BOOT).map_err(failed)?.trim().to_owned();
        Ok(Memory { file: folder.join("lease.json"), boot, sandbox })
    }

    /// None: there is none, or none of this sandbox.
    pub fn read(&self) -> Option<Remembered> {
        let written: Written = serde_json::from_slice(&fs::read(&self.file).ok()?).ok()?;
        (written.boot == self.boot && written.sandbox == self.sandbox).then_some(written.remembered)
    }

    /// A reader sees the old one or the new one, never half of one.
    pub fn write(&self, remembered: Remembered) -> Result<(), MemoryError> {
        let failed = |doing| {
            let path = self.file.display().to_string();
            move |source| MemoryError { doing, path, source }
        };
        let written = Written { boot: self.boot.clone(), sandbox: self.sandbox, remembered };
        let text = serde_json::to_vec(&written).map_err(io::Error::other).map_err(failed("encoding"))?;
        let fresh = self.file.with_extension("new");
        fs::write(&fresh, text).map_err(failed("writing"))?;
        fs::rename(&fresh, &self.file).map_err(failed("replacing"))
    }
}
