//! `freehold org`: tenants.

use clap::Subcommand;
use freehold_proto::v1;

use super::Context;
use crate::{args::PageArgs, connect::call, error::CliError, input, paging};

/// Organizations.
#[derive(Debug, Subcommand)]
pub(crate) enum OrganizationCommand {
    /// Make an organization, with its project `default` (operator).
    Create {
        /// 1 to 63 characters: a-z, 0-9, `-`; begins with a letter.
        name: String,
        /// Makes the create safe to repeat for 24 hours [default: a fresh one].
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// List organizations: all for the operator, the caller's own for others.
    List {
        #[command(flatten)]
        page: PageArgs,
    },
}

/// Runs `freehold org …`.
pub(crate) async fn run(context: &Context, command: OrganizationCommand) -> Result<(), CliError> {
    let session = context.connect().await?;
    match command {
        OrganizationCommand::Create { name, request_id } => {
            let request = v1::CreateOrganizationRequest {
                name,
                request_id: input::request_id(request_id),
            };
            let organization = call!(session.organizations(), create_organization, request)?;
            context.out.print(&organization)
        }
        OrganizationCommand::List { page } => {
            let list = paging::fetch(&page, async |page_size, page_token| {
                let request = v1::ListOrganizationsRequest {
                    page_size,
                    page_token,
                };
                call!(session.organizations(), list_organizations, request)
            })
            .await?;
            context.out.print(&list)
        }
    }
}
