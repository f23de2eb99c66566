//! Waiting for a lease over its change stream. A stream that breaks is taken up again: nothing is concluded from silence.

use std::time::{Duration, Instant};

use freehold_proto::v1::{self, InstanceState, LeaseState, StepResult};
use tonic::Status;

use crate::{
    commands::Context,
    connect::Session,
    error::{CliError, is_transient},
    output::state_name,
    progress::Progress,
};

/// How long the control plane may be out of reach before waiting is given up.
const PATIENCE: Duration = Duration::from_secs(300);
/// The longest pause between tries to take a stream up again.
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// What a look at a lease concludes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Not yet; what is being waited for.
    Wait(String),
    /// It came about.
    Done,
    /// It will not; why.
    Failed(String),
}

/// Whether to go on following a lease.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    Go,
    Stop,
}

/// Is every instance usable?
pub(super) fn judge_create(lease: &v1::Lease) -> Verdict {
    match lease.state() {
        LeaseState::Active => Verdict::Done,
        LeaseState::Failed => {
            Verdict::Failed(format!("{} failed: {}", called(lease), reason(lease)))
        }
        LeaseState::Ending | LeaseState::Ended => Verdict::Failed(format!(
            "{} ended before it was usable: {}",
            called(lease),
            reason(lease)
        )),
        state => {
            let usable = count(lease, InstanceState::Usable);
            let of = lease.count;
            let detail = waiting_for(lease, |instance| instance.state() != InstanceState::Usable);
            Verdict::Wait(format!(
                "{} is {}, {usable} of {of} usable{detail}",
                called(lease),
                state_name(state)
            ))
        }
    }
}

/// Is access off, is every host clean, is everything posted?
pub(super) fn judge_end(lease: &v1::Lease) -> Verdict {
    let dirty: Vec<_> = lease.instances.iter().filter_map(failed_scrub).collect();
    let cleaned = lease
        .instances
        .iter()
        .all(|instance| instance.scrub.is_some());
    if !dirty.is_empty() && (cleaned || lease.settle_time.is_some()) {
        let why = format!("{} ended, but {}", called(lease), dirty.join("; "));
        return Verdict::Failed(why);
    }
    if lease.settle_time.is_some() {
        return Verdict::Done;
    }
    let ended = count(lease, InstanceState::Ended);
    let waited = |instance: &v1::Instance| instance.state() != InstanceState::Ended;
    let detail = if lease.instances.iter().any(waited) {
        waiting_for(lease, waited)
    } else {
        ", waits for the scrub and the last usage records".to_owned()
    };
    let state = state_name(lease.state());
    let of = lease.count;
    Verdict::Wait(format!(
        "{} is {state}, {ended} of {of} ended{detail}",
        called(lease)
    ))
}

fn called(lease: &v1::Lease) -> String {
    match lease.name.as_str() {
        "" => lease.id.clone(),
        name => format!("{name} ({})", lease.id),
    }
}

/// Why, from the lease or from its instances.
fn reason(lease: &v1::Lease) -> String {
    let mut reasons = vec![lease.state_reason.as_str()];
    reasons.extend(
        lease
            .instances
            .iter()
            .map(|instance| instance.state_reason.as_str()),
    );
    match reasons.into_iter().find(|reason| !reason.is_empty()) {
        Some(reason) => reason.to_owned(),
        None => format!(
            "no reason was recorded; see `freehold lease explain {}`",
            lease.id
        ),
    }
}

fn count(lease: &v1::Lease, state: InstanceState) -> usize {
    lease
        .instances
        .iter()
        .filter(|instance| instance.state() == state)
        .count()
}

/// The first reason among the instances that are waited for, else the lease's.
fn waiting_for(lease: &v1::Lease, waited: impl Fn(&v1::Instance) -> bool) -> String {
    let instance = lease
        .instances
        .iter()
        .filter(|instance| waited(instance))
        .find(|instance| !instance.state_reason.is_empty());
    match (instance, lease.state_reason.as_str()) {
        (Some(instance), _) => {
            format!(": instance {}: {}", instance.ordinal, instance.state_reason)
        }
        (None, "") => String::new(),
        (None, reason) => format!(": {reason}"),
    }
}

