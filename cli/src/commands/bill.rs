//! `freehold bill`: what was posted, and the usage records behind it.

use clap::{Args, Subcommand};
use freehold_proto::v1;
use prost_types::Timestamp;

use super::Context;
use crate::{args::PageArgs, connect::call, error::CliError, input, paging};

const REPORT_EXAMPLES: &str = "\
Examples:
  freehold bill report
  freehold bill report --from 2026-10 --to 2026-11 --group-by project
  freehold bill report --group-by label:team --output csv";

/// Bills.
#[derive(Debug, Subcommand)]
pub(crate) enum BillCommand {
    /// Sum what was posted for a period; default: this month up to now.
    #[command(after_help = REPORT_EXAMPLES)]
    Report(ReportArgs),
    /// List the usage records behind a bill, oldest first.
    Usage {
        /// Only this lease's, by id or name.
        #[arg(
            long,
            value_name = "LEASE",
            default_value = "",
            hide_default_value = true
        )]
        lease: String,
        #[command(flatten)]
        page: PageArgs,
    },
}

/// What `bill report` takes.
#[derive(Debug, Args)]
pub(crate) struct ReportArgs {
    /// Start: a time, a date or a month, UTC [default: this month's first instant].
    #[arg(long, value_name = "TIME", value_parser = input::parse_time, allow_hyphen_values = true)]
    from: Option<Timestamp>,
    /// End, exclusive [default: now].
    #[arg(long, value_name = "TIME", value_parser = input::parse_time, allow_hyphen_values = true)]
    to: Option<Timestamp>,
    /// organization, project, lease, type, label:KEY or day.
    #[arg(long, value_name = "WHAT", default_value = "organization")]
    group_by: String,
    #[command(flatten)]
    page: PageArgs,
}

/// Runs `freehold bill …`.
pub(crate) async fn run(context: &Context, command: BillCommand) -> Result<(), CliError> {
    let session = context.connect().await?;
    let organization = context.global.organization();
    let project = context.global.project();
    match command {
        BillCommand::Report(args) => {
            let report = paging::fetch(&args.page, async |_, page_token| {
                // The largest unless said otherwise: every page costs as much as the whole report.
                let page_size = args.page.page_size.unwrap_or(0);
                let request = v1::GetReportRequest {
                    from_time: args.from,
                    to_time: args.to,
                    group_by: args.group_by.clone(),
                    organization: organization.clone(),
                    project: project.clone(),
                    page_size,
                    page_token,
                };
                call!(session.billing(), get_report, request)
            })
            .await?;
            context.out.print(&report)
        }
        BillCommand::Usage { lease, page } => {
            let records = paging::fetch(&page, async |page_size, page_token| {
                let request = v1::ListUsageRecordsRequest {
                    page_size,
                    page_token,
                    lease: lease.clone(),
                    organization: organization.clone(),
                    project: project.clone(),
                };
                call!(session.billing(), list_usage_records, request)
            })
            .await?;
            context.out.print(&records)
        }
    }
}
