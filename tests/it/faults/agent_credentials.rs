//! Agents without a certificate that holds, and tokens that no longer do.

use std::time::{Duration, SystemTime};

use freehold_agent::{
    enroll::EnrollError,
    identity::{self, Identity, IdentityStore},
};
use freehold_control_plane::pki::Kek;
use freehold_proto::v1;
use freehold_tests::{
    deployment::Deployment,
    sim_agent::{Enrollment, SimAgent},
};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, CertifiedIssuer, DnType,
    IsCa, Issuer, KeyPair,
};

use super::{end_well, instance_of};

/// Long enough for an agent to come back if anybody let it.
const LONG_ENOUGH: Duration = Duration::from_secs(10);

async fn enroll(deployment: &Deployment, token: &str, name: &str) -> Result<SimAgent, EnrollError> {
    SimAgent::enroll(&Enrollment {
        server: &deployment.replicas[0].server(),
        token,
        name,
        dir: &deployment.host_dir(name),
    })
    .await
}

async fn token(deployment: &Deployment) -> String {
    let request = v1::CreateEnrollmentTokenRequest::default();
    deployment.enrollment_token(request).await
}

fn refusal(result: Result<SimAgent, EnrollError>) -> String {
    match result {
        Ok(_) => panic!("it enrolled"),
        Err(error @ EnrollError::Refused(_)) => error.to_string(),
        Err(error) => panic!("another error: {error}"),
    }
}

#[tokio::test]
async fn a_used_up_an_expired_and_an_invented_token_enrol_nobody() {
    let deployment = Deployment::start().await;
    let once = token(&deployment).await;
    let first = enroll(&deployment, &once, "gpu-1").await;
    first.unwrap_or_else(|error| panic!("{error}"));
    let used_up = refusal(enroll(&deployment, &once, "gpu-2").await);
    assert!(
        used_up.contains("enroll-token"),
        "says what to do: {used_up}"
    );

    let late = token(&deployment).await;
    sqlx::query(
        "update enrollment_token set expires_at = now() - interval '1 s' where uses_left > 0",
    )
    .execute(&deployment.database().await)
    .await
    .expect("expired");
    refusal(enroll(&deployment, &late, "gpu-3").await);

    let (_, fingerprint) = late.rsplit_once('_').expect("a fingerprint");
    let invented = format!("fhe_{}_{fingerprint}", "ab".repeat(32));
    refusal(enroll(&deployment, &invented, "gpu-4").await);
    let mut hosts = deployment.operator().hosts();
    let hosts = hosts.list_hosts(v1::ListHostsRequest::default()).await;
    assert_eq!(hosts.expect("listed").into_inner().hosts.len(), 1);
}

/// A removed host's certificate is revoked: its agent is refused, though the certificate's dates and signature hold.
#[tokio::test]
async fn a_revoked_certificate_does_not_attach() {
    let deployment = Deployment::start().await;
    let mut host = deployment.host("gpu-1").await;
    let id = host.host_id.to_string();
    let operator = deployment.cli(deployment.operator_token());
    operator.json(&["host", "remove", "gpu-1"]).await;
    expect_no_sessions(&deployment, "the session of a removed host ends").await;
    host.crash();
    host.start();
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(sessions(&deployment).await, 0, "{id} is attached");
}

/// Signed by somebody else's authority, in the name of a host that exists.
#[tokio::test]
async fn a_foreign_certificate_does_not_attach() {
    let deployment = Deployment::start().await;
    let mut host = deployment.host("gpu-1").await;
    host.crash();
    expect_no_sessions(&deployment, "the session of a killed agent ends").await;
    let mine = current(&host);
    let mut ca = CertificateParams::default();
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name
        .push(DnType::CommonName, "Freehold agent CA");
    let key = KeyPair::generate().expect("a key");
    let ca = CertifiedIssuer::self_signed(ca, key).expect("self-signed");
    let forged = forge(&mine, |csr| csr.signed_by(&ca).expect("signed").pem());
    identity::save(host.dir(), &forged).expect("stored");
    host.start();
    tokio::time::sleep(LONG_ENOUGH).await;
    assert_eq!(sessions(&deployment).await, 0);

    host.crash();
    identity::save(host.dir(), &mine).expect("stored");
    host.start();
    deployment
        .wait_for_host("gpu-1", v1::HostState::Available)
        .await;
}

