//! The way of telemetry to the hub, for an agent without a collector: a connection of its own, so that nothing of it stands
//! before a heartbeat, one batch at a time.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use proto::wire::v1::telemetry_client::TelemetryClient;
use proto::wire::v1::{Signal as WireSignal, TelemetryBatch};
use tls::{ChannelSettings, Credentials, Identity, channel};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::transport::Channel;
use understudy_telemetry::{Batch, Signal};

/// How long one batch may take; then it is lost.
const EXCHANGE: Duration = Duration::from_secs(3);
/// The largest message that the hub takes.
const LARGEST_BATCH: usize = 4 * 1024 * 1024;

type Client = TelemetryClient<Channel>;

/// Never ends: what nobody asks for any more is no reason to end the process.
pub async fn carry(
    hub: String,
    credentials: Arc<Credentials>,
    mut batches: mpsc::Receiver<Batch>,
) -> Infallible {
    let mut client = None;
    while let Some(batch) = batches.recv().await {
        let carried = timeout(EXCHANGE, exchange(&hub, &credentials, &mut client, &batch)).await;
        let taken = matches!(carried, Ok(Ok(())));
        if !taken {
            tracing::debug!(result = ?carried, "the hub has not taken our telemetry");
            client = None;
        }
        batch.answer(taken);
    }
    std::future::pending().await
}

async fn exchange(
    hub: &str,
    credentials: &Arc<Credentials>,
    open: &mut Option<Client>,
    batch: &Batch,
) -> anyhow::Result<()> {
    let client = match open {
        Some(client) => client,
        None => open.insert(connect(hub, credentials).await?),
    };
    let signal = match batch.signal {
        Signal::Traces => WireSignal::Traces,
        Signal::Metrics => WireSignal::Metrics,
        Signal::Logs => WireSignal::Logs,
    };
    client.export(TelemetryBatch { signal: signal.into(), otlp: batch.body.to_vec() }).await?;
    Ok(())
}

async fn connect(hub: &str, credentials: &Arc<Credentials>) -> anyhow::Result<Client> {
    let settings =
        ChannelSettings { connect: EXCHANGE, keep_alive_interval: EXCHANGE, keep_alive_timeout: EXCHANGE };
    let channel = channel(hub, credentials, &Identity::Hub, settings).await?;
    Ok(TelemetryClient::new(channel).max_encoding_message_size(LARGEST_BATCH))
}
