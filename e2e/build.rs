//! Generates the csi-addons services from `wire/`, without an installed protoc.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=wire");
    let files = protox::compile(
        ["wire/identity.proto", "wire/replication.proto", "wire/volumegroup.proto"],
        ["wire"],
    )?;
    tonic_prost_build::configure().compile_fds(files)?;
    Ok(())
}
