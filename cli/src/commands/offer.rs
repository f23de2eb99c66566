//! `freehold offer`: what could be leased.

use clap::{Args, Subcommand};
use freehold_proto::v1;
use prost_types::Timestamp;

use super::Context;
use crate::{connect::call, error::CliError, input};

/// Offers.
#[derive(Debug, Subcommand)]
pub(crate) enum OfferCommand {
    /// Answer what could be leased and at which price. Holds nothing.
    #[command(
        after_help = "Examples:\n  freehold offer search --type gpu_8x_h100_sxm5 --count 4 --start +2h --hours 24"
    )]
    Search(SearchArgs),
}

/// What `offer search` takes.
#[derive(Debug, Args)]
pub(crate) struct SearchArgs {
    /// Instance type, by name or id (`freehold type list`).
    #[arg(long = "type", value_name = "TYPE")]
    instance_type: String,
    /// Instances, all in one sector.
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(i32).range(1..=1024))]
    count: i32,
    /// Start of the window: a time, a date, or `+2h` [default: now].
    #[arg(long, value_name = "TIME", value_parser = input::parse_time, allow_hyphen_values = true)]
    start: Option<Timestamp>,
    /// Whole hours [default: open-ended].
    #[arg(long, value_name = "H", value_parser = clap::value_parser!(i32).range(1..=8784))]
    hours: Option<i32>,
}

/// Runs `freehold offer …`.
pub(crate) async fn run(context: &Context, command: OfferCommand) -> Result<(), CliError> {
    let OfferCommand::Search(args) = command;
    let session = context.connect().await?;
    let request = v1::SearchOffersRequest {
        instance_type: args.instance_type,
        count: args.count,
        start_time: args.start,
        hours: args.hours.unwrap_or(0),
    };
    let offers = call!(session.catalog(), search_offers, request)?;
    context.out.print(&offers)
}
