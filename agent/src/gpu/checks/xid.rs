//! Xids that have a consequence.

use super::{Prevents, Snapshot, finding};
use crate::{
    gpu::xid::{Severity, meaning},
    model::HealthFinding,
};

pub(super) fn check(snapshot: &Snapshot) -> Vec<HealthFinding> {
    let mut findings: Vec<HealthFinding> = Vec::new();
    for mark in &snapshot.xids {
        let prevents = match mark.severity {
            Severity::Application => continue,
            Severity::Degraded => Prevents::Allocation,
            Severity::Fatal => Prevents::Use,
        };
        let found = finding(
            &mark.gpu_uuid,
            &format!("xid_{}", mark.xid),
            prevents,
            format!("Xid {}: {}", mark.xid, meaning(mark.xid)),
        );
        if !findings.contains(&found) {
            findings.push(found);
        }
    }
    findings
}
