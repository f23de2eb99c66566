//! Who may enter, and for how long.

use chrono::{DateTime, Utc};
use freehold_proto::id::{HostId, InstanceId, LeaseId};
use russh::keys::{Certificate, HashAlg, PublicKey};
use tokio::{sync::broadcast::error::RecvError, time::Instant};

use super::store::{self, Facts};
use crate::{
    access::{ca, model},
    app::App,
    database::Signal,
    error::Result,
};

/// Between two looks at a lease whose changes were perhaps not heard of.
const LOOK_AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

/// What a client calls itself: `LEASE[.ORDINAL][+LOGIN]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct UserName {
    /// A lease's id or name.
    pub(super) lease: String,
    pub(super) ordinal: i32,
    pub(super) login: String,
}

impl UserName {
    pub(super) fn parse(text: &str) -> Option<Self> {
        let (rest, login) = text.split_once('+').unwrap_or((text, model::LOGIN));
        let (lease, ordinal) = split_ordinal(rest)?;
        let known = !lease.is_empty() && model::is_login(login);
        known.then(|| Self {
            lease: lease.to_owned(),
            ordinal,
            login: login.to_owned(),
        })
    }
}

/// Splits `LEASE.1`; without an ordinal it is 0.
fn split_ordinal(text: &str) -> Option<(&str, i32)> {
    match text.split_once('.') {
        Some((lease, ordinal)) => {
            let digits = ordinal.bytes().all(|b| b.is_ascii_digit());
            let ordinal = digits.then(|| ordinal.parse().ok()).flatten()?;
            Some((lease, ordinal))
        }
        None => Some((text, 0)),
    }
}

/// A client that may enter.
#[derive(Debug, Clone)]
pub(super) struct Admission {
    pub(super) lease: LeaseId,
    pub(super) lease_name: String,
    pub(super) login: String,
    /// The key or certificate, for logs and for the certificate of the inner connection.
    pub(super) holder: String,
    pub(super) place: Place,
    /// `None`: open-ended.
    pub(super) window_end: Option<Instant>,
}

/// An instance on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Place {
    pub(super) host: HostId,
    pub(super) instance: InstanceId,
}

/// How a client that proved who it is fares.
pub(super) enum Verdict {
    /// It does not belong to what it named: it learns nothing.
    Stranger,
    /// It belongs there, but there is no entering; the words are for its eyes.
    Refused(String),
    Admitted(Box<Admission>),
}

/// Judges a certificate whose key the client has proved to hold.
pub(super) async fn judge_certificate(
    app: &App,
    user: &UserName,
    certificate: &Certificate,
) -> Result<Verdict> {
    let principals = certificate.valid_principals().iter();
    let Some(lease) = principals
        .filter_map(|name| name.parse::<LeaseId>().ok())
        .next()
    else {
        return Ok(Verdict::Stranger);
    };
    let principal = model::login_principal(lease, &user.login);
    let now = ca::seconds(Utc::now())?;
    if !app
        .pki
        .ssh_user_ca
        .vouches_for(certificate, &principal, now)
        || !store::is_called(&app.pool, lease, &user.lease).await?
    {
        return Ok(Verdict::Stranger);
    }
    let holder = format!("certificate {}", certificate.serial());
    judge(app, user, lease, holder).await
}

/// Judges a plain key that the client has proved to hold.
pub(super) async fn judge_key(app: &App, user: &UserName, key: &PublicKey) -> Result<Verdict> {
    let fingerprint = key.fingerprint(HashAlg::Sha256).to_string();
    match store::find_by_key(&app.pool, &user.lease, &fingerprint).await? {
        Some(lease) => judge(app, user, lease, fingerprint).await,
        None => Ok(Verdict::Stranger),
    }
}

async fn judge(app: &App, user: &UserName, lease: LeaseId, holder: String) -> Result<Verdict> {
    let facts = store::facts(&app.pool, lease, user.ordinal).await?;
    let place = match enter(&facts, user.ordinal) {
        Ok(place) => place,
        Err(reason) => return Ok(Verdict::Refused(reason)),
    };
    let left = facts
        .window_end
        .map(|end| (end - facts.now).to_std().unwrap_or_default());
    Ok(Verdict::Admitted(Box::new(Admission {
        lease,
        lease_name: facts.name,
        login: user.login.clone(),
        holder,
        place,
        window_end: left.and_then(|left| Instant::now().checked_add(left)),
    })))
}

/// Finds another instance of the lease by one of its names, for `ssh -J`.
pub(super) async fn find_place(app: &App, admission: &Admission, target: &str) -> Option<Place> {
    let (name, ordinal) = split_ordinal(target)?;
    let by_lease = name == admission.lease.to_string() || name == admission.lease_name;
    if !by_lease {
        let instance = target.parse::<InstanceId>().ok()?;
        return store::find_instance(&app.pool, admission.lease, instance)
            .await
            .ok()?;
    }
    let facts = store::facts(&app.pool, admission.lease, ordinal)
        .await
        .ok()?;
    enter(&facts, ordinal).ok()
}

