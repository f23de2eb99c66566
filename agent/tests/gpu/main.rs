//! The agent's GPU part, with its worker process, on the simulator's library.

mod daemon;
mod faults;
mod gate;
mod inventory;
mod probe;
mod sim;
mod worker;
mod xids;

use std::time::Duration;

/// No wait in these tests is longer than this.
const DEADLINE: Duration = Duration::from_secs(20);

/// Waits for something that must come.
async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    tokio::time::timeout(DEADLINE, future)
        .await
        .unwrap_or_else(|_| panic!("{what} did not happen within {DEADLINE:?}"))
}

/// Looks again and again until something is so.
async fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    soon(what, async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    })
    .await;
}
