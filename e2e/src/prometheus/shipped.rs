//! What is shipped for Prometheus, judged by promtool. Here, and not beside the tests on clusters, because this builds
//! Prometheus where nobody has yet: federations with their short timings run later, and alone.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::assets::Observers;

#[test]
fn alerts_are_well_formed_and_come_when_they_should() -> Result<()> {
    promtool("deploy/alerts", ["check", "rules", "understudy.rules.yaml"])?;
    promtool("deploy/alerts", ["test", "rules", "tests.yaml"])
}

/// No container runs here: what stands in the compose file is there, and Prometheus understands its configuration.
#[test]
fn what_is_offered_for_containers_finds_its_files() -> Result<()> {
    promtool("deploy/observe", ["check", "config", "prometheus.yml"])?;
    let compose = fs::read_to_string(in_repository("deploy/observe/compose.yaml")).context("reading it")?;
    let compose: Value = serde_saphyr::from_str(&compose).context("parsing the compose file")?;
    let services = compose["services"].as_object().context("services")?;
    let volumes = services.values().filter_map(|service| service["volumes"].as_array()).flatten();
    let mut mounted = 0;
    for volume in volumes.filter_map(Value::as_str).filter(|volume| volume.starts_with('.')) {
        let (source, _) = volume.split_once(':').context("a source and a target")?;
        ensure!(in_repository("deploy/observe").join(source).exists(), "{source} does not exist");
        mounted += 1;
    }
    ensure!(mounted == 5, "{mounted} of 5 mounts were found");
    Ok(())
}

fn promtool(folder: &str, arguments: [&str; 3]) -> Result<()> {
    let program = Observers::ensure(|doing| eprintln!("{doing}"))?.promtool;
    let ran = Command::new(program)
        .args(arguments)
        .current_dir(in_repository(folder))
        .output()
        .context("running promtool")?;
    let said = format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    let well = ran.status.success() && said.contains("SUCCESS");
    ensure!(well, "promtool {}: {said}", arguments.join(" "));
    Ok(())
}

fn in_repository(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(path)
}
