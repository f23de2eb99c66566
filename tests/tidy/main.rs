//! The structure that docs/ARCHITECTURE.md promises, checked on the sources themselves.

#![allow(clippy::unwrap_used, reason = "a test")]

mod rules;
mod source;

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use rules::{LONG_FILE_LINES, violations};
use source::Source;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .parent()
        .unwrap()
        .to_owned()
}

#[test]
fn the_sources_keep_the_rules() {
    let sources = Source::all(&root());
    assert!(sources.len() > 100, "the sources were not found");
    for source in sources
        .iter()
        .filter(|source| source.lines() > LONG_FILE_LINES)
    {
        eprintln!(
            "{}: {} lines; split it before 800",
            source.path,
            source.lines()
        );
    }
    let found: Vec<String> = sources.iter().flat_map(violations).collect();
    assert!(found.is_empty(), "\n{}\n", found.join("\n"));
}

#[test]
fn agent_and_control_plane_do_not_depend_on_each_other() {
    for (part, other) in [
        ("agent", "freehold-control-plane"),
        ("control-plane", "freehold-agent"),
    ] {
        let manifest = fs::read_to_string(root().join(part).join("Cargo.toml")).unwrap();
        assert!(!manifest.contains(other), "{part}/Cargo.toml names {other}");
    }
}

/// What the documents call a file or a folder of this repository is one.
#[test]
fn the_documents_name_files_that_exist() {
    let mut missing = BTreeSet::new();
    for document in documents(&root().join("docs"))
        .into_iter()
        .chain([root().join("README.md")])
    {
        let text = fs::read_to_string(&document).unwrap();
        for path in paths_in(&text) {
            if !root().join(&path).exists() {
                missing.insert(format!("{}: {path}", document.display()));
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}

fn documents(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(documents(&path));
        } else if path.extension().is_some_and(|extension| extension == "md") {
            found.push(path);
        }
    }
    found
}

/// The words that start like a path of this repository. `*` and `…` stand for more than one file; the folder before them must be there.
fn paths_in(text: &str) -> Vec<String> {
    let ends = |c: char| c.is_whitespace() || "`()[]{},;:\"'<>|".contains(c);
    text.split(ends)
        .filter(|word| {
            let first = word.split('/').next().unwrap_or_default();
            word.contains('/')
                && [
                    "proto",
                    "control-plane",
                    "agent",
                    "cli",
                    "tests",
                    "scripts",
                    "docs",
                    "images",
                ]
                .contains(&first)
        })
        .map(|word| {
            let plain = word.split(['*', '…']).next().unwrap_or_default();
            let plain = plain.trim_end_matches(['.', '?', '!']);
            let cut = if plain.len() < word.trim_end_matches('.').len() {
                plain.rfind('/').map_or(plain, |at| &plain[..at])
            } else {
                plain
            };
            cut.to_owned()
        })
        .collect()
}

#[test]
fn planted_violations_are_found() {
    let planted = [
        (
            "agent/src/x.rs",
            "use freehold_control_plane::App;",
            "uses freehold_control_plane",
        ),
        (
            "control-plane/src/server.rs",
            "use freehold_agent as agent;",
            "uses freehold_agent",
        ),
        (
            "control-plane/src/leases/store.rs",
            "fn f(a: &v1::Lease) {}",
            "generated types v1::",
        ),
        (
            "agent/src/instances/x.rs",
            "use freehold_proto::{agent_v1::Order, id};",
            "generated types agent_v1::",
        ),
        (
            "control-plane/src/leases/model/x.rs",
            "use tokio::{time::sleep};",
            "model names tokio::{",
        ),
        (
            "control-plane/src/leases/model.rs",
            "fn f() { chrono::Utc::now(); }",
            "model names Utc::now",
        ),
        (
            "agent/src/model/gpu.rs",
            "use std::time::{Duration, Instant};",
            "model names Instant",
        ),
        (
            "control-plane/src/hosts/rpc.rs",
            "use super::{convert, store};",
            "rpc uses store",
        ),
        (
            "control-plane/src/hosts/rpc/host.rs",
            "fn f() { super::store::load(); }",
            "rpc uses store",
        ),
        (
            "control-plane/src/hosts/store.rs",
            "use super::service::Host;",
            "store uses service",
        ),
    ];
    for (path, text, wanted) in planted {
        let found = violations(&Source::new(path, text));
        assert!(
            found.iter().any(|line| line.contains(wanted)),
            "{path}: {text}: {found:?}"
        );
    }
    let long = format!("fn long() {{\n{}}}\n", "    step();\n".repeat(99));
    assert_eq!(
        violations(&Source::new("cli/src/x.rs", &long)),
        ["cli/src/x.rs:1: long has 101 lines, 100 at most"]
    );
    let file = Source::new("cli/src/x.rs", &"const A: u8 = 1;\n".repeat(801));
    assert_eq!(violations(&file), ["cli/src/x.rs: 801 lines, 800 at most"]);
}

#[test]
fn what_only_looks_like_a_violation_is_none() {
    let allowed = [
        (
            "control-plane/src/leases/model.rs",
            "// tokio::spawn would be wrong\nconst A: &str = \"sqlx::query\";",
        ),
        (
            "control-plane/src/leases/model.rs",
            "const A: &str = r#\"use \"tokio::x\"; \"#; fn f<'a>(a: &'a str) -> char { '\"' }",
        ),
        (
            "control-plane/src/leases/rpc.rs",
            "use super::service; fn f(a: v1::Lease) { a.store(); }",
        ),
        ("cli/src/output.rs", "use freehold_proto::v1::Lease;"),
        (
            "control-plane/src/x.rs",
            "use object_store::path; fn f() { api_v1::x(); }",
        ),
    ];
    for (path, text) in allowed {
        assert_eq!(
            violations(&Source::new(path, text)),
            [""; 0],
            "{path}: {text}"
        );
    }
}
