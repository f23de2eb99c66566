//! NVIDIA's Xid messages: what they look like in the kernel's log, and which of them take a GPU away from its tenant.
//!
//! The table follows NVIDIA's Xid catalogue (<https://docs.nvidia.com/deploy/xid-errors/>, column "immediate action") and, where that says
//! "workflow", DCGM's health watches (`DcgmHealthWatch.cpp`).

/// What an Xid means for a lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Severity {
    /// The application's own fault, or one that hurt only the application: told, nothing else.
    Application,
    /// The tenant may go on; the GPU has to be reset or looked at before the next one.
    Degraded,
    /// The GPU cannot be used until it is reset, or its host restarted.
    Fatal,
}

/// An Xid with a consequence, and what it says in an operator's words.
const TABLE: [(u32, Severity, &str); 15] = [
    (
        48,
        Severity::Degraded,
        "double-bit memory error; reset the GPU",
    ),
    (
        62,
        Severity::Fatal,
        "the power management unit halted; reset the GPU",
    ),
    (
        64,
        Severity::Degraded,
        "a memory row could not be remapped; reset the GPU, replace the board if it returns",
    ),
    (
        74,
        Severity::Degraded,
        "NVLink error; reset the GPU, look at the link if it returns",
    ),
    (
        79,
        Severity::Fatal,
        "the GPU has fallen off the bus; power-cycle the host, replace the board if it returns",
    ),
    (
        95,
        Severity::Fatal,
        "uncontained memory error; reset the GPU",
    ),
    (
        119,
        Severity::Fatal,
        "the GPU's system processor does not answer; reset the GPU, then restart the host",
    ),
    (
        120,
        Severity::Fatal,
        "the GPU's system processor failed; reset the GPU, then restart the host",
    ),
    (
        136,
        Severity::Degraded,
        "NVLink training failed; reset the GPU",
    ),
    (
        140,
        Severity::Fatal,
        "unrecovered memory error; reset the GPU",
    ),
    (
        143,
        Severity::Fatal,
        "the GPU did not initialise; reset the GPU",
    ),
    (151, Severity::Fatal, "key rotation failed; reset the GPU"),
    (
        155,
        Severity::Degraded,
        "NVLink is down; look at the link and at the fabric manager",
    ),
    (
        156,
        Severity::Degraded,
        "a resource was retired; reset the GPU",
    ),
    (
        158,
        Severity::Fatal,
        "the GPU timed out for good; reset the GPU",
    ),
];

/// What an Xid means. One that is not in the table (13, 31, 43, 45, 68, 69, 94 …) is the application's. 63 and 154 are there to be told;
/// the row remapper and the recovery action themselves are checks of their own.
pub(super) fn severity(xid: u32) -> Severity {
    let known = TABLE.iter().find(|(code, ..)| *code == xid);
    known.map_or(Severity::Application, |(_, severity, _)| *severity)
}

/// What it says in words.
pub(super) fn meaning(xid: u32) -> &'static str {
    let known = TABLE.iter().find(|(code, ..)| *code == xid);
    known.map_or("told by the driver", |(.., meaning)| meaning)
}

/// An Xid in the kernel's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Message {
    /// Domain, bus and device: `0000:1b:00`.
    pub(super) pci: String,
    pub(super) xid: u32,
    /// What the driver wrote behind the code.
    pub(super) detail: String,
}

/// Reads a line of the kernel's log: `NVRM: Xid (PCI:0000:1b:00): 79, pid=1234, name=python3, GPU has fallen off the bus.` Some drivers
/// write only the last words, without a code, when a GPU falls off the bus.
pub(super) fn parse(text: &str) -> Option<Message> {
    let (_, text) = text.split_once("NVRM: ")?;
    if let Some(rest) = text.strip_prefix("Xid (") {
        let (address, rest) = rest.split_once("): ")?;
        let pci = address.strip_prefix("PCI:").unwrap_or(address);
        let digits = rest.find(|c: char| !c.is_ascii_digit());
        let (code, detail) = rest.split_at(digits.unwrap_or(rest.len()));
        return Some(Message {
            pci: normalise(pci)?,
            xid: code.parse().ok()?,
            detail: detail.trim_start_matches([',', ' ']).trim().to_owned(),
        });
    }
    let (address, _) = text.split_once(": GPU has fallen off the bus")?;
    let address = address.strip_prefix("GPU ").unwrap_or(address);
    let address = address.strip_prefix("at PCI:").unwrap_or(address);
    Some(Message {
        pci: normalise(address)?,
        xid: 79,
        detail: "GPU has fallen off the bus".to_owned(),
    })
}

/// One spelling for the many of a PCI address: `00000000:1B:00.0` and `0000:1b:00` are both `0000:1b:00`.
pub(super) fn normalise(address: &str) -> Option<String> {
    let (address, _) = address.split_once('.').unwrap_or((address, ""));
    let mut parts = address
        .split(':')
        .map(|part| u32::from_str_radix(part.trim(), 16));
    let (domain, bus, device) = (
        parts.next()?.ok()?,
        parts.next()?.ok()?,
        parts.next()?.ok()?,
    );
    parts
        .next()
        .is_none()
        .then(|| format!("{domain:04x}:{bus:02x}:{device:02x}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_drivers_lines_are_understood() {
        let full = parse(
            "NVRM: Xid (PCI:0000:1b:00): 79, pid='<unknown>', name=<unknown>, GPU has fallen off the bus.",
        )
        .expect("an Xid");
        assert_eq!((full.pci.as_str(), full.xid), ("0000:1b:00", 79));
        assert!(full.detail.starts_with("pid="), "{}", full.detail);
        let old = parse("[  12.3] NVRM: Xid (0000:CB:00): 31, Ch 00000010").expect("an Xid");
        assert_eq!((old.pci.as_str(), old.xid), ("0000:cb:00", 31));
        let bare = parse("NVRM: GPU 0000:1b:00.0: GPU has fallen off the bus.").expect("an Xid");
        assert_eq!((bare.pci.as_str(), bare.xid), ("0000:1b:00", 79));
    }

    #[test]
    fn other_lines_are_not_xids() {
        for line in [
            "",
            "NVRM: loading NVIDIA UNIX x86_64 Kernel Module  570.133.20",
            "NVRM: Xid (PCI:0000:1b:00): , pid=1",
            "NVRM: Xid (PCI:nonsense): 79, pid=1",
            "NVRM: Xid (PCI:0000:1b:00): 99999999999, pid=1",
            "usb 1-1: new device",
        ] {
            assert_eq!(parse(line), None, "{line}");
        }
    }

    #[test]
    fn addresses_of_nvml_and_of_the_kernel_meet() {
        assert_eq!(normalise("00000000:1B:00.0"), normalise("0000:1b:00"));
        assert_eq!(normalise("00000001:1B:00.0").as_deref(), Some("0001:1b:00"));
    }

    #[test]
    fn application_faults_have_no_consequence_and_a_lost_gpu_has() {
        for xid in [13, 31, 43, 45, 63, 68, 69, 94, 154] {
            assert_eq!(severity(xid), Severity::Application, "{xid}");
        }
        for xid in [62, 79, 95, 119, 120, 140] {
            assert_eq!(severity(xid), Severity::Fatal, "{xid}");
        }
        assert_eq!(severity(74), Severity::Degraded);
        assert!(TABLE.is_sorted_by_key(|(code, ..)| *code));
    }
}
