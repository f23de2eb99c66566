//! What may be asked for: checked once, when it is received. Every error names the field and says what would be right.

use std::collections::BTreeMap;

use chrono::{DateTime, TimeDelta, Utc};
use russh::keys::ssh_key::{Algorithm, Certificate, HashAlg, PublicKey};

use super::span::Span;
use crate::{
    error::{Error, Result},
    page::check_name,
};

/// Instances of one lease.
pub const MAX_COUNT: i32 = 1024;
/// Longest window: 366 days.
pub const MAX_HOURS: i32 = 8784;
const MAX_AHEAD: TimeDelta = TimeDelta::days(366);
/// Clocks of clients are wrong by less than this.
const MAX_PAST: TimeDelta = TimeDelta::seconds(60);
const MAX_KEYS: usize = 32;
/// A line with a 16,384-bit RSA key and a comment is shorter.
const MAX_KEY_LINE: usize = 8192;
const MIN_RSA_BITS: usize = 2048;
const MAX_LABELS: usize = 64;

/// A reservation as it was asked for.
#[derive(Debug, Clone, Default)]
pub struct Asked {
    /// Name or id.
    pub instance_type: String,
    /// `None`: 1.
    pub count: Option<i32>,
    /// `None`: now.
    pub start: Option<DateTime<Utc>>,
    /// `None`: open-ended.
    pub hours: Option<i32>,
    /// Lines of OpenSSH's public key format.
    pub ssh_public_keys: Vec<String>,
    /// Empty: the default image.
    pub image: String,
    /// Empty: one is made.
    pub name: String,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A reservation that may be asked for. Only whether its start is acceptable is left to the time at which it is booked.
#[derive(Debug, Clone)]
pub struct Reservation {
    /// Name or id.
    pub instance_type: String,
    /// 1 to [`MAX_COUNT`].
    pub count: i32,
    /// `None`: now.
    pub start: Option<DateTime<Utc>>,
    /// 1 to [`MAX_HOURS`]; `None`: open-ended.
    pub hours: Option<i32>,
    /// Without repetitions.
    pub ssh_keys: Vec<SshKey>,
    /// `None`: the default image.
    pub image: Option<String>,
    /// `None`: one is made.
    pub name: Option<String>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
}

/// A plain public key that may log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SshKey {
    /// `SHA256:…`
    pub fingerprint: String,
    /// In OpenSSH's format, in one line.
    pub line: String,
}

/// Checks a reservation.
///
/// # Errors
/// `InvalidField`.
pub fn check(asked: Asked) -> Result<Reservation> {
    if asked.instance_type.is_empty() {
        return Err(Error::field(
            "instance_type",
            "is empty; give one of the names that `freehold type list` shows",
        ));
    }
    let count = check_count(asked.count)?;
    check_hours(asked.hours)?;
    let ssh_keys = check_ssh_keys(&asked.ssh_public_keys)?;
    check_labels(&asked.labels)?;
    if !asked.image.is_empty() {
        check_image(&asked.image)?;
    }
    if !asked.name.is_empty() {
        check_name("name", &asked.name)?;
    }
    Ok(Reservation {
        instance_type: asked.instance_type,
        count,
        start: asked.start,
        hours: asked.hours,
        ssh_keys,
        image: Some(asked.image).filter(|image| !image.is_empty()),
        name: Some(asked.name).filter(|name| !name.is_empty()),
        labels: asked.labels,
    })
}

/// How many instances; unset: 1.
///
/// # Errors
/// `InvalidField` for 0, less, and more than [`MAX_COUNT`].
pub fn check_count(count: Option<i32>) -> Result<i32> {
    match count {
        None => Ok(1),
        Some(count) if (1..=MAX_COUNT).contains(&count) => Ok(count),
        Some(count) => Err(Error::field(
            "count",
            format!("{count} is out of range; must be 1 to {MAX_COUNT}"),
        )),
    }
}

