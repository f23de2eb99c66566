//! What people type: instants, lifetimes, labels and public key files.

use std::{fs, path::Path, time::Duration};

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};
use freehold_proto::time::timestamp_from_micros;
use prost_types::Timestamp;

use crate::error::CliError;

/// An instant: RFC 3339 with or without seconds, a UTC date with or without time, a month, `now`, or relative (`+2h`, `-7d`).
pub(crate) fn parse_time(text: &str) -> Result<Timestamp, String> {
    parse_time_at(text.trim(), Utc::now())
        .map(|time| timestamp_from_micros(time.timestamp_micros()))
}

fn parse_time_at(text: &str, now: DateTime<Utc>) -> Result<DateTime<Utc>, String> {
    let refuse = || {
        "not a time: write `2026-12-01T08:00Z`, `2026-12-01 08:00` (UTC), `2026-12-01`, `now` or `+2h`".to_owned()
    };
    if text == "now" {
        return Ok(now);
    }
    if let Some(rest) = text.strip_prefix('+') {
        return shift(now, rest, 1).ok_or_else(refuse);
    }
    if let Some(rest) = text.strip_prefix('-') {
        return shift(now, rest, -1).ok_or_else(refuse);
    }
    let parsed = with_offset(text)
        .or_else(|| without_offset(text))
        .ok_or_else(refuse)?;
    Ok(parsed)
}

fn shift(now: DateTime<Utc>, text: &str, sign: i32) -> Option<DateTime<Utc>> {
    let duration = humantime::parse_duration(text).ok()?;
    let delta = TimeDelta::from_std(duration).ok()?;
    now.checked_add_signed(delta.checked_mul(sign)?)
}

fn with_offset(text: &str) -> Option<DateTime<Utc>> {
    let zone = text.ends_with(['Z', 'z']);
    if !zone && !text.get(10..)?.contains(['+', '-']) {
        return None;
    }
    // chrono's `%z` does not take a bare Z in every format.
    let spelled = match text.strip_suffix(['Z', 'z']) {
        Some(rest) => format!("{rest}+00:00"),
        None => text.to_owned(),
    };
    let spelled = spelled.replacen(' ', "T", 1);
    [
        "%Y-%m-%dT%H:%M:%S%.f%:z",
        "%Y-%m-%dT%H:%M%:z",
        "%Y-%m-%dT%H:%M:%S%.f%z",
        "%Y-%m-%dT%H:%M%z",
    ]
    .iter()
    .find_map(|format| DateTime::parse_from_str(&spelled, format).ok())
    .map(|time| time.with_timezone(&Utc))
}

fn without_offset(text: &str) -> Option<DateTime<Utc>> {
    let spelled = text.replacen(['T', 't'], " ", 1);
    ["%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M"]
        .iter()
        .find_map(|format| NaiveDateTime::parse_from_str(&spelled, format).ok())
        .or_else(|| {
            date(text)
                .or_else(|| date(&format!("{text}-01")))?
                .and_hms_opt(0, 0, 0)
        })
        .map(|time| time.and_utc())
}

fn date(text: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(text, "%Y-%m-%d").ok()
}

/// A lifetime in seconds: `90d`, `12h`, `1h 30m`; at least a minute.
pub(crate) fn parse_lifetime(text: &str) -> Result<i64, String> {
    let duration: Duration = humantime::parse_duration(text.trim()).map_err(|error| {
        format!("not a duration ({error}): write for example `90d`, `12h` or `30m`")
    })?;
    let seconds = i64::try_from(duration.as_secs()).unwrap_or(i64::MAX);
    if seconds < 60 {
        return Err("too short: at least one minute (`1m`)".to_owned());
    }
    Ok(seconds)
}

/// One `KEY=VALUE`.
pub(crate) fn parse_label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not a label: write `KEY=VALUE`, for example `team=vision`".to_owned()),
    }
}

/// The public keys in the files, one a line, as OpenSSH writes them.
pub(crate) fn read_public_keys(files: &[impl AsRef<Path>]) -> Result<Vec<String>, CliError> {
    let mut keys = Vec::new();
    for file in files {
        let file = file.as_ref();
        let refuse = |message: String| {
            CliError::input("--ssh-key", format!("{}: {message}", file.display()))
        };
        let text = fs::read_to_string(file).map_err(|error| {
            refuse(format!(
                "{error}; name a public key, for example ~/.ssh/id_ed25519.pub"
            ))
        })?;
        if text.contains("PRIVATE KEY-----") {
            return Err(refuse(
                "is a private key; name the file beside it that ends in `.pub`".to_owned(),
            ));
        }
        let before = keys.len();
        keys.extend(
            text.lines()
                .map(str::trim)
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .map(str::to_owned),
        );
        if keys.len() == before {
            return Err(refuse(
                "holds no public key; a key is a line like `ssh-ed25519 AAAA… name`".to_owned(),
            ));
        }
    }
    Ok(keys)
}

/// The id that makes a create safe to repeat: the given one, else a fresh one.
pub(crate) fn request_id(given: Option<String>) -> String {
    given.unwrap_or_else(|| format!("cli-{}", uuid::Uuid::now_v7().simple()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Result<String, String> {
        let now = DateTime::parse_from_rfc3339("2026-11-23T08:30:00Z")
            .expect("valid")
            .to_utc();
        parse_time_at(text, now)
            .map(|time| time.to_rfc3339_opts(chrono::SecondsFormat::AutoSi, true))
    }

    #[test]
    fn times_are_read_in_every_documented_spelling() {
        for (text, expected) in [
            ("2026-12-01T08:00:00Z", "2026-12-01T08:00:00Z"),
            ("2026-12-01T08:00Z", "2026-12-01T08:00:00Z"),
            ("2026-12-01T08:00:00.25+01:00", "2026-12-01T07:00:00.250Z"),
            ("2026-12-01T08:00-0530", "2026-12-01T13:30:00Z"),
            ("2026-12-01 08:00", "2026-12-01T08:00:00Z"),
            ("2026-12-01 08:00:05", "2026-12-01T08:00:05Z"),
            ("2026-12-01", "2026-12-01T00:00:00Z"),
            ("2026-12", "2026-12-01T00:00:00Z"),
            ("now", "2026-11-23T08:30:00Z"),
            ("+2h", "2026-11-23T10:30:00Z"),
            ("-1d", "2026-11-22T08:30:00Z"),
        ] {
            assert_eq!(at(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused_with_an_example() {
        for text in [
            "",
            "tomorrow",
            "2026-13-01",
            "08:00",
            "+",
            "+2",
            "2026-12-01T25:00Z",
            "+99999999999999y",
        ] {
            let error = at(text).expect_err(text);
            assert!(error.contains("+2h"), "{text}: {error}");
        }
    }

    #[test]
    fn a_lifetime_under_a_minute_is_refused_since_zero_would_mean_the_default() {
        assert_eq!(parse_lifetime("90d"), Ok(7_776_000));
        for text in ["0s", "59s", "soon", "-1h"] {
            assert!(parse_lifetime(text).is_err(), "{text}");
        }
    }

    #[test]
    fn a_label_splits_at_its_first_equals_sign() {
        assert_eq!(parse_label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(parse_label("a").is_err());
        assert!(parse_label("=a").is_err());
    }

    #[test]
    fn a_private_key_is_never_sent() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("id");
        fs::write(&file, "-----BEGIN OPENSSH PRIVATE KEY-----\nAAAA\n").expect("written");
        let error = read_public_keys(&[&file]).expect_err("refused").to_string();
        assert!(error.contains(".pub"), "{error}");
    }
}
