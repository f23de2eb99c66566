//! Generates the services with protox, so that no protoc is needed on a fresh machine.

use std::{env, fs, path::PathBuf};

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "proto/freehold/v1/access.proto",
        "proto/freehold/v1/audit.proto",
        "proto/freehold/v1/billing.proto",
        "proto/freehold/v1/catalog.proto",
        "proto/freehold/v1/host.proto",
        "proto/freehold/v1/lease.proto",
        "proto/freehold/v1/organization.proto",
        "proto/freehold/v1/telemetry.proto",
        "proto/freehold/agent/v1/enrollment.proto",
        "proto/freehold/agent/v1/link.proto",
    ];
    println!("cargo:rerun-if-changed=proto");
    let descriptors = protox::compile(files, ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("descriptors.bin"), descriptors.encode_to_vec())?;
    let mut config = tonic_prost_build::Config::new();
    // Messages know their full names, so that output and tests find their descriptors.
    config.enable_type_names();
    tonic_prost_build::configure()
        .btree_map(".")
        .compile_fds_with_config(descriptors, config)?;
    Ok(())
}
