//! Conversions between protobuf timestamps and microseconds since the Unix epoch.

use prost_types::Timestamp;

/// Microseconds since the Unix epoch as a timestamp.
#[must_use]
pub fn timestamp_from_micros(micros: i64) -> Timestamp {
    Timestamp {
        seconds: micros.div_euclid(1_000_000),
        nanos: i32::try_from(micros.rem_euclid(1_000_000) * 1000).unwrap_or(0),
    }
}

/// A timestamp as microseconds since the Unix epoch, or `None` when it is not a valid instant of the years 1 to 9999.
#[must_use]
pub fn micros_from_timestamp(timestamp: &Timestamp) -> Option<i64> {
    const YEAR_1: i64 = -62_135_596_800;
    const YEAR_10000: i64 = 253_402_300_800;
    if !(YEAR_1..YEAR_10000).contains(&timestamp.seconds)
        || !(0..1_000_000_000).contains(&timestamp.nanos)
    {
        return None;
    }
    Some(timestamp.seconds * 1_000_000 + i64::from(timestamp.nanos) / 1000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instants_before_and_after_the_epoch_round_trip() {
        for micros in [-1, 0, 1, 1_700_000_000_123_456, -1_000_001] {
            let timestamp = timestamp_from_micros(micros);
            assert_eq!(micros_from_timestamp(&timestamp), Some(micros));
        }
    }

    #[test]
    fn instants_outside_the_calendar_are_refused() {
        for (seconds, nanos) in [(i64::MAX, 0), (i64::MIN, 0), (0, -1), (0, 1_000_000_000)] {
            assert_eq!(micros_from_timestamp(&Timestamp { seconds, nanos }), None);
        }
    }
}
