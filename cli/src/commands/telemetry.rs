//! `freehold telemetry`: what a host's GPUs do.

use clap::Args;
use freehold_proto::v1;

use super::Context;
use crate::{connect::call, error::CliError};

/// What `telemetry` takes.
#[derive(Debug, Args)]
#[command(
    after_help = "The operator sees every host, others those their instances are on (`freehold lease get`).\n\nExamples:\n  freehold telemetry gpu-node-17 --minutes 60 --output json"
)]
pub(crate) struct TelemetryArgs {
    /// The host, by id or name.
    host: String,
    /// Minutes of one-minute rollups, up to now.
    #[arg(long, value_name = "N", default_value_t = 15, value_parser = clap::value_parser!(i32).range(1..=1440))]
    minutes: i32,
}

/// Runs `freehold telemetry`.
pub(crate) async fn run(context: &Context, args: TelemetryArgs) -> Result<(), CliError> {
    let session = context.connect().await?;
    let request = v1::GetHostTelemetryRequest {
        host: args.host,
        minutes: args.minutes,
    };
    let telemetry = call!(session.telemetry(), get_host_telemetry, request)?;
    context.out.print(&telemetry)
}
