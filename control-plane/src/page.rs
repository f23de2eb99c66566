//! Paging by key, and checks of fields that many requests share.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, Utc};
use freehold_proto::time::{micros_from_timestamp, timestamp_from_micros};
use prost_types::Timestamp;
use uuid::Uuid;

use crate::error::{Error, Result};

/// One page of a list that is ordered by id.
#[derive(Debug, Clone, Copy)]
pub struct Page {
    /// At most this many rows.
    pub size: i64,
    /// The id of the last row of the page before; `None`: the first page.
    pub after: Option<Uuid>,
}

impl Page {
    /// Reads `page_size` (0: the default of 100, at most 1000) and `page_token`.
    ///
    /// # Errors
    /// `InvalidField` for a size out of range and for a token that no list returned.
    pub fn parse(page_size: i32, page_token: &str) -> Result<Self> {
        let size = match page_size {
            0 => 100,
            1..=1000 => i64::from(page_size),
            _ => {
                return Err(Error::field(
                    "page_size",
                    "must be 1 to 1000, or 0 for the default of 100",
                ));
            }
        };
        let after = match page_token {
            "" => None,
            token => Some(decode(token)?),
        };
        Ok(Self { size, after })
    }

    /// How many rows to ask for: one more than the page, to learn whether there is another.
    #[must_use]
    pub fn fetch(&self) -> i64 {
        self.size + 1
    }

    /// Cuts the extra row off and returns the token of the next page, or the empty text on the last.
    pub fn cut<T>(&self, rows: &mut Vec<T>, id: impl Fn(&T) -> Uuid) -> String {
        let size = usize::try_from(self.size).unwrap_or(usize::MAX);
        if rows.len() <= size {
            return String::new();
        }
        rows.truncate(size);
        rows.last()
            .map(|row| URL_SAFE_NO_PAD.encode(id(row).as_bytes()))
            .unwrap_or_default()
    }
}

fn decode(token: &str) -> Result<Uuid> {
    URL_SAFE_NO_PAD
        .decode(token)
        .ok()
        .and_then(|bytes| Uuid::from_slice(&bytes).ok())
        .ok_or_else(|| {
            Error::field(
                "page_token",
                "is not the next_page_token of an earlier page",
            )
        })
}

/// Checks a name: 1 to 63 characters of a-z, 0-9 and `-`, beginning with a letter and not ending with `-`.
///
/// # Errors
/// `InvalidField`.
pub fn check_name(field: &str, name: &str) -> Result<()> {
    let valid = (1..=63).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if valid {
        return Ok(());
    }
    Err(Error::field(
        field,
        "must be 1 to 63 characters a-z, 0-9 and `-`, begin with a letter and not end with `-`",
    ))
}

/// A timestamp field as an instant; `None` when absent.
///
/// # Errors
/// `InvalidField` when it is not an instant of the years 1 to 9999.
pub fn parse_time(field: &str, time: Option<&Timestamp>) -> Result<Option<DateTime<Utc>>> {
    time.map(|time| {
        micros_from_timestamp(time)
            .and_then(DateTime::from_timestamp_micros)
            .ok_or_else(|| Error::field(field, "is not an instant of the years 1 to 9999"))
    })
    .transpose()
}

/// An instant as a timestamp.
#[must_use]
pub fn timestamp(time: DateTime<Utc>) -> Timestamp {
    timestamp_from_micros(time.timestamp_micros())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_page_token_leads_to_the_row_after() {
        let page = Page::parse(2, "").unwrap();
        let ids: Vec<Uuid> = (0..3).map(|_| Uuid::now_v7()).collect();
        let mut rows = ids.clone();
        let token = page.cut(&mut rows, |id| *id);
        assert_eq!(rows, ids[..2]);
        assert_eq!(Page::parse(2, &token).unwrap().after, Some(ids[1]));
        let mut last = ids[..2].to_vec();
        assert_eq!(page.cut(&mut last, |id| *id), "");
    }

    #[test]
    fn sizes_and_tokens_out_of_range_are_refused() {
        for (size, token) in [(-1, ""), (1001, ""), (1, "x"), (1, "AAAA")] {
            assert!(Page::parse(size, token).is_err());
        }
    }

    #[test]
    fn names_are_dns_labels() {
        for good in ["a", "team-1", &"a".repeat(63)] {
            assert!(check_name("name", good).is_ok(), "{good}");
        }
        for bad in ["", "A", "1a", "a-", "a_b", "ä", &"a".repeat(64)] {
            assert!(check_name("name", bad).is_err(), "{bad}");
        }
    }
}
