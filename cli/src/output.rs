//! Results on stdout: JSON, CSV or tables, all of them from the descriptors, so that a new field of the proto is shown without new code.

mod csv;
mod human;
mod json;
mod message;
mod story;
mod table;

use std::io::{self, Write as _};

use freehold_proto::v1;
use prost::{Message, Name};
use serde_json::Value;

use crate::{args::Format, error::CliError};

pub(crate) use message::printable;
pub(crate) use story::state_name;

/// Prints results in the wanted format.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Output {
    format: Format,
}

impl Output {
    pub(crate) fn new(format: Format) -> Self {
        Self { format }
    }

    /// True when people read it.
    pub(crate) fn is_table(self) -> bool {
        self.format == Format::Table
    }

    /// Prints one resource or one list.
    pub(crate) fn print<M: Message + Name>(self, message: &M) -> Result<(), CliError> {
        write(&render(self.format, message))
    }

    /// Prints one lease of a stream: a JSON line, CSV rows, or a line that says what changed.
    pub(crate) fn print_change(self, lease: &v1::Lease, first: bool) -> Result<(), CliError> {
        let message = message::reflect(lease);
        write(&match self.format {
            Format::Json => json::line(&message),
            Format::Csv => csv::rows(&message, first),
            Format::Table => story::change(lease),
        })
    }

    /// Prints why a lease is where it is.
    pub(crate) fn print_explanation(
        self,
        explanation: &v1::ExplainLeaseResponse,
    ) -> Result<(), CliError> {
        match self.format {
            Format::Table => write(&story::explanation(explanation)),
            _ => self.print(explanation),
        }
    }

    /// Prints what did not come over the wire: an object of scalars, with `table` as its form for people.
    pub(crate) fn print_local(self, value: &Value, table: &str) -> Result<(), CliError> {
        write(&match self.format {
            Format::Json => json::pretty(value),
            Format::Csv => csv::objects(std::slice::from_ref(value)),
            Format::Table => format!("{}\n", table.trim_end()),
        })
    }

    /// Prints SSH hosts: a list in JSON, a CSV row each, or `ssh_config` itself.
    pub(crate) fn print_hosts(self, hosts: &[Value], config: &str) -> Result<(), CliError> {
        write(&match self.format {
            Format::Json => {
                json::pretty(&serde_json::json!({ "hosts": hosts, "next_page_token": "" }))
            }
            Format::Csv => csv::objects(hosts),
            Format::Table => config.to_owned(),
        })
    }
}

fn render<M: Message + Name>(format: Format, message: &M) -> String {
    let message = message::reflect(message);
    match format {
        Format::Json => json::document(&message),
        Format::Csv => csv::document(&message),
        Format::Table => table::document(&message),
    }
}

/// Writes to stdout; a reader that has gone is told apart from a full disk.
pub(crate) fn write(text: &str) -> Result<(), CliError> {
    let mut stdout = io::stdout().lock();
    stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => CliError::OutputClosed,
            _ => CliError::local("writing the output", error),
        })
}

#[cfg(test)]
mod tests;
