//! What an enrolment token may say, and what a machine must say of itself.
//!
//! A token is `fhe_` + 64 hexadecimal digits of secret + `_` + 64 of the SHA-256 of the CA behind the public listener: the machine knows whom
//! to trust before it sends anything.

use chrono::TimeDelta;
use freehold_proto::id::HostId;

use super::network::Network;
use crate::error::{Error, Result};

const PREFIX: &str = "fhe_";

/// More networks than a deployment has sites.
const MAX_NETWORKS: usize = 64;

/// A token as it was asked for; zero and the empty text stand for the defaults.
#[derive(Debug, Clone, Default)]
pub(in crate::hosts) struct AskedToken {
    pub(in crate::hosts) region: String,
    pub(in crate::hosts) sector: String,
    pub(in crate::hosts) uses: i32,
    pub(in crate::hosts) ttl_seconds: i64,
    pub(in crate::hosts) networks: Vec<String>,
}

/// A token that may be made.
#[derive(Debug, Clone)]
pub(in crate::hosts) struct TokenSpec {
    pub(in crate::hosts) region: String,
    pub(in crate::hosts) sector: String,
    pub(in crate::hosts) uses: i32,
    pub(in crate::hosts) ttl: TimeDelta,
    pub(in crate::hosts) networks: Vec<Network>,
}

/// Checks what was asked for and fills the defaults in.
///
/// # Errors
/// `InvalidField`.
pub(in crate::hosts) fn check_token(asked: AskedToken) -> Result<TokenSpec> {
    let uses = match asked.uses {
        0 => 1,
        uses @ 1..=10_000 => uses,
        _ => return Err(Error::field("uses", "must be 1 to 10000, or 0 for 1")),
    };
    let ttl = match asked.ttl_seconds {
        0 => TimeDelta::days(1),
        seconds @ 60..=2_592_000 => TimeDelta::seconds(seconds),
        _ => {
            return Err(Error::field(
                "ttl_seconds",
                "must be 60 to 2592000 (30 days), or 0 for 86400 (a day)",
            ));
        }
    };
    if asked.networks.len() > MAX_NETWORKS {
        return Err(Error::field("networks", "must be at most 64"));
    }
    let networks = asked.networks.iter().map(|text| text.parse::<Network>());
    Ok(TokenSpec {
        region: place("region", asked.region, "default")?,
        sector: place("sector", asked.sector, "sector_1")?,
        uses,
        ttl,
        networks: networks
            .collect::<std::result::Result<_, _>>()
            .map_err(|error| Error::field("networks", error.to_string()))?,
    })
}

fn place(field: &str, text: String, default: &str) -> Result<String> {
    if text.is_empty() {
        return Ok(default.to_owned());
    }
    let valid = text.len() <= 63
        && text
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-' || b == b'_');
    if !valid {
        return Err(Error::field(
            field,
            format!("must be 1 to 63 characters a-z, 0-9, `-` and `_`; empty: `{default}`"),
        ));
    }
    Ok(text)
}

/// A token's text.
pub(in crate::hosts) fn token(secret: &str, fingerprint: &str) -> String {
    format!("{PREFIX}{secret}_{fingerprint}")
}

/// The secret in a token's text: what is looked up, hashed.
///
/// # Errors
/// `InvalidField` when it is none.
pub(in crate::hosts) fn secret_of(token: &str) -> Result<&str> {
    let is_hash = |text: &str| text.len() == 64 && text.bytes().all(|b| b.is_ascii_hexdigit());
    token
        .strip_prefix(PREFIX)
        .and_then(|rest| rest.split_once('_'))
        .filter(|(secret, fingerprint)| is_hash(secret) && is_hash(fingerprint))
        .map(|(secret, _)| secret)
        .ok_or_else(|| {
            Error::field(
                "token",
                "is not an enrolment token; take it as `freehold host enroll-token` prints it",
            )
        })
}

/// Checks what a machine says of itself.
///
/// # Errors
/// `InvalidField`.
pub(in crate::hosts) fn check_machine(machine_id: &str, hostname: &str) -> Result<()> {
    let visible = machine_id.bytes().all(|b| b.is_ascii_graphic());
    if !visible || !(8..=128).contains(&machine_id.len()) {
        return Err(Error::field(
            "machine_id",
            "must be 8 to 128 visible ASCII characters; the agent takes /etc/machine-id or --machine-id",
        ));
    }
    let name = (1..=63).contains(&hostname.len())
        && hostname
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"-._".contains(&b));
    // A name that reads as an id would stand for two hosts.
    if !name || hostname.parse::<HostId>().is_ok() {
        return Err(Error::field(
            "hostname",
            "must be 1 to 63 characters A-Z, a-z, 0-9, `-`, `.` and `_`, and not a host's id; set it with --hostname",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_empty_stand_for_the_defaults() {
        let spec = check_token(AskedToken::default()).unwrap();
        assert_eq!(
            (spec.region.as_str(), spec.sector.as_str()),
            ("default", "sector_1")
        );
        assert_eq!((spec.uses, spec.ttl), (1, TimeDelta::days(1)));
    }

    #[test]
    fn a_wrong_field_is_named() {
        let asked = AskedToken::default;
        let wrong = [
            (
                "region",
                AskedToken {
                    region: "EU".to_owned(),
                    ..asked()
                },
            ),
            (
                "sector",
                AskedToken {
                    sector: "x".repeat(64),
                    ..asked()
                },
            ),
            (
                "uses",
                AskedToken {
                    uses: -1,
                    ..asked()
                },
            ),
            (
                "uses",
                AskedToken {
                    uses: 10_001,
                    ..asked()
                },
            ),
            (
                "ttl_seconds",
                AskedToken {
                    ttl_seconds: 59,
                    ..asked()
                },
            ),
            (
                "ttl_seconds",
                AskedToken {
                    ttl_seconds: i64::MAX,
                    ..asked()
                },
            ),
            (
                "networks",
                AskedToken {
                    networks: vec!["10.0.0.1".to_owned()],
                    ..asked()
                },
            ),
            (
                "networks",
                AskedToken {
                    networks: vec!["10.0.0.0/8".to_owned(); 65],
                    ..asked()
                },
            ),
        ];
        for (field, asked) in wrong {
            let error = check_token(asked).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_tokens_secret_is_found_again_and_rubbish_is_refused() {
        let (secret, fingerprint) = ("ab".repeat(32), "cd".repeat(32));
        let text = token(&secret, &fingerprint);
        assert_eq!(secret_of(&text).unwrap(), secret);
        for wrong in [
            "",
            "fhe_",
            &text[4..],
            &text[..text.len() - 1],
            &format!("{text}0"),
        ] {
            assert!(secret_of(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn machines_must_say_who_they_are() {
        assert!(check_machine("machine-0001", "gpu-1.rack_2").is_ok());
        let id = HostId::new().to_string();
        for (machine, host) in [
            ("short", "gpu-1"),
            ("with a space", "gpu-1"),
            ("machine-0001", ""),
            ("machine-0001", "a b"),
            ("machine-0001", &id),
        ] {
            assert!(check_machine(machine, host).is_err(), "{machine} {host}");
        }
    }
}
