//! The sites in network namespaces of their own, and a real cut between them: the fullest row of the link table,
//! `down up down up`, in which the hub fails over after the wait. The other rows: `cargo e2e`.

use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use e2e::federation::{EAST, Federation, Options, Progress, SLOW, WEST};
use e2e::network::Network;

#[test]
fn a_holder_whose_network_is_cut_stops_and_the_other_cluster_takes_over() -> Result<()> {
    let say = progress();
    let told = say.clone();
    Network::watch(
        move |doing| told(doing),
        async move |network| {
            let options = Options { network: Some(network.clone()), ..Options::slow_to_stop(1) };
            let federation = Federation::protected(options, say.clone()).await?;
            say("cutting east off");
            network.isolate(EAST)?;
            let failover = federation.await_failover(WEST).await?;
            say("west has taken over");
            federation.await_writes(WEST, 20, SLOW).await?;
            let proof = failover.status.and_then(|status| status.fence_proof).unwrap_or_default();
            ensure!(
                proof.contains("LeaseExpired"),
                "east could not say that it has stopped, and the proof is {proof}"
            );
            let verdict = federation.verdict(WEST).await?;
            ensure!(verdict.holds(), "{verdict}");
            Ok(())
        },
    )
}

fn progress() -> Progress {
    let started = Instant::now();
    Arc::new(move |doing: &str| eprintln!("{:6.1} s  {doing}", started.elapsed().as_secs_f64()))
}
