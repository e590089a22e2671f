//! Compiles the wire definitions in pure Rust, so that no protoc has to be installed.

const DEFINITIONS: [&str; 5] = [
    "dr/v1/federation.proto",
    "dr/v1/ownership.proto",
    "dr/v1/peer.proto",
    "dr/v1/telemetry.proto",
    "dr/v1/volume.proto",
];

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=wire");
    // The cores use the domain types alone: they must not pay for the generated ones.
    if std::env::var_os("CARGO_FEATURE_WIRE").is_some() {
        let descriptors = protox::compile(DEFINITIONS, ["wire"])?;
        // Both ends bring their own connections, so the generated dialling is left out; it would also clash with the
        // method Connect.
        tonic_prost_build::configure().build_transport(false).compile_fds(descriptors)?;
    }
    Ok(())
}