/// Where an ordinal of a lease may be entered, or why it may not.
fn enter(facts: &Facts, ordinal: i32) -> std::result::Result<Place, String> {
    let name = &facts.name;
    if !facts.live {
        return Err(ended(name));
    }
    if facts.window_start > facts.now {
        let start: DateTime<Utc> = facts.window_start;
        return Err(format!(
            "the lease `{name}` begins at {}; come again then",
            start.format("%Y-%m-%dT%H:%M:%SZ")
        ));
    }
    let Some(instance) = &facts.instance else {
        return Err(format!(
            "the lease `{name}` has {} instances, 0 to {}; there is no instance {ordinal}",
            facts.count,
            facts.count - 1
        ));
    };
    match (instance.recorded.as_str(), instance.host) {
        ("usable" | "impaired", Some(host)) => Ok(Place {
            host,
            instance: instance.id,
        }),
        ("ending" | "ended", _) => Err(ended(name)),
        _ => Err(format!(
            "the lease `{name}` is being made ready; try again when `freehold lease get {name}` shows it active"
        )),
    }
}

fn ended(name: &str) -> String {
    format!("the lease `{name}` has ended, and its access is off")
}

/// Returns when a lease's access is off, with the words for the client. A database that does not answer changes nothing until the window's end.
pub(super) async fn access_ended(app: &App, admission: &Admission) -> String {
    let mut signals = app.bus.subscribe();
    let lease = admission.lease.uuid();
    loop {
        let end = async {
            match admission.window_end {
                Some(end) => tokio::time::sleep_until(end).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = end => return ended(&admission.lease_name),
            () = tokio::time::sleep(LOOK_AGAIN) => {}
            signal = signals.recv() => match signal {
                Ok(Signal::Lease(id)) if id == lease => {}
                Ok(Signal::Resync) | Err(RecvError::Lagged(_)) => {}
                Ok(_) => continue,
                Err(RecvError::Closed) => tokio::time::sleep(LOOK_AGAIN).await,
            },
        }
        if matches!(store::is_live(&app.pool, admission.lease).await, Ok(false)) {
            return ended(&admission.lease_name);
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::{super::store::InstanceFacts, *};

    fn facts() -> Facts {
        let now = Utc::now();
        Facts {
            name: "vision".to_owned(),
            count: 2,
            live: true,
            window_start: now - TimeDelta::hours(1),
            window_end: None,
            now,
            instance: Some(InstanceFacts {
                id: InstanceId::new(),
                host: Some(HostId::new()),
                recorded: "usable".to_owned(),
            }),
        }
    }

    #[test]
    fn a_user_name_is_a_lease_with_an_ordinal_and_a_login_or_without() {
        let name = |lease: &str, ordinal, login: &str| {
            Some(UserName {
                lease: lease.to_owned(),
                ordinal,
                login: login.to_owned(),
            })
        };
        for (text, expected) in [
            ("vision", name("vision", 0, "lease")),
            ("vision.1", name("vision", 1, "lease")),
            ("vision+root", name("vision", 0, "root")),
            ("lease_01.12+root", name("lease_01", 12, "root")),
            ("", None),
            (".1", None),
            ("vision.", None),
            ("vision.-1", None),
            ("vision.99999999999", None),
            ("vision+", None),
            ("vision+a b", None),
            ("vision.1.2", None),
        ] {
            assert_eq!(UserName::parse(text), expected, "{text}");
        }
    }

    #[test]
    fn only_instances_that_were_usable_in_leases_that_are_live_are_entered() {
        assert!(enter(&facts(), 0).is_ok());
        let refused = |change: fn(&mut Facts)| {
            let mut facts = facts();
            change(&mut facts);
            enter(&facts, 0).unwrap_err()
        };
        let recorded = |state: &str| {
            let mut facts = facts();
            facts.instance.as_mut().unwrap().recorded = state.to_owned();
            enter(&facts, 0)
        };
        assert!(recorded("impaired").is_ok());
        for state in ["pending", "placed", "provisioning"] {
            assert!(recorded(state).unwrap_err().contains("being made ready"));
        }
        assert!(recorded("ending").unwrap_err().contains("has ended"));
        assert!(refused(|facts| facts.live = false).contains("has ended"));
        assert!(refused(|facts| facts.instance = None).contains("0 to 1"));
        let later = refused(|facts| facts.window_start = facts.now + TimeDelta::hours(1));
        assert!(later.contains("begins at"), "{later}");
    }
}
