//! What is owed. Pure: no clock, no database.

mod closing;
mod difference;
mod meter;
mod money;
mod report;
#[cfg(test)]
mod tests;

pub use closing::{Ending, Unknown, may_close};
pub use difference::{Change, Posted, difference};
pub use meter::{HOUR, Period, Segment, Stretch, StretchKind, meter, next_due};
pub use money::{amount_micros, decimal};
pub use report::{GroupBy, ReportCursor, ReportPage, report_range};
