//! What is to be done about an instance: a function of what is known of it and its host, and of the limits of time.

use chrono::TimeDelta;

use super::{
    condition::{Availability, Condition, FaultParty, Observation, conclude},
    instance::{Recorded, Reported},
};

/// Placements that an instance gets. A second host rules out that the first one was at fault; a third would only make the tenant wait.
pub const MAX_PLACEMENTS: i64 = 2;

/// Limits of time that decisions depend on.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From provisioning to usable.
    pub provision: TimeDelta,
    /// From running to an sshd that answers and GPUs that are seen.
    pub verify: TimeDelta,
    /// From the end of an instance to the end of its host's scrub.
    pub scrub: TimeDelta,
    /// Silence that is not yet taken for one.
    pub silence: TimeDelta,
}

/// An instance and its host at one moment.
#[derive(Debug, Clone)]
pub struct Situation {
    /// Its state.
    pub recorded: Recorded,
    /// For how long it has been in that state.
    pub recorded_for: TimeDelta,
    /// For how long the agent has reported the same.
    pub reported_for: TimeDelta,
    /// What is known of it.
    pub observation: Observation,
    /// The failure that was reported is the image's or the tenant's.
    pub tenant_fault: bool,
    /// Counts its placements.
    pub generation: i64,
    /// Its window, less the lead, has begun.
    pub due: bool,
    /// For how long it has been due.
    pub due_for: TimeDelta,
    /// Why its host cannot take it; `None`: it can.
    pub host_refuses: Option<String>,
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Nothing now.
    Wait,
    /// Its time has come, and its host is ready: provision it.
    Begin,
    /// Tell the agent that it has to run.
    Order,
    /// Log in: a session that works is the proof that it is usable.
    Prove,
    /// Write down whether it can be used.
    Observe(Condition),
    /// Give it another host, for this reason.
    Replace(String),
    /// It cannot be made usable, for this reason.
    Fail(String),
    /// Tell the agent that it has to be gone.
    Remove,
    /// The agent said that nothing of it is left.
    Conclude,
    /// Its host never said that it is gone: the host is quarantined, for this reason.
    GiveUp(String),
}

/// Decides. Everything that is decided is repeated until it has its effect.
#[must_use]
pub fn decide(situation: &Situation, limits: &Limits) -> Decision {
    match situation.recorded {
        Recorded::Pending | Recorded::Placed => before_it_runs(situation, limits),
        Recorded::Provisioning => while_it_comes_up(situation, limits),
        Recorded::Usable | Recorded::Impaired => while_it_is_up(situation, limits),
        Recorded::Ending => while_it_goes(situation, limits),
        Recorded::Ended => Decision::Wait,
    }
}

fn before_it_runs(situation: &Situation, limits: &Limits) -> Decision {
    if !situation.due {
        return Decision::Wait;
    }
    let refusal = match (situation.recorded, &situation.host_refuses) {
        (Recorded::Placed, None) => return Decision::Begin,
        (_, Some(refusal)) => refusal.clone(),
        (_, None) => "no host is free".to_owned(),
    };
    if situation.due_for >= limits.provision {
        return Decision::Fail(format!(
            "no host could take it within {}: {refusal}. Nothing was billed; create the lease again, or search for an offer",
            in_words(limits.provision)
        ));
    }
    // An equal host takes it, when there is one; a host that is only out of sight for a moment may still take it itself.
    Decision::Replace(refusal)
}

fn while_it_comes_up(situation: &Situation, limits: &Limits) -> Decision {
    let seen = &situation.observation;
    match seen.reported {
        Reported::Failed if situation.tenant_fault => return Decision::Fail(seen.detail.clone()),
        Reported::Failed => return again_elsewhere(situation, seen.detail.clone()),
        Reported::Stopped => {
            return Decision::Fail(format!(
                "the instance stopped while it was brought up: {}. Check that the image starts and keeps running an sshd",
                seen.detail
            ));
        }
        Reported::Running if situation.reported_for >= limits.verify => {
            if let Some(decision) = unverified(situation, limits) {
                return decision;
            }
        }
        _ => {}
    }
    if situation.recorded_for >= limits.provision {
        let last = conclude(seen).evidence;
        return again_elsewhere(
            situation,
            format!(
                "it was not usable within {}: {last}",
                in_words(limits.provision)
            ),
        );
    }
    if !seen.host_heard {
        return Decision::Wait;
    }
    match seen.reported {
        Reported::Unknown | Reported::Absent | Reported::Removing => Decision::Order,
        Reported::Running if seen.sshd_listening && seen.missing_gpus == 0 => Decision::Prove,
        _ => Decision::Wait,
    }
}

