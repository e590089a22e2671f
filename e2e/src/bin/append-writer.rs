//! The sample application: appends a record to each of its images, and logs outside what was acknowledged.
//!
//! It knows nothing of disaster recovery. What it wrote, and what of that survived, is judged by `e2e::history`.

use std::{
    collections::BTreeMap,
    fs::{File, OpenOptions},
    io::Write,
    path::PathBuf,
    time::Duration,
};

use anyhow::Context;
use clap::Parser;
use e2e::{
    array::{DataClient, parse_span},
    history::Record,
};
use jiff::Timestamp;
use rustix::time::{ClockId, clock_gettime};
use tokio::{
    signal::unix::{SignalKind, signal},
    time::MissedTickBehavior,
};

#[derive(Parser)]
#[command(about = "Appends a record to each image, again and again, and logs what was acknowledged")]
struct Arguments {
    /// The array's data plane at this site
    #[arg(long)]
    data_socket: PathBuf,
    /// Volume handles, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    images: Vec<String>,
    /// The cluster that this pod runs in
    #[arg(long)]
    cluster: String,
    /// The placement's epoch under which this pod was started
    #[arg(long)]
    epoch: u64,
    /// The log of acknowledged writes, outside of every cluster
    #[arg(long)]
    log: PathBuf,
    /// The time between two rounds of writes
    #[arg(long, default_value = "20ms", value_parser = parse_span)]
    interval: Duration,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let mut terminate = signal(SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        ended = write_until_stopped(&arguments) => ended,
    }
}

async fn write_until_stopped(arguments: &Arguments) -> anyhow::Result<()> {
    let log = OpenOptions::new()
        .create(true)
        .append(true)
        .open(&arguments.log)
        .with_context(|| format!("opening the log {}", arguments.log.display()))?;
    let mut array = DataClient::connect(&arguments.data_socket).await?;
    let mut last_sequences = last_sequences(&mut array, &arguments.images).await?;
    let mut rounds = tokio::time::interval(arguments.interval.max(Duration::from_millis(1)));
    rounds.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        rounds.tick().await;
        for (image, sequence) in &mut last_sequences {
            *sequence += 1;
            write_one(&mut array, &log, record(arguments, image, *sequence)).await?;
        }
    }
}

/// Where each image's count stands, whoever wrote last.
async fn last_sequences(array: &mut DataClient, images: &[String]) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut sequences = BTreeMap::new();
    for image in images {
        array.attach(image).await.with_context(|| format!("attaching image {image}"))?;
        let last = array.last(image).await.with_context(|| format!("reading the end of image {image}"))?;
        let sequence = match last {
            Some(line) => {
                let last: Record = serde_json::from_str(&line)
                    .with_context(|| format!("image {image} ends with no record: {line:?}"))?;
                last.sequence
            }
            None => 0,
        };
        sequences.insert(image.clone(), sequence);
    }
    Ok(sequences)
}

/// The log gets its line only after the array's acknowledgement, in one write, so that lines never mix.
async fn write_one(array: &mut DataClient, mut log: &File, record: Record) -> anyhow::Result<()> {
    let line = serde_json::to_string(&record)?;
    array.append(&record.image, &line).await.with_context(|| format!("writing {record}"))?;
    log.write_all(format!("{line}\n").as_bytes()).context("logging an acknowledged write")
}

fn record(arguments: &Arguments, image: &str, sequence: u64) -> Record {
    Record {
        image: image.to_owned(),
        cluster: arguments.cluster.clone(),
        epoch: arguments.epoch,
        sequence,
        boot_nanoseconds: boot_nanoseconds(),
        written: Timestamp::now(),
    }
}

/// The clock that all sites of a federation on one machine share.
fn boot_nanoseconds() -> u64 {
    let now = clock_gettime(ClockId::Boottime);
    let whole = u64::try_from(now.tv_sec).unwrap_or_default() * 1_000_000_000;
    whole + u64::try_from(now.tv_nsec).unwrap_or_default()
}
