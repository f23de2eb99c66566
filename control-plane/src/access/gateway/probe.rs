//! The proof that an instance can be used: a login through the gateway's own way to its sshd.

use std::time::Duration;

use freehold_proto::id::{HostId, InstanceId, LeaseId};
use russh::ChannelMsg;

use super::{
    auth::Place,
    upstream::{Dialer, Login, ProbeError},
};
use crate::{access::model, app::App};

/// From the first byte to the exit status.
const TIMEOUT: Duration = Duration::from_secs(10);

/// Logs in to an instance as any client of the gateway does, runs `true`, and sees it exit with 0.
///
/// # Errors
/// `Unreachable` when no bytes came, `Refused` when something answered that is no sshd which lets the platform in.
pub async fn login_probe(
    app: &App,
    host: HostId,
    instance: InstanceId,
    lease: LeaseId,
    ordinal: i32,
) -> Result<(), ProbeError> {
    let holder = format!("the probe of {lease}.{ordinal}");
    let login = Login {
        place: Place { host, instance },
        lease,
        login: model::LOGIN,
        holder: &holder,
        channel_messages: 8,
    };
    probe(&Dialer::through_agents(app), &login).await
}

pub(super) async fn probe(dialer: &Dialer, login: &Login<'_>) -> Result<(), ProbeError> {
    tokio::time::timeout(TIMEOUT, run_true(dialer, login))
        .await
        .unwrap_or_else(|_| {
            Err(ProbeError::Unreachable(format!(
                "the instance's sshd ran no command within {} s",
                TIMEOUT.as_secs()
            )))
        })
}

async fn run_true(dialer: &Dialer, login: &Login<'_>) -> Result<(), ProbeError> {
    let refused = |what: String| ProbeError::Refused(what);
    let link = dialer.log_in(login, None).await?;
    let mut session = link
        .channel_open_session()
        .await
        .map_err(|error| refused(format!("the instance's sshd opens no session: {error}")))?;
    session
        .exec(true, "true")
        .await
        .map_err(|error| ProbeError::Unreachable(error.to_string()))?;
    while let Some(message) = session.wait().await {
        match message {
            ChannelMsg::ExitStatus { exit_status: 0 } => return Ok(()),
            ChannelMsg::ExitStatus { exit_status } => {
                return Err(refused(format!(
                    "`true` exits with {exit_status} inside the instance; its shell was changed"
                )));
            }
            ChannelMsg::Failure => {
                return Err(refused("the instance's sshd runs no commands".to_owned()));
            }
            ChannelMsg::Close => break,
            _ => {}
        }
    }
    Err(refused(
        "`true` inside the instance ended without an exit status".to_owned(),
    ))
}
