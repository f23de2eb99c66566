//! When a meter is closed: nothing more is expected to change what is owed. Should it all the same, the change is posted after the close.

use chrono::{DateTime, TimeDelta, Utc};

/// How long a journal may take to arrive once its host is heard again: it is sent with the first words.
const JOURNAL_GRACE: TimeDelta = TimeDelta::seconds(10);

/// A stretch of which nothing is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Unknown {
    /// Start.
    pub from: DateTime<Utc>,
    /// End.
    pub to: DateTime<Utc>,
}

/// An instance that ends, as far as its meter goes.
#[derive(Debug, Clone)]
pub struct Ending {
    /// True once no stretch goes on and none will begin.
    pub over: bool,
    /// What its host's journal could still fill in.
    pub unknown: Vec<Unknown>,
    /// When its host was last heard.
    pub host_seen_at: Option<DateTime<Utc>>,
}

/// Whether a lease's meter may be closed: every instance is over, and no journal is waited for. Silence is waited out for `backfill`, the time
/// within which stretches are filled in; longer stretches never are.
#[must_use]
pub fn may_close(instances: &[Ending], now: DateTime<Utc>, backfill: TimeDelta) -> bool {
    instances.iter().all(|instance| {
        instance.over
            && !instance
                .unknown
                .iter()
                .any(|unknown| is_awaited(unknown, instance.host_seen_at, now, backfill))
    })
}

fn is_awaited(
    unknown: &Unknown,
    host_seen_at: Option<DateTime<Utc>>,
    now: DateTime<Utc>,
    backfill: TimeDelta,
) -> bool {
    let heard = host_seen_at.filter(|seen| *seen > unknown.to);
    let fillable = unknown.to - unknown.from <= backfill;
    let patience = match heard {
        Some(_) => JOURNAL_GRACE,
        None => backfill,
    };
    fillable && now - unknown.to < patience
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKFILL: TimeDelta = TimeDelta::minutes(15);

    fn at(minutes: i64) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH + TimeDelta::minutes(minutes)
    }

    fn ending(unknown: &[(i64, i64)], seen: Option<i64>) -> Ending {
        Ending {
            over: true,
            unknown: unknown
                .iter()
                .map(|(from, to)| Unknown {
                    from: at(*from),
                    to: at(*to),
                })
                .collect(),
            host_seen_at: seen.map(at),
        }
    }

    #[test]
    fn a_meter_closes_when_every_instance_is_over() {
        let running = Ending {
            over: false,
            ..ending(&[], None)
        };
        assert!(may_close(&[ending(&[], None)], at(60), BACKFILL));
        assert!(!may_close(&[ending(&[], None), running], at(60), BACKFILL));
    }

    #[test]
    fn a_silent_hosts_journal_is_waited_for_and_not_for_ever() {
        let silent = [ending(&[(50, 60)], Some(50))];
        assert!(!may_close(&silent, at(74), BACKFILL));
        assert!(may_close(&silent, at(75), BACKFILL));
        let too_long_to_fill_in = [ending(&[(10, 60)], None)];
        assert!(may_close(&too_long_to_fill_in, at(61), BACKFILL));
    }

    #[test]
    fn a_host_that_was_heard_since_has_said_what_it_knew() {
        let heard = [ending(&[(50, 60)], Some(61))];
        assert!(may_close(&heard, at(61), BACKFILL));
    }
}