fn failed_scrub(instance: &v1::Instance) -> Option<String> {
    let scrub = instance
        .scrub
        .as_ref()
        .filter(|scrub| scrub.result() == StepResult::Failed)?;
    let steps: Vec<_> = scrub
        .steps
        .iter()
        .filter(|step| step.result() == StepResult::Failed)
        .map(|step| format!("{} ({})", step.name, step.detail))
        .collect();
    let host = if instance.host.is_empty() {
        &instance.host_id
    } else {
        &instance.host
    };
    Some(format!(
        "host {host} is quarantined, its scrub failed: {}",
        steps.join(", ")
    ))
}

/// Follows a lease until `judge` concludes; gives back the lease as it then is, and why it failed.
pub(super) async fn until(
    context: &Context,
    session: &Session,
    lease: v1::Lease,
    judge: fn(&v1::Lease) -> Verdict,
    progress: &mut Progress,
) -> Result<(v1::Lease, Result<(), String>), CliError> {
    let id = lease.id.clone();
    let mut last = lease;
    let mut verdict = judge(&last);
    if let Verdict::Wait(what) = &verdict {
        progress.show(what);
        follow(context, session, id, |lease| {
            last.clone_from(lease);
            verdict = judge(lease);
            match &verdict {
                Verdict::Wait(what) => {
                    progress.show(what);
                    Ok(Next::Go)
                }
                _ => Ok(Next::Stop),
            }
        })
        .await?;
    }
    match verdict {
        Verdict::Done => Ok((last, Ok(()))),
        Verdict::Failed(why) => Ok((last, Err(why))),
        Verdict::Wait(what) => {
            let why = format!("the control plane said that nothing more will come, yet {what}");
            Ok((last, Err(why)))
        }
    }
}

/// Hands every change to `each` until it says stop or the lease is settled.
pub(super) async fn follow(
    context: &Context,
    session: &Session,
    lease: String,
    mut each: impl FnMut(&v1::Lease) -> Result<Next, CliError>,
) -> Result<(), CliError> {
    let request = v1::WatchLeaseRequest {
        lease,
        organization: context.global.organization(),
        project: context.global.project(),
    };
    let mut heard = Instant::now();
    let mut pause = Duration::from_millis(250);
    let mut shown: Option<v1::Lease> = None;
    loop {
        let mut settled = false;
        let broken = read(session, request.clone(), |lease| {
            heard = Instant::now();
            pause = Duration::from_millis(250);
            settled = lease.settle_time.is_some();
            // A stream that was taken up again begins with what is known already.
            if shown.as_ref() == Some(&lease) {
                return Ok(Next::Go);
            }
            let next = each(&lease)?;
            shown = Some(lease);
            Ok(next)
        })
        .await?;
        match broken {
            Read::Stopped => return Ok(()),
            Read::Ended if settled => return Ok(()),
            Read::Broken(status) if !is_transient(&status) => return Err(status.into()),
            Read::Broken(status) if heard.elapsed() > PATIENCE => return Err(status.into()),
            Read::Ended if heard.elapsed() > PATIENCE => {
                let why = "the control plane closes the stream without a word; ask its operator"
                    .to_owned();
                return Err(CliError::Outcome(why));
            }
            Read::Ended | Read::Broken(_) => {}
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// How a stream went.
enum Read {
    Stopped,
    Ended,
    Broken(Status),
}

async fn read(
    session: &Session,
    request: v1::WatchLeaseRequest,
    mut each: impl FnMut(v1::Lease) -> Result<Next, CliError>,
) -> Result<Read, CliError> {
    let mut stream = match session.leases().watch_lease(request).await {
        Ok(response) => response.into_inner(),
        Err(status) => return Ok(Read::Broken(status)),
    };
    loop {
        match stream.message().await {
            Ok(Some(v1::WatchLeaseResponse { lease: Some(lease) })) => {
                if each(lease)? == Next::Stop {
                    return Ok(Read::Stopped);
                }
            }
            Ok(Some(_)) => {}
            Ok(None) => return Ok(Read::Ended),
            Err(status) => return Ok(Read::Broken(status)),
        }
    }
}
