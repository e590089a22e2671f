//! Far more telemetry than a queue holds, made as any stranger could: by knocking at a door, which is logged each time.

use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use e2e::federation::service::Service;
use futures::future::try_join_all;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// What waits for the collector at most, and what it is being offered beside that (docs/telemetry.md).
pub const HELD: usize = 2048 + 512;
/// Strangers who knock at the same time.
const STRANGERS: usize = 8;

/// Knocks so often at a door where only those with a certificate are let in. All have been sent away when this returns.
pub async fn knock(door: SocketAddr, times: usize) -> Result<()> {
    let stranger = async || {
        for _ in 0..times / STRANGERS {
            be_sent_away(door).await?;
        }
        anyhow::Ok(())
    };
    try_join_all((0..STRANGERS).map(|_| stranger())).await.map(drop)
}

async fn be_sent_away(door: SocketAddr) -> Result<()> {
    let mut stream = TcpStream::connect(door).await.with_context(|| format!("knocking at {door}"))?;
    stream.write_all(b"let me in\n").await.context("asking to be let in")?;
    let mut answer = Vec::new();
    // An alert and an end, or an end without it.
    let _how = stream.read_to_end(&mut answer).await;
    Ok(())
}

/// The value of a counter that /metrics shows, of all of its series that hold the label.
pub async fn counted(metrics: SocketAddr, name: &str, label: &str) -> Result<usize> {
    let mut stream = TcpStream::connect(metrics).await.context("connecting to /metrics")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").await.context("asking for metrics")?;
    let mut scraped = String::new();
    stream.read_to_string(&mut scraped).await.context("reading metrics")?;
    let of_it = scraped.lines().filter(|line| {
        line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']) && rest.contains(label))
    });
    let values = of_it.filter_map(|line| line.rsplit_once(' ')).map(|(_, value)| value.parse::<usize>());
    values.sum::<Result<usize, _>>().with_context(|| format!("reading {name}"))
}

/// What a process has taken of the machine's memory for itself, in bytes.
pub fn memory(service: &Service) -> Result<usize> {
    let process = service.id().with_context(|| format!("{} does not run", service.name()))?;
    let status = std::fs::read_to_string(format!("/proc/{process}/status")).context("asking for memory")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"));
    let Some(kilobytes) = line.and_then(|line| line.trim().strip_suffix(" kB")) else {
        bail!("no RssAnon in {status}")
    };
    Ok(kilobytes.trim().parse::<usize>().context("reading RssAnon")? * 1024)
}
