//! Stands in for the process that holds a pod's sandbox: it does nothing, reaps what others leave, and ends when asked.

use rustix::process::{WaitOptions, wait};
use tokio::signal::unix::{SignalKind, signal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut children = signal(SignalKind::child())?;
    loop {
        tokio::select! {
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
            _ = children.recv() => while let Ok(Some(_reaped)) = wait(WaitOptions::NOHANG) {},
        }
    }
}
