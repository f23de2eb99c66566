//! The machines: enrolment, the link to their agents, what they have, and whether they may be leased.

pub mod links;
pub mod quarantine;
