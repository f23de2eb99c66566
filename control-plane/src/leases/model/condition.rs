//! Whether an instance can be used now, and whose fault it is when not: the rule behind every availability row.

use super::instance::Reported;

/// What is known of an instance and its host at one moment.
#[derive(Debug, Clone)]
pub struct Observation {
    /// The host's agent is heard.
    pub host_heard: bool,
    /// What the agent says of the instance.
    pub reported: Reported,
    /// The agent's words.
    pub detail: String,
    /// The sshd inside accepts connections.
    pub sshd_listening: bool,
    /// GPUs that the instance should have and that were not seen inside.
    pub missing_gpus: usize,
    /// A health finding that prevents use, in words.
    pub finding: Option<String>,
}

/// Whose fault it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultParty {
    /// Nobody's: it is usable.
    None,
    /// The provider's: the meter pauses.
    Provider,
    /// The tenant's own: the meter goes on.
    Tenant,
}

/// Whether an instance can be used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Availability {
    /// It was seen to be usable.
    Usable,
    /// It was seen not to be.
    Unusable,
    /// Nothing can be said.
    Unknown,
}

/// A conclusion and what it rests on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Condition {
    /// Whether it can be used.
    pub availability: Availability,
    /// Whose fault it is when not.
    pub fault: FaultParty,
    /// What it was concluded from.
    pub evidence: String,
}

impl Availability {
    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Usable => "usable",
            Self::Unusable => "unusable",
            Self::Unknown => "unknown",
        }
    }
}

impl FaultParty {
    /// As stored.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Provider => "provider",
            Self::Tenant => "tenant",
        }
    }
}

/// Draws the conclusion. The first rule that applies holds: silence, then the provider's faults, then the tenant's.
#[must_use]
pub fn conclude(observation: &Observation) -> Condition {
    let provider =
        |evidence: String| condition(Availability::Unusable, FaultParty::Provider, evidence);
    let tenant = |evidence: String| condition(Availability::Unusable, FaultParty::Tenant, evidence);
    let unknown =
        |evidence: String| condition(Availability::Unknown, FaultParty::Provider, evidence);
    if !observation.host_heard {
        return unknown("the host's agent is not heard".to_owned());
    }
    if let Some(finding) = &observation.finding {
        return provider(finding.clone());
    }
    match observation.reported {
        Reported::Unknown => unknown(format!("the agent cannot say: {}", observation.detail)),
        Reported::Absent | Reported::Removing | Reported::Failed => provider(format!(
            "the instance is {} on its host: {}",
            observation.reported, observation.detail
        )),
        Reported::Preparing => provider("the instance is being brought up again".to_owned()),
        Reported::Stopped => tenant(format!(
            "the instance was stopped from inside: {}",
            observation.detail
        )),
        Reported::Running if observation.missing_gpus > 0 => provider(format!(
            "{} of its GPUs are not visible inside",
            observation.missing_gpus
        )),
        Reported::Running if !observation.sshd_listening => {
            tenant("the sshd inside does not answer".to_owned())
        }
        Reported::Running => condition(
            Availability::Usable,
            FaultParty::None,
            "running, its sshd listens, all GPUs visible".to_owned(),
        ),
    }
}

fn condition(availability: Availability, fault: FaultParty, evidence: String) -> Condition {
    Condition {
        availability,
        fault,
        evidence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn good() -> Observation {
        Observation {
            host_heard: true,
            reported: Reported::Running,
            detail: String::new(),
            sshd_listening: true,
            missing_gpus: 0,
            finding: None,
        }
    }

    fn check(observation: &Observation, availability: Availability, fault: FaultParty) {
        let condition = conclude(observation);
        assert_eq!(
            (condition.availability, condition.fault),
            (availability, fault),
            "{observation:?}"
        );
        assert!(!condition.evidence.is_empty());
    }

    #[test]
    fn silence_is_unknown_and_not_an_end() {
        check(
            &Observation {
                host_heard: false,
                ..good()
            },
            Availability::Unknown,
            FaultParty::Provider,
        );
        check(
            &Observation {
                reported: Reported::Unknown,
                ..good()
            },
            Availability::Unknown,
            FaultParty::Provider,
        );
    }

    #[test]
    fn a_tenants_own_fault_is_the_tenants() {
        check(
            &Observation {
                sshd_listening: false,
                ..good()
            },
            Availability::Unusable,
            FaultParty::Tenant,
        );
        check(
            &Observation {
                reported: Reported::Stopped,
                ..good()
            },
            Availability::Unusable,
            FaultParty::Tenant,
        );
    }

    #[test]
    fn a_providers_fault_comes_before_the_tenants() {
        let lost = Observation {
            finding: Some("gpu_lost".to_owned()),
            sshd_listening: false,
            ..good()
        };
        check(&lost, Availability::Unusable, FaultParty::Provider);
        check(
            &Observation {
                missing_gpus: 1,
                ..good()
            },
            Availability::Unusable,
            FaultParty::Provider,
        );
        check(
            &Observation {
                reported: Reported::Absent,
                ..good()
            },
            Availability::Unusable,
            FaultParty::Provider,
        );
        check(&good(), Availability::Usable, FaultParty::None);
    }
}
