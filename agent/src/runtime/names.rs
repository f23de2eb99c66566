//! What an instance's objects are called, and what is remembered of it: in labels and in a file.

use std::collections::HashMap;

use freehold_proto::id::{HostId, InstanceId, LeaseId};
use serde::{Deserialize, Serialize};

use crate::model::{Fence, InstanceSpec};

/// The host that an object belongs to.
pub(crate) const LABEL_HOST: &str = "freehold.host";
/// The instance that an object belongs to.
pub(crate) const LABEL_INSTANCE: &str = "freehold.instance";
const LABEL_LEASE: &str = "freehold.lease";
const LABEL_ORDINAL: &str = "freehold.ordinal";
const LABEL_GENERATION: &str = "freehold.generation";
const LABEL_EPOCH: &str = "freehold.epoch";
const LABEL_IMAGE: &str = "freehold.image";
const LABEL_GPUS: &str = "freehold.gpus";

/// The names of an instance's objects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Names {
    pub(crate) host: HostId,
    pub(crate) instance: InstanceId,
    /// Of the container and of its network.
    pub(crate) object: String,
    /// Of the network's interface; the kernel takes 15 characters.
    pub(crate) bridge: String,
}

impl Names {
    pub(crate) fn new(host: HostId, instance: InstanceId) -> Self {
        // An id's last digits are random, its first ones a time.
        let (host_digits, digits) = (tail(&host.to_string(), 8), tail(&instance.to_string(), 12));
        Self {
            host,
            instance,
            object: format!("freehold-{host_digits}-{digits}"),
            bridge: format!("{}{}", bridge_prefix(host), tail(&digits, 8)),
        }
    }

    /// The labels of a network.
    pub(crate) fn labels(&self) -> HashMap<String, String> {
        HashMap::from([
            (LABEL_HOST.to_owned(), self.host.to_string()),
            (LABEL_INSTANCE.to_owned(), self.instance.to_string()),
        ])
    }
}

/// What the interfaces of all of a host's instances begin with.
pub(crate) fn bridge_prefix(host: HostId) -> String {
    format!("fh{}", tail(&host.to_string(), 5))
}

fn tail(text: &str, digits: usize) -> String {
    text[text.len().saturating_sub(digits)..].to_owned()
}

/// What has to be known of an instance after a restart. No key.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) instance_id: InstanceId,
    pub(crate) lease_id: LeaseId,
    pub(crate) ordinal: u32,
    pub(crate) fence: Fence,
    pub(crate) image: String,
    pub(crate) gpu_uuids: Vec<String>,
}

impl Record {
    pub(crate) fn of(spec: &InstanceSpec) -> Self {
        Self {
            instance_id: spec.instance_id,
            lease_id: spec.lease_id,
            ordinal: spec.ordinal,
            fence: spec.fence,
            image: spec.image.clone(),
            gpu_uuids: spec.gpu_uuids.clone(),
        }
    }

    /// Whether another order wants the same container.
    pub(crate) fn same_container(&self, other: &Self) -> bool {
        self.lease_id == other.lease_id
            && self.image == other.image
            && self.gpu_uuids == other.gpu_uuids
    }

    /// The labels of the container.
    pub(crate) fn labels(&self, names: &Names) -> HashMap<String, String> {
        let mut labels = names.labels();
        labels.extend([
            (LABEL_LEASE.to_owned(), self.lease_id.to_string()),
            (LABEL_ORDINAL.to_owned(), self.ordinal.to_string()),
            (
                LABEL_GENERATION.to_owned(),
                self.fence.generation.to_string(),
            ),
            (LABEL_EPOCH.to_owned(), self.fence.epoch.to_string()),
            (LABEL_IMAGE.to_owned(), self.image.clone()),
            (LABEL_GPUS.to_owned(), self.gpu_uuids.join(",")),
        ]);
        labels
    }

    /// A record from a container's labels; `None` when they are not whole.
    pub(crate) fn from_labels(labels: &HashMap<String, String>) -> Option<Self> {
        let text = |key: &str| labels.get(key).map(String::as_str);
        let number = |key: &str| text(key)?.parse().ok();
        let gpus = text(LABEL_GPUS)?.split(',').filter(|uuid| !uuid.is_empty());
        Some(Self {
            instance_id: text(LABEL_INSTANCE)?.parse().ok()?,
            lease_id: text(LABEL_LEASE)?.parse().ok()?,
            ordinal: text(LABEL_ORDINAL)?.parse().ok()?,
            fence: Fence {
                epoch: number(LABEL_EPOCH)?,
                generation: number(LABEL_GENERATION)?,
            },
            image: text(LABEL_IMAGE)?.to_owned(),
            gpu_uuids: gpus.map(str::to_owned).collect(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_survives_its_labels() {
        let names = Names::new(HostId::new(), InstanceId::new());
        let record = Record {
            instance_id: names.instance,
            lease_id: LeaseId::new(),
            ordinal: 3,
            fence: Fence {
                epoch: 2,
                generation: 5,
            },
            image: "freehold/base:latest".to_owned(),
            gpu_uuids: vec!["GPU-a".to_owned(), "GPU-b".to_owned()],
        };
        let labels = record.labels(&names);
        assert_eq!(Record::from_labels(&labels), Some(record));
        assert_eq!(Record::from_labels(&names.labels()), None);
    }

    #[test]
    fn an_interface_has_at_most_15_characters() {
        let names = Names::new(HostId::new(), InstanceId::new());
        assert_eq!(names.bridge.len(), 15);
        assert!(names.bridge.starts_with(&bridge_prefix(names.host)));
    }
}
