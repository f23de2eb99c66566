//! What a report may be asked for.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Datelike as _, TimeZone as _, Utc};

use crate::error::{Error, Result};

/// What the lines of a report stand for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupBy {
    /// A tenant.
    Organization,
    /// A cost centre.
    Project,
    /// A contract.
    Lease,
    /// An instance type.
    Type,
    /// The value of a label.
    Label(String),
    /// A day, UTC.
    Day,
}

impl GroupBy {
    /// Reads `organization`, `project`, `lease`, `type`, `label:KEY` or `day`; empty: `organization`.
    ///
    /// # Errors
    /// `InvalidField`.
    pub fn parse(text: &str) -> Result<Self> {
        Ok(match text {
            "" | "organization" => Self::Organization,
            "project" => Self::Project,
            "lease" => Self::Lease,
            "type" => Self::Type,
            "day" => Self::Day,
            _ => match text.strip_prefix("label:") {
                Some(key) if (1..=63).contains(&key.len()) && !key.contains('\0') => {
                    Self::Label(key.to_owned())
                }
                _ => {
                    let shown: String = text.chars().take(80).collect();
                    return Err(Error::field(
                        "group_by",
                        format!(
                            "`{shown}` is not a grouping; must be organization, project, lease, type, label:KEY or day"
                        ),
                    ));
                }
            },
        })
    }

    /// As it was asked for.
    #[must_use]
    pub fn as_text(&self) -> String {
        match self {
            Self::Organization => "organization".to_owned(),
            Self::Project => "project".to_owned(),
            Self::Lease => "lease".to_owned(),
            Self::Type => "type".to_owned(),
            Self::Label(key) => format!("label:{key}"),
            Self::Day => "day".to_owned(),
        }
    }
}

/// The time that a report is about: from the first instant of this month up to now unless said otherwise.
///
/// # Errors
/// `InvalidField` when nothing lies between the two.
pub fn report_range(
    from: Option<DateTime<Utc>>,
    to: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
) -> Result<(DateTime<Utc>, DateTime<Utc>)> {
    let month = Utc
        .with_ymd_and_hms(now.year(), now.month(), 1, 0, 0, 0)
        .single()
        .unwrap_or(now);
    let (since, until) = (from.unwrap_or(month), to.unwrap_or(now));
    let shown = |at: DateTime<Utc>| at.format("%Y-%m-%dT%H:%M:%SZ");
    if since < until {
        return Ok((since, until));
    }
    Err(match (from, to) {
        (None, _) => Error::field(
            "to_time",
            format!(
                "{} is not after {}, where this month begins; give from_time too",
                shown(until),
                shown(since)
            ),
        ),
        (Some(_), None) => Error::field(
            "from_time",
            format!(
                "{} lies in the future; it is {}: give an earlier time",
                shown(since),
                shown(until)
            ),
        ),
        (Some(_), Some(_)) => Error::field(
            "from_time",
            format!(
                "{} is not before to_time, {}; give an earlier time",
                shown(since),
                shown(until)
            ),
        ),
    })
}

/// Most lines of a page: with names of usual length they stay below the 4 MiB that clients accept in one message.
const MAX_LINES: i64 = 20_000;

/// One page of a report, which is ordered by group and currency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportPage {
    /// At most this many lines.
    pub size: i64,
    /// `None`: the first page.
    pub after: Option<ReportCursor>,
}

/// Where a page of a report begins. It has the report's time, so that all pages are of one report although "now" moves on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReportCursor {
    /// Start of the report's time.
    pub from: DateTime<Utc>,
    /// Its end.
    pub to: DateTime<Utc>,
    /// Group of the last line of the page before.
    pub group: String,
    /// Its currency.
    pub currency: String,
}

impl ReportPage {
    /// Reads `page_size` (0: the most, 20,000) and `page_token`.
    ///
    /// # Errors
    /// `InvalidField`.
    pub fn parse(page_size: i32, page_token: &str) -> Result<Self> {
        let size = match i64::from(page_size) {
            0 => MAX_LINES,
            size @ 1..=MAX_LINES => size,
            _ => {
                return Err(Error::field(
                    "page_size",
                    format!("must be 1 to {MAX_LINES}, or 0 for {MAX_LINES}"),
                ));
            }
        };
        let after = match page_token {
            "" => None,
            token => Some(ReportCursor::decode(token).ok_or_else(|| {
                Error::field(
                    "page_token",
                    "is not the next_page_token of an earlier page",
                )
            })?),
        };
        Ok(Self { size, after })
    }
}

impl ReportCursor {
    /// As the token of the next page.
    #[must_use]
    pub fn encode(&self) -> String {
        let (from, to) = (self.from.timestamp_micros(), self.to.timestamp_micros());
        URL_SAFE_NO_PAD.encode(format!("{from} {to} {} {}", self.currency, self.group))
    }

    fn decode(token: &str) -> Option<Self> {
        let text = String::from_utf8(URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
        let mut words = text.splitn(4, ' ');
        let mut instant = || DateTime::from_timestamp_micros(words.next()?.parse().ok()?);
        let (from, to) = (instant()?, instant()?);
        let (currency, group) = (words.next()?.to_owned(), words.next()?.to_owned());
        let plausible = from < to && from.year() >= 1 && to.year() <= 9999 && currency.len() == 3;
        (plausible && !text.contains('\0')).then_some(Self {
            from,
            to,
            group,
            currency,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groupings_are_read_as_they_are_shown_and_others_are_refused() {
        for text in [
            "organization",
            "project",
            "lease",
            "type",
            "day",
            "label:team",
        ] {
            assert_eq!(GroupBy::parse(text).unwrap().as_text(), text);
        }
        assert_eq!(GroupBy::parse("").unwrap(), GroupBy::Organization);
        for text in ["member", "label", "label:", "Lease", "label:\0"] {
            let error = GroupBy::parse(text).unwrap_err().to_string();
            assert!(error.starts_with("group_by: "), "{error}");
        }
    }

    #[test]
    fn a_report_is_of_this_month_up_to_now_unless_said_otherwise() {
        let at = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        let now = at("2026-11-23T10:20:30Z");
        let month = at("2026-11-01T00:00:00Z");
        assert_eq!(report_range(None, None, now).unwrap(), (month, now));
        let last = at("2026-10-01T00:00:00Z");
        assert_eq!(
            report_range(Some(last), Some(month), now).unwrap(),
            (last, month)
        );
        for (from, to, field) in [
            (None, Some(last), "to_time"),
            (Some(month), Some(last), "from_time"),
            (Some(month), Some(month), "from_time"),
            (Some(at("2026-12-01T00:00:00Z")), None, "from_time"),
        ] {
            let error = report_range(from, to, now).unwrap_err().to_string();
            assert!(error.starts_with(field), "{error}");
        }
    }

    #[test]
    fn a_report_token_leads_to_the_line_after_in_the_same_report() {
        let cursor = ReportCursor {
            from: DateTime::UNIX_EPOCH,
            to: DateTime::UNIX_EPOCH + chrono::TimeDelta::microseconds(1),
            group: "a b".to_owned(),
            currency: "USD".to_owned(),
        };
        let page = ReportPage::parse(5, &cursor.encode()).unwrap();
        assert_eq!(page.after, Some(cursor));
        let backwards = URL_SAFE_NO_PAD.encode("1 0 USD a");
        for (size, token) in [(-1, ""), (20_001, ""), (0, "x"), (0, "!!"), (0, &backwards)] {
            assert!(ReportPage::parse(size, token).is_err());
        }
    }
}
