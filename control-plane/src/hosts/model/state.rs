//! A host's state: a fold of what is recorded of it.
//!
//! ```text
//! removed < quarantined < unknown < leased < scrubbing < cordoned < available
//! ```
//! The first that holds is the state. Nothing is stored: what is recorded are facts, and the state follows from them.

use std::fmt;

use freehold_proto::id::LeaseId;

/// A host's state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::hosts) enum HostState {
    Available,
    Leased,
    Scrubbing,
    Quarantined,
    Cordoned,
    /// The agent is not heard. Nothing is concluded from that.
    Unknown,
    Removed,
}

/// What is recorded of a host.
#[derive(Debug, Clone, Default)]
pub(in crate::hosts) struct Facts {
    pub(in crate::hosts) removed: bool,
    pub(in crate::hosts) quarantine_reason: Option<String>,
    /// Whole seconds since the agent was heard; `None`: it never was.
    pub(in crate::hosts) silent_seconds: Option<i64>,
    /// Silence that makes a host unknown.
    pub(in crate::hosts) host_timeout_seconds: i64,
    /// The lease whose instance is on the host, and the instance's recorded state.
    pub(in crate::hosts) lease: Option<(LeaseId, String)>,
    pub(in crate::hosts) clean: bool,
    pub(in crate::hosts) cordoned: bool,
    pub(in crate::hosts) findings: Vec<Noticed>,
}

/// A finding, as far as it matters for the state.
#[derive(Debug, Clone)]
pub(in crate::hosts) struct Noticed {
    /// Empty: the whole host.
    pub(in crate::hosts) gpu_uuid: String,
    pub(in crate::hosts) check: String,
    pub(in crate::hosts) detail: String,
    pub(in crate::hosts) prevents_allocation: bool,
}

impl fmt::Display for Noticed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.check)?;
        if !self.gpu_uuid.is_empty() {
            write!(f, " on {}", self.gpu_uuid)?;
        }
        if !self.detail.is_empty() {
            write!(f, ": {}", self.detail)?;
        }
        Ok(())
    }
}

/// The findings that keep a host from being leased, in words; `None`: none does.
pub(in crate::hosts) fn preventing(findings: &[Noticed]) -> Option<String> {
    let preventing = findings.iter().filter(|found| found.prevents_allocation);
    let words: Vec<String> = preventing.map(Noticed::to_string).collect();
    (!words.is_empty()).then(|| words.join("; "))
}

/// The state that follows from the facts, and why.
pub(in crate::hosts) fn state_of(facts: &Facts) -> (HostState, String) {
    let (state, mut reason) = fold(facts);
    if !matches!(state, HostState::Removed | HostState::Quarantined) {
        for finding in &facts.findings {
            if !reason.is_empty() {
                reason.push_str("; ");
            }
            reason.push_str(&format!("finding {finding}"));
        }
    }
    (state, reason)
}

fn fold(facts: &Facts) -> (HostState, String) {
    if facts.removed {
        return (HostState::Removed, "removed by the operator".to_owned());
    }
    if let Some(reason) = &facts.quarantine_reason {
        return (HostState::Quarantined, reason.clone());
    }
    match facts.silent_seconds {
        None => {
            let reason = "its agent has not connected yet; start it with `freehold-agent run`";
            return (HostState::Unknown, reason.to_owned());
        }
        Some(seconds) if seconds > facts.host_timeout_seconds => {
            let reason = format!("its agent was last heard {seconds} s ago");
            return (HostState::Unknown, reason);
        }
        Some(_) => {}
    }
    if let Some((lease, instance)) = &facts.lease {
        return (
            HostState::Leased,
            format!("{lease}, whose instance is {instance}"),
        );
    }
    if !facts.clean {
        return (HostState::Scrubbing, "being cleaned and checked".to_owned());
    }
    if facts.cordoned {
        let reason = "cordoned by the operator; `freehold host uncordon` ends it";
        return (HostState::Cordoned, reason.to_owned());
    }
    if preventing(&facts.findings).is_some() {
        // The reconciler quarantines it in a moment; it is not to be had in between.
        return (HostState::Quarantined, "about to be quarantined".to_owned());
    }
    (HostState::Available, String::new())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Facts {
        Facts {
            silent_seconds: Some(1),
            host_timeout_seconds: 15,
            clean: true,
            ..Facts::default()
        }
    }

    #[test]
    fn the_first_that_holds_is_the_state() {
        let mut facts = good();
        assert_eq!(state_of(&facts), (HostState::Available, String::new()));
        facts.cordoned = true;
        assert_eq!(state_of(&facts).0, HostState::Cordoned);
        facts.clean = false;
        assert_eq!(state_of(&facts).0, HostState::Scrubbing);
        facts.lease = Some((LeaseId::new(), "usable".to_owned()));
        assert_eq!(state_of(&facts).0, HostState::Leased);
        facts.silent_seconds = Some(16);
        assert_eq!(state_of(&facts).0, HostState::Unknown);
        facts.quarantine_reason = Some("gpu_count failed".to_owned());
        let quarantined = (HostState::Quarantined, "gpu_count failed".to_owned());
        assert_eq!(state_of(&facts), quarantined);
        facts.removed = true;
        assert_eq!(state_of(&facts).0, HostState::Removed);
    }

    #[test]
    fn a_host_that_never_called_is_unknown() {
        let facts = Facts {
            silent_seconds: None,
            ..good()
        };
        assert_eq!(state_of(&facts).0, HostState::Unknown);
    }

    #[test]
    fn a_finding_is_shown_and_one_that_prevents_allocation_is_never_available() {
        let finding = Noticed {
            gpu_uuid: "GPU-1".to_owned(),
            check: "row_remap_pending".to_owned(),
            detail: "reset before the next lease".to_owned(),
            prevents_allocation: false,
        };
        let mut facts = Facts {
            findings: vec![finding],
            ..good()
        };
        let (state, reason) = state_of(&facts);
        assert_eq!(state, HostState::Available);
        assert!(
            reason.contains("row_remap_pending on GPU-1: reset"),
            "{reason}"
        );
        facts.findings[0].prevents_allocation = true;
        assert_ne!(state_of(&facts).0, HostState::Available);
    }
}
