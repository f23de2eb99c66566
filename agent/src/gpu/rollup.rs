//! Folds samples into whole minutes, in a ring of fixed size.

use std::collections::VecDeque;

use crate::model::{GpuRollup, GpuSample};

const MINUTE_MICROS: i64 = 60_000_000;

/// Finished minutes that wait to be taken; the oldest are dropped. An hour of eight GPUs.
const MOST: usize = 480;

/// Sum and count of a measure.
#[derive(Debug, Clone, Copy, Default)]
struct Mean {
    sum: f64,
    count: u32,
}

impl Mean {
    fn add(&mut self, value: Option<f64>) {
        if let Some(value) = value {
            self.sum += value;
            self.count += 1;
        }
    }

    fn value(self) -> Option<f64> {
        (self.count > 0).then(|| self.sum / f64::from(self.count))
    }
}

/// The minute that is being gathered of one GPU.
#[derive(Debug, Default)]
struct Open {
    rollup: GpuRollup,
    utilization: Mean,
    power: Mean,
}

impl Open {
    fn new(uuid: &str, minute_micros: i64) -> Self {
        let rollup = GpuRollup {
            uuid: uuid.to_owned(),
            minute_micros,
            ..GpuRollup::default()
        };
        Self {
            rollup,
            ..Self::default()
        }
    }

    fn add(&mut self, sample: &GpuSample) {
        let rollup = &mut self.rollup;
        rollup.samples += 1;
        let utilization = sample.utilization_percent;
        self.utilization.add(utilization.map(f64::from));
        // A draw in milliwatts is far below 2^53.
        self.power.add(sample.power_milliwatts.map(|mw| mw as f64));
        rollup.utilization_percent_max = rollup.utilization_percent_max.max(utilization);
        rollup.memory_used_bytes_max = rollup.memory_used_bytes_max.max(sample.memory_used_bytes);
        rollup.temperature_celsius_max = rollup
            .temperature_celsius_max
            .max(sample.temperature_celsius);
    }

    fn close(mut self) -> GpuRollup {
        self.rollup.utilization_percent_mean = self.utilization.value();
        self.rollup.power_milliwatts_mean = self.power.value();
        self.rollup
    }
}

/// The minutes of every GPU.
#[derive(Debug, Default)]
pub(super) struct Rollups {
    minute_micros: i64,
    /// In the order of the samples, which hardly ever changes.
    open: Vec<Open>,
    done: VecDeque<GpuRollup>,
}

impl Rollups {
    /// Adds samples that were taken at `now_micros`.
    pub(super) fn add(&mut self, now_micros: i64, samples: &[GpuSample]) {
        self.turn(now_micros);
        for (place, sample) in samples.iter().enumerate() {
            let is_it = |open: &Open| open.rollup.uuid == sample.uuid;
            let at = match self.open.get(place) {
                Some(open) if is_it(open) => place,
                _ => self.open.iter().position(is_it).unwrap_or_else(|| {
                    self.open.push(Open::new(&sample.uuid, self.minute_micros));
                    self.open.len() - 1
                }),
            };
            if let Some(open) = self.open.get_mut(at) {
                open.add(sample);
            }
        }
    }

    /// The minutes that ended since the last call, oldest first.
    pub(super) fn take(&mut self, now_micros: i64) -> Vec<GpuRollup> {
        self.turn(now_micros);
        self.done.drain(..).collect()
    }

    /// Closes the open minute when it is over. A clock that was set back ends it too: a minute is reported once.
    fn turn(&mut self, now_micros: i64) {
        let minute = now_micros - now_micros.rem_euclid(MINUTE_MICROS);
        if minute == self.minute_micros {
            return;
        }
        self.minute_micros = minute;
        let closed = std::mem::take(&mut self.open);
        self.done.extend(closed.into_iter().map(Open::close));
        let excess = self.done.len().saturating_sub(MOST);
        self.done.drain(..excess);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(utilization: u32, temperature: Option<i32>) -> GpuSample {
        GpuSample {
            uuid: "GPU-a".to_owned(),
            utilization_percent: Some(utilization),
            temperature_celsius: temperature,
            ..GpuSample::default()
        }
    }

    #[test]
    fn a_minute_has_means_and_peaks_and_comes_once() {
        let mut rollups = Rollups::default();
        let start = 100 * MINUTE_MICROS;
        rollups.add(start + 1, &[sample(10, None)]);
        rollups.add(start + 2, &[sample(30, Some(60))]);
        assert!(rollups.take(start + 3).is_empty(), "the minute runs on");
        let done = rollups.take(start + MINUTE_MICROS);
        assert_eq!(done.len(), 1);
        assert_eq!((done[0].minute_micros, done[0].samples), (start, 2));
        assert_eq!(done[0].utilization_percent_mean, Some(20.0));
        assert_eq!(done[0].utilization_percent_max, Some(30));
        assert_eq!(done[0].temperature_celsius_max, Some(60));
        assert_eq!(done[0].power_milliwatts_mean, None);
        assert!(rollups.take(start + MINUTE_MICROS).is_empty());
    }

    #[test]
    fn what_nobody_takes_stays_bounded() {
        let mut rollups = Rollups::default();
        for minute in 0..2000 {
            rollups.add(minute * MINUTE_MICROS, &[sample(1, None)]);
        }
        let done = rollups.take(2000 * MINUTE_MICROS);
        assert_eq!(done.len(), MOST);
        assert_eq!(
            done.last().map(|r| r.minute_micros),
            Some(1999 * MINUTE_MICROS)
        );
    }
}
