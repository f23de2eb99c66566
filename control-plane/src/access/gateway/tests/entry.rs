//! Who is let in, and what the others hear.

use std::{process::Stdio, time::Duration};

use russh::keys::{Certificate, PublicKey};
use tokio::io::AsyncReadExt as _;

use super::{
    World,
    world::{run, set_ended, stderr, stdout, write_key},
};
use crate::{
    access::{ca, tests::lease},
    pki::Statement,
    testing,
};

async fn set_lease(world: &World, assignment: &str) {
    let sql = format!("update lease set {assignment} where id = $1");
    sqlx::query(sqlx::AssertSqlSafe(sql))
        .bind(world.leased.lease.uuid())
        .execute(&world.app.pool)
        .await
        .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_is_entered_by_name_or_id_with_or_without_its_ordinal() {
    let world = World::new().await;
    let id = world.leased.lease.to_string();
    for lease in ["vision", "vision.0", &id, &format!("{id}.0")] {
        let name = format!("{lease}+{}", world.user);
        let output = world.ssh_as(&name, &["echo in"]).await;
        assert_eq!(stdout(&output), "in\n", "{name}: {}", stderr(&output));
    }
    let metrics = crate::metrics::render(&world.app).await.unwrap();
    assert!(metrics.contains("freehold_ssh_logins_total 4"), "{metrics}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plain_key_that_is_registered_with_the_lease_enters_until_it_is_removed() {
    let world = World::new().await;
    std::fs::remove_file(world.path("id-cert.pub")).unwrap();
    let stranger = run(&mut world.ssh(&["true"])).await;
    world.register_key().await;
    let output = run(&mut world.ssh(&["echo in"])).await;
    assert_eq!(stdout(&output), "in\n", "{}", stderr(&output));
    sqlx::query("delete from lease_ssh_key")
        .execute(&world.app.pool)
        .await
        .unwrap();
    let removed = run(&mut world.ssh(&["true"])).await;
    assert_eq!(stderr(&removed), stderr(&stranger));
    assert!(stderr(&removed).contains("Permission denied (publickey)"));
}

/// Signs a certificate for the key `id` in place of the control plane.
fn sign(world: &World, principals: &[String], from: u64, to: u64) {
    let line = std::fs::read_to_string(world.path("id.pub")).unwrap();
    let certificate: Certificate = world
        .app
        .pki
        .ssh_user_ca
        .sign(Statement {
            key: PublicKey::from_openssh(&line).unwrap().key_data().clone(),
            key_id: "test",
            principals,
            valid_after: from,
            valid_before: to,
        })
        .unwrap();
    std::fs::write(world.path("id-cert.pub"), certificate.to_openssh().unwrap()).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_hear_the_same_words_whatever_they_name() {
    let world = World::new().await;
    let rival = testing::tenant(&world.app, "rival").await;
    let theirs = lease(&world.app, &rival, "secret").await;
    let user = world.user.clone();
    let mut heard = Vec::new();
    // With a good certificate of another lease: another tenant's lease, by id and by name, none at all, another login, no name at all.
    for name in [
        format!("{}+{user}", theirs.lease),
        format!("secret+{user}"),
        format!("nothing+{user}"),
        "vision+nobody".to_owned(),
        "vision.x".to_owned(),
        format!("{}+{user}", freehold_proto::id::LeaseId::new()),
    ] {
        let output = world.ssh_as(&name, &["true"]).await;
        assert_eq!(output.status.code(), Some(255));
        heard.push(stderr(&output).replace(&name, "NAME"));
    }
    let now = ca::seconds(chrono::Utc::now()).unwrap();
    let own = world.leased.lease;
    // Expired, not valid yet, of nobody, and of an authority that is not ours.
    let principal = [format!("{own}+{user}"), own.to_string()];
    for (principals, from, to) in [
        (&principal[..], now - 600, now - 1),
        (&principal[..], now + 600, now + 1200),
        (&principal[1..], now - 600, now + 600),
    ] {
        sign(&world, principals, from, to);
        let output = run(&mut world.ssh(&["true"])).await;
        heard.push(stderr(&output).replace(&world.name(), "NAME"));
    }
    std::fs::remove_file(world.path("id-cert.pub")).unwrap();
    write_key(&world.path("id"), [9; 32]);
    let output = run(&mut world.ssh(&["true"])).await;
    heard.push(stderr(&output).replace(&world.name(), "NAME"));
    for words in &heard {
        assert_eq!(words, &heard[0]);
    }
    assert!(
        heard[0].contains("Permission denied (publickey)"),
        "{}",
        heard[0]
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_belongs_to_a_lease_is_told_why_it_cannot_be_entered() {
    let world = World::new().await;
    let told = async |words: &str| {
        let output = run(&mut world.ssh(&["true"])).await;
        assert_eq!(output.status.code(), Some(255));
        assert!(stderr(&output).contains(words), "{}", stderr(&output));
    };
    sqlx::query("update instance set recorded = 'provisioning'")
        .execute(&world.app.pool)
        .await
        .unwrap();
    told("is being made ready").await;
    set_lease(
        &world,
        "lease_window = tstzrange(now() + interval '1 hour', null)",
    )
    .await;
    told("begins at").await;
    set_lease(
        &world,
        "lease_window = tstzrange(now() - interval '2 hours', now() - interval '1 hour')",
    )
    .await;
    told("the lease `vision` has ended, and its access is off").await;
    set_lease(
        &world,
        "lease_window = tstzrange(now() - interval '2 hours', null), end_requested_at = now()",
    )
    .await;
    told("the lease `vision` has ended, and its access is off").await;
    let output = world
        .ssh_as(&format!("vision.7+{}", world.user), &["true"])
        .await;
    assert!(stderr(&output).contains("has ended"), "{}", stderr(&output));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_cut_at_the_windows_end() {
    let world = World::new().await;
    set_lease(
        &world,
        "lease_window = tstzrange(now() - interval '1 hour', now() + interval '6 seconds')",
    )
    .await;
    let output = run(&mut world.ssh(&["echo in; sleep 600"])).await;
    assert_eq!(stdout(&output), "in\n");
    assert!(
        stderr(&output).contains("the lease `vision` has ended"),
        "{}",
        stderr(&output)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_cut_when_the_lease_is_ended() {
    let world = World::new().await;
    let mut ssh = world
        .ssh(&["echo in; sleep 600"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = [0; 3];
    ssh.stdout
        .as_mut()
        .unwrap()
        .read_exact(&mut line)
        .await
        .unwrap();
    set_ended(&world).await;
    let ended = tokio::time::timeout(Duration::from_secs(20), ssh.wait_with_output());
    let output = ended.await.expect("the session is cut").unwrap();
    assert!(stderr(&output).contains("has ended"), "{}", stderr(&output));
}
