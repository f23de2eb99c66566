//! Waiting for a state, with a deadline.

use std::time::Duration;

use tokio::time::Instant;

/// Enough for anything that is meant to happen at once, on a machine that is busy with other tests.
pub const SOON: Duration = Duration::from_secs(60);

/// Asks again and again until there is an answer.
///
/// # Panics
/// Past the deadline, with what was waited for and the last word.
pub async fn until<T, F>(what: &str, within: Duration, mut ask: impl FnMut() -> F) -> T
where
    F: Future<Output = Result<T, String>>,
{
    let deadline = Instant::now() + within;
    loop {
        let last = match ask().await {
            Ok(answer) => return answer,
            Err(last) => last,
        };
        assert!(
            Instant::now() < deadline,
            "{what}: not within {within:?}; last seen: {last}"
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
