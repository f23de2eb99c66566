//! What a host has, and what it means when that is not what it had.

use std::collections::BTreeSet;

/// One GPU.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub(in crate::hosts) struct Gpu {
    pub(in crate::hosts) uuid: String,
    pub(in crate::hosts) index: i32,
    pub(in crate::hosts) model: String,
    pub(in crate::hosts) serial: String,
    pub(in crate::hosts) pci_bus_id: String,
    pub(in crate::hosts) memory_bytes: i64,
}

/// What to do about the GPUs that an agent says its host has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::hosts) enum GpuChange {
    /// Take the list over: the same GPUs, the first ones, more of them, or others in their places.
    Accept {
        /// UUIDs that were not there; empty on the first inventory of all.
        added: Vec<String>,
        /// UUIDs that are no longer there.
        removed: Vec<String>,
    },
    /// None is seen where some were: the driver does not answer, or not yet. Nothing is concluded; the agent's own checks say more.
    Unseen,
    /// GPUs are missing, and nothing stands in their places, or a tenant has them: a finding, not a change.
    Missing(Vec<String>),
}

/// Compares the GPUs that were known with those that are there. A swapped GPU is an accepted change while the host is idle; a missing one
/// never is.
pub(in crate::hosts) fn compare(known: &[String], seen: &[Gpu], idle: bool) -> GpuChange {
    let known: BTreeSet<&str> = known.iter().map(String::as_str).collect();
    let seen: BTreeSet<&str> = seen.iter().map(|gpu| gpu.uuid.as_str()).collect();
    if seen.is_empty() && !known.is_empty() {
        return GpuChange::Unseen;
    }
    let list = |from: &BTreeSet<&str>, but: &BTreeSet<&str>| -> Vec<String> {
        from.difference(but)
            .map(|uuid| (*uuid).to_owned())
            .collect()
    };
    let removed = list(&known, &seen);
    if !removed.is_empty() && (!idle || seen.len() < known.len()) {
        return GpuChange::Missing(removed);
    }
    let added = if known.is_empty() {
        Vec::new()
    } else {
        list(&seen, &known)
    };
    GpuChange::Accept { added, removed }
}

/// The model that stands for a host: that of its GPUs when they agree. A mixture fits no type, and says so.
pub(in crate::hosts) fn model_of(gpus: &[Gpu]) -> String {
    let models: BTreeSet<&str> = gpus.iter().map(|gpu| gpu.model.as_str()).collect();
    models.into_iter().collect::<Vec<_>>().join(" + ")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gpus(uuids: &[&str]) -> Vec<Gpu> {
        let gpu = |(index, uuid): (usize, &&str)| Gpu {
            uuid: (*uuid).to_owned(),
            index: i32::try_from(index).unwrap(),
            model: "H100 80GB HBM3".to_owned(),
            serial: String::new(),
            pci_bus_id: String::new(),
            memory_bytes: 0,
        };
        uuids.iter().enumerate().map(gpu).collect()
    }

    fn outcome(known: &[&str], seen: &[&str], idle: bool) -> GpuChange {
        let known: Vec<String> = known.iter().map(|uuid| (*uuid).to_owned()).collect();
        compare(&known, &gpus(seen), idle)
    }

    fn accept(added: &[&str], removed: &[&str]) -> GpuChange {
        let own = |list: &[&str]| list.iter().map(|uuid| (*uuid).to_owned()).collect();
        GpuChange::Accept {
            added: own(added),
            removed: own(removed),
        }
    }

    #[test]
    fn a_swapped_gpu_is_a_change_only_while_nobody_has_it() {
        assert_eq!(
            outcome(&["a", "b"], &["a", "c"], true),
            accept(&["c"], &["b"])
        );
        let missing = GpuChange::Missing(vec!["b".to_owned()]);
        assert_eq!(outcome(&["a", "b"], &["a", "c"], false), missing);
    }

    #[test]
    fn a_missing_gpu_is_never_a_change() {
        let missing = GpuChange::Missing(vec!["b".to_owned()]);
        assert_eq!(outcome(&["a", "b"], &["a"], true), missing);
    }

    #[test]
    fn nothing_is_concluded_from_a_driver_that_shows_nothing() {
        assert_eq!(outcome(&["a"], &[], true), GpuChange::Unseen);
        assert_eq!(outcome(&[], &[], true), accept(&[], &[]));
    }

    #[test]
    fn the_first_inventory_and_the_same_again_add_nothing() {
        assert_eq!(outcome(&[], &["a"], true), accept(&[], &[]));
        assert_eq!(outcome(&["a"], &["a"], false), accept(&[], &[]));
        assert_eq!(outcome(&["a"], &["a", "b"], false), accept(&["b"], &[]));
    }

    #[test]
    fn a_mixture_of_models_fits_no_type() {
        let mut mixed = gpus(&["a", "b"]);
        assert_eq!(model_of(&mixed), "H100 80GB HBM3");
        mixed[0].model = "H200".to_owned();
        assert_eq!(model_of(&mixed), "H100 80GB HBM3 + H200");
    }
}
