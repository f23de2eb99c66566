//! SSH certificates.

use super::*;

async fn sign(
    app: &App,
    caller: &Caller,
    lease: &str,
    change: impl FnOnce(&mut v1::SignSshCertificateRequest),
) -> Result<v1::SshCertificate, Status> {
    let mut body = v1::SignSshCertificateRequest {
        lease: lease.to_owned(),
        public_key: public_key(),
        ..Default::default()
    };
    change(&mut body);
    let rpc = AccessRpc::new(app.clone());
    let signed = rpc.sign_ssh_certificate(request(caller, body)).await?;
    Ok(signed.into_inner())
}

fn now() -> u64 {
    ca::seconds(Utc::now()).unwrap()
}

#[tokio::test]
async fn a_certificate_is_bound_to_its_lease_and_login_and_ends_with_the_window() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let leased = lease(&app, &owner, "vision").await;
    let signed = sign(&app, &owner, "vision", |_| {}).await.unwrap();
    let certificate = Certificate::from_openssh(&signed.certificate).unwrap();
    let ca = &app.pki.ssh_user_ca;
    let id = leased.lease.to_string();
    assert!(ca.vouches_for(&certificate, &id, now()));
    assert!(ca.vouches_for(&certificate, &format!("{id}+lease"), now()));
    assert!(!ca.vouches_for(&certificate, &format!("{id}+root"), now()));
    let hour = ca::seconds(Utc::now() + TimeDelta::hours(1)).unwrap();
    assert!(certificate.valid_before() <= hour);
    assert!(!ca.vouches_for(&certificate, &id, hour));
    assert_eq!(signed.serial, certificate.serial().to_string());
    assert_eq!(signed.lease_id, id);
}

#[tokio::test]
async fn the_answer_says_where_the_gateway_is_and_whom_to_trust() {
    let app = testing::app_with(&["--ssh-address", "gw.example.com:2022"]).await;
    let owner = testing::tenant(&app, "lab").await;
    lease(&app, &owner, "vision").await;
    let signed = sign(&app, &owner, "vision", |_| {}).await.unwrap();
    let gateway = signed.gateway.unwrap();
    assert_eq!(
        (gateway.host.as_str(), gateway.port),
        ("gw.example.com", 2022)
    );
    let ca_line = app.pki.ssh_host_ca.public_key().to_openssh().unwrap();
    assert!(
        gateway
            .known_hosts
            .starts_with("@cert-authority [gw.example.com]:2022,")
    );
    assert!(gateway.known_hosts.ends_with(&ca_line));
    assert!(
        gateway
            .known_hosts
            .contains(",inst_*,lease_*,vision,vision.*")
    );
    assert!(!gateway.known_hosts.contains('\n'));
}

#[tokio::test]
async fn no_certificate_is_signed_for_a_lease_that_has_ended() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let leased = lease(&app, &owner, "vision").await;
    sqlx::query("update lease set end_requested_at = now() where id = $1")
        .bind(leased.lease.uuid())
        .execute(&app.pool)
        .await
        .unwrap();
    let refused = sign(&app, &owner, "vision", |_| {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(refused.message().contains("has ended"));
}

#[tokio::test]
async fn another_tenants_lease_does_not_exist() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let stranger = testing::tenant(&app, "rival").await;
    let leased = lease(&app, &owner, "vision").await;
    let foreign = sign(&app, &stranger, &leased.lease.to_string(), |_| {})
        .await
        .unwrap_err();
    assert_eq!(foreign.code(), Code::NotFound);
}

#[tokio::test]
async fn wrong_keys_logins_and_lifetimes_name_their_field() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    lease(&app, &owner, "vision").await;
    type Change = fn(&mut v1::SignSshCertificateRequest);
    let wrong: [(&str, Change); 4] = [
        ("public_key", |body| body.public_key = "rubbish".to_owned()),
        ("public_key", |body| {
            body.public_key = "-----BEGIN OPENSSH PRIVATE KEY-----".to_owned();
        }),
        ("login", |body| body.login = "-oProxyCommand".to_owned()),
        ("ttl_seconds", |body| body.ttl_seconds = 43_201),
    ];
    for (field, change) in wrong {
        let refused = sign(&app, &owner, "vision", change).await.unwrap_err();
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(
            refused.message().starts_with(field),
            "{}",
            refused.message()
        );
    }
}

#[tokio::test]
async fn a_host_key_is_certified_for_the_instance_on_that_host_alone() {
    let app = testing::app().await;
    let owner = testing::tenant(&app, "lab").await;
    let leased = lease(&app, &owner, "vision").await;
    let other_host = testing::host(&app, "s").await;
    let line = ca::certify_host_key(&app, leased.host, leased.instance, &public_key())
        .await
        .unwrap();
    let certificate = Certificate::from_openssh(&line).unwrap();
    let id = leased.lease.to_string();
    for name in [
        leased.instance.to_string(),
        id.clone(),
        format!("{id}.0"),
        "vision".to_owned(),
        "vision.0".to_owned(),
    ] {
        assert!(app.pki.ssh_host_ca.vouches_for(&certificate, &name, now()));
    }
    for (host, instance) in [
        (other_host, leased.instance),
        (leased.host, InstanceId::new()),
    ] {
        let refused = ca::certify_host_key(&app, host, instance, &public_key()).await;
        assert_eq!(refused.unwrap_err().reason(), "NOT_FOUND");
    }
    let refused = ca::certify_host_key(&app, leased.host, leased.instance, "rubbish").await;
    assert_eq!(refused.unwrap_err().reason(), "INVALID_FIELD");
}

#[tokio::test]
async fn two_replicas_that_start_together_have_the_same_authorities() {
    let app = testing::app().await;
    let kek = app.config.data_dir.join("kek");
    let load = || crate::pki::Pki::load(&app.pool, &kek, false);
    let (one, other) = tokio::join!(load(), load());
    for pki in [one.unwrap(), other.unwrap()] {
        assert_eq!(
            pki.ssh_user_ca.public_key(),
            app.pki.ssh_user_ca.public_key()
        );
        assert_eq!(
            pki.ssh_gateway_key.public_key(),
            app.pki.ssh_gateway_key.public_key()
        );
    }
    assert_ne!(
        app.pki.ssh_user_ca.public_key(),
        app.pki.ssh_host_ca.public_key()
    );
}