/// The length of a window.
///
/// # Errors
/// `InvalidField` for 0, less, and more than [`MAX_HOURS`].
pub fn check_hours(hours: Option<i32>) -> Result<()> {
    match hours {
        Some(hours) if !(1..=MAX_HOURS).contains(&hours) => Err(Error::field(
            "hours",
            format!(
                "{hours} is out of range; must be 1 to {MAX_HOURS}, or unset for a lease without an end"
            ),
        )),
        _ => Ok(()),
    }
}

/// The window that begins at `start`; `None`, and what is past by less than a minute: now.
///
/// # Errors
/// `InvalidField` for a start in the past or more than 366 days ahead.
pub fn window(
    start: Option<DateTime<Utc>>,
    hours: Option<i32>,
    now: DateTime<Utc>,
) -> Result<Span> {
    let start = start.unwrap_or(now);
    let shown = now.format("%Y-%m-%dT%H:%M:%SZ");
    if start < now - MAX_PAST {
        return Err(Error::field(
            "start_time",
            format!("lies in the past; it is {shown}: give a later time, or none to start now"),
        ));
    }
    if start > now + MAX_AHEAD {
        return Err(Error::field(
            "start_time",
            format!("lies more than 366 days ahead; it is {shown}: give an earlier time"),
        ));
    }
    let from = start.max(now);
    Ok(Span {
        from,
        to: hours.map(|hours| from + TimeDelta::hours(hours.into())),
    })
}

fn check_ssh_keys(lines: &[String]) -> Result<Vec<SshKey>> {
    if lines.len() > MAX_KEYS {
        return Err(Error::field(
            "ssh_public_keys",
            format!(
                "{} keys are too many; give at most {MAX_KEYS}, and let others fetch certificates",
                lines.len()
            ),
        ));
    }
    let mut keys: Vec<SshKey> = Vec::with_capacity(lines.len());
    for (index, line) in lines.iter().enumerate() {
        let key = parse_ssh_key(line)
            .map_err(|message| Error::field(format!("ssh_public_keys[{index}]"), message))?;
        if !keys.iter().any(|k| k.fingerprint == key.fingerprint) {
            keys.push(key);
        }
    }
    Ok(keys)
}

fn parse_ssh_key(line: &str) -> std::result::Result<SshKey, String> {
    let line = line.trim();
    if line.contains("PRIVATE KEY") {
        return Err(
            "is a private key, which must never leave its owner; give the .pub file".to_owned(),
        );
    }
    if line.len() > MAX_KEY_LINE || line.contains(['\n', '\r', '\0']) {
        return Err(
            "is not one line of OpenSSH's public key format; give the .pub file".to_owned(),
        );
    }
    if Certificate::from_openssh(line).is_ok() {
        return Err("is a certificate; give the plain public key".to_owned());
    }
    let key = PublicKey::from_openssh(line).map_err(|_| {
        "is not a line of OpenSSH's public key format (`ssh-ed25519 AAAA… comment`); give the content of a .pub file".to_owned()
    })?;
    let stronger = "make one with: ssh-keygen -t ed25519";
    match key.algorithm() {
        Algorithm::Dsa => return Err(format!("is a DSA key, which is too weak; {stronger}")),
        Algorithm::Ed25519
        | Algorithm::Ecdsa { .. }
        | Algorithm::SkEd25519
        | Algorithm::SkEcdsaSha2NistP256 => {}
        Algorithm::Rsa { .. } => {
            let bits = key
                .key_data()
                .rsa()
                .map_or(0, |rsa| rsa.key_size() as usize);
            if bits < MIN_RSA_BITS {
                return Err(format!(
                    "is an RSA key of {bits} bits and must have at least {MIN_RSA_BITS}; {stronger}"
                ));
            }
        }
        other => return Err(format!("has the unsupported type `{other}`; {stronger}")),
    }
    let line = key
        .to_openssh()
        .map_err(|_| "cannot be written in OpenSSH's public key format".to_owned())?;
    Ok(SshKey {
        fingerprint: key.fingerprint(HashAlg::Sha256).to_string(),
        line,
    })
}

