//! The rules, each a function from a file to what is wrong in it.

use crate::source::Source;

/// No file may be longer.
const MAX_FILE_LINES: usize = 800;
/// Longer files are named, so that they are split before they must be.
pub(crate) const LONG_FILE_LINES: usize = 500;
const MAX_FUNCTION_LINES: usize = 100;

/// Where generated protobuf types may be named: where a message arrives or leaves. What agents say is
/// taken down by `reports`, what they are told is made by `orders`.
const EDGES: [&str; 10] = [
    "rpc", "convert", "link", "links", "services", "enroll", "reports", "orders", "tests",
    "testing",
];

/// What a model would decide differently with on another day or machine. The agent's model also says how its parts speak to each other,
/// so the ends of channels stand in its signatures.
const IMPURE: [&str; 24] = [
    "tokio::{",
    "tokio::fs",
    "tokio::io",
    "tokio::net",
    "tokio::process",
    "tokio::select",
    "tokio::signal",
    "tokio::spawn",
    "tokio::task",
    "tokio::time",
    "tokio_util::",
    "sqlx::",
    "tonic::",
    "bollard::",
    "hyper::",
    "std::env",
    "std::fs",
    "std::net::Tcp",
    "std::process",
    "SystemTime",
    "Instant",
    "Utc::now",
    "rand::rng",
    "rand::random",
];

/// What is wrong in a file, one line each.
pub(crate) fn violations(source: &Source) -> Vec<String> {
    let mut found = Vec::new();
    check_crates(source, &mut found);
    if source.path.contains("/src/") {
        check_edges(source, &mut found);
        check_model(source, &mut found);
        check_layers(source, &mut found);
    }
    check_sizes(source, &mut found);
    found
}

fn ships(source: &Source) -> bool {
    ["agent/", "control-plane/"]
        .iter()
        .any(|part| source.path.starts_with(part))
}

/// proto ← agent, control-plane, cli ← tests.
fn check_crates(source: &Source, found: &mut Vec<String>) {
    for (part, others) in [
        ("proto/", &["freehold_agent", "freehold_control_plane"][..]),
        ("agent/", &["freehold_control_plane"]),
        ("control-plane/", &["freehold_agent"]),
        ("cli/", &["freehold_agent", "freehold_control_plane"]),
    ] {
        for other in others {
            if source.path.starts_with(part) && source.names(other) {
                found.push(format!("{}: uses {other}", source.path));
            }
        }
    }
}

fn check_edges(source: &Source, found: &mut Vec<String>) {
    if !ships(source) || EDGES.iter().any(|edge| source.is_within(edge)) {
        return;
    }
    for generated in [
        "v1::",
        "agent_v1::",
        "freehold_proto::v1",
        "freehold_proto::agent_v1",
    ] {
        if source.names(generated) {
            found.push(format!(
                "{}: names the generated types {generated}; they stop at {}",
                source.path,
                EDGES.join(", ")
            ));
        }
    }
}

fn check_model(source: &Source, found: &mut Vec<String>) {
    if !ships(source) || !source.is_within("model") {
        return;
    }
    // Tests of a model may ask for the time.
    let pure = Source {
        path: source.path.clone(),
        code: source
            .code
            .split("#[cfg(test)]")
            .next()
            .unwrap_or_default()
            .to_owned(),
    };
    let channels = source
        .path
        .starts_with("control-plane/")
        .then_some("tokio::sync");
    for impure in IMPURE.into_iter().chain(channels) {
        if pure.names(impure) {
            found.push(format!("{}: a model names {impure}", source.path));
        }
    }
}

/// rpc → service → model ← store.
fn check_layers(source: &Source, found: &mut Vec<String>) {
    if !ships(source) || source.is_within("tests") {
        return;
    }
    for (layer, others) in [
        ("rpc", &["store"][..]),
        ("service", &["rpc"]),
        ("store", &["rpc", "service"]),
        ("model", &["rpc", "service", "store"]),
    ] {
        for other in others {
            if source.is_within(layer) && source.reaches(other) {
                found.push(format!("{}: {layer} uses {other}", source.path));
            }
        }
    }
}

fn check_sizes(source: &Source, found: &mut Vec<String>) {
    if source.lines() > MAX_FILE_LINES {
        found.push(format!(
            "{}: {} lines, {MAX_FILE_LINES} at most",
            source.path,
            source.lines()
        ));
    }
    for function in source.functions() {
        if function.lines > MAX_FUNCTION_LINES {
            found.push(format!(
                "{}:{}: {} has {} lines, {MAX_FUNCTION_LINES} at most",
                source.path, function.line, function.name, function.lines
            ));
        }
    }
}
