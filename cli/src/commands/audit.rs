//! `freehold audit`: who changed what.

use clap::Subcommand;
use freehold_proto::v1;

use super::Context;
use crate::{args::PageArgs, connect::call, error::CliError, paging};

/// Audit entries.
#[derive(Debug, Subcommand)]
pub(crate) enum AuditCommand {
    /// List audit entries, newest first.
    #[command(after_help = "Examples:\n  freehold audit list --action lease.create --page-size 20")]
    List {
        /// Only this action: `lease.create`, `host.release` …
        #[arg(long, default_value = "", hide_default_value = true)]
        action: String,
        #[command(flatten)]
        page: PageArgs,
    },
}

/// Runs `freehold audit …`.
pub(crate) async fn run(context: &Context, command: AuditCommand) -> Result<(), CliError> {
    let AuditCommand::List { action, page } = command;
    let session = context.connect().await?;
    let organization = context.global.organization();
    let list = paging::fetch(&page, async |page_size, page_token| {
        let request = v1::ListAuditEntriesRequest {
            page_size,
            page_token,
            organization: organization.clone(),
            action: action.clone(),
        };
        call!(session.audit(), list_audit_entries, request)
    })
    .await?;
    context.out.print(&list)
}
