//! What the simulated boards are: figures from NVIDIA's data sheets and from `nvidia-smi -q` of such boards.

use serde::Deserialize;

/// A board that can be simulated.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Model {
    /// A100 SXM4 with 80 GB.
    #[serde(rename = "a100-80gb")]
    A100,
    /// H100 SXM5 with 80 GB.
    #[default]
    #[serde(rename = "h100")]
    H100,
    /// H200 SXM5 with 141 GB.
    #[serde(rename = "h200")]
    H200,
}

/// What never changes of a board.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Board {
    pub(crate) name: &'static str,
    pub(crate) memory_mib: u64,
    pub(crate) reserved_mib: u64,
    pub(crate) power_limit_w: u32,
    pub(crate) power_min_w: u32,
    pub(crate) power_idle_w: u32,
    pub(crate) sm_max_mhz: u32,
    pub(crate) sm_idle_mhz: u32,
    pub(crate) memory_mhz: u32,
    pub(crate) temperature_idle: u32,
    pub(crate) temperature_busy: u32,
    pub(crate) slowdown_celsius: u32,
    pub(crate) shutdown_celsius: u32,
    pub(crate) compute: (i32, i32),
    pub(crate) architecture: u32,
    pub(crate) cores: u32,
    pub(crate) multiprocessors: u32,
    pub(crate) bus_width: u32,
    pub(crate) nvlinks: u32,
    pub(crate) nvlink_version: u32,
    pub(crate) pcie_gen: u32,
    pub(crate) pci_device: u32,
    pub(crate) pci_subsystem: u32,
    pub(crate) part_number: &'static str,
    pub(crate) vbios: &'static str,
    /// PCI bus numbers of the eight slots, as in a DGX of that generation.
    pub(crate) buses: [u32; 8],
}

const DGX_HOPPER: [u32; 8] = [0x1b, 0x43, 0x52, 0x61, 0x9d, 0xc3, 0xd1, 0xdf];

const A100: Board = Board {
    name: "NVIDIA A100-SXM4-80GB",
    memory_mib: 81_920,
    reserved_mib: 869,
    power_limit_w: 400,
    power_min_w: 100,
    power_idle_w: 62,
    sm_max_mhz: 1410,
    sm_idle_mhz: 210,
    memory_mhz: 1593,
    temperature_idle: 29,
    temperature_busy: 66,
    slowdown_celsius: 89,
    shutdown_celsius: 92,
    compute: (8, 0),
    architecture: 7,
    cores: 6912,
    multiprocessors: 108,
    bus_width: 5120,
    nvlinks: 12,
    nvlink_version: 5,
    pcie_gen: 4,
    pci_device: 0x20b2_10de,
    pci_subsystem: 0x1463_10de,
    part_number: "692-2G506-0212-002",
    vbios: "92.00.9E.00.01",
    buses: [0x07, 0x0f, 0x47, 0x4e, 0x87, 0x90, 0xb7, 0xbd],
};

const H100: Board = Board {
    name: "NVIDIA H100 80GB HBM3",
    memory_mib: 81_559,
    reserved_mib: 551,
    power_limit_w: 700,
    power_min_w: 200,
    power_idle_w: 69,
    sm_max_mhz: 1980,
    sm_idle_mhz: 345,
    memory_mhz: 2619,
    temperature_idle: 27,
    temperature_busy: 64,
    slowdown_celsius: 87,
    shutdown_celsius: 92,
    compute: (9, 0),
    architecture: 9,
    cores: 16_896,
    multiprocessors: 132,
    bus_width: 5120,
    nvlinks: 18,
    nvlink_version: 6,
    pcie_gen: 5,
    pci_device: 0x2330_10de,
    pci_subsystem: 0x16c1_10de,
    part_number: "692-2G520-0200-000",
    vbios: "96.00.74.00.01",
    buses: DGX_HOPPER,
};

const H200: Board = Board {
    name: "NVIDIA H200",
    memory_mib: 143_771,
    reserved_mib: 616,
    power_idle_w: 76,
    memory_mhz: 3201,
    bus_width: 6144,
    pci_device: 0x2335_10de,
    pci_subsystem: 0x18be_10de,
    part_number: "692-2G525-0220-000",
    vbios: "96.00.A5.00.01",
    ..H100
};

impl Model {
    pub(crate) fn board(self) -> &'static Board {
        match self {
            Self::A100 => &A100,
            Self::H100 => &H100,
            Self::H200 => &H200,
        }
    }
}
