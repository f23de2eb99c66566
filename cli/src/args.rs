//! The command line: global options and the tree of commands. Each command's own arguments stand beside its code.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{
    audit, bill, completion, host, instance_type, key, lease, offer, organization, project, ssh,
    telemetry,
};

const EXAMPLES: &str = "\
Examples:
  export FREEHOLD_SERVER=https://gpu.example.com:8443 FREEHOLD_TOKEN=fhk_…
  freehold type list
  freehold lease create --type gpu_8x_h100_sxm5 --hours 4 --name vision --wait
  freehold ssh vision -- nvidia-smi
  freehold lease end vision --wait
  freehold bill report --group-by label:team --output csv

Exit codes: 0 done; 1 failed, with the reason on stderr; 2 the command line was wrong. `freehold ssh` returns the remote command's.";

/// Lease GPU hosts, log in, end the lease, check the bill.
#[derive(Debug, Parser)]
#[command(name = "freehold", version, after_help = EXAMPLES, max_term_width = 110, propagate_version = false)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) global: Global,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options that stand before or after any command.
#[derive(Debug, Clone, Default, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// How results are printed; JSON has the proto's fields, CSV its scalar columns.
    #[arg(
        long,
        global = true,
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub(crate) output: Format,
    /// The control plane: https://HOST:PORT.
    #[arg(long, global = true, env = "FREEHOLD_SERVER", value_name = "URL")]
    pub(crate) server: Option<String>,
    /// The API key. The variable keeps it out of the process list.
    #[arg(
        long,
        global = true,
        env = "FREEHOLD_TOKEN",
        hide_env_values = true,
        value_name = "KEY"
    )]
    pub(crate) token: Option<String>,
    /// PEM file of the certificate authority to trust instead of the system's.
    #[arg(long, global = true, env = "FREEHOLD_CA", value_name = "FILE")]
    pub(crate) ca: Option<std::path::PathBuf>,
    /// Organization, by id or name [default: the caller's].
    #[arg(long, global = true, value_name = "ORG")]
    pub(crate) org: Option<String>,
    /// Project, by id or name [default: the caller's, or `default`].
    #[arg(long, global = true, value_name = "PROJECT")]
    pub(crate) project: Option<String>,
}

impl Global {
    /// The organization to name in requests; empty means the caller's.
    pub(crate) fn organization(&self) -> String {
        self.org.clone().unwrap_or_default()
    }

    /// The project to name in requests; empty means the caller's.
    pub(crate) fn project(&self) -> String {
        self.project.clone().unwrap_or_default()
    }
}

/// How results are printed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    // For people.
    #[default]
    Table,
    // The proto's fields in snake case; streams are JSON lines.
    Json,
    // A header and the scalar columns.
    Csv,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Organizations: the tenants.
    #[command(subcommand)]
    Org(organization::OrganizationCommand),
    /// Projects: an organization's cost centres.
    #[command(subcommand)]
    Project(project::ProjectCommand),
    /// API keys.
    #[command(subcommand)]
    Key(key::KeyCommand),
    /// GPU hosts (operator).
    #[command(subcommand)]
    Host(host::HostCommand),
    /// Instance types and their prices.
    #[command(subcommand)]
    Type(instance_type::TypeCommand),
    /// What could be leased, when and at which price.
    #[command(subcommand)]
    Offer(offer::OfferCommand),
    /// Leases of whole instances.
    #[command(subcommand)]
    Lease(lease::LeaseCommand),
    /// Log in to an instance, or run a command in it.
    Ssh(ssh::SshArgs),
    /// Print OpenSSH configuration for the active leases, so that ssh, scp, rsync and IDEs just work.
    SshConfig(ssh::ConfigArgs),
    /// Fetch an SSH certificate for a lease.
    SshCert(ssh::CertificateArgs),
    /// What a host's GPUs do: the latest sample, one-minute rollups, faults.
    Telemetry(telemetry::TelemetryArgs),
    /// Bills, down to the usage records behind them.
    #[command(subcommand)]
    Bill(bill::BillCommand),
    /// Who changed what.
    #[command(subcommand)]
    Audit(audit::AuditCommand),
    /// Who the API key belongs to.
    Whoami,
    /// Print a completion script for a shell.
    Completion(completion::CompletionArgs),
    /// Print the version.
    Version,
}

/// Which part of a list to fetch. Without either option all pages are fetched.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct PageArgs {
    /// Fetch one page of at most this many.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i32).range(1..))]
    pub(crate) page_size: Option<i32>,
    /// Fetch the page that a previous answer's `next_page_token` names.
    #[arg(long, value_name = "TOKEN")]
    pub(crate) page_token: Option<String>,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_tree_of_commands_is_sound() {
        Cli::command().debug_assert();
    }

    /// The names that scripts and guides use.
    #[test]
    fn every_documented_command_parses() {
        for line in [
            "org create lab",
            "org list",
            "project create train --org lab",
            "project list",
            "key create --org lab --project train --role admin --expires 90d",
            "key list",
            "key revoke key_1",
            "host enroll-token --region r --sector s --uses 3 --expires 1d",
            "host list",
            "host get h",
            "host cordon h",
            "host uncordon h",
            "host release h",
            "host remove h",
            "type list",
            "type create t --gpu H100 --count 8 --vcpus 8 --memory 64 --scratch 100 --micros 0",
            "type set-price t --micros 5 --from 2027-01-01",
            "offer search --type t --count 2 --start +2h --hours 3",
            "lease create --type t --count 2 --start 2026-12-01T08:00Z --hours 3 --ssh-key a.pub --ssh-key b.pub --image i --name n --label a=b --label c=d --request-id r --wait",
            "lease create --type t --count 0 --hours -1",
            "lease list",
            "lease get l",
            "lease end l --wait",
            "lease watch l",
            "lease explain l",
            "ssh l",
            "ssh l -- nvidia-smi -L --query",
            "ssh-config",
            "ssh-cert l --out d",
            "telemetry h",
            "bill report --from 2026-11-01 --to 2026-12-01 --group-by label:team",
            "bill usage --lease l",
            "audit list",
            "completion bash",
            "version",
        ] {
            let words = std::iter::once("freehold").chain(line.split(' '));
            if let Err(error) = Cli::try_parse_from(words) {
                panic!("freehold {line}: {error}");
            }
        }
    }

    #[test]
    fn the_command_for_ssh_is_taken_as_it_stands() {
        let cli = Cli::try_parse_from(["freehold", "ssh", "l", "--", "ls", "--output", "json"])
            .expect("parses");
        assert_eq!(cli.global.output, Format::Table);
    }

    /// What the documents tell people to type is understood: lines of code that begin with `freehold`, up to a comment, a pipe or `>`.
    #[test]
    fn the_commands_of_the_documents_parse() {
        let documents = [
            include_str!("../../README.md"),
            include_str!("../../docs/guides/user.md"),
            include_str!("../../docs/guides/operator.md"),
        ];
        let mut commands = 0;
        for line in documents.iter().flat_map(|document| document.lines()) {
            let command = line
                .split(['#', '|', '>'])
                .next()
                .unwrap_or_default()
                .trim();
            if !command.starts_with("freehold ") || command.contains("…") {
                continue;
            }
            let words = command
                .split_whitespace()
                .map(|word| word.trim_matches('\''));
            let parsed = Cli::try_parse_from(words);
            assert!(parsed.is_ok(), "{line}\n{}", parsed.unwrap_err());
            commands += 1;
        }
        assert!(commands > 30, "{commands} commands were found");
    }
}
