use super::*;
use crate::{database::request_id::Idempotency, error::Error};

#[tokio::test]
async fn a_token_enrols_as_many_machines_as_it_says_even_at_once() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let asked = AskedToken {
        uses: 2,
        sector: "ib-3".to_owned(),
        ..AskedToken::default()
    };
    let token = token(&app, &operator, asked).await;
    let machines: Vec<Machine> = (0..4).map(|n| Machine::new(&format!("gpu-{n}"))).collect();
    let enrolling = machines.iter().map(|machine| machine.enroll(&app, &token));
    let outcomes = futures_util::future::join_all(enrolling).await;
    let refused: Vec<&Error> = outcomes.iter().filter_map(|o| o.as_ref().err()).collect();
    assert_eq!(refused.len(), 2, "two of four");
    for error in refused {
        assert_eq!(error.reason(), "ENROLLMENT_TOKEN_USED_UP");
    }
    let sectors: Vec<String> = sqlx::query_scalar("select sector from host")
        .fetch_all(&app.pool)
        .await
        .unwrap();
    assert_eq!(sectors, ["ib-3", "ib-3"]);
}

#[tokio::test]
async fn a_machine_that_enrols_again_is_the_same_host_and_its_old_certificate_is_dead() {
    let app = testing::app().await;
    let mut enlisted = Enlisted::new(&app, "gpu-1").await;
    let operator = testing::operator(&app).await;
    let token = token(&app, &operator, AskedToken::default()).await;
    let again = enlisted.machine.enroll(&app, &token).await.unwrap();
    assert_eq!(again.host, enlisted.host);
    let refused = enlisted.attach(&app, hello(&["a"])).await;
    let status = refused.err().unwrap();
    assert_eq!(status.code(), tonic::Code::PermissionDenied);
    assert!(status.message().contains("revoked"), "{status}");
    enlisted.certificate_pem = again.certificate.pem;
    enlisted.welcome(&app, hello(&["a"])).await;
}

#[tokio::test]
async fn tokens_are_refused_that_are_unknown_expired_or_for_another_network() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let asked = AskedToken {
        networks: vec!["10.20.0.0/16".to_owned()],
        ..AskedToken::default()
    };
    let token = token(&app, &operator, asked).await;
    let machine = Machine::new("gpu-1");
    let error = machine.enroll(&app, &token).await.err().unwrap();
    assert!(matches!(error, Error::PermissionDenied(_)), "{error}");
    assert!(error.to_string().contains("127.0.0.1"), "{error}");
    let inside = "10.20.3.4".parse().unwrap();
    let foreign = format!("fhe_{}_{}", "ab".repeat(32), "cd".repeat(32));
    let error = machine.enroll(&app, &foreign).await.err().unwrap();
    assert!(matches!(error, Error::Unauthenticated(_)), "{error}");
    let error = machine.enroll(&app, "fhe_1").await.err().unwrap();
    assert!(error.to_string().starts_with("token:"), "{error}");
    assert!(machine.enroll_from(&app, &token, inside).await.is_ok());
    sqlx::query("update enrollment_token set uses_left = 1, expires_at = now()")
        .execute(&app.pool)
        .await
        .unwrap();
    let error = machine
        .enroll_from(&app, &token, inside)
        .await
        .err()
        .unwrap();
    assert_eq!(error.reason(), "ENROLLMENT_TOKEN_EXPIRED");
}

#[tokio::test]
async fn a_refused_enrolment_uses_nothing_up() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let token = token(&app, &operator, AskedToken::default()).await;
    let machine = Machine::new("gpu-1");
    let name = (machine.id.as_str(), machine.name.as_str());
    let error = service::enroll_machine(&app, &token, "no request", name, LOCAL).await;
    let error = error.err().unwrap().to_string();
    assert!(error.starts_with("csr_pem:"), "{error}");
    machine.enroll(&app, &token).await.unwrap();
}

#[tokio::test]
async fn two_machines_cannot_have_one_name() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let asked = AskedToken {
        uses: 2,
        ..AskedToken::default()
    };
    let token = token(&app, &operator, asked).await;
    Machine::new("gpu-1").enroll(&app, &token).await.unwrap();
    let mut other = Machine::new("gpu-1");
    other.id = "another-machine".to_owned();
    let error = other.enroll(&app, &token).await.err().unwrap();
    assert!(matches!(error, Error::AlreadyExists(_)), "{error}");
    other.name = "gpu-2".to_owned();
    other.enroll(&app, &token).await.unwrap();
}

#[tokio::test]
async fn a_repeated_create_makes_no_second_token_and_shows_no_secret_again() {
    let app = testing::app().await;
    let operator = testing::operator(&app).await;
    let create = async || {
        let body = v1::CreateEnrollmentTokenRequest::default();
        let method = "host.create_enrollment_token";
        let key = Idempotency::new(operator.principal, method, "once", &body).unwrap();
        service::create_enrollment_token(&app, &operator, AskedToken::default(), key.as_ref())
            .await
            .unwrap()
    };
    let (first, secret) = create().await;
    let (second, hidden) = create().await;
    assert_eq!(first.id, second.id);
    assert!(secret.starts_with("fhe_") && hidden.is_empty());
    let fingerprint = crate::pki::authority::fingerprint(app.pki.server_ca.certificate());
    assert!(secret.ends_with(&fingerprint));
}