/// Its agent cannot attach and its instance runs on; enrolled again, it is the same host with the same lease.
#[tokio::test]
async fn an_agent_whose_certificate_has_expired_enrols_again_to_the_same_host() {
    let deployment = Deployment::start().await;
    let mut host = deployment.host("gpu-1").await;
    let tenant = deployment.tenant("vision").await;
    let lease = tenant.client.active_lease().await;
    let sshd = host.sshd_pid(instance_of(&lease)).expect("it runs");
    host.crash();
    expire(&deployment, &host).await;
    host.start();
    deployment
        .wait_for_host("gpu-1", v1::HostState::Unknown)
        .await;
    assert_eq!(sessions(&deployment).await, 0);
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));

    let token = token(&deployment).await;
    let again = freehold_agent::enroll::enroll(&freehold_agent::config::EnrollArgs {
        server: deployment.replicas[0].server(),
        token,
        data_dir: host.dir().to_owned(),
        machine_id: Some("machine-gpu-1".to_owned()),
        hostname: Some("gpu-1".to_owned()),
    })
    .await
    .expect("it enrols");
    assert_eq!(again, host.host_id, "the same host");
    tenant.client.wait_until_active(&lease.id).await;
    assert_eq!(host.sshd_pid(instance_of(&lease)), Some(sshd));
    end_well(&deployment, &tenant, &host, &lease.id).await;
}

/// The deployment's own authority signs a certificate whose time is over.
async fn expire(deployment: &Deployment, host: &SimAgent) {
    let (sealed, pem): (Vec<u8>, String) =
        sqlx::query_as("select ciphertext, public_part from sealed_secret where name = 'agent_ca'")
            .fetch_one(&deployment.database().await)
            .await
            .expect("an authority");
    let kek = Kek::load(&deployment.dir().join("kek"), false).expect("the key");
    let key = kek.open("agent_ca", &sealed).expect("the same key");
    let key = KeyPair::try_from(key.as_slice()).expect("a key");
    let issuer = Issuer::from_ca_cert_pem(&pem, key).expect("an authority");
    let expired = forge(&current(host), |mut csr| {
        let now = SystemTime::now();
        csr.params.not_before = (now - Duration::from_secs(7200)).into();
        csr.params.not_after = (now - Duration::from_secs(60)).into();
        csr.signed_by(&issuer).expect("signed").pem()
    });
    identity::save(host.dir(), &expired).expect("stored");
}

fn current(host: &SimAgent) -> Identity {
    let store = IdentityStore::open(host.dir()).expect("enrolled");
    store.current().identity.clone()
}

fn forge(mine: &Identity, sign: impl Fn(CertificateSigningRequestParams) -> String) -> Identity {
    let (key_pem, csr_pem) = identity::make_key().expect("a key");
    let mut csr = CertificateSigningRequestParams::from_pem(&csr_pem).expect("a request");
    csr.params
        .distinguished_name
        .push(DnType::CommonName, mine.host_id.to_string());
    Identity {
        key_pem,
        certificate_pem: sign(csr),
        ..mine.clone()
    }
}

async fn sessions(deployment: &Deployment) -> i64 {
    sqlx::query_scalar("select count(*) from agent_session")
        .fetch_one(&deployment.database().await)
        .await
        .expect("counted")
}

async fn expect_no_sessions(deployment: &Deployment, what: &str) {
    freehold_tests::wait::until(what, freehold_tests::wait::SOON, || async {
        match sessions(deployment).await {
            0 => Ok(()),
            some => Err(format!("{some} sessions")),
        }
    })
    .await;
}
