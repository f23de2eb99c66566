//! `freehold lease create`.

use std::{collections::BTreeMap, path::PathBuf};

use clap::Args;
use freehold_proto::v1;
use prost_types::Timestamp;

use super::wait;
use crate::{commands::Context, connect::call, error::CliError, input, progress::Progress};

pub(super) const EXAMPLES: &str = "\
Examples:
  freehold lease create --type gpu_8x_h100_sxm5 --wait
  freehold lease create --type gpu_8x_h100_sxm5 --count 4 --start 2026-12-01T08:00Z --hours 24 --name pretrain --label team=vision
  freehold lease create --type gpu_1x_a100_80gb --hours 2 --ssh-key ~/.ssh/id_ed25519.pub --image registry.example.com/torch:2.9

Without --hours the lease goes on until `freehold lease end`. `freehold ssh` needs no --ssh-key: it fetches a certificate.";

/// What `lease create` takes.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// Instance type, by name or id (`freehold type list`).
    #[arg(long = "type", value_name = "TYPE")]
    instance_type: String,
    /// Instances, all in one sector, or none is reserved [default: 1].
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    count: Option<i32>,
    /// Start of the window: `2026-12-01T08:00Z`, `2026-12-01 08:00` (UTC) or `+2h` [default: now].
    #[arg(long, value_name = "TIME", value_parser = input::parse_time, allow_hyphen_values = true)]
    start: Option<Timestamp>,
    /// Whole hours [default: open-ended].
    #[arg(long, value_name = "H", allow_negative_numbers = true)]
    hours: Option<i32>,
    /// File with a public key that may log in; may be repeated.
    #[arg(long, value_name = "FILE.pub")]
    ssh_key: Vec<PathBuf>,
    /// Container image [default: the operator's].
    #[arg(
        long,
        value_name = "IMAGE",
        default_value = "",
        hide_default_value = true
    )]
    image: String,
    /// Name: a-z, 0-9, `-`, begins with a letter [default: one is made].
    #[arg(
        long,
        value_name = "NAME",
        default_value = "",
        hide_default_value = true
    )]
    name: String,
    /// A label for bills, KEY=VALUE; may be repeated.
    #[arg(long, value_name = "KEY=VALUE", value_parser = input::parse_label)]
    label: Vec<(String, String)>,
    /// Makes the create safe to repeat: the same id and options give the same lease [default: a fresh one].
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
    /// Return when every instance is usable; fail with the reason when that is not to be.
    #[arg(long)]
    wait: bool,
}

/// Runs `freehold lease create`.
pub(super) async fn run(context: &Context, args: CreateArgs) -> Result<(), CliError> {
    let wanted = args.wait;
    let request = request(context, args)?;
    let session = context.connect().await?;
    let mut progress = wanted.then(Progress::new);
    if let Some(progress) = &mut progress {
        progress.show("reserving");
    }
    let lease = call!(session.leases(), create_lease, request)?;
    let Some(mut progress) = progress else {
        return context.out.print(&lease);
    };
    let (lease, verdict) =
        wait::until(context, &session, lease, wait::judge_create, &mut progress).await?;
    drop(progress);
    context.out.print(&lease)?;
    verdict.map_err(CliError::Outcome)
}

fn request(context: &Context, args: CreateArgs) -> Result<v1::CreateLeaseRequest, CliError> {
    let mut labels = BTreeMap::new();
    for (key, value) in args.label {
        if labels.insert(key.clone(), value).is_some() {
            return Err(CliError::input(
                "--label",
                format!("`{key}` is given twice; give each key once"),
            ));
        }
    }
    Ok(v1::CreateLeaseRequest {
        instance_type: args.instance_type,
        count: args.count,
        start_time: args.start,
        hours: args.hours,
        ssh_public_keys: input::read_public_keys(&args.ssh_key)?,
        image: args.image,
        name: args.name,
        labels,
        organization: context.global.organization(),
        project: context.global.project(),
        request_id: input::request_id(args.request_id),
    })
}
