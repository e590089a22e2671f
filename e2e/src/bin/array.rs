//! Stand-in for a storage array: the process of one site. See `e2e::array`.

use clap::Parser;
use e2e::array::{self, ArrayOptions};
use tokio::signal::unix::{SignalKind, signal};

#[derive(Parser)]
#[command(about = "A stand-in for a storage array, with csi-addons in front and mirroring behind")]
struct Arguments {
    #[command(flatten)]
    options: ArrayOptions,
}

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    array::serve(arguments.options, stop).await
}
