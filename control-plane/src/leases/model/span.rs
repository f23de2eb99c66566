//! Stretches of time.

use chrono::{DateTime, TimeDelta, Utc};

/// From an instant on, up to but without another; `to` is `None` for what has no end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span {
    /// First instant in it.
    pub from: DateTime<Utc>,
    /// First instant after it.
    pub to: Option<DateTime<Utc>>,
}

impl Span {
    /// True when an instant is in both. Spans that only touch do not overlap.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        self.to.is_none_or(|to| other.from < to) && other.to.is_none_or(|to| self.from < to)
    }
}

/// What surrounds every window on its host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Margins {
    /// Before it, for bringing instances up.
    pub lead: TimeDelta,
    /// After it, for cleaning.
    pub turnaround: TimeDelta,
}

impl Margins {
    /// What a window takes of its host's time: from its lead on, but not from before `now`, to the end of the turnaround.
    #[must_use]
    pub fn around(&self, window: &Span, now: DateTime<Utc>) -> Span {
        Span {
            from: (window.from - self.lead).max(now),
            to: window.to.map(|to| to + self.turnaround),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn span(from: i64, to: impl Into<Option<i64>>) -> Span {
        Span {
            from: at(from),
            to: to.into().map(at),
        }
    }

    #[test]
    fn spans_that_touch_do_not_overlap() {
        assert!(!span(0, 10).overlaps(&span(10, 20)));
        assert!(!span(10, 20).overlaps(&span(0, 10)));
        assert!(!span(10, None).overlaps(&span(0, 10)));
        assert!(span(0, 11).overlaps(&span(10, 20)));
        assert!(span(0, None).overlaps(&span(1000, None)));
        assert!(span(0, None).overlaps(&span(1000, 1001)));
    }

    #[test]
    fn margins_surround_a_window_but_never_reach_into_the_past() {
        let margins = Margins {
            lead: TimeDelta::minutes(5),
            turnaround: TimeDelta::minutes(10),
        };
        assert_eq!(margins.around(&span(60, 120), at(0)), span(55, 130));
        assert_eq!(margins.around(&span(60, 120), at(57)), span(57, 130));
        assert_eq!(margins.around(&span(0, None), at(0)), span(0, None));
    }
}
