//! OpenSSH configuration for leases. A `Match … exec` line per lease has ssh itself renew the certificate before it connects; the `Host`
//! blocks stand alone, so that a certificate that is still good works even where the renewal cannot run.

use std::fmt::Write as _;

use freehold_proto::v1;
use serde_json::{Value, json};

use super::credentials::Credentials;
use crate::commands::Context;

/// One `Host` block: an instance under its names.
pub(super) struct Block {
    names: Vec<String>,
    user: String,
    credentials: Credentials,
}

impl Block {
    /// The block as JSON.
    pub(super) fn json(&self) -> Value {
        json!({
            "names": self.names,
            "host_name": self.credentials.host,
            "port": self.credentials.port,
            "user": self.user,
            "identity_file": self.credentials.key_file(),
            "certificate_file": self.credentials.certificate_file(),
            "known_hosts_file": self.credentials.known_hosts_file(),
            "valid_before": self.credentials.valid_before_text(),
        })
    }
}

/// The command that renews a certificate, for ssh to run.
pub(super) struct Refresh {
    program: String,
    options: Vec<(&'static str, String)>,
}

impl Refresh {
    /// This program with the options it was given; the token is not among them, it comes from the environment.
    pub(super) fn of(context: &Context) -> Self {
        let program = std::env::current_exe()
            .map_or_else(|_| "freehold".to_owned(), |path| path.display().to_string());
        let global = &context.global;
        let ca = global
            .ca
            .as_ref()
            .map(|ca| std::path::absolute(ca).unwrap_or_else(|_| ca.clone()));
        let options = [
            ("--server", global.server.clone()),
            ("--ca", ca.map(|ca| ca.display().to_string())),
            ("--org", global.org.clone()),
            ("--project", global.project.clone()),
        ];
        let options = options
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect();
        Self { program, options }
    }

    fn line(&self, lease_id: &str) -> String {
        let mut line = format!("{} ssh-cert {lease_id}", word(&self.program));
        for (name, value) in &self.options {
            // Writing to a String cannot fail.
            let _ = write!(line, " {name} {}", word(value));
        }
        line.push_str(" >/dev/null 2>&1");
        line
    }
}

/// A word for the shell, within the quotes of a `Match … exec`: `%` begins a token there, and a double quote cannot be written at all, so that
/// the shell makes it.
fn word(text: &str) -> String {
    let quoted = format!("'{}'", text.replace('\'', r"'\''"));
    quoted
        .replace('%', "%%")
        .replace('"', r"'$(printf '\042')'")
}

/// The blocks of a lease: one an instance; the first is also the lease itself.
pub(super) fn blocks(lease: &v1::Lease, credentials: &Credentials) -> Vec<Block> {
    let names: Vec<&String> = [&lease.name, &lease.id]
        .into_iter()
        .filter(|name| !name.is_empty())
        .collect();
    let whole = Block {
        names: names.iter().map(|name| (*name).clone()).collect(),
        user: lease.id.clone(),
        credentials: credentials.clone(),
    };
    let nodes = (0..lease.count.max(0)).map(|ordinal| Block {
        names: names
            .iter()
            .map(|name| format!("{name}.{ordinal}"))
            .collect(),
        user: format!("{}.{ordinal}", lease.id),
        credentials: credentials.clone(),
    });
    std::iter::once(whole).chain(nodes).collect()
}

/// The configuration's text.
pub(super) fn render(blocks: &[Block], refresh: &Refresh) -> String {
    let mut text =
        "# Written by `freehold ssh-config`; write it again when leases begin.\n".to_owned();
    if blocks.is_empty() {
        text.push_str("# No lease is active.\n");
    }
    for group in blocks.chunk_by(|a, b| a.credentials.lease_id == b.credentials.lease_id) {
        let Some(first) = group.first() else { continue };
        let all: Vec<_> = group
            .iter()
            .flat_map(|block| block.names.iter().map(String::as_str))
            .collect();
        let renew = refresh.line(&first.credentials.lease_id);
        let _ = write!(
            text,
            "\nMatch originalhost {} exec \"{renew}\"\n    IdentitiesOnly yes\n",
            all.join(",")
        );
        for block in group {
            let _ = write!(
                text,
                "Host {}\n    HostName {}\n    Port {}\n    User {}\n",
                block.names.join(" "),
                block.credentials.host,
                block.credentials.port,
                block.user
            );
            for (key, value) in block.credentials.ssh_options() {
                let _ = writeln!(text, "    {key} {value}");
            }
        }
    }
    text
}

#[cfg(test)]
mod tests;
