//! Renews the certificate at two thirds of its life.

use std::time::Duration;

use super::Replicas;
use crate::{
    clock::Clock,
    identity::{Credentials, Identity, IdentityStore, make_key},
};

/// How often the age of the certificate is looked at. A short life shortens it.
const LONGEST_LOOK: Duration = Duration::from_mins(10);

/// Between attempts, when no replica renewed it.
const RETRY: Duration = Duration::from_secs(30);

/// Looks after the certificate until the agent stops.
pub(super) async fn run(store: IdentityStore, replicas: Replicas, clock: Clock) {
    loop {
        let wait = match time_until_due(&store.current(), clock.now_micros()) {
            Some(wait) => wait,
            None => match renew(&store, &replicas).await {
                Ok(()) => continue,
                Err(error) => {
                    warn_of(&store.current(), &clock, &error);
                    RETRY.mul_f64(rand::random_range(0.5..1.5))
                }
            },
        };
        tokio::time::sleep(wait.min(LONGEST_LOOK)).await;
    }
}

/// `None`: two thirds of the certificate's life are over.
fn time_until_due(credentials: &Credentials, now_us: i64) -> Option<Duration> {
    let life_us = credentials.valid_until_us - credentials.valid_from_us;
    let due_us = credentials.valid_from_us + life_us / 3 * 2;
    let wait_us = u64::try_from(due_us - now_us).ok().filter(|us| *us > 0)?;
    Some(Duration::from_micros(wait_us))
}

async fn renew(store: &IdentityStore, replicas: &Replicas) -> Result<(), String> {
    let (key_pem, csr_pem) = make_key().map_err(|error| error.to_string())?;
    let renewed = replicas.renew(csr_pem).await?;
    let current = store.current();
    let identity = Identity {
        key_pem,
        certificate_pem: renewed.certificate_pem,
        ca_pem: renewed.ca_pem,
        ..current.identity.clone()
    };
    store
        .replace(&identity)
        .map_err(|error| error.to_string())?;
    tracing::info!("the client certificate was renewed");
    Ok(())
}

fn warn_of(credentials: &Credentials, clock: &Clock, error: &str) {
    if clock.now_micros() >= credentials.valid_until_us {
        tracing::error!(
            error,
            "the client certificate has expired: enrol this host again with `freehold-agent enroll` and a new token; \
             its id and its instances stay"
        );
    } else {
        tracing::warn!(error, "the client certificate could not be renewed yet");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::tests::identity;

    #[test]
    fn a_certificate_is_due_at_two_thirds_of_its_life() {
        let mut credentials = Credentials::new(identity()).expect("valid");
        credentials.valid_from_us = 0;
        credentials.valid_until_us = 30_000_000;
        let wait = |now_us| time_until_due(&credentials, now_us);
        assert_eq!(wait(0), Some(Duration::from_secs(20)));
        assert_eq!(wait(19_000_000), Some(Duration::from_secs(1)));
        assert_eq!(wait(20_000_000), None);
        assert_eq!(wait(40_000_000), None);
    }
}
