//! Rules of access: lifetimes, logins, and the names that the gateway and the instances go by.

use chrono::{DateTime, TimeDelta, Utc};
use freehold_proto::id::{InstanceId, LeaseId};

use crate::{
    config::Config,
    error::{Error, Result},
};

/// The login of leases' instances.
pub(crate) const LOGIN: &str = "lease";
/// Longest life of a user certificate.
pub(super) const MAX_CERTIFICATE: TimeDelta = TimeDelta::hours(12);
const MAX_KEY_DAYS: i64 = 366;
const DEFAULT_KEY_DAYS: i64 = 90;
const DAY: i64 = 86_400;
const MAX_KEY_NAME: usize = 63;
/// As useradd has it.
const MAX_LOGIN: usize = 32;

/// How long an API key is asked to live.
pub(super) fn key_lifetime(ttl_seconds: i64) -> Result<TimeDelta> {
    match ttl_seconds {
        0 => Ok(TimeDelta::days(DEFAULT_KEY_DAYS)),
        60.. if ttl_seconds <= MAX_KEY_DAYS * DAY => Ok(TimeDelta::seconds(ttl_seconds)),
        _ => Err(Error::field(
            "ttl_seconds",
            format!(
                "{ttl_seconds} is out of range; must be 60 to {} (366 days), or 0 for 90 days",
                MAX_KEY_DAYS * DAY
            ),
        )),
    }
}

/// Checks what a key is called: anything that can be shown in one line.
pub(super) fn check_key_name(name: &str) -> Result<()> {
    if name.chars().count() <= MAX_KEY_NAME && !name.contains(char::is_control) {
        return Ok(());
    }
    Err(Error::field(
        "name",
        "must be at most 63 characters, none of them a control character",
    ))
}

/// When a user certificate ends: after the asked time, never after the window.
pub(super) fn certificate_end(
    ttl_seconds: i64,
    now: DateTime<Utc>,
    window_end: Option<DateTime<Utc>>,
) -> Result<DateTime<Utc>> {
    let ttl = match ttl_seconds {
        0 => MAX_CERTIFICATE,
        60.. if ttl_seconds <= MAX_CERTIFICATE.num_seconds() => TimeDelta::seconds(ttl_seconds),
        _ => {
            return Err(Error::field(
                "ttl_seconds",
                format!(
                    "{ttl_seconds} is out of range; must be 60 to 43200 (12 hours), or 0 for 12 hours"
                ),
            ));
        }
    };
    let end = now + ttl;
    Ok(window_end.map_or(end, |window_end| end.min(window_end)))
}

/// The login that a certificate is asked for; empty: [`LOGIN`].
pub(super) fn login(login: &str) -> Result<&str> {
    match login {
        "" => Ok(LOGIN),
        login if is_login(login) => Ok(login),
        _ => Err(Error::field(
            "login",
            "must be 1 to 32 characters a-z, 0-9, `_` and `-`, and begin with a letter or `_`",
        )),
    }
}

/// True for the name of a Unix account.
pub(super) fn is_login(login: &str) -> bool {
    (1..=MAX_LOGIN).contains(&login.len())
        && login.starts_with(|c: char| c.is_ascii_lowercase() || c == '_')
        && login
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'_' | b'-'))
}

/// The principal that stands for a lease's login at the gateway.
pub(super) fn login_principal(lease: LeaseId, login: &str) -> String {
    format!("{lease}+{login}")
}

/// The names of an instance: what `ssh -J` may call it, and its host certificate is for. Its own id is the first.
pub(super) fn instance_names(
    instance: InstanceId,
    lease: LeaseId,
    lease_name: &str,
    ordinal: i32,
) -> Vec<String> {
    let mut names = vec![
        instance.to_string(),
        format!("{lease}.{ordinal}"),
        format!("{lease_name}.{ordinal}"),
    ];
    if ordinal == 0 {
        names.extend([lease.to_string(), lease_name.to_owned()]);
    }
    names
}

/// Where SSH clients reach the gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct GatewayAddress {
    /// Without brackets.
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl GatewayAddress {
    /// `--ssh-address`, else the first public host and the SSH listener's port.
    pub(crate) fn of(config: &Config) -> Self {
        let listen_port = config.ssh_listen.port();
        match &config.ssh_address {
            Some(address) => Self::parse(address, listen_port),
            None => Self {
                host: config.advertised_host(),
                port: listen_port,
            },
        }
    }

    fn parse(address: &str, default_port: u16) -> Self {
        let (host, port) = match address.rsplit_once(':') {
            // An IPv6 address without brackets has no port.
            Some((host, port)) if !host.contains(':') || host.ends_with(']') => {
                (host, port.parse().unwrap_or(default_port))
            }
            _ => (address, default_port),
        };
        Self {
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
        }
    }

    /// The name under which OpenSSH knows a host at this port.
    pub(super) fn known_as(&self, host: &str) -> String {
        if self.port == 22 {
            host.to_owned()
        } else {
            format!("[{host}]:{}", self.port)
        }
    }
}

/// Every name and address that the gateway answers to.
pub(super) fn gateway_names(config: &Config) -> Vec<String> {
    let mut names = vec![GatewayAddress::of(config).host, config.advertised_host()];
    names.extend(config.public_hosts.iter().cloned());
    names.extend(["localhost", "127.0.0.1", "::1"].map(str::to_owned));
    let listen = config.ssh_listen.ip();
    if !listen.is_unspecified() {
        names.push(listen.to_string());
    }
    let mut seen = std::collections::HashSet::new();
    names.retain(|name| seen.insert(name.clone()));
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_certificate_ends_after_twelve_hours_or_with_the_window() {
        let now = Utc::now();
        let hours = TimeDelta::hours;
        assert_eq!(certificate_end(0, now, None).unwrap(), now + hours(12));
        assert_eq!(
            certificate_end(0, now, Some(now + hours(1))).unwrap(),
            now + hours(1)
        );
        assert_eq!(
            certificate_end(60, now, Some(now + hours(1))).unwrap(),
            now + TimeDelta::seconds(60)
        );
        for wrong in [-1, 1, 59, 43_201, i64::MAX, i64::MIN] {
            assert!(certificate_end(wrong, now, None).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_key_lives_a_minute_to_a_leap_year() {
        assert_eq!(key_lifetime(0).unwrap(), TimeDelta::days(90));
        assert_eq!(key_lifetime(31_622_400).unwrap(), TimeDelta::days(366));
        for wrong in [-1, 59, 31_622_401, i64::MAX] {
            assert!(key_lifetime(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn logins_are_names_of_accounts() {
        assert_eq!(login("").unwrap(), "lease");
        assert_eq!(login("root").unwrap(), "root");
        for wrong in ["-x", "a b", "A", "a+b", "ü", &"a".repeat(33)] {
            assert!(login(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_gateways_address_may_be_a_name_or_an_address_with_or_without_a_port() {
        for (text, host, port) in [
            ("gw.example.com", "gw.example.com", 2222),
            ("gw.example.com:22", "gw.example.com", 22),
            ("192.0.2.1:22", "192.0.2.1", 22),
            ("[2001:db8::1]:22", "2001:db8::1", 22),
            ("2001:db8::1", "2001:db8::1", 2222),
        ] {
            let address = GatewayAddress::parse(text, 2222);
            assert_eq!((address.host.as_str(), address.port), (host, port));
        }
    }
}
