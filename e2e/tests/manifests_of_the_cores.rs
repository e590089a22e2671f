//! Purity is a fact of the manifest: a crate that must not do input or output lists no crate that can.

use std::path::Path;

/// What reaches the network, a cluster, a disk or a clock, and what runs tasks.
const BARRED: [&str; 24] = [
    "tokio",
    "tokio-util",
    "tokio-stream",
    "tokio-rustls",
    "async-std",
    "smol",
    "mio",
    "tonic",
    "axum",
    "hyper",
    "hyper-util",
    "tower",
    "reqwest",
    "ureq",
    "rustls",
    "etcd-client",
    "redb",
    "kube-client",
    "kube-runtime",
    "rustix",
    "libc",
    "tracing-subscriber",
    "opentelemetry",
    "rand",
];

/// Features of kube that bring a client or a runtime.
const BARRED_OF_KUBE: [&str; 6] = ["client", "runtime", "config", "ws", "rustls-tls", "openssl-tls"];

fn manifest(folder: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(folder).join("Cargo.toml");
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The dependencies of a manifest, each with the rest of its line. Those of tests are left out: they are not built into
/// anything.
fn dependencies(manifest: &str) -> Vec<(&str, &str)> {
    let mut section = "";
    let mut found = Vec::new();
    for line in manifest.lines().map(str::trim) {
        if let Some(title) = line.strip_prefix('[') {
            section = title.trim_end_matches(']');
            if let Some(name) = section.strip_prefix("dependencies.") {
                found.push((name, ""));
            }
        } else if section.ends_with("dependencies") && section != "dev-dependencies" && !line.starts_with('#')
        {
            let name = line.split(['.', '=', ' ']).next().unwrap_or_default();
            found.extend((!name.is_empty()).then_some((name.trim_matches('"'), line)));
        }
    }
    found
}

/// What a manifest has that it must not have.
fn offences(manifest: &str) -> Vec<String> {
    let offends = |(name, line): &(&str, &str)| {
        let renamed = BARRED.iter().any(|barred| line.contains(&format!("package = \"{barred}\"")));
        let feature = *name == "kube"
            && (BARRED_OF_KUBE.iter().any(|feature| line.contains(&format!("\"{feature}\"")))
                || !line.contains("features") && !line.contains("workspace"));
        let wire = *name == "proto" && line.contains("\"wire\"");
        BARRED.contains(name) || renamed || feature || wire
    };
    dependencies(manifest)
        .iter()
        .filter(|one| offends(one))
        .map(|(name, line)| format!("{name}: {line}"))
        .collect()
}

#[test]
fn the_cores_and_the_shapes_list_no_crate_that_does_input_or_output() {
    for folder in ["hub/core", "agent/core", "crds", "e2e/model", "e2e/simulation"] {
        let manifest = manifest(folder);
        assert!(dependencies(&manifest).len() > 3, "{folder}: the manifest was not understood");
        assert_eq!(offences(&manifest), Vec::<String>::new(), "{folder}/Cargo.toml lists what it must not");
    }
}

/// The workspace must not bring kube's client in by its own features.
#[test]
fn the_workspace_takes_kube_without_its_default_features() {
    let root = manifest(".");
    let kube =
        root.lines().find(|line| line.starts_with("kube = ")).expect("kube in [workspace.dependencies]");
    assert!(kube.contains("default-features = false") && !kube.contains("\"client\""), "{kube}");
}

/// The check itself must find what it is for.
#[test]
fn a_barred_crate_is_found_however_it_is_written() {
    for bad in [
        "[dependencies]\ntokio.workspace = true",
        "[dependencies]\ntonic = { workspace = true, features = [\"codegen\"] }",
        "[dependencies]\nkube = { workspace = true, features = [\"derive\", \"client\"] }",
        "[dependencies]\nkube = \"5\"",
        "[dependencies]\nweb = { package = \"reqwest\", version = \"1\" }",
        "[dependencies]\nproto = { workspace = true, features = [\"wire\"] }",
        "[dependencies.hyper]\nversion = \"1\"",
        "[target.'cfg(unix)'.dependencies]\netcd-client = \"0.21\"",
        "[build-dependencies]\nreqwest = \"1\"",
    ] {
        assert_eq!(offences(bad).len(), 1, "{bad}");
    }
    let fine = "[dependencies]\nserde.workspace = true\nkube = { workspace = true, features = [\"derive\"] }\n\n[dev-dependencies]\ntokio.workspace = true";
    assert_eq!(offences(fine), Vec::<String>::new());
}
