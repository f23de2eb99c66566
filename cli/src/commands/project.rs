//! `freehold project`: cost centres.

use clap::Subcommand;
use freehold_proto::v1;

use super::Context;
use crate::{args::PageArgs, connect::call, error::CliError, input, paging};

/// Projects.
#[derive(Debug, Subcommand)]
pub(crate) enum ProjectCommand {
    /// Make a project in an organization (`--org`; default: the caller's).
    Create {
        /// 1 to 63 characters: a-z, 0-9, `-`; begins with a letter.
        name: String,
        /// Makes the create safe to repeat for 24 hours [default: a fresh one].
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// List projects: of `--org`, else of the caller's organization, else (operator) all.
    List {
        #[command(flatten)]
        page: PageArgs,
    },
}

/// Runs `freehold project …`.
pub(crate) async fn run(context: &Context, command: ProjectCommand) -> Result<(), CliError> {
    let session = context.connect().await?;
    let organization = context.global.organization();
    match command {
        ProjectCommand::Create { name, request_id } => {
            let request = v1::CreateProjectRequest {
                name,
                organization,
                request_id: input::request_id(request_id),
            };
            let project = call!(session.organizations(), create_project, request)?;
            context.out.print(&project)
        }
        ProjectCommand::List { page } => {
            let list = paging::fetch(&page, async |page_size, page_token| {
                let organization = organization.clone();
                let request = v1::ListProjectsRequest {
                    page_size,
                    page_token,
                    organization,
                };
                call!(session.organizations(), list_projects, request)
            })
            .await?;
            context.out.print(&list)
        }
    }
}
