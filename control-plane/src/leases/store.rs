//! SQL of leases. A method is a whole transaction, or takes part in the caller's.

mod create;
mod end;
mod event;
mod fold;
mod history;
mod hosts;
mod item;
mod load;

pub use create::scratch_secret_name;
pub(crate) use create::{Booked, Create, Unmet, create_lease};
pub use end::{end_instances, end_lease};
pub use event::record_event;
pub use fold::refold;
pub use history::{AvailabilityRow, EventRow, History, load_history};
pub(crate) use hosts::{Need, calendars, claim_hosts, claim_in_sector, free_by_sector};
pub use item::PriceRow;
pub(crate) use item::{find_item, margins, need};
pub use load::{
    InstanceRow, LeaseFilter, LeaseRecord, LeaseRow, ScrubRow, SegmentRow, StepRow, find_lease,
    list_leases, load_lease, load_leases,
};