/// What runs and cannot be verified in time: an sshd that does not answer is the image's, GPUs that are not seen are the host's.
fn unverified(situation: &Situation, limits: &Limits) -> Option<Decision> {
    let seen = &situation.observation;
    if seen.missing_gpus > 0 {
        return Some(again_elsewhere(situation, conclude(seen).evidence));
    }
    (!seen.sshd_listening).then(|| {
        Decision::Fail(format!(
            "the container runs, but its sshd did not answer within {}; use an image whose sshd listens on port 22, or build on freehold/base",
            in_words(limits.verify)
        ))
    })
}

fn again_elsewhere(situation: &Situation, reason: String) -> Decision {
    if situation.generation < MAX_PLACEMENTS {
        Decision::Replace(reason)
    } else {
        Decision::Fail(format!(
            "{reason}. It was tried on {MAX_PLACEMENTS} hosts; nothing was billed"
        ))
    }
}

fn while_it_is_up(situation: &Situation, limits: &Limits) -> Decision {
    let seen = &situation.observation;
    // An agent that has just started looks first. Until the limit that is as little a silence as a late heartbeat.
    if seen.host_heard
        && seen.reported == Reported::Unknown
        && situation.reported_for < limits.silence
    {
        return Decision::Wait;
    }
    let condition = conclude(seen);
    let proven = situation.recorded == Recorded::Usable;
    match condition.availability {
        Availability::Usable if !proven => Decision::Prove,
        _ => Decision::Observe(condition),
    }
}

/// True when the agent has to be told again that an instance has to run: nothing of it runs, though it is wanted.
#[must_use]
pub fn needs_order(situation: &Situation) -> bool {
    let up = matches!(situation.recorded, Recorded::Usable | Recorded::Impaired);
    up && situation.observation.host_heard
        && matches!(
            situation.observation.reported,
            Reported::Unknown | Reported::Absent | Reported::Stopped | Reported::Failed
        )
}

fn while_it_goes(situation: &Situation, limits: &Limits) -> Decision {
    if situation.observation.reported == Reported::Absent {
        return Decision::Conclude;
    }
    if situation.recorded_for >= limits.scrub {
        return Decision::GiveUp(format!(
            "an instance was not removed within {}: {}",
            in_words(limits.scrub),
            if situation.observation.host_heard {
                situation.observation.detail.as_str()
            } else {
                "the host's agent is not heard"
            }
        ));
    }
    Decision::Remove
}

/// What a login that did not work says of an instance whose agent sees nothing wrong.
#[must_use]
pub fn login_failed(refused_inside: bool, detail: &str) -> Condition {
    let (availability, fault) = if refused_inside {
        (Availability::Unusable, FaultParty::Tenant)
    } else {
        (Availability::Unknown, FaultParty::Provider)
    };
    Condition {
        availability,
        fault,
        evidence: format!("a login through the gateway did not work: {detail}"),
    }
}

