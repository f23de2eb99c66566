//! What the agent and its NVML worker say to each other. The two are always the same binary, so there are no versions.
//!
//! The agent asks with one byte; the worker answers with frames: the body's length (4 bytes, little endian), what it is (1 byte), the
//! body. Bodies are JSON, but for samples, which are asked for all the time: numbers of 8 bytes each, the highest standing for "not told".

use std::io;

use serde::{Deserialize, Serialize};

use crate::model::{GpuInfo, Step};

/// What the agent asks. The worker answers each with one frame, in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// The measures that telemetry shows.
    Sample,
    /// Everything that the checks look at.
    Health,
    /// Bring modes, clocks and limits back to what a tenant should find.
    Restore,
}

impl Request {
    const ALL: [Self; 3] = [Self::Sample, Self::Health, Self::Restore];

    pub(crate) fn to_byte(self) -> u8 {
        match self {
            Self::Sample => b's',
            Self::Health => b'h',
            Self::Restore => b'r',
        }
    }

    pub(crate) fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL
            .into_iter()
            .find(|request| request.to_byte() == byte)
    }
}

/// What the worker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Answer {
    /// NVML is there. The first, unasked.
    Hello(Hello),
    /// NVML is not there. The first and last.
    Unavailable(Unavailable),
    /// Answers [`Request::Sample`]: of each of [`Hello::gpus`], in their order.
    #[serde(skip)]
    Sample(Vec<Measures>),
    /// Answers [`Request::Health`].
    Health(Vec<GpuHealth>),
    /// Answers [`Request::Restore`].
    Restored(Vec<Step>),
    /// An Xid from NVML's event set, unasked.
    Xid(XidEvent),
}

/// What does not change while the worker lives.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Hello {
    pub(crate) driver_version: String,
    pub(crate) cuda_version: String,
    pub(crate) simulated: bool,
    /// Those that could be opened, in the order of their indexes.
    pub(crate) gpus: Vec<GpuInfo>,
    /// Indexes that NVML counts and cannot open, with why.
    pub(crate) unreachable: Vec<(u32, String)>,
}

/// Why there is no NVML.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{reason}. {remedy}")]
pub(crate) struct Unavailable {
    /// What is wrong.
    pub(crate) reason: String,
    /// What to do.
    pub(crate) remedy: String,
}

/// The measures of one GPU. `None`: it is off the bus.
pub(crate) type Measures = Option<Readings>;

/// What [`Readings`] hold, by position: `None` is what the GPU or its driver does not tell.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Measure {
    UtilizationPercent,
    MemoryUsedBytes,
    MemoryTotalBytes,
    TemperatureCelsius,
    PowerMilliwatts,
    SmClockMhz,
    MemoryClockMhz,
    EccCorrected,
    EccUncorrected,
}

const MEASURES: usize = 9;

/// One sample of one GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Readings([u64; MEASURES]);

/// Stands for what is not told.
const UNTOLD: u64 = u64::MAX;

/// Stands for a GPU that is off the bus, in the place of its first measure.
const LOST: u64 = u64::MAX - 1;

impl Default for Readings {
    fn default() -> Self {
        Self([UNTOLD; MEASURES])
    }
}

impl Readings {
    pub(crate) fn set(&mut self, measure: Measure, value: Option<impl Into<u64>>) {
        // The two highest numbers mean something else, and no measure comes near them.
        self.0[measure as usize] = value.map_or(UNTOLD, |value| value.into().min(LOST - 1));
    }

    pub(crate) fn get(&self, measure: Measure) -> Option<u64> {
        Some(self.0[measure as usize]).filter(|value| *value != UNTOLD)
    }

    /// A measure that fits 32 bits.
    pub(crate) fn get_small(&self, measure: Measure) -> Option<u32> {
        u32::try_from(self.get(measure)?).ok()
    }
}

/// Everything that the checks and the gate look at of one GPU. `None`: this GPU or driver does not tell.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct GpuHealth {
    pub(crate) uuid: String,
    /// Off the bus; nothing else is set.
    pub(crate) lost: bool,
    /// NVML says that it has to be reset before it can be used.
    pub(crate) reset_required: bool,
    pub(crate) temperature_celsius: Option<u32>,
    pub(crate) memory_temperature_celsius: Option<u32>,
    /// From here on the hardware slows down.
    pub(crate) slowdown_celsius: Option<u32>,
    pub(crate) shutdown_celsius: Option<u32>,
    /// NVML's bits.
    pub(crate) throttle_reasons: Option<u64>,
    pub(crate) ecc_enabled: Option<bool>,
    pub(crate) ecc_pending: Option<bool>,
    /// Since the driver was loaded.
    pub(crate) ecc_corrected: Option<u64>,
    pub(crate) ecc_uncorrected: Option<u64>,
    /// Of the SRAMs alone, over the board's life.
    pub(crate) sram_uncorrected: Option<u64>,
    pub(crate) rows_uncorrected: Option<u64>,
    pub(crate) rows_pending: Option<bool>,
    pub(crate) rows_failure: Option<bool>,
    /// NVML's `nvmlDeviceGpuRecoveryAction_t`.
    pub(crate) recovery_action: Option<u64>,
    pub(crate) pcie_generation: Option<u32>,
    pub(crate) pcie_width: Option<u32>,
    pub(crate) pcie_width_max: Option<u32>,
    pub(crate) pcie_replays: Option<u32>,
    pub(crate) nvlinks: Option<u32>,
    pub(crate) nvlinks_active: Option<u32>,
    pub(crate) compute_mode: Option<String>,
    pub(crate) persistence: Option<bool>,
    pub(crate) mig: Option<bool>,
    pub(crate) power_limit_milliwatts: Option<u32>,
    pub(crate) power_default_milliwatts: Option<u32>,
    /// Processes that hold it. `None`: NVML does not tell.
    pub(crate) processes: Option<Vec<u32>>,
}

