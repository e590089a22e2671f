//! A disk in memory that remembers every operation, so that a test can cut the power at any of them, and that fails on
//! request.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use redb::StorageBackend;

#[derive(Clone, Debug, PartialEq)]
pub enum Operation {
    Write { offset: u64, bytes: Vec<u8> },
    SetLength(u64),
    Sync,
}

/// Which operation fails, counted from now, and with what.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    Write {
        after: usize,
        error: i32,
    },
    Sync {
        after: usize,
        error: i32,
    },
    /// Every read.
    Read {
        error: i32,
    },
}

#[derive(Debug, Default)]
struct State {
    image: Vec<u8>,
    operations: Vec<Operation>,
    fault: Option<Fault>,
    /// Operations asked for since a fault struck.
    after_fault: Option<usize>,
}

/// Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub fn holding(image: Vec<u8>) -> Disk {
        Disk(Arc::new(Mutex::new(State { image, ..State::default() })))
    }

    pub fn image(&self) -> Vec<u8> {
        self.state().image.clone()
    }

    pub fn operations(&self) -> Vec<Operation> {
        self.state().operations.clone()
    }

    pub fn fail(&self, fault: Fault) {
        self.state().fault = Some(fault);
    }

    /// How many writes and syncs were tried after the one that failed; none: no fault has struck.
    pub fn tried_after_fault(&self) -> Option<usize> {
        self.state().after_fault
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn perform(&mut self, operation: Operation) -> io::Result<()> {
        if let Some(tried) = &mut self.after_fault {
            *tried += 1;
            // As a kernel does that has dropped the dirty pages: the next answer is a success that is none.
            return Ok(());
        }
        if let Some(error) = self.strike(&operation) {
            self.after_fault = Some(0);
            return Err(io::Error::from_raw_os_error(error));
        }
        apply(&mut self.image, &operation);
        self.operations.push(operation);
        Ok(())
    }

    fn strike(&mut self, operation: &Operation) -> Option<i32> {
        let (after, error) = match (self.fault.as_mut()?, operation) {
            (Fault::Write { after, error }, Operation::Write { .. } | Operation::SetLength(_)) => {
                (after, error)
            }
            (Fault::Sync { after, error }, Operation::Sync) => (after, error),
            (Fault::Write { .. } | Fault::Sync { .. } | Fault::Read { .. }, _) => return None,
        };
        if *after == 0 {
            return Some(*error);
        }
        *after -= 1;
        None
    }
}

pub fn apply(image: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write { offset, bytes } => {
            let start = usize::try_from(*offset).expect("offset");
            let end = start + bytes.len();
            if image.len() < end {
                image.resize(end, 0);
            }
            image[start..end].copy_from_slice(bytes);
        }
        Operation::SetLength(length) => image.resize(usize::try_from(*length).expect("length"), 0),
        Operation::Sync => {}
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.state().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.state();
        if let Some(Fault::Read { error }) = state.fault {
            return Err(io::Error::from_raw_os_error(error));
        }
        let start = usize::try_from(offset).expect("offset");
        let bytes = state.image.get(start..start + out.len()).ok_or(io::ErrorKind::UnexpectedEof)?;
        out.copy_from_slice(bytes);
        Ok(())
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.state().perform(Operation::SetLength(length))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.state().perform(Operation::Sync)
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        self.state().perform(Operation::Write { offset, bytes: bytes.to_vec() })
    }
}