/// A limit as people write it: `3m`, `45s`.
fn in_words(limit: TimeDelta) -> String {
    limit.to_std().map_or_else(
        |_| limit.to_string(),
        |limit| humantime::format_duration(limit).to_string(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: Limits = Limits {
        provision: TimeDelta::minutes(3),
        verify: TimeDelta::seconds(45),
        scrub: TimeDelta::minutes(30),
        silence: TimeDelta::seconds(15),
    };

    fn situation(recorded: Recorded, reported: Reported) -> Situation {
        Situation {
            recorded,
            recorded_for: TimeDelta::seconds(1),
            reported_for: TimeDelta::seconds(1),
            observation: Observation {
                host_heard: true,
                reported,
                detail: "why".to_owned(),
                sshd_listening: true,
                missing_gpus: 0,
                finding: None,
            },
            tenant_fault: false,
            generation: 1,
            due: true,
            due_for: TimeDelta::seconds(1),
            host_refuses: None,
        }
    }

    #[test]
    fn nothing_is_done_before_its_time() {
        let early = Situation {
            due: false,
            ..situation(Recorded::Placed, Reported::Unknown)
        };
        assert_eq!(decide(&early, &LIMITS), Decision::Wait);
        assert_eq!(
            decide(&situation(Recorded::Placed, Reported::Unknown), &LIMITS),
            Decision::Begin
        );
    }

    #[test]
    fn a_host_that_cannot_take_it_is_replaced_until_the_limit() {
        let refused = Situation {
            host_refuses: Some("the host is quarantined".to_owned()),
            ..situation(Recorded::Placed, Reported::Unknown)
        };
        assert_eq!(
            decide(&refused, &LIMITS),
            Decision::Replace("the host is quarantined".to_owned())
        );
        let late = Situation {
            due_for: TimeDelta::minutes(3),
            ..refused
        };
        assert!(matches!(decide(&late, &LIMITS), Decision::Fail(_)));
        let unplaced = situation(Recorded::Pending, Reported::Unknown);
        assert!(matches!(decide(&unplaced, &LIMITS), Decision::Replace(_)));
    }

    #[test]
    fn an_instance_comes_up_by_orders_and_a_login() {
        for (reported, expected) in [
            (Reported::Unknown, Decision::Order),
            (Reported::Absent, Decision::Order),
            (Reported::Preparing, Decision::Wait),
            (Reported::Running, Decision::Prove),
        ] {
            assert_eq!(
                decide(&situation(Recorded::Provisioning, reported), &LIMITS),
                expected
            );
        }
    }

    #[test]
    fn the_images_fault_fails_at_once_and_the_hosts_is_tried_elsewhere_once() {
        let host = situation(Recorded::Provisioning, Reported::Failed);
        assert_eq!(decide(&host, &LIMITS), Decision::Replace("why".to_owned()));
        let second = Situation {
            generation: MAX_PLACEMENTS,
            ..host.clone()
        };
        assert!(matches!(decide(&second, &LIMITS), Decision::Fail(_)));
        let image = Situation {
            tenant_fault: true,
            ..host
        };
        assert_eq!(decide(&image, &LIMITS), Decision::Fail("why".to_owned()));
    }

    #[test]
    fn an_sshd_that_never_answers_is_the_images_and_missing_gpus_are_the_hosts() {
        let mut silent = situation(Recorded::Provisioning, Reported::Running);
        silent.observation.sshd_listening = false;
        assert_eq!(decide(&silent, &LIMITS), Decision::Wait);
        silent.reported_for = LIMITS.verify;
        assert!(matches!(decide(&silent, &LIMITS), Decision::Fail(_)));
        let mut blind = situation(Recorded::Provisioning, Reported::Running);
        blind.observation.missing_gpus = 2;
        blind.reported_for = LIMITS.verify;
        assert!(matches!(decide(&blind, &LIMITS), Decision::Replace(_)));
    }

    #[test]
    fn silence_ends_nothing_that_is_up() {
        for recorded in [Recorded::Usable, Recorded::Impaired] {
            let mut silent = situation(recorded, Reported::Running);
            silent.observation.host_heard = false;
            silent.recorded_for = TimeDelta::days(30);
            let Decision::Observe(condition) = decide(&silent, &LIMITS) else {
                panic!("silence is only observed");
            };
            assert_eq!(condition.availability, Availability::Unknown);
            assert!(!needs_order(&silent));
        }
    }

    #[test]
    fn an_agent_that_has_just_started_pauses_nothing_while_it_looks() {
        let mut starting = situation(Recorded::Usable, Reported::Unknown);
        assert_eq!(decide(&starting, &LIMITS), Decision::Wait);
        starting.reported_for = LIMITS.silence;
        assert!(matches!(
            decide(&starting, &LIMITS),
            Decision::Observe(condition) if condition.availability == Availability::Unknown
        ));
    }

    #[test]
    fn what_is_impaired_is_usable_again_only_after_a_login() {
        assert_eq!(
            decide(&situation(Recorded::Impaired, Reported::Running), &LIMITS),
            Decision::Prove
        );
        assert!(matches!(
            decide(&situation(Recorded::Usable, Reported::Running), &LIMITS),
            Decision::Observe(_)
        ));
    }

    #[test]
    fn an_instance_that_ends_is_removed_until_it_is_absent_or_its_host_is_given_up() {
        let ending = situation(Recorded::Ending, Reported::Running);
        assert_eq!(decide(&ending, &LIMITS), Decision::Remove);
        assert_eq!(
            decide(&situation(Recorded::Ending, Reported::Absent), &LIMITS),
            Decision::Conclude
        );
        let stuck = Situation {
            recorded_for: LIMITS.scrub,
            ..ending
        };
        assert!(matches!(decide(&stuck, &LIMITS), Decision::GiveUp(_)));
    }
}
