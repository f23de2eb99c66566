//! `freehold type`: what is sold and at which price.

use clap::{Args, Subcommand, ValueEnum};
use freehold_proto::v1;
use prost_types::Timestamp;

use super::Context;
use crate::{args::PageArgs, connect::call, error::CliError, input, paging};

const CREATE_EXAMPLES: &str = "\
Examples:
  freehold type create gpu_4x_h100_sxm5 --gpu 'H100 80GB HBM3' --count 4 --vcpus 96 --memory 900 --scratch 7000 --micros 1890000";

/// Instance types.
#[derive(Debug, Subcommand)]
pub(crate) enum TypeCommand {
    /// List instance types with the prices that hold now. `name` is what `--type` takes.
    List {
        #[command(flatten)]
        page: PageArgs,
    },
    /// Show one instance type.
    Get {
        /// Name or id.
        instance_type: String,
    },
    /// Add an instance type with its first price (operator).
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// Set a price from an instant on; leases keep the price they were booked at (operator).
    #[command(
        after_help = "Examples:\n  freehold type set-price gpu_8x_h100_sxm5 --micros 1990000 --from 2027-01-01"
    )]
    SetPrice(PriceArgs),
    /// List an instance type's prices, newest validity first.
    Prices {
        /// Name or id.
        instance_type: String,
        #[command(flatten)]
        page: PageArgs,
    },
}

/// What `type create` takes.
#[derive(Debug, Args)]
pub(crate) struct CreateArgs {
    /// 3 to 63 characters: a-z, 0-9, `_`, `-`; begins with a letter.
    name: String,
    /// The GPU model as `host list` shows it: 'H100 80GB HBM3'.
    #[arg(long, value_name = "MODEL")]
    gpu: String,
    /// GPUs of one instance.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    count: i32,
    /// Virtual CPUs.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    vcpus: i32,
    /// Memory in GiB.
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    memory: i32,
    /// Encrypted scratch at /lease, in GiB.
    #[arg(long, value_name = "GIB", allow_negative_numbers = true)]
    scratch: i32,
    /// Price in millionths per GPU-hour: 1890000 is 1.89.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    micros: i64,
    /// ISO 4217 code [default: USD].
    #[arg(
        long,
        value_name = "CODE",
        default_value = "",
        hide_default_value = true
    )]
    currency: String,
    /// How usable time is rounded [default: hour].
    #[arg(long, value_enum)]
    rounding: Option<Rounding>,
    /// Makes the create safe to repeat for 24 hours [default: a fresh one].
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// What `type set-price` takes.
#[derive(Debug, Args)]
pub(crate) struct PriceArgs {
    /// Name or id.
    instance_type: String,
    /// Price in millionths per GPU-hour: 1890000 is 1.89.
    #[arg(long, value_name = "N", allow_negative_numbers = true)]
    micros: i64,
    /// First instant at which it holds: a time, `+2h`, or a date [default: now].
    #[arg(long, value_name = "TIME", value_parser = input::parse_time, allow_hyphen_values = true)]
    from: Option<Timestamp>,
    /// How usable time is rounded [default: as before].
    #[arg(long, value_enum)]
    rounding: Option<Rounding>,
    /// Makes the change safe to repeat for 24 hours [default: a fresh one].
    #[arg(long, value_name = "ID")]
    request_id: Option<String>,
}

/// Which started unit of usable time counts whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Rounding {
    /// Every started hour.
    Hour,
    /// Every started minute.
    Minute,
    /// Every started second.
    Second,
}

fn rounding(rounding: Option<Rounding>) -> i32 {
    let rounding = match rounding {
        None => v1::Rounding::Unspecified,
        Some(Rounding::Hour) => v1::Rounding::Hour,
        Some(Rounding::Minute) => v1::Rounding::Minute,
        Some(Rounding::Second) => v1::Rounding::Second,
    };
    rounding.into()
}

fn create_request(args: CreateArgs) -> v1::CreateInstanceTypeRequest {
    v1::CreateInstanceTypeRequest {
        name: args.name,
        gpu_model: args.gpu,
        gpu_count: args.count,
        vcpus: args.vcpus,
        memory_gib: args.memory,
        scratch_gib: args.scratch,
        micros: args.micros,
        currency: args.currency,
        rounding: rounding(args.rounding),
        request_id: input::request_id(args.request_id),
    }
}

/// Runs `freehold type …`.
pub(crate) async fn run(context: &Context, command: TypeCommand) -> Result<(), CliError> {
    let session = context.connect().await?;
    match command {
        TypeCommand::List { page } => {
            let list = paging::fetch(&page, async |page_size, page_token| {
                let request = v1::ListInstanceTypesRequest {
                    page_size,
                    page_token,
                };
                call!(session.catalog(), list_instance_types, request)
            })
            .await?;
            context.out.print(&list)
        }
        TypeCommand::Get { instance_type } => {
            let request = v1::GetInstanceTypeRequest { instance_type };
            let instance_type = call!(session.catalog(), get_instance_type, request)?;
            context.out.print(&instance_type)
        }
        TypeCommand::Create(args) => {
            let request = create_request(args);
            let instance_type = call!(session.catalog(), create_instance_type, request)?;
            context.out.print(&instance_type)
        }
        TypeCommand::SetPrice(args) => {
            let request = v1::SetPriceRequest {
                instance_type: args.instance_type,
                micros: args.micros,
                valid_from: args.from,
                rounding: rounding(args.rounding),
                request_id: input::request_id(args.request_id),
            };
            let price = call!(session.catalog(), set_price, request)?;
            context.out.print(&price)
        }
        TypeCommand::Prices {
            instance_type,
            page,
        } => {
            let list = paging::fetch(&page, async |page_size, page_token| {
                let instance_type = instance_type.clone();
                let request = v1::ListPricesRequest {
                    instance_type,
                    page_size,
                    page_token,
                };
                call!(session.catalog(), list_prices, request)
            })
            .await?;
            context.out.print(&list)
        }
    }
}