fn check_labels(labels: &BTreeMap<String, String>) -> Result<()> {
    if labels.len() > MAX_LABELS {
        return Err(Error::field(
            "labels",
            format!(
                "{} labels are too many; give at most {MAX_LABELS}",
                labels.len()
            ),
        ));
    }
    for (key, value) in labels {
        let shown: String = key.chars().take(80).collect();
        let acceptable = |b: u8| {
            b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'_' | b'-' | b'/')
        };
        if !(1..=63).contains(&key.len()) || !key.bytes().all(acceptable) {
            return Err(Error::field(
                format!("labels[{shown}]"),
                "the key must be 1 to 63 characters a-z, 0-9, `.`, `_`, `-` and `/`",
            ));
        }
        if value.chars().count() > 255 || value.contains(char::is_control) {
            return Err(Error::field(
                format!("labels[{shown}]"),
                "the value must be at most 255 characters, none of them a control character",
            ));
        }
    }
    Ok(())
}

/// Checks a container image reference: `[REGISTRY[:PORT]/]NAME[:TAG][@DIGEST]`, as Docker reads it.
///
/// # Errors
/// `InvalidField`.
pub fn check_image(image: &str) -> Result<()> {
    if is_image_reference(image) {
        return Ok(());
    }
    Err(Error::field(
        "image",
        "is not a container image reference; write [REGISTRY/]NAME[:TAG][@sha256:DIGEST] with a name in lower case, as in `ghcr.io/team/train:v1`",
    ))
}

fn is_image_reference(image: &str) -> bool {
    if image.len() > 512 {
        return false;
    }
    let (rest, digest) = match image.split_once('@') {
        Some((rest, digest)) => (rest, Some(digest)),
        None => (image, None),
    };
    // The tag is behind the last colon, unless a slash follows: then the colon is the registry's port.
    let (name, tag) = match rest.rsplit_once(':') {
        Some((name, tag)) if !tag.contains('/') => (name, Some(tag)),
        _ => (rest, None),
    };
    digest.is_none_or(is_digest) && tag.is_none_or(is_tag) && is_image_name(name)
}

fn is_digest(digest: &str) -> bool {
    let hex = |text: &str, length| {
        text.len() == length
            && text
                .bytes()
                .all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
    };
    match digest.split_once(':') {
        Some(("sha256", text)) => hex(text, 64),
        Some(("sha512", text)) => hex(text, 128),
        _ => false,
    }
}

fn is_tag(tag: &str) -> bool {
    (1..=128).contains(&tag.len())
        && tag
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'))
        && !tag.starts_with(['.', '-'])
}

fn is_image_name(name: &str) -> bool {
    let path = match name.split_once('/') {
        Some((first, path))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first != first.to_ascii_lowercase() =>
        {
            if !is_registry(first) {
                return false;
            }
            path
        }
        _ => name,
    };
    name.len() <= 255 && path.split('/').all(is_path_component)
}

fn is_registry(registry: &str) -> bool {
    let (domain, port) = match registry.rsplit_once(':') {
        Some((domain, port)) => (domain, Some(port)),
        None => (registry, None),
    };
    let port_fits = port.is_none_or(|port| port.parse::<u16>().is_ok());
    let label = |label: &str| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-')
    };
    port_fits && domain.split('.').all(label)
}

/// Lower-case letters and digits, separated by `.`, `_`, `__` or any number of `-`.
fn is_path_component(component: &str) -> bool {
    let word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends_fit =
        bytes.first().is_some_and(|b| word(*b)) && bytes.last().is_some_and(|b| word(*b));
    let separators_fit = component
        .split(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        .all(|s| matches!(s, "" | "." | "_" | "__") || s.bytes().all(|b| b == b'-'));
    ends_fit && separators_fit
}

#[cfg(test)]
mod tests;
