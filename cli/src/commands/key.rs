//! `freehold key`: API keys.

use clap::{Subcommand, ValueEnum};
use freehold_proto::v1;

use super::Context;
use crate::{args::PageArgs, connect::call, error::CliError, input, paging};

const EXAMPLES: &str = "\
Examples:
  freehold key create --org vision-lab --role developer --expires 90d
  freehold key create --org vision-lab --project training --output json | jq -r .secret";

/// API keys.
#[derive(Debug, Subcommand)]
pub(crate) enum KeyCommand {
    /// Make a key. Its secret is shown once, in this answer.
    #[command(after_help = EXAMPLES)]
    Create {
        /// What the key may do. Not more than the caller's own role.
        #[arg(long, value_enum, default_value_t = Role::Developer)]
        role: Role,
        /// How long it is valid: `90d`, `12h`; at most 366 days.
        #[arg(long, value_name = "DURATION", default_value = "90d", value_parser = input::parse_lifetime)]
        expires: i64,
        /// What it is for, at most 63 characters.
        #[arg(long, default_value = "", hide_default_value = true)]
        name: String,
        /// Makes the create safe to repeat for 24 hours [default: a fresh one].
        #[arg(long, value_name = "ID")]
        request_id: Option<String>,
    },
    /// List keys, without their secrets.
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Revoke a key: calls with it are refused from now on.
    Revoke {
        /// The key's id: `key_…`.
        key: String,
    },
}

/// What a key may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Role {
    /// Everything within its organization, keys of every role included.
    Owner,
    /// Everything within its organization but keys of owners.
    Admin,
    /// Leases and access within its organization.
    Developer,
    /// Reads bills and leases.
    Billing,
    /// Reads leases.
    Viewer,
    /// Runs the platform: hosts, prices, organizations, every lease.
    Operator,
    /// Reads everything, changes nothing.
    Auditor,
}

impl From<Role> for v1::Role {
    fn from(role: Role) -> Self {
        match role {
            Role::Owner => Self::Owner,
            Role::Admin => Self::Admin,
            Role::Developer => Self::Developer,
            Role::Billing => Self::Billing,
            Role::Viewer => Self::Viewer,
            Role::Operator => Self::Operator,
            Role::Auditor => Self::Auditor,
        }
    }
}

/// Runs `freehold key …`.
pub(crate) async fn run(context: &Context, command: KeyCommand) -> Result<(), CliError> {
    let session = context.connect().await?;
    let organization = context.global.organization();
    match command {
        KeyCommand::Create {
            role,
            expires,
            name,
            request_id,
        } => {
            let request = v1::CreateApiKeyRequest {
                organization,
                project: context.global.project(),
                role: v1::Role::from(role).into(),
                ttl_seconds: expires,
                name,
                request_id: input::request_id(request_id),
            };
            let key = call!(session.access(), create_api_key, request)?;
            context.out.print(&key)?;
            if context.out.is_table() {
                eprintln!("Keep the secret now: it is not shown again. Use it as FREEHOLD_TOKEN.");
            }
            Ok(())
        }
        KeyCommand::List { page } => {
            let list = paging::fetch(&page, async |page_size, page_token| {
                let organization = organization.clone();
                let request = v1::ListApiKeysRequest {
                    page_size,
                    page_token,
                    organization,
                };
                call!(session.access(), list_api_keys, request)
            })
            .await?;
            context.out.print(&list)
        }
        KeyCommand::Revoke { key } => {
            let request = v1::RevokeApiKeyRequest { api_key: key };
            let key = call!(session.access(), revoke_api_key, request)?;
            context.out.print(&key)
        }
    }
}