/// An Xid from NVML's event set.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct XidEvent {
    pub(crate) uuid: String,
    pub(crate) xid: u32,
}

/// Length of what stands before a frame's body.
pub(crate) const HEAD: usize = 5;

/// Longer than any body: hosts have eight or sixteen GPUs, of a few hundred bytes each.
pub(crate) const LONGEST_BODY: usize = 1 << 20;

const JSON: u8 = b'j';
const SAMPLE: u8 = b's';

/// Writes an answer's frame into `frame`.
pub(crate) fn encode(answer: &Answer, frame: &mut Vec<u8>) -> io::Result<()> {
    frame.clear();
    frame.extend_from_slice(&[0; HEAD]);
    if let Answer::Sample(gpus) = answer {
        frame[HEAD - 1] = SAMPLE;
        for gpu in gpus {
            let values = gpu.map_or([LOST; MEASURES], |readings| readings.0);
            for value in values {
                frame.extend_from_slice(&value.to_le_bytes());
            }
        }
    } else {
        frame[HEAD - 1] = JSON;
        serde_json::to_writer(&mut *frame, answer)?;
    }
    let length = u32::try_from(frame.len() - HEAD).map_err(io::Error::other)?;
    frame[..4].copy_from_slice(&length.to_le_bytes());
    Ok(())
}

/// The length of the body that follows a head.
pub(crate) fn body_length(head: [u8; HEAD]) -> io::Result<usize> {
    let [a, b, c, d, _] = head;
    let length = u32::from_le_bytes([a, b, c, d]) as usize;
    if length > LONGEST_BODY {
        return Err(io::Error::other(format!("a body of {length} bytes")));
    }
    Ok(length)
}

/// Reads an answer.
pub(crate) fn decode(head: [u8; HEAD], body: &[u8]) -> io::Result<Answer> {
    match head[HEAD - 1] {
        JSON => Ok(serde_json::from_slice(body)?),
        SAMPLE => Ok(Answer::Sample(
            body.chunks_exact(MEASURES * 8).map(measures).collect(),
        )),
        other => Err(io::Error::other(format!("a frame of kind {other}"))),
    }
}

fn measures(bytes: &[u8]) -> Measures {
    let mut readings = Readings::default();
    let (values, _) = bytes.as_chunks::<8>();
    for (to, from) in readings.0.iter_mut().zip(values) {
        *to = u64::from_le_bytes(*from);
    }
    (readings.0[0] != LOST).then_some(readings)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn there_and_back(answer: &Answer) -> Answer {
        let mut frame = Vec::new();
        encode(answer, &mut frame).expect("encoded");
        let (head, body) = frame.split_first_chunk().expect("a head");
        assert_eq!(body_length(*head).expect("a length"), body.len());
        decode(*head, body).expect("decoded")
    }

    #[test]
    fn answers_arrive_as_they_were() {
        let mut readings = Readings::default();
        readings.set(Measure::UtilizationPercent, Some(0_u32));
        readings.set(Measure::EccCorrected, Some(u64::MAX));
        readings.set(Measure::PowerMilliwatts, None::<u32>);
        assert_eq!(readings.get(Measure::UtilizationPercent), Some(0));
        assert_eq!(readings.get(Measure::EccCorrected), Some(u64::MAX - 2));
        assert_eq!(readings.get(Measure::PowerMilliwatts), None);
        assert_eq!(readings.get_small(Measure::EccCorrected), None);
        for answer in [
            Answer::Sample(vec![Some(readings), None, Some(Readings::default())]),
            Answer::Sample(Vec::new()),
            Answer::Hello(Hello {
                driver_version: "570".to_owned(),
                unreachable: vec![(3, "lost".to_owned())],
                ..Hello::default()
            }),
            Answer::Health(vec![GpuHealth {
                uuid: "GPU-a".to_owned(),
                rows_pending: Some(true),
                ..GpuHealth::default()
            }]),
            Answer::Xid(XidEvent {
                uuid: "GPU-a".to_owned(),
                xid: 79,
            }),
        ] {
            assert_eq!(there_and_back(&answer), answer);
        }
    }

    #[test]
    fn requests_have_bytes_of_their_own() {
        for request in Request::ALL {
            assert_eq!(Request::from_byte(request.to_byte()), Some(request));
        }
        assert_eq!(Request::from_byte(b'\n'), None);
    }

    #[test]
    fn what_is_no_frame_is_refused() {
        assert!(body_length([255, 255, 255, 255, JSON]).is_err());
        assert!(decode([0, 0, 0, 0, b'?'], &[]).is_err());
        assert!(decode([2, 0, 0, 0, JSON], b"{}").is_err());
    }
}
