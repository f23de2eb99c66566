//! What goes wrong on a simulated host, switched on and off by the test. Switches outlive restarts of the agent.

use std::collections::{BTreeMap, BTreeSet};

use tokio::sync::watch;

/// A point at which an instance's life can be held up, to do something to the rest of the platform meanwhile.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    /// Before anything of the instance is made.
    Prepare,
    /// Before its sshd starts.
    Start,
    /// Before the instance is removed.
    Remove,
    /// After it was removed, before the host is scrubbed.
    Scrub,
}

#[derive(Debug, Clone, Default)]
struct Switches {
    missing_images: BTreeMap<String, String>,
    sshd_is_silent: bool,
    failing_steps: BTreeMap<String, String>,
    held: BTreeSet<Stage>,
}

/// The switches of one host.
#[derive(Debug)]
pub struct Faults(watch::Sender<Switches>);

impl Default for Faults {
    fn default() -> Self {
        Self(watch::Sender::new(Switches::default()))
    }
}

impl Faults {
    /// Instances of this image fail with this reason.
    pub fn refuse_image(&self, image: &str, reason: &str) {
        self.0.send_modify(|switches| {
            let entry = (image.to_owned(), reason.to_owned());
            switches.missing_images.extend([entry]);
        });
    }

    /// The sshds of instances that start from now on accept connections and never say a word.
    pub fn silence_sshd(&self, silent: bool) {
        self.0
            .send_modify(|switches| switches.sshd_is_silent = silent);
    }

    /// This step of every scrub fails with this detail.
    pub fn fail_scrub_step(&self, step: &str, detail: &str) {
        self.0.send_modify(|switches| {
            let entry = (step.to_owned(), detail.to_owned());
            switches.failing_steps.extend([entry]);
        });
    }

    /// Every step of a scrub passes again.
    pub fn mend_scrub(&self) {
        self.0
            .send_modify(|switches| switches.failing_steps.clear());
    }

    /// Nothing goes past this stage until it is let go.
    pub fn hold(&self, stage: Stage) {
        self.0.send_modify(|switches| {
            switches.held.insert(stage);
        });
    }

    /// Lets what is held at this stage go on.
    pub fn let_go(&self, stage: Stage) {
        self.0.send_modify(|switches| {
            switches.held.remove(&stage);
        });
    }

    pub(super) async fn pass(&self, stage: Stage) {
        let mut changes = self.0.subscribe();
        // The sender is `self`, which is borrowed: it cannot go meanwhile.
        let _ = changes.wait_for(|s| !s.held.contains(&stage)).await;
    }

    pub(super) fn missing_image(&self, image: &str) -> Option<String> {
        self.0.borrow().missing_images.get(image).cloned()
    }

    pub(super) fn sshd_is_silent(&self) -> bool {
        self.0.borrow().sshd_is_silent
    }

    pub(super) fn failure_of(&self, step: &str) -> Option<String> {
        self.0.borrow().failing_steps.get(step).cloned()
    }
}
